"""Measuring what runs cost on this machine: a few steps and one scoring of each shape, before anything runs.

A run of the embedded world is measured in a smaller world of the same kind, made in a scratch store, and what depends
on the number of its examples is scaled; so nothing of the world is made in the user's store. A user's folder is read as
it is. One process measures: what several side by side take from each other is not in the figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from torch import nn

from vltickets import __version__
from vltickets.backbones import prunable_shapes
from vltickets.data import Source, open_source
from vltickets.specs import DataSpec, Fresh, MaskSource, Node, TaskSpec, Train, World, changed
from vltickets.store import Store
from vltickets.studies.costs import Cost, Figures, Shapes, shape
from vltickets.studies.work import backbone_of, build_model, compact, machine
from vltickets.tasks import Evaluation, Model, Task, build_task
from vltickets.tickets import HoldZeros, Mask, initialise, prune, random_scores
from vltickets.training import evaluate, train

SECONDS = 40.0  # for the steps of all shapes together; reading and scoring come on top
STEP_SECONDS = (0.3, 1.5)  # for the steps of one shape: at least, at most
SCORING_SECONDS = 20.0  # of processor time; then a scoring counts as what it took so far
WARM_STEPS, LEAST_STEPS, MOST_STEPS = 2, 8, 60
SMALL = {"scenes": 600, "examples": 600, "heldout": 200}
HELD_OUT_CAPTIONS = 1500  # whatever the world's size (data/world.py)
JSON_BYTES = 12_000  # a record of a training with its curve, and its specification
EVIDENCE = "calibrated"

Tell = Callable[[int, int, str], None]  # how many shapes are measured, of how many, and which comes next


class _Enough(Exception):
    """Ends a training or a scoring that has been measured long enough."""


def this_machine() -> dict[str, str]:
    """Return what measured figures depend on besides the shape."""
    return {**machine(), "vltickets": __version__}


def calibrate(nodes: Mapping[str, Node], scratch: Store, tell: Tell | None = None) -> Figures:
    """Return the measured cost of each shape, of which `nodes` names one node; about a minute in all.

    `scratch` is a store that may be written to: it knows the users' folders of the nodes.
    """
    budget = min(max(SECONDS / max(len(nodes), 1), STEP_SECONDS[0]), STEP_SECONDS[1])
    bench, costs = _Bench(scratch, budget), dict[str, Cost]()
    for name, node in nodes.items():
        if tell is not None:
            tell(len(costs), len(nodes), node.task.kind if isinstance(node, Train) else f"{node.kind} mask")
        costs[name] = bench.training(node) if isinstance(node, Train) else _mask(node)
    return Figures(this_machine(), costs, {name: shape(node) for name, node in nodes.items()})


def examples_of(nodes: list[Node]) -> dict[str, Node]:
    """Return one node of each shape; of trainings one under a mask, where there is one: most are."""
    shapes, found = Shapes(), dict[str, Node]()
    for node in nodes:
        name = shapes.of(node)
        known = found.get(name)
        if known is None or (isinstance(known, Train) and isinstance(node, Train) and known.mask is None):
            found[name] = node
    return found


@dataclass(frozen=True)
class _Read:
    """A task over its small data, and the seconds of making the data's files and of reading them."""

    source: Source
    task: Task
    made: float
    read: float


class _Bench:
    """Measures trainings. Those of one task share its data and, but for the recipe, its scoring."""

    def __init__(self, scratch: Store, budget: float) -> None:
        self.scratch, self.budget = scratch, budget
        self._read: dict[tuple[str, str], _Read] = {}
        self._scored: dict[tuple[str, ...], tuple[float, Evaluation | None]] = {}

    def training(self, node: Train) -> Cost:
        """Return what a training of this shape costs."""
        data, ratio = _small(node.task)
        spec = changed(node.task, data=data)
        read = self._opened(spec, node)
        started = time.perf_counter()
        model = build_model(node.backbone, node.recipe, read.task, read.source)
        initialise(model, read.task, changed(node, task=spec, start=Fresh(), mask=None, until=None), self.scratch)
        hooks = [] if node.mask is None else [HoldZeros(model, _half(node.mask), zero_stays=True)]
        setup = time.perf_counter() - started
        started, processor = time.perf_counter(), time.process_time()
        step_seconds = _step_seconds(model, read.task, node, hooks, self.budget)
        busy = _busy(time.perf_counter() - started, time.process_time() - processor, node.recipe.threads)
        key = (spec.digest, node.backbone.digest, str(node.recipe.threads))
        if key not in self._scored:
            self._scored[key] = _scoring(model, read.task, node)
        scoring, evaluation = self._scored[key]
        items = 0 if evaluation is None else sum(array.nbytes for array in compact(evaluation).values())
        return Cost(
            step_seconds=step_seconds,
            rest_seconds=setup + scoring * ratio.scored,
            weights_bytes=float(sum(value.numel() * value.element_size() for value in model.state_dict().values())),
            record_bytes=items * ratio.items + JSON_BYTES,
            read_seconds=read.read * ratio.read,
            once_seconds=read.made * ratio.read,
            busy=busy,
            evidence=EVIDENCE if evaluation is not None else f"{EVIDENCE}, scoring ≥",
        )

    def _opened(self, spec: TaskSpec, node: Train) -> _Read:
        key = (spec.digest, node.backbone.digest)
        if key not in self._read:
            times = [time.perf_counter()]
            source = open_source(spec.data, self.scratch)
            for _ in range(2 if isinstance(spec.data, World) else 1):  # the first time makes the world's files
                task = build_task(spec, source, node.backbone)
                task.lengths()
                times.append(time.perf_counter())
            read = times[-1] - times[-2]
            self._read[key] = _Read(source, task, max(times[1] - times[0] - read, 0.0), read)
        return self._read[key]


