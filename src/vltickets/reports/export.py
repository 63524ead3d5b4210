"""An artefact as files: tables in LaTeX (booktabs), a row a run as CSV, pictures as PNG and PDF."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from vltickets.reports.artefacts import ARTEFACTS
from vltickets.reports.paper_page import Shown, shown_part
from vltickets.reports.paper_results import COLUMNS, PaperResults, Papers
from vltickets.reports.style import GREY, INK, drawing_style, png_bytes
from vltickets.reports.tables import Row, Table, named
from vltickets.store import write_file

CSV_HEADER = ("artefact", "row", "column", "seed", "metric", "value", "run")
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "θ": r"$\theta$",
    "φ": r"$\varphi$",
    "₀": r"$_0$",
    "ᵢ": r"$_i$",
    "′": "$'$",
    "″": "$''$",
    "∩": r"$\cap$",
    "∪": r"$\cup$",
    "–": "--",
    "…": r"\dots{}",
}
LETTER, LINE = 0.078, 0.24  # inches: the width of a letter and the height of a line in a drawn table


def export_artefacts(papers: Papers, folder: Path) -> list[Path]:
    """Write NAME.tex, NAME.csv, NAME.png and NAME.pdf of every artefact into a folder; return the files.

    The pictures show the figure of a figure, and the tables, with the figure below where there is one, of a table.
    Where two studies of a whole paper have the same artefact, the study's name goes before it.
    """
    written = []
    several = Counter(artefact.name for part in papers.parts for artefact in shown_part(part))
    for part in papers.parts:
        for artefact in shown_part(part):
            name = artefact.name if several[artefact.name] == 1 else f"{part.study['name']}-{artefact.name}"
            pages = _pages(artefact)
            files = {
                "tex": latex(artefact).encode(),
                "csv": csv_text(rows(part, artefact.name)).encode(),
                "png": _stacked(pages),
                "pdf": _pdf(pages),
            }
            for path, content in ((folder / f"{name}.{suffix}", content) for suffix, content in files.items()):
                if content:
                    write_file(path, content)
                    written.append(path)
    return written


def rows(results: PaperResults, artefact: str) -> list[Row]:
    """Return an artefact's finished runs, a row for each metric that it shows; its own rows where it has them.

    `artefact` is its short name (table1, fig8); `row` names the ticket, `column` the task's metric as the paper does;
    `value` is as in the record, a fraction.
    """
    own = ARTEFACTS[artefact].rows
    found = _rows(results, artefact) if own is None else own(results)
    return [(row[0].replace("figure", "fig"), *row[1:]) for row in found]


def _rows(results: PaperResults, artefact: str) -> Iterator[Row]:
    for cell in results.of(artefact):
        if cell.record is not None:
            for column in COLUMNS:
                if column.task == cell.task and column.metric in cell.record.metrics:
                    value = cell.record.metrics[column.metric]
                    yield artefact, named(cell.key), column.title, cell.seed, column.metric, value, cell.digest


def csv_text(rows: Sequence[Row]) -> str:
    """Return the rows as CSV under their header; numbers with all their digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    writer.writerows(rows)
    return out.getvalue()


def latex(artefact: Shown) -> str:
    """Return the tables, without those of runs, for a document that uses booktabs and graphicx."""
    parts = [f"% {' '.join(artefact.title.split())}. Needs \\usepackage{{booktabs}} and \\usepackage{{graphicx}}."]
    tables = [table for table in artefact.tables if not table.aside and table.rows]
    return "\n\n".join([*parts, *(_latex_table(artefact.title, table) for table in tables)]) + "\n"


def _latex_table(title: str, table: Table) -> str:
    caption = title if table.title == title else f"{title}. {table.title}"
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escaped(caption)}. {escaped(table.note)}}}" if table.note else rf"\caption{{{escaped(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(escaped, table.header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escaped, row)) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return a text for LaTeX, Markdown's bold and code as their commands; nothing in it is a command itself."""
    if text.startswith("**") and text.endswith("**") and len(text) > 4:
        return rf"\textbf{{{escaped(text[2:-2])}}}"
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.replace("`", "").split()))


def _pages(artefact: Shown) -> list[Figure]:
    if artefact.name.startswith("figure") and artefact.drawn is not None:
        return [artefact.drawn]
    tables = [table_figure(table) for table in artefact.tables if not table.aside and table.rows]
    return [*tables, *([] if artefact.drawn is None else [artefact.drawn])]


def table_figure(table: Table) -> Figure:
    """Return a table as a drawing: its title, rules above and below its header and at its end."""
    cells = [[cell.replace("**", "").replace("`", "") for cell in row] for row in [table.header, *table.rows]]
    widths = [LETTER * (max(len(row[place]) for row in cells) + 3) for place in range(len(table.header))]
    width, height = max(sum(widths), LETTER * len(table.title)) + 0.2, LINE * (len(cells) + 2) + 0.2
    with drawing_style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(0.1, 0.3, table.title, fontsize=9.5, fontweight="bold", va="center", parse_math=False)
        for place, row in enumerate(cells):
            y = 0.3 + LINE * (place + 1.3)
            right = 0.1
            for column, (text, size) in enumerate(zip(row, widths, strict=True)):
                x, side = (right, "left") if column == 0 else (right + size - LETTER, "right")
                ink = GREY if place == 0 else INK
                axes.text(x, y, text, fontsize=8.5, ha=side, va="center", color=ink, parse_math=False)
                right += size
        for line, weight in ((0.8, 1.0), (1.8, 0.6), (len(cells) + 0.8, 1.0)):
            y = 0.3 + LINE * line
            axes.plot([0.1, 0.1 + sum(widths) - LETTER], [y, y], color=INK, linewidth=weight)
    return figure


def _stacked(figures: Sequence[Figure]) -> bytes:
    """Return the pictures of some figures, one below the other, as one PNG; nothing of none."""
    if not figures:
        return b""
    pictures = [Image.open(io.BytesIO(png_bytes(figure))).convert("RGB") for figure in figures]
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    out = io.BytesIO()
    whole.save(out, "PNG", optimize=True)
    return out.getvalue()


def _pdf(figures: Sequence[Figure]) -> bytes:
    """Return some figures as the pages of one PDF, the same bytes each time; nothing of none."""
    if not figures:
        return b""
    out = io.BytesIO()
    with drawing_style(), PdfPages(out, metadata={"CreationDate": None, "Producer": None, "Creator": None}) as pages:
        for figure in figures:
            FigureCanvasAgg(figure)
            pages.savefig(figure)
    return out.getvalue()
