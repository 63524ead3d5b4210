"""How the paper's tables and figures are shown: one module each, over the results of a paper study."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure

from vltickets.reports.artefacts import (
    figure2,
    figure3,
    figure5,
    figure8,
    pretraining,
    table1,
    table2,
    table3,
    table5,
)
from vltickets.reports.paper_results import PaperResults
from vltickets.reports.tables import Row, Table


def no_figure(results: PaperResults) -> Figure | None:
    """Return nothing: a table has no figure."""
    return None


@dataclass(frozen=True)
class Artefact:
    """How one artefact is shown.

    `rows` gives the rows of its CSV (artefact, row, column, seed, metric, value, run) where its numbers are not simply
    the scores of its cells.
    """

    title: str
    tables: Callable[[PaperResults], list[Table]]
    figure: Callable[[PaperResults], Figure | None] = no_figure
    rows: Callable[[PaperResults], Iterable[Row]] | None = None


PRETRAINING_SECTION = "pretraining"
ARTEFACTS = {
    "table1": Artefact(table1.TITLE, table1.tables),
    "figure2": Artefact(figure2.TITLE, figure2.tables, figure2.figure),
    "table2": Artefact(table2.TITLE, table2.tables),
    "table3": Artefact(table3.LXMERT_TITLE, table3.lxmert_tables, table3.lxmert_figure),
    "table4": Artefact(table3.VILT_TITLE, table3.vilt_tables, table3.vilt_figure),
    "figure3": Artefact(figure3.TITLE, figure3.tables, figure3.figure),
    "figure5": Artefact(figure5.TITLE, figure5.tables, figure5.figure),
    "table5": Artefact(table5.TITLE, table5.tables),
    "figure8": Artefact(figure8.TITLE, figure8.tables, figure8.figure, figure8.rows),
    PRETRAINING_SECTION: Artefact(pretraining.TITLE, pretraining.tables, pretraining.figure, pretraining.rows),
}
