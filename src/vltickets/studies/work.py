"""Doing one node's work: train, or prune, and write the result. A node's result depends on nothing but the node."""

from __future__ import annotations

import math
import platform
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from vltickets.backbones import UniterBackbone, build_backbone, check_recipe, prunable_shapes
from vltickets.data import Source, open_source, stream_seed
from vltickets.errors import UserError
from vltickets.specs import (
    BackboneSpec,
    MaskSource,
    Node,
    OneShot,
    Prune,
    RandomMask,
    Recipe,
    Rewound,
    TaskSpec,
    Train,
    canonical,
    changed,
)
from vltickets.store import Record, Store
from vltickets.studies.costs import KEPT_TASKS
from vltickets.studies.progress import Noting
from vltickets.tasks import Evaluation, Model, Task, build_task
from vltickets.tickets import HoldZeros, Mask, initialise, pattern_of, prune_like, random_scores
from vltickets.tickets.initialisations import start_tensors
from vltickets.training import Checkpoint, Diverged, Progress, evaluate, processes, train


def run_node(node: Node, store: Store, progress: Progress | None = None) -> None:
    """Run a node whose parents are done, and make its result visible. A killed run goes on from its checkpoint.

    Among several processes all run it, and rank 0 makes the result visible.
    """
    if processes.rank() == 0:
        processes.tell(node.digest)
    if isinstance(node, Train):
        _run_train(node, store, _noted(node, store, progress) if processes.rank() == 0 else progress)
    else:
        _run_mask(node, store)


def follow(store: Store) -> None:
    """Run every node that rank 0 runs, beside it, until it says that it is done; it needs the same store to read."""
    while (digest := processes.hear()) is not None:
        with suppress(Diverged):  # on all ranks at once, and rank 0 reports it
            run_node(store.node(digest), store)


def _noted(node: Train, store: Store, progress: Progress | None) -> Progress:
    """Return a progress that also leaves word for `study status`."""
    note = Noting(node.digest, store)

    def take(step: int, steps: int, loss: float) -> None:
        note(step, steps, loss)
        if progress is not None:
            progress(step, steps, loss)

    return take


def _run_train(node: Train, store: Store, progress: Progress | None) -> None:
    started, processor = time.perf_counter(), time.process_time()
    source = open_source(node.task.data, store)
    task = _task(node.task, source, node.backbone)
    model = build_model(node.backbone, node.recipe, task, source)
    known = initialise(model, task, node, store)
    hooks = [HoldZeros(model, load_mask(node.mask, store), zero_stays=True)] if node.mask is not None else []
    ready = time.perf_counter()
    state = train(
        model,
        task,
        node.recipe,
        seed=node.seed,
        first_step=_rewind_step(node),
        last_step=node.until,
        hooks=hooks,
        checkpoint=_checkpoint(node, store),
        handover=_handover(node, store),
        progress=progress,
    )
    if processes.rank() > 0:
        return
    trained = time.perf_counter()
    evaluation = evaluate(model, task, node.task.split, threads=node.recipe.threads)
    _check_finite(evaluation)
    scored = time.perf_counter()
    weights = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    store.put_weights(node, weights, {"vocabulary": source.vocabulary.text(), **task.labels()})
    if store.has(node):  # it was imported, and only the weights were wanted
        store.end_work(node.digest)
    else:
        phases = {"setup": ready - started, "scoring": scored - trained, "writing": time.perf_counter() - scored}
        sitting = trained - ready + sum(phases.values())
        share = (state.seconds + sum(phases.values())) / sitting  # of all sittings over the last
        record = _train_record(node, state, evaluation, known, phases, share * (time.process_time() - processor))
        store.finish(node, record, {"items": compact(evaluation)})


def _check_finite(evaluation: Evaluation) -> None:
    """Refuse scores that are no numbers: a mean over seeds must not swallow them."""
    for name, value in {"score": evaluation.score, **evaluation.metrics}.items():
        if not math.isfinite(value):
            raise Diverged(f"the metric {name} is {value} after training; try a lower learning rate")


def build_model(backbone: BackboneSpec, recipe: Recipe, task: Task, source: Source) -> Model:
    """Return the uninitialised model of a backbone's shape for a task, sized by the data."""
    check_recipe(recipe, backbone)
    built = build_backbone(
        backbone,
        vocabulary=len(source.vocabulary),
        region_width=task.region_width(),
        dropout=recipe.dropout,
        type_count=len(task.type_rows),
    )
    if isinstance(built, UniterBackbone):
        built.packed = recipe.packed
        if recipe.compiled:
            built.compile_layers()
    return Model(built, task.head(backbone.hidden, recipe.dropout))


