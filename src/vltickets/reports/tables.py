"""A table of text, as Markdown, at the terminal and in the page; and the runs behind a table's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vltickets.reports import wording
from vltickets.reports.paper_results import SOURCES, Column, Key, PaperResults
from vltickets.reports.quoted import quoted

Row = tuple[str, str, str, int, str, float, str]  # of a CSV: artefact, row, column, seed, metric, value, run


@dataclass(frozen=True)
class Table:
    """A title, a header, rows of text, and a note below. `aside`: of interest to who follows a number to its run.

    A cell that is a `Quoted`, as `Score.text` is, leads to its runs on the page.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    aside: bool = False

    def markdown(self) -> str:
        """Return the table in Markdown, under its title."""
        lines = [
            f"### {self.title}" if not self.aside else f"#### {self.title}",
            "",
            f"| {' | '.join(self.header)} |",
            f"|{'|'.join('---' if place == 0 else '---:' for place in range(len(self.header)))}|",
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]
        return "\n".join([*lines, *(["", self.note] if self.note else []), ""])


OTHER_STARTS = {  # Table 1's last rows: the task's own mask on other weights
    "full-2x": "full, twice the steps",
    "text-only": "ticket on θ₀′, text-only",
    "shuffled-within": "ticket on θ₀″, shuffled",
}


def named(key: Key) -> str:
    """Return a ticket's name: its source, its sparsity, and how it was fine-tuned where that is not the usual way."""
    source, _, share = key.baseline.removesuffix("-adversarial").partition("-rewound-")
    found = OTHER_STARTS.get(source) or SOURCES.get(source, source)
    if key.baseline.endswith("-adversarial"):
        found += ", found adversarially"
    if share:
        found += f", rewound to {wording.percent(float(share))}"
    level = f" {wording.percent(key.sparsity)}" if key.sparsity else ""
    return f"{found}{level}{', fine-tuned adversarially' if key.adversarial else ''}"


def runs_table(results: PaperResults, columns: Sequence[Column], keys: Sequence[Key]) -> Table:
    """Return the digests of the runs behind some tickets' scores, seed by seed; `vltickets evaluate` takes them."""
    tasks = list(dict.fromkeys(column.task for column in columns))
    first = {task: next(column for column in columns if column.task == task) for task in tasks}
    rows = []
    for key in keys:
        cells = []
        for task in tasks:
            score = results.score(first[task], key, fresh=True)
            cells.append(quoted(" ".join(f"`{reading.digest[:8]}`" for reading in score.readings) or "–", score))
        if any(cell != "–" for cell in cells):
            rows.append([named(key), *cells])
    return Table("Runs, by seed", ["ticket", *(SOURCES.get(task, task) for task in tasks)], rows, aside=True)