@dataclass(frozen=True)
class _Ratio:
    """How much more there is in the whole data than in the small: to read, to score, to keep."""

    read: float = 1.0
    scored: float = 1.0
    items: float = 1.0


def _small(task: TaskSpec) -> tuple[DataSpec, _Ratio]:
    """Return the data to measure on, and how much more there is in the task's own."""
    whole = task.data
    if not isinstance(whole, World):
        return whole, _Ratio()
    small = changed(whole, **{name: min(size, getattr(whole, name)) for name, size in SMALL.items()})
    held = whole.heldout / small.heldout
    if task.kind in ("pretraining", "lxmert_pretraining", "matching"):
        read = (whole.scenes + HELD_OUT_CAPTIONS) / (small.scenes + HELD_OUT_CAPTIONS)
        return small, _Ratio(read)
    read = (whole.examples + whole.heldout) / (small.examples + small.heldout)
    if task.kind == "retrieval":  # every caption with every image
        images = [max(world.heldout // 20, 20) for world in (whole, small)]
        shown = [count if task.images is None else min(count, task.images) for count in images]
        held = shown[0] / shown[1]
        return small, _Ratio(read, held**2, held)
    return small, _Ratio(read, held, held)


def _step_seconds(model: Model, task: Task, node: Train, hooks: list[HoldZeros], budget: float) -> float:
    """Return the mean seconds of a step, after the first few."""
    times = [time.perf_counter()]

    def watch(step: int, steps: int, loss: float) -> None:
        times.append(time.perf_counter())
        measured = len(times) - 1 - WARM_STEPS
        if measured >= LEAST_STEPS and (measured >= MOST_STEPS or times[-1] - times[WARM_STEPS] > budget):
            raise _Enough

    recipe = changed(node.recipe, steps=max(node.recipe.steps, WARM_STEPS + MOST_STEPS))
    with suppress(_Enough):
        train(model, task, recipe, seed=node.seed, last_step=WARM_STEPS + MOST_STEPS, hooks=hooks, progress=watch)
    return (times[-1] - times[WARM_STEPS]) / (len(times) - 1 - WARM_STEPS)


def _busy(seconds: float, processor_seconds: float, threads: int) -> float:
    """Return time over processor time of one thread; a GPU's work takes no processor time, and counts as it is."""
    on_processor = this_machine()["device"] == "cpu"
    return max(seconds * threads / processor_seconds, 1.0) if on_processor and processor_seconds else 1.0


def _scoring(model: Model, task: Task, node: Train) -> tuple[float, Evaluation | None]:
    """Return the seconds of scoring the split, and what was scored; None where that takes too long to wait for."""
    started, processor = time.perf_counter(), time.process_time()

    def watch(module: nn.Module, inputs: object) -> None:
        if time.process_time() - processor > SCORING_SECONDS * node.recipe.threads:
            raise _Enough

    backbone: nn.Module = model.backbone  # type: ignore[assignment]
    handle = backbone.register_forward_pre_hook(watch)
    try:
        evaluation = evaluate(model, task, node.task.split, threads=node.recipe.threads)
    except _Enough:
        return time.perf_counter() - started, None
    finally:
        handle.remove()
    return time.perf_counter() - started, evaluation


def _mask(node: MaskSource) -> Cost:
    prunable_shapes(backbone_of(node))  # the first time in a process takes longer
    started, processor = time.perf_counter(), time.process_time()
    shapes = prunable_shapes(backbone_of(node))
    packed = prune(random_scores(node.seed if node.kind == "random" else 0, shapes), Mask.dense(shapes), 0.5).packed()
    seconds = time.perf_counter() - started
    busy = _busy(seconds, time.process_time() - processor, threads=1)
    size = sum(bits.nbytes for bits in packed.values())
    return Cost(0.0, seconds, 0.0, size + JSON_BYTES / 4, busy=busy, evidence=EVIDENCE)


@lru_cache(maxsize=8)
def _half(node: MaskSource) -> Mask:
    shapes = prunable_shapes(backbone_of(node))
    return prune(random_scores(0, shapes), Mask.dense(shapes), 0.5)
