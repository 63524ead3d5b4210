"""Figure 5: tickets found and fine-tuned adversarially, against those found and fine-tuned in the standard way."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.studies.graph import Cell
from vltickets.studies.lab import Lab


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield both curves of every task of the figure, over all levels."""
    for task in lab.study.adversarial_tasks:
        for adversarial in (False, True):
            yield from lab.full(task, "figure5", adversarial=adversarial)
            yield from lab.tickets(
                task,
                task,
                lab.study.levels,
                "figure5",
                found_adversarially=adversarial,
                adversarial=adversarial,
            )
