"""The paper's tables and figures: one module each, a function of the lab that yields its cells."""

from collections.abc import Callable, Iterator

from vltickets.studies.artefacts import figure2, figure3, figure5, figure8, table1, table2, table3, table5
from vltickets.studies.graph import Cell
from vltickets.studies.lab import Lab

CELLS: dict[str, Callable[[Lab], Iterator[Cell]]] = {
    "table1": table1.cells,
    "figure2": figure2.cells,
    "table2": table2.cells,
    "table3": table3.lxmert,
    "table4": table3.vilt,
    "figure3": figure3.cells,
    "figure5": figure5.cells,
    "table5": table5.cells,
    "figure8": figure8.cells,
}
