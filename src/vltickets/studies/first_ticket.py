"""The first study: one task's winning ticket, found by iterative magnitude pruning and held against the baselines.

A study is a function that yields cells, each a labelled node, and nothing more. Table 1's rows, for one task.
"""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.backbones import prunable_shapes
from vltickets.specs import (
    UNSTRUCTURED,
    DataSpec,
    Fresh,
    MaskSource,
    OneShot,
    PatternName,
    Prune,
    RandomMask,
    Recipe,
    Rewound,
    Shuffled,
    Start,
    Train,
    changed,
)
from vltickets.studies.config import Study
from vltickets.studies.graph import Cell
from vltickets.studies.starts import starts
from vltickets.tickets import NofM, iterative_magnitude_pruning, pattern_of

RANDOM_START = 1_000_000  # far from pre-training's seed: random-start must not be what θ₀ was pre-trained from


def first_ticket(study: Study, data: DataSpec) -> Iterator[Cell]:
    """Yield every cell of the study: each baseline, sparsity and seed, and the training that gives its number.

    A pattern that does not fit the backbone's shapes is a `UserError`.
    """
    theta0, text_only = starts(study, data)
    check_patterns(study)
    for seed in study.seeds:
        yield from _one_seed(study, data, theta0, text_only, seed)


def check_patterns(study: Study) -> None:
    """Raise `UserError` where a pattern of the study does not fit the backbone's shapes."""
    for pattern in study.patterns:
        pattern_of(pattern).check(prunable_shapes(study.shape), _levels(study, pattern))


def _one_seed(study: Study, data: DataSpec, theta0: Start, text_only: Start | None, seed: int) -> Iterator[Cell]:
    task = study.task_on(data)
    wanted = set(study.baselines)

    def train(start: Start, mask: MaskSource | None = None, recipe: Recipe = study.training) -> Train:
        return Train(backbone=study.shape, task=task, start=start, recipe=recipe, mask=mask, seed=seed)

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
    for sparsity, mask in _search(study, full, rewound):
        # The training of the next round under this mask is the evaluation of this ticket: the same node, run once.
        yield from cell("imp", sparsity, train(rewound, mask))
        if sparsity in _random_levels(study):
            random = RandomMask(backbone=study.shape, sparsity=sparsity, seed=seed)
            yield from cell("random", sparsity, train(theta0, random))
        if sparsity in study.quoted:
            like = RandomMask(backbone=study.shape, sparsity=sparsity, seed=seed, like=mask)
            one_shot = OneShot(backbone=study.shape, start=theta0, sparsity=sparsity)
            yield from cell("random-layerwise", sparsity, train(theta0, like))
            if text_only is not None:
                yield from cell("text-only", sparsity, train(text_only, mask))
            yield from cell("shuffled-within", sparsity, train(Shuffled(start=theta0, seed=seed), mask))
            yield from cell("shuffled-all", sparsity, train(Shuffled(start=theta0, scope="all", seed=seed), mask))
            yield from cell("random-start", sparsity, train(Fresh(seed=RANDOM_START + seed), mask))
            yield from cell("one-shot", sparsity, train(theta0, one_shot))
    for pattern in study.patterns:
        for sparsity, mask in _search(study, full, rewound, pattern):
            yield Cell(f"imp-{pattern}", sparsity, seed, train(rewound, mask))
            if "random" in wanted and sparsity in _random_levels(study, pattern):
                random = RandomMask(backbone=study.shape, sparsity=sparsity, seed=seed, pattern=pattern)
                yield Cell(f"random-{pattern}", sparsity, seed, train(theta0, random))


def _search(
    study: Study, full: Train, start: Start, pattern: PatternName = UNSTRUCTURED
) -> Iterator[tuple[float, MaskSource]]:
    """Yield each round's sparsity and mask; the first round is the dense run, the others start from θ₀ or θᵢ."""
    rounds = iterative_magnitude_pruning(
        train=lambda mask: full if mask is None else changed(full, start=start, mask=mask),
        prune=lambda trained, sparsity: Prune(train=trained, sparsity=sparsity, pattern=pattern),
        levels=_levels(study, pattern),
    )
    yield from ((step.sparsity, step.mask) for step in rounds)


def _levels(study: Study, pattern: PatternName) -> tuple[float, ...]:
    """Return the rounds of a search: the study's, or the one sparsity that n:m has."""
    found = pattern_of(pattern)
    return (found.sparsity,) if isinstance(found, NofM) else study.levels


def _random_levels(study: Study, pattern: PatternName = UNSTRUCTURED) -> tuple[float, ...]:
    """Return the sparsities of random masks: of n:m its own."""
    own = _levels(study, pattern)
    return own if study.random_levels is None or own != study.levels else study.random_levels


def _rewound(study: Study, full: Train) -> Start:
    """Return what each round starts from: θ₀, or θᵢ of the dense run where the study rewinds."""
    step = round(study.rewind * study.training.steps)
    return Rewound(train=changed(full, until=step)) if step else full.start
