"""Figures 3 and 6: every task's ticket, the pre-training ticket and the controls, on every task."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.studies.graph import Cell
from vltickets.studies.lab import PRETRAINING, Lab


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield the dense runs and all sources' tickets of every task; a task's own ticket first."""
    for task in lab.tasks:
        yield from lab.full(task, "figure3")
        yield from lab.tickets(task, task, lab.study.transfer_levels, "figure3")
    for source in (PRETRAINING, *lab.study.controls, *lab.tasks):
        for task in lab.tasks:
            if source != task:
                yield from lab.tickets(source, task, lab.study.transfer_levels, "figure3")
