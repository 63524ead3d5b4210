"""A paper study's artefacts as one offline page, as Markdown, as pictures and as plain rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from vltickets.reports.answers import answers
from vltickets.reports.artefacts import ARTEFACTS, PRETRAINING_SECTION
from vltickets.reports.page import flat, page_css, page_template
from vltickets.reports.paper_results import COLUMNS, PaperResults, Papers
from vltickets.reports.style import inline, png_bytes, svg_text
from vltickets.reports.tables import Table
from vltickets.store import write_file


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
    digests = results.store.with_ancestors(cell.digest for cell in results.cells if cell.record is not None)
    records = [results.store.record(digest) for digest in digests]
    text = page_template("paper.html").render(
        css=page_css(),
        study=results.study,
        artefacts=shown(results),
        done=sum(cell.record is not None for cell in results.cells),
        planned=len(results.cells),
        seeds=", ".join(str(seed) for seed in sorted({cell.seed for cell in results.cells})),
        answers=answers(results),
        splits=", ".join(sorted({str(part.study.get("split")) for part in results.parts})),
        count=len(records),
        seconds=sum(record.seconds for record in records),
        recipes=[(part.study["name"], list(flat(part.study.get("recipe") or {}))) for part in results.parts],
    )
    write_file(path, text.encode())


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
