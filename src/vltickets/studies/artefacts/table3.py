"""Table 3 and Figure 4: LXMERT's own tickets and random masks. Table 4 and Figure 7: ViLT's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from vltickets.studies.graph import Cell
from vltickets.studies.lab import RANDOM, Lab


def cells(lab: Lab, artefact: str) -> Iterator[Cell]:
    """Yield the dense runs of every task, its own ticket and a random mask at every level."""
    for task in lab.tasks:
        yield from lab.full(task, artefact)
        yield from lab.tickets(task, task, lab.study.levels, artefact)
        yield from lab.tickets(RANDOM, task, lab.study.levels, artefact)


lxmert = partial(cells, artefact="table3")
vilt = partial(cells, artefact="table4")
