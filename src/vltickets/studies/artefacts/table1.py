"""Table 1: each task's ticket at the highest sparsity it holds, and what mask and initial weights are worth there."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.specs import Shuffled, changed
from vltickets.studies.graph import Cell
from vltickets.studies.lab import RANDOM, Lab

ARTEFACT = "table1"


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield dense runs and tickets of every task; once these are done, the baselines at the sparsity they show."""
    study, seeds = lab.study, (*lab.study.seeds, *lab.study.quoted_seeds)
    for task in lab.tasks:
        yield from lab.full(task, ARTEFACT, seeds=seeds)
        if study.full_twice:
            yield from _twice(lab, task)
        yield from lab.tickets(task, task, study.levels, ARTEFACT)
        found = lab.highest(task)
        yield from lab.tickets(task, task, found, ARTEFACT, seeds=study.quoted_seeds)
        yield from lab.tickets(RANDOM, task, found, ARTEFACT, seeds=seeds)
        for level in found:
            yield from _other_starts(lab, task, level, seeds)


def _twice(lab: Lab, task: str) -> Iterator[Cell]:
    recipe = lab.study.recipe_of(task)
    longer = changed(recipe, steps=2 * recipe.steps)
    for seed in lab.study.seeds:
        yield Cell("full-2x", 0.0, seed, lab.train(task, seed, recipe=longer), task=task, artefacts=(ARTEFACT,))


def _other_starts(lab: Lab, task: str, level: float, seeds: tuple[int, ...]) -> Iterator[Cell]:
    """Yield the ticket's mask on θ₀′, where there is one, and on θ₀″."""
    for seed in seeds:
        mask = lab.masks(task, seed)[level]
        starts = {"text-only": lab.text_only, "shuffled-within": Shuffled(start=lab.theta0, seed=seed)}
        for baseline, start in starts.items():
            if start is not None:
                node = lab.train(task, seed, mask, start=start)
                yield Cell(baseline, level, seed, node, task=task, artefacts=(ARTEFACT,))