def load_mask(source: MaskSource, store: Store) -> Mask:
    """Return the mask that a finished node made."""
    return Mask.unpacked(store.arrays(source.digest, "mask"), prunable_shapes(backbone_of(source)))


def backbone_of(source: MaskSource) -> BackboneSpec:
    """Return the backbone a mask is for."""
    return source.train.backbone if isinstance(source, Prune) else source.backbone


def _run_mask(node: MaskSource, store: Store) -> None:
    started, processor = time.perf_counter(), time.process_time()
    shapes = prunable_shapes(backbone_of(node))
    match node:
        case Prune():
            arrays = store.weights(node.train.digest)
            so_far = Mask.dense(shapes) if node.train.mask is None else load_mask(node.train.mask, store)
            weights = {name: torch.from_numpy(arrays[f"backbone.{name}"].copy()) for name in shapes}
            mask = _by_magnitude(weights, so_far, node)
        case OneShot():
            mask = _by_magnitude(_start_weights(node, shapes, store), Mask.dense(shapes), node)
        case RandomMask():
            scores = random_scores(stream_seed("random-mask", node.seed), shapes)
            if node.like is None:
                mask = pattern_of(node.pattern).prune(scores, Mask.dense(shapes), node.sparsity)
            else:
                mask = prune_like(scores, load_mask(node.like, store))
    processes.check_same("masks", (mask[name] for name in mask))
    if processes.rank() > 0:
        return
    metrics = {"sparsity": mask.sparsity, "pruned": float(mask.total - mask.kept), "prunable": float(mask.total)}
    record = Record(
        digest=node.digest,
        kind=node.kind,
        spec=canonical(node),
        metrics=metrics,
        seconds=time.perf_counter() - started,
        machine=machine(),
        processor_seconds=time.process_time() - processor,
    )
    store.finish(node, record, {"mask": mask.packed()})


def _by_magnitude(weights: dict[str, torch.Tensor], mask: Mask, node: Prune | OneShot) -> Mask:
    return pattern_of(node.pattern).prune(lambda name: weights[name].abs(), mask, node.sparsity)


def _start_weights(node: OneShot, shapes: dict[str, tuple[int, ...]], store: Store) -> dict[str, torch.Tensor]:
    spec = node.backbone
    backbone = build_backbone(spec, vocabulary=spec.vocabulary or 1, region_width=spec.region_width or 1, dropout=0.0)
    weights = start_tensors(node.start, Model(backbone, torch.nn.Identity()), store)[0]
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            found = tuple(weights[name].shape) if name in weights else "nothing"
            raise UserError(f"the initial weights do not fit: {name} should be {shape}, found {found}")
    return weights


def _train_record(
    node: Train,
    state: Checkpoint,
    evaluation: Evaluation,
    known: int,
    phases: dict[str, float],
    processor_seconds: float,
) -> Record:
    """Return the record; `known` answers were taken over from the start's answer head."""
    taken = {"answers_transferred": float(known)} if known else {}
    return Record(
        digest=node.digest,
        kind="train",
        spec=canonical(node),
        metrics={"score": evaluation.score, **evaluation.metrics, **taken},
        curve=state.curve,
        parts=state.parts,
        seconds=state.seconds,
        machine=machine(),
        phases=phases,
        processor_seconds=processor_seconds,
    )


@lru_cache(maxsize=KEPT_TASKS)
def _task(spec: TaskSpec, source: Source, backbone: BackboneSpec) -> Task:
    """A task and its data, kept between the runs of one process."""
    return build_task(spec, source, backbone)


def _checkpoint(node: Train, store: Store) -> Path:
    return store.work(node.digest) / "checkpoint.safetensors"


def _handover(node: Train, store: Store) -> Path | None:
    """Return where θᵢ leaves its state for the whole run, unless that is done or this is the whole run."""
    whole = changed(node, until=None)
    return None if node.until is None or store.has(whole) else _checkpoint(whole, store)


def _rewind_step(node: Train) -> int:
    return (node.start.train.until or 0) if isinstance(node.start, Rewound) else 0


def compact(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Return item scores by name in half precision: they are 0, 1 or VQA's tenths."""
    items = {"score": evaluation.items, **evaluation.more_items}
    return {name: values.astype(np.float16) for name, values in items.items()}


@lru_cache(maxsize=1)
def machine() -> dict[str, str]:
    """Return what the figures depend on besides the node."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"python": platform.python_version(), "torch": torch.__version__, "cpu": cpu, "device": device}


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
