"""Table 5: universal tickets, fine-tuned in the standard way and adversarially."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.studies.graph import Cell
from vltickets.studies.lab import PRETRAINING, Lab

WITHOUT = ("retrieval",)  # the paper's table has six tasks


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield the universal ticket on the table's tasks, both ways."""
    for task in lab.tasks:
        if task not in WITHOUT:
            for adversarial in (False, True):
                levels = lab.study.adversarial_levels
                yield from lab.tickets(PRETRAINING, task, levels, "table5", adversarial=adversarial)
