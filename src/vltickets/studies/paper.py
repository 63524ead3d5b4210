"""The paper as one study: the cells of its tables and figures, each of them once however many show it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vltickets.specs import DataSpec
from vltickets.studies.artefacts import CELLS
from vltickets.studies.graph import Cell
from vltickets.studies.lab import Lab, Metrics, nothing_finished
from vltickets.studies.paper_config import Paper


def paper(study: Paper, data: DataSpec, metrics: Metrics = nothing_finished) -> Iterator[Cell]:
    """Yield the cells of the study's artefacts, in their order; what two share names both and is yielded once.

    `metrics` tells those of finished trainings: with more of them known, more cells may follow (Table 1).
    """
    lab = Lab(study, data, metrics)
    found: dict[tuple[object, ...], Cell] = {}
    for name in study.artefacts:
        for cell in CELLS[name](lab):
            # The same node may be two cells: a task's own ticket is a source of transfer and a point of Figure 5.
            key = (cell.baseline, cell.sparsity, cell.seed, cell.task, cell.adversarial)
            known = found.get(key)
            found[key] = cell if known is None else replace(known, artefacts=(*known.artefacts, name))
    yield from found.values()
