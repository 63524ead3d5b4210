"""The first study: one task's winning ticket, found by iterative magnitude pruning and held against the baselines.

A study is a function that yields cells, each a labelled node, and nothing more. Table 1's rows, for one task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from vltickets.errors import UserError
from vltickets.specs import (
    DataSpec,
    Fresh,
    Imported,
    MaskSource,
    OneShot,
    Pretraining,
    Prune,
    RandomMask,
    Recipe,
    Rewound,
    Shuffled,
    Start,
    Train,
    Trained,
    changed,
)
from vltickets.studies.config import Pretrain, Stage, Study
from vltickets.studies.graph import Cell
from vltickets.tickets import iterative_magnitude_pruning, shipped

RANDOM_START = 1_000_000  # far from pre-training's seed: random-start must not be what θ₀ was pre-trained from


def first_ticket(study: Study, data: DataSpec) -> Iterator[Cell]:
    """Yield every cell of the study: each baseline, sparsity and seed, and the training that gives its number."""
    theta0, text_only = starts(study, data)
    for seed in study.seeds:
        yield from _one_seed(study, data, theta0, text_only, seed)


def starts(study: Study, data: DataSpec) -> tuple[Start, Start | None]:
    """Return θ₀ and its text-only parent θ₀′ (None where θ₀ had no text-only stage)."""
    if study.start == "shipped":
        return shipped("theta0"), shipped("text-only")
    if study.start == "fresh":  # for data that nothing was pre-trained on
        return Fresh(), None
    if study.start == "imported":
        return imported(study), None
    assert study.pretraining is not None
    text, theta0 = pretraining_nodes(study, study.pretraining, data)
    if study.pretraining.start is not None:
        return Trained(train=theta0), imported(study)
    return Trained(train=theta0), None if text is None else Trained(train=text)


def imported(study: Study) -> Imported:
    """Return the spec of the study's file of imported weights; a missing file is a `UserError`."""
    path = study.weight_file
    assert path is not None
    if not path.is_file():
        raise UserError(f"{path}: no such file; `vltickets weights import` makes it")
    with path.open("rb") as file:
        return Imported(name=path.stem, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def pretraining_nodes(study: Study, pretrain: Pretrain, data: DataSpec) -> tuple[Train | None, Train]:
    """Return the trainings that make θ₀′ (None without a text-only stage) and θ₀."""
    start: Start = Fresh(seed=pretrain.seed) if pretrain.start is None else imported(study)
    text = None
    if pretrain.text is not None:
        text = _stage(study, pretrain.text, data, start, pretrain.seed, text_only=True)
        start = Trained(train=text)
    return text, _stage(study, pretrain.vision_language, data, start, pretrain.seed, text_only=False)


def _stage(study: Study, stage: Stage, data: DataSpec, start: Start, seed: int, *, text_only: bool) -> Train:
    task = Pretraining(
        data=data,
        split="dev",
        objectives=stage.objectives,
        foils=stage.foils,
        mask_words=stage.mask_words,
        mask_regions=stage.mask_regions,
        text_only=text_only,
    )
    return Train(backbone=study.uniter, task=task, start=start, recipe=stage.training, seed=seed)


def _one_seed(study: Study, data: DataSpec, theta0: Start, text_only: Start | None, seed: int) -> Iterator[Cell]:
    task = study.task_on(data)
    wanted = set(study.baselines)

    def train(start: Start, mask: MaskSource | None = None, recipe: Recipe = study.training) -> Train:
        return Train(backbone=study.uniter, task=task, start=start, recipe=recipe, mask=mask, seed=seed)

    def cell(baseline: str, sparsity: float, node: Train) -> Iterator[Cell]:
        if baseline in wanted:
            yield Cell(baseline, sparsity, seed, node)

    full = train(theta0)
    if seed == study.seeds[0]:  # no fine-tuning at all: it differs between seeds only by a head that is not trained
        yield from cell("theta0", 0.0, changed(full, until=0))
    yield from cell("full", 0.0, full)
    yield from cell("full-2x", 0.0, train(theta0, recipe=changed(study.training, steps=2 * study.training.steps)))
    yield from cell("scratch", 0.0, train(Fresh(seed=RANDOM_START + seed)))
    yield from cell("blind", 0.0, changed(full, task=study.task_on(data, blind=True)))

    rewound = _rewound(study, full)
    rounds = iterative_magnitude_pruning(
        train=lambda mask: full if mask is None else train(rewound, mask),
        prune=lambda trained, sparsity: Prune(train=trained, sparsity=sparsity),
        levels=study.levels,
    )
    for step in rounds:
        sparsity, mask = step.sparsity, step.mask
        # The training of the next round under this mask is the evaluation of this ticket: the same node, run once.
        yield from cell("imp", sparsity, train(rewound, mask))
        if study.random_levels is None or sparsity in study.random_levels:
            random = RandomMask(backbone=study.uniter, sparsity=sparsity, seed=seed)
            yield from cell("random", sparsity, train(theta0, random))
        if sparsity in study.quoted:
            like = RandomMask(backbone=study.uniter, sparsity=sparsity, seed=seed, like=mask)
            one_shot = OneShot(backbone=study.uniter, start=theta0, sparsity=sparsity)
            yield from cell("random-layerwise", sparsity, train(theta0, like))
            if text_only is not None:
                yield from cell("text-only", sparsity, train(text_only, mask))
            yield from cell("shuffled-within", sparsity, train(Shuffled(start=theta0, seed=seed), mask))
            yield from cell("shuffled-all", sparsity, train(Shuffled(start=theta0, scope="all", seed=seed), mask))
            yield from cell("random-start", sparsity, train(Fresh(seed=RANDOM_START + seed), mask))
            yield from cell("one-shot", sparsity, train(theta0, one_shot))


def _rewound(study: Study, full: Train) -> Start:
    """Return what each round starts from: θ₀, or θᵢ of the dense run where the study rewinds."""
    step = round(study.rewind * study.training.steps)
    return Rewound(train=changed(full, until=step)) if step else full.start
