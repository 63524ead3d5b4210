"""The graph's two kinds of work, Train and Prune, and the initial weights and masks they start from.

Everything in the paper is made of these: iterative magnitude pruning is Train, Prune, Train, Prune …; a baseline
changes one argument. A result depends on nothing but its node.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from vltickets.specs.adversarial import Adversarial
from vltickets.specs.backbones import BackboneSpec
from vltickets.specs.spec import Spec, changed
from vltickets.specs.tasks import TaskSpec

UNSTRUCTURED = "unstructured"
# Which weights go together, as `tickets/patterns.py` reads it: single ones, "2:4", "block-4x1" (outputs x inputs).
PatternName = Annotated[
    str, Field(pattern=r"^(unstructured|[1-9]\d{0,3}:[1-9]\d{0,3}|block-[1-9]\d{0,3}x[1-9]\d{0,3})$")
]


class Recipe(Spec):
    """How a model is trained. The defaults follow the official UNITER fine-tuning code where it has one.

    A step's batch is a budget of tokens (words and regions together), as officially, or a number of examples
    where `batch_examples` is set. With `accumulation` it goes through the model in that many parts, and their losses
    are averaged; officially they are summed, so an official `clip` is divided by the official accumulation.
    Learning rate: linear warm-up over `warmup` of the steps, then linear decay to 0.
    `threads`, `packed` and `compiled` are here because sums, and so bits, depend on them. Several processes share a
    batch's parts (docs/training.md).
    """

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    head_multiplier: float = Field(1.0, gt=0, description="learning rate of the head over that of the backbone")
    warmup: float = Field(0.1, ge=0, lt=1)
    hold: float = Field(0.0, ge=0, lt=1, description="share of the steps at the full rate between warm-up and decay")
    batch_tokens: int = Field(1024, ge=1)
    batch_examples: int | None = Field(None, ge=1)
    accumulation: int = Field(1, ge=1, description="parts a step's batch is split into, to fit in memory")
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(1e-6, gt=0)
    clip: float = Field(2.0, gt=0, description="largest L2 norm of all gradients together")
    dropout: float = Field(0.1, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(1, ge=1)
    packed: bool = Field(False, description="no work on padding in the encoder (UNITER)")
    compiled: bool = Field(False, description="torch.compile of the encoder's layers (UNITER); needs a C++ compiler")
    adversarial: Adversarial | None = None

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: both must be in [0, 1)")
        if self.warmup + self.hold > 1:
            raise ValueError(f"warmup {self.warmup} and hold {self.hold} together are more than all the steps")
        return self


class Fresh(Spec):
    """Random initial weights from a seed of their own: normal, 0.02 wide at base size, wider for narrower backbones."""

    kind: Literal["fresh"] = "fresh"
    seed: int = 0


class Shipped(Spec):
    """Pre-trained weights that come with the package, named by the hash of their file."""

    kind: Literal["shipped"] = "shipped"
    name: str
    sha256: str


class Imported(Spec):
    """Weights from an official checkpoint, which `weights import` wrote, named by the hash of that file."""

    kind: Literal["imported"] = "imported"
    name: str
    sha256: str


class Trained(Spec):
    """θ from a finished training: pre-trained weights. The head comes along only where the task asks for it."""

    kind: Literal["trained"] = "trained"
    train: Train


class Rewound(Spec):
    """θᵢ and φᵢ of a training stopped at step i; schedule and data go on from there, the optimiser starts anew."""

    kind: Literal["rewound"] = "rewound"
    train: Train

    @model_validator(mode="after")
    def _stopped(self) -> Rewound:
        if self.train.until is None:
            raise ValueError("rewinding needs a training with `until`: the step to rewind to")
        return self


class Shuffled(Spec):
    """θ₀″: each prunable tensor permuted within itself (`within`), or every tensor of the backbone (`all`)."""

    kind: Literal["shuffled"] = "shuffled"
    start: Start
    scope: Literal["within", "all"] = "within"
    seed: int = 0


Start = Annotated[Fresh | Shipped | Imported | Trained | Rewound | Shuffled, Field(discriminator="kind")]


class Train(Spec):
    """Train a backbone and a fresh head on a task, from given weights, under a mask. Result: weights and metrics."""

    is_node: ClassVar[bool] = True
    kind: Literal["train"] = "train"
    backbone: BackboneSpec
    task: TaskSpec
    start: Start
    recipe: Recipe
    mask: MaskSource | None = None
    seed: int = 0
    until: int | None = Field(None, ge=0, description="stop after this step of the recipe: θᵢ, to rewind to")

    @model_validator(mode="after")
    def _within(self) -> Train:
        if self.until is not None and self.until > self.recipe.steps:
            raise ValueError(f"until={self.until} lies past the recipe's {self.recipe.steps} steps")
        return self


class Prune(Spec):
    """Prune a training's final weights to `sparsity`; the mask so far is the training's own. Algorithm 1, line 4."""

    is_node: ClassVar[bool] = True
    kind: Literal["prune"] = "prune"
    train: Train
    sparsity: float = Field(ge=0, lt=1)
    pattern: PatternName = UNSTRUCTURED


class OneShot(Spec):
    """The mask that removes the smallest initial weights at once, without any training."""

    is_node: ClassVar[bool] = True
    kind: Literal["one-shot"] = "one-shot"
    backbone: BackboneSpec
    start: Start
    sparsity: float = Field(ge=0, lt=1)
    pattern: PatternName = UNSTRUCTURED


class RandomMask(Spec):
    """A uniformly random mask; nested over sparsities for one seed. `like` fixes the kept count of each tensor."""

    is_node: ClassVar[bool] = True
    kind: Literal["random"] = "random"
    backbone: BackboneSpec
    sparsity: float = Field(ge=0, lt=1)
    seed: int = 0
    like: MaskSource | None = None
    pattern: PatternName = UNSTRUCTURED

    @model_validator(mode="after")
    def _of_one_kind(self) -> RandomMask:
        if self.like is not None and self.pattern != UNSTRUCTURED:
            raise ValueError("a random mask has the counts of another mask (`like`) or a pattern, not both")
        return self


MaskSource = Annotated[Prune | OneShot | RandomMask, Field(discriminator="kind")]
Node = Train | Prune | OneShot | RandomMask
NODE_KINDS: dict[str, type[Train] | type[Prune] | type[OneShot] | type[RandomMask]] = {
    "train": Train,
    "prune": Prune,
    "one-shot": OneShot,
    "random": RandomMask,
}
for _cls in (Trained, Rewound, Shuffled, Train, Prune, OneShot, RandomMask):
    _cls.model_rebuild()


def parents(node: Node) -> tuple[Node, ...]:
    """Return the nodes whose results this one needs, in the order of its fields."""
    if isinstance(node, Train):
        return (*_start_parents(node.start), *(() if node.mask is None else (node.mask,)))
    if isinstance(node, Prune):
        return (node.train,)
    if isinstance(node, OneShot):
        return _start_parents(node.start)
    return () if node.like is None else (node.like,)


def dense_of(node: Train) -> Train:
    """Return the dense training that a sparse one is compared with: all else is the same."""
    start = node.start.train.start if isinstance(node.start, Rewound) else node.start
    dense: Train = changed(node, mask=None, start=start)
    return dense


def _start_parents(start: Start) -> tuple[Node, ...]:
    if isinstance(start, Shuffled):
        return _start_parents(start.start)
    return (start.train,) if isinstance(start, Trained | Rewound) else ()
