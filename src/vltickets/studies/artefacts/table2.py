"""Table 2: the universal ticket, found on pre-training, on every task."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.studies.graph import Cell
from vltickets.studies.lab import PRETRAINING, Lab


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield the dense runs and the pre-training ticket of every task."""
    for task in lab.tasks:
        yield from lab.full(task, "table2")
        yield from lab.tickets(PRETRAINING, task, lab.study.universal_levels, "table2")
