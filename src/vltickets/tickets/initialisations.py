"""The weights a training starts from: θ₀ in all its forms, and the fresh head φ₀."""

from __future__ import annotations

import hashlib
from importlib import resources

import torch
from safetensors.torch import load as load_tensors
from torch import nn

from vltickets.backbones import initialise_module
from vltickets.backbones.checkpoints import TYPES, read_about, split_import
from vltickets.data import stream_seed
from vltickets.errors import UserError, unknown
from vltickets.specs import Fresh, Imported, Rewound, Shipped, Shuffled, Start, Train, Trained
from vltickets.store import Store
from vltickets.tasks import Model, TakesAnswers, Task

SHIPPED = {"theta0": "theta0.safetensors", "text-only": "text-only.safetensors"}
Tensors = dict[str, torch.Tensor]


def initial_std(hidden: int) -> float:
    """Return the width of random weights: BERT's 0.02 at 768, and as one over the root of the width elsewhere."""
    return 0.02 * float((768 / hidden) ** 0.5)


def initialise(model: Model, task: Task, node: Train, store: Store) -> int:
    """Fill the model in place with θ and φ as the node's start says.

    Returns how many of the task's answers the start's answer head knew (LXMERT's; 0 where there is none).

    The head is the seed's own, the same for every start and mask (protocol, "random streams"), but for what the task
    officially takes from the pre-training heads. A rewound start brings its trained head.
    """
    std = initial_std(model.backbone.hidden)
    generator = torch.Generator().manual_seed(stream_seed(task.name, node.seed, "head"))
    for module in model.head.modules():
        _initialise_head_module(module, generator, std)
    backbone, head = start_tensors(node.start, model, store)
    _load_backbone(model, backbone, task.type_rows)
    if isinstance(node.start, Rewound):
        model.head.load_state_dict(head)
        return 0
    task.adopt(model.head, head)
    if not isinstance(task, TakesAnswers) or not any(name.startswith("answer_head.") for name in head):
        return 0
    return task.adopt_answers(model.head, head, start_answers(node.start, store))


def start_answers(start: Start, store: Store) -> list[str]:
    """Return the answers of a start's answer head in the order of its rows; none where they are not known."""
    match start:
        case Trained():
            text = store.labels(start.train.digest).get("answers")
            return [] if text is None else text.split("\n")
        case Imported():
            return list(read_about(store.imported_path(start.sha256)).get("answers") or [])
        case Shuffled():
            return start_answers(start.start, store)
    return []


def start_tensors(start: Start, model: Model, store: Store) -> tuple[Tensors, Tensors]:
    """Return a start's backbone and pre-trained head tensors, by name; `model` gives the names of what is prunable."""
    match start:
        case Fresh():
            generator = torch.Generator().manual_seed(stream_seed("backbone", start.seed, "fresh"))
            model.backbone.initialise(generator, initial_std(model.backbone.hidden))
            return _backbone_state(model), {}
        case Shipped():
            return shipped_tensors(start), {}
        case Imported():
            return imported_tensors(start, model, store)
        case Trained() | Rewound():
            arrays = store.weights(start.train.digest)
            tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
            return _part(tensors, "backbone."), _part(tensors, "head.")
        case Shuffled():
            backbone, head = start_tensors(start.start, model, store)
            names = set(backbone) if start.scope == "all" else set(model.backbone.prunable())
            return shuffled(backbone, names, start.seed), head


def imported_tensors(start: Imported, model: Model, store: Store) -> tuple[Tensors, Tensors]:
    """Return an official checkpoint's trunk and heads; what it lacks is `Fresh(seed=0)`'s, as img_embeddings of BERT.

    Rows of the type table past those that the task uses (a checkpoint of VCR has 4) are left out.
    """
    fresh, _ = start_tensors(Fresh(seed=0), model, store)
    arrays = store.imported(start.sha256)
    trunk, heads = split_import({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    if TYPES in trunk:
        trunk[TYPES] = trunk[TYPES][: len(fresh[TYPES])]
    if TYPES in trunk and len(trunk[TYPES]) < len(fresh[TYPES]):
        fresh.pop(TYPES)  # `_load_backbone` grows the checkpoint's own table
    return fresh | trunk, heads


def shuffled(tensors: Tensors, names: set[str], seed: int) -> Tensors:
    """Return θ₀″: each named tensor's numbers permuted within the tensor, the others as they are."""
    out = dict(tensors)
    for name in sorted(names):
        generator = torch.Generator().manual_seed(stream_seed("shuffled", seed, name))
        order = torch.randperm(tensors[name].numel(), generator=generator)
        out[name] = tensors[name].flatten()[order].view_as(tensors[name])
    return out


def shipped_tensors(start: Shipped) -> Tensors:
    """Return weights that come with the package, checked against the hash in the spec, as float32."""
    content = shipped_file(start.name)
    if hashlib.sha256(content).hexdigest() != start.sha256:
        raise UserError(f"the shipped weights {start.name!r} are not those this run was planned with; plan it again")
    return {name: tensor.float() for name, tensor in load_tensors(content).items()}


def shipped(name: str) -> Shipped:
    """Return the spec of weights that come with the package."""
    return Shipped(name=name, sha256=hashlib.sha256(shipped_file(name)).hexdigest())


def shipped_file(name: str) -> bytes:
    """Return the content of a shipped weight file."""
    if name not in SHIPPED:
        raise unknown("shipped weights", name, SHIPPED)
    return (resources.files("vltickets") / "weights" / SHIPPED[name]).read_bytes()


def _backbone_state(model: Model) -> Tensors:
    backbone = model.backbone
    assert isinstance(backbone, nn.Module)
    return {name: tensor.detach().clone() for name, tensor in backbone.state_dict().items()}


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _load_backbone(model: Model, tensors: Tensors, type_rows: tuple[int, ...]) -> None:
    """Load a backbone's tensors; the type table takes the rows it has, and copies of some for what the task adds."""
    backbone = model.backbone
    assert isinstance(backbone, nn.Module)
    own = backbone.state_dict()
    types = "embeddings.token_type_embeddings.weight"
    if types in own:
        have = len(tensors[types])
        tensors = tensors | {types: tensors[types][[row if row < have else like for row, like in enumerate(type_rows)]]}
    for name, tensor in own.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise UserError(f"the initial weights do not fit: {name} should be {tuple(tensor.shape)}, found {found}")
    backbone.load_state_dict(tensors)


def _initialise_head_module(module: nn.Module, generator: torch.Generator, std: float) -> None:
    initialise_module(module, generator, std)
    if isinstance(module, nn.MultiheadAttention):
        with torch.no_grad():
            module.in_proj_weight.normal_(0.0, std, generator=generator)
            module.in_proj_bias.zero_()
