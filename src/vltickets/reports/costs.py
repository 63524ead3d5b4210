"""What a paper study's artefacts cost, what they share, and what is missing and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vltickets.reports.paper_results import SOURCES, Cell, PaperResults, Papers
from vltickets.reports.tables import named
from vltickets.store import divergence


@dataclass(frozen=True)
class Cost:
    """An artefact's runs, trainings and masks with all that they need; `seconds` are of one thread, of finished ones.

    `alone`: how many of them no other artefact needs.
    """

    artefact: str
    cells: int
    done: int
    runs: int
    finished: int
    alone: int
    seconds: float


@dataclass(frozen=True)
class Sharing:
    """The runs of all artefacts together, and of each by itself added up; their seconds likewise."""

    runs: int
    runs_apart: int
    seconds: float
    seconds_apart: float

    @property
    def share_left(self) -> float:
        """The share of the runs that remain because artefacts share them."""
        return self.runs / self.runs_apart if self.runs_apart else 1.0


@dataclass(frozen=True)
class Gap:
    """Planned cells without a result, of one ticket on one task, and why."""

    artefacts: str
    task: str
    ticket: str
    seeds: str
    why: str


def costs(papers: Papers) -> tuple[list[Cost], Sharing]:
    """Return each artefact's cost, study by study in their order, and what sharing saves."""
    lineage = papers.lineage
    found = [(part, name, part.of(name)) for part in papers.parts for name in part.artefacts]
    needed = [lineage.needed(cell.digest for cell in cells) for _, _, cells in found]
    uses = Counter(digest for digests in needed for digest in digests)
    rows = [
        Cost(
            artefact=_named(papers, part, name),
            cells=len(cells),
            done=sum(cell.record is not None for cell in cells),
            runs=len(digests),
            finished=sum(digest in lineage.records for digest in digests),
            alone=sum(uses[digest] == 1 for digest in digests),
            seconds=lineage.seconds(digests),
        )
        for (part, name, cells), digests in zip(found, needed, strict=True)
    ]
    every = lineage.needed(cell.digest for cell in papers.cells)
    apart = sum(len(digests) for digests in needed)
    return rows, Sharing(len(every), apart, lineage.seconds(every), sum(row.seconds for row in rows))


def gaps(papers: Papers) -> list[Gap]:
    """Return what is planned and not finished, a row for each ticket, task and reason."""
    grouped: dict[tuple[str, ...], list[int]] = {}
    for part in papers.parts:
        for cell in part.cells:
            if cell.record is None:
                artefacts = ", ".join(_named(papers, part, name) for name in cell.artefacts)
                key = (artefacts, SOURCES.get(cell.task, cell.task), named(cell.key), _why(papers, cell))
                grouped.setdefault(key, []).append(cell.seed)
    return [
        Gap(artefacts, task, ticket, ", ".join(map(str, sorted(seeds))), why)
        for (artefacts, task, ticket, why), seeds in grouped.items()
    ]


def _named(papers: Papers, part: PaperResults, artefact: str) -> str:
    """Return an artefact's name as on the page: with its study's where there are several."""
    return f"{part.study['name']}-{artefact}" if len(papers.parts) > 1 else artefact


def _why(results: Papers, cell: Cell) -> str:
    lineage, store = results.lineage, results.store
    open_runs = sorted(lineage.needed([cell.digest]) - set(lineage.records))
    for digest in open_runs:
        mark = divergence(store, digest)
        if mark is not None:
            reason = f"diverged {mark.times} times with the same seed: {mark.message}"
            return reason if digest == cell.digest else f"needs {digest[:8]}: {reason}"
    if store.work(cell.digest).exists():
        return "begun, not finished"
    waits = [digest for digest in lineage.parents.get(cell.digest, ()) if digest not in lineage.records]
    return f"waits for {len(open_runs) - 1} other runs" if waits else "not begun"
