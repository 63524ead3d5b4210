"""Figure 8: how far the masks of all tasks and of pre-training are the same."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.studies.graph import Cell
from vltickets.studies.lab import ONE_SHOT, PRETRAINING, Lab


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield the masks themselves, that of one-shot pruning too where it is a control."""
    extra = (ONE_SHOT,) if ONE_SHOT in lab.study.controls else ()
    for source in (*lab.tasks, PRETRAINING, *extra):
        for seed in lab.study.seeds:
            masks = lab.masks(source, seed)
            for level in lab.study.overlap_levels:
                yield Cell("mask", level, seed, masks[level], task=source, artefacts=("figure8",))
