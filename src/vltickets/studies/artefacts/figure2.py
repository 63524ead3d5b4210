"""Figure 2: a task's own ticket, the pre-training ticket and a random mask at every level; rewinding on some tasks."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.studies.graph import Cell
from vltickets.studies.lab import PRETRAINING, RANDOM, Lab

ARTEFACT = "figure2"


def cells(lab: Lab) -> Iterator[Cell]:
    """Yield the dense runs, the three curves of every task, and the rewound ones of `rewind_tasks`."""
    for task in lab.tasks:
        yield from lab.full(task, ARTEFACT)
        for source in (task, PRETRAINING, RANDOM):
            yield from lab.tickets(source, task, lab.study.levels, ARTEFACT)
    for task in lab.study.rewind_tasks:
        for share in lab.study.rewind_shares:
            yield from _rewound(lab, task, share)


def _rewound(lab: Lab, task: str, share: float) -> Iterator[Cell]:
    for seed in lab.study.seeds:
        start, masks = lab.rewound(task, seed, share), lab.masks(task, seed, rewind=share)
        for level in lab.study.levels:
            node = lab.train(task, seed, masks[level], start=start)
            yield Cell(f"{task}-rewound-{share:g}", level, seed, node, task=task, artefacts=(ARTEFACT,))
