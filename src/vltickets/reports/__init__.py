"""What a study found, read from a store alone: rows with verdicts, a terminal table, a figure, a page, Markdown.

Knows no training: a report is made on a laptop from a copied store. `read_results` first, then any of the others;
`overlaps` first for the anatomy of masks.
"""

from vltickets.reports.card import CardTicket, card
from vltickets.reports.diverged import diverged_cells
from vltickets.reports.export import export_artefacts
from vltickets.reports.figures import figure_png, figure_svg
from vltickets.reports.markdown import markdown_table
from vltickets.reports.overlap import Overlap, OverlapResults, densities, draw_overlap, overlap_table, overlaps
from vltickets.reports.page import write_page
from vltickets.reports.paper_page import paper_figures, paper_markdown, paper_rows, print_paper, write_paper_page
from vltickets.reports.paper_results import PaperResults, Papers, read_paper, read_papers
from vltickets.reports.results import Results, read_results, rows_as_json
from vltickets.reports.terminal import print_table

__all__ = [
    "CardTicket",
    "Overlap",
    "OverlapResults",
    "PaperResults",
    "Papers",
    "Results",
    "card",
    "densities",
    "diverged_cells",
    "draw_overlap",
    "export_artefacts",
    "figure_png",
    "figure_svg",
    "markdown_table",
    "overlap_table",
    "overlaps",
    "paper_figures",
    "paper_markdown",
    "paper_rows",
    "print_paper",
    "print_table",
    "read_paper",
    "read_papers",
    "read_results",
    "rows_as_json",
    "write_page",
    "write_paper_page",
]
