"""A paper study's artefacts as one offline page, as Markdown, as pictures and as plain rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from vltickets.reports import wording
from vltickets.reports.answers import answers
from vltickets.reports.artefacts import ARTEFACTS, PRETRAINING_SECTION
from vltickets.reports.costs import costs, gaps
from vltickets.reports.page import flat, page_css, page_template
from vltickets.reports.paper_results import COLUMNS, PaperResults, Papers
from vltickets.reports.quoted import SCHEME, series_of
from vltickets.reports.run_sheets import Sheets
from vltickets.reports.style import inline, png_bytes, svg_text
from vltickets.reports.tables import Table
from vltickets.store import write_file

MOST_HOVERED = 8  # values in the title of a number; a number of more runs has them in its sheet alone


@dataclass(frozen=True)
class Shown:
    """An artefact as it is shown: its tables, and its figure where it has one that is not empty.

    `name` is its own, with its study's before it where the page has several.
    """

    name: str
    title: str
    tables: list[Table]
    drawn: Figure | None

    @property
    def figure(self) -> Markup | None:
        """The figure as markup of the page."""
        return None if self.drawn is None else Markup(inline(svg_text(self.drawn, self.name)))


@dataclass(frozen=True)
class CellOnPage:
    """A cell's text; `sheet` is the place of the sheet with its runs, `hover` their values."""

    text: str
    bold: bool
    sheet: int | None
    hover: str


@dataclass(frozen=True)
class TableOnPage:
    """A table whose cells lead to their runs."""

    title: str
    header: Sequence[str]
    rows: list[list[CellOnPage]]
    note: str
    aside: bool


@dataclass(frozen=True)
class OnPage:
    """An artefact as the page shows it."""

    name: str
    title: str
    tables: list[TableOnPage]
    figure: Markup | None


@lru_cache(maxsize=8)
def shown_part(results: PaperResults) -> tuple[Shown, ...]:
    """Return the artefacts of a study in its order, and what pre-training did; made once for page and tables alike."""
    chosen = {name: ARTEFACTS[name] for name in (*results.artefacts, PRETRAINING_SECTION)}
    return tuple(Shown(name, one.title, one.tables(results), one.figure(results)) for name, one in chosen.items())


def shown(papers: Papers) -> list[Shown]:
    """Return the artefacts of all parts: table by table, figure by figure, then what each pre-training did."""
    several = len(papers.parts) > 1
    items = []
    for part in papers.parts:
        study = str(part.study["name"])
        for one in shown_part(part):
            title = f"{one.title} ({study})" if several and one.name == PRETRAINING_SECTION else one.title
            items.append(replace(one, name=f"{study}-{one.name}" if several else one.name, title=title))
    return sorted(items, key=lambda one: _place(one.name))


def _place(name: str) -> tuple[bool, str]:
    artefact = name.rpartition("-")[2]
    return artefact == PRETRAINING_SECTION, artefact if artefact.startswith("table") else f"~{artefact}"


def write_paper_page(results: Papers, path: Path) -> None:
    """Write the page; the file appears whole or not at all."""
    write_file(path, paper_html(results).encode())


def paper_html(results: Papers) -> str:
    """Return the page: answers, artefacts, what they cost and lack, and the runs behind each number, each run once."""
    sheets = Sheets(results)
    artefacts = [_on_page(artefact, sheets) for artefact in shown(results)]
    cost_rows, sharing = costs(results)
    return page_template("paper.html").render(
        css=page_css(),
        study=results.study,
        artefacts=artefacts,
        done=sum(cell.record is not None for cell in results.cells),
        planned=len(results.cells),
        seeds=", ".join(str(seed) for seed in sorted({cell.seed for cell in results.cells})),
        answers=answers(results),
        splits=", ".join(sorted({str(part.study.get("split")) for part in results.parts})),
        costs=cost_rows,
        sharing=sharing,
        gaps=gaps(results),
        count=len(results.lineage.records),
        recipes=[(part.study["name"], list(flat(part.study.get("recipe") or {}))) for part in results.parts],
        runs=sheets.runs(),
        sheets=sheets,
    )


def _on_page(artefact: Shown, sheets: Sheets) -> OnPage:
    tables = [
        TableOnPage(
            table.title,
            table.header,
            [[_cell(cell, sheets) for cell in row] for row in table.rows],
            table.note,
            table.aside,
        )
        for table in artefact.tables
    ]
    figure = artefact.figure
    if figure is not None:
        link = rf'xlink:href="({SCHEME}[^"]*)" target="_blank"'
        figure = Markup(re.sub(link, lambda match: _series_link(match[1], sheets), str(figure)))
    return OnPage(artefact.name, artefact.title, tables, figure)


def _series_link(url: str, sheets: Sheets) -> str:
    return f'href="#c{sheets.curve(series_of(url))}"'


def _cell(cell: str, sheets: Sheets) -> CellOnPage:
    text = cell.replace("**", "").replace("`", "")
    readings = getattr(cell, "readings", ())
    place = sheets.number(readings) if readings and text not in ("–", wording.NOT_RUN) else None
    hover = " · ".join(sheets.values(readings)) if place and len(readings) <= MOST_HOVERED else ""
    return CellOnPage(text, cell.startswith("**"), place, hover)


def paper_markdown(results: Papers) -> str:
    """Return all tables in Markdown."""
    parts = [f"# {results.study['title']}", ""]
    for answer in answers(results):
        parts += [f"**{answer.question}** {' '.join(answer.sentences)} ({answer.shown_by})", ""]
    for artefact in shown(results):
        parts += [f"## {artefact.title}", "", *(table.markdown() for table in artefact.tables)]
    return "\n".join(parts)


def paper_figures(results: Papers) -> dict[str, bytes]:
    """Return the artefacts' figures as PNG pictures, by name."""
    return {item.name: png_bytes(item.drawn) for item in shown(results) if item.drawn is not None}


def print_paper(results: Papers, console: Console) -> None:
    """Print the answers and the tables, without those of runs."""
    for answer in answers(results):
        console.print(f"{answer.question} {' '.join(answer.sentences)}", soft_wrap=True, markup=False)
    for artefact in shown(results):
        for table in artefact.tables:
            if table.aside or not table.rows:
                continue
            rich = RichTable(title=table.title, box=None, pad_edge=False, title_justify="left")
            for place, name in enumerate(table.header):
                rich.add_column(name, justify="left" if place == 0 else "right", overflow="fold")
            for row in table.rows:
                rich.add_row(*(cell.replace("**", "").replace("`", "") for cell in row))
            console.print(rich)
            console.print()


def paper_rows(papers: Papers) -> list[dict[str, Any]]:
    """Return every score as plain values for `--json`: a row for each study, column and ticket."""
    return [{"study": part.study["name"], **row} for part in papers.parts for row in _rows(part)]


def _rows(results: PaperResults) -> list[dict[str, Any]]:
    rows = []
    for key in dict.fromkeys(cell.key for cell in results.cells if cell.key.baseline != "mask"):
        for column in COLUMNS:
            score = results.score(column, key)
            if score.values or score.missing:
                rows.append(
                    {
                        "task": column.task,
                        "metric": column.metric,
                        "baseline": key.baseline,
                        "sparsity": key.sparsity,
                        "adversarial": key.adversarial,
                        "mean": score.mean,
                        "std": score.std,
                        "seeds": len(score.values),
                        "not_run": score.missing,
                        "runs": [
                            {"seed": seed, "node": score.digests[seed], "score": value}
                            for seed, value in sorted(score.values.items())
                        ],
                    }
                )
    return rows
