"""The results of a paper study, read from a store: scores by column, source of the mask, sparsity and seed.

A column is a task and one of its metrics; retrieval has two. Runs nothing and knows no models.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vltickets.errors import UserError
from vltickets.reports import wording
from vltickets.reports.lineage import Lineage
from vltickets.reports.quoted import Quoted, Reading
from vltickets.store import Record, Store
from vltickets.store.store import check_format
from vltickets.studies.verdicts import Verdict, highest_by_means, judge

FULL, PRETRAINING, RANDOM, ONE_SHOT = "full", "pretraining", "random", "one-shot"


@dataclass(frozen=True)
class Column:
    """What a column of the paper's tables shows: a task, and the name of its metric in the record."""

    task: str
    metric: str
    title: str


COLUMNS = (
    Column("vqa", "score", "VQA"),
    Column("gqa", "score", "GQA"),
    Column("vcr", "score", "VCR Q→AR"),
    Column("nlvr2", "score", "NLVR2"),
    Column("snli_ve", "score", "SNLI-VE"),
    Column("refcoco", "score", "RefCOCO+"),
    Column("retrieval", "score", "IR R@1"),
    Column("retrieval", "tr@1", "TR R@1"),
    Column("matching", "score", "Matching"),
    Column("nlvr1", "score", "NLVR v1"),
)
SOURCES = {
    "vqa": "VQA",
    "gqa": "GQA",
    "vcr": "VCR",
    "nlvr2": "NLVR2",
    "snli_ve": "SNLI-VE",
    "refcoco": "RefCOCO+",
    "retrieval": "retrieval",
    "matching": "matching",
    "nlvr1": "NLVR v1",
    PRETRAINING: "pre-training",
    RANDOM: "random",
    ONE_SHOT: "one-shot",
}


@dataclass(frozen=True)
class Key:
    """Which ticket: where its mask comes from (`full`: no mask), its sparsity, and how it was fine-tuned."""

    baseline: str
    sparsity: float
    adversarial: bool = False


@dataclass(frozen=True)
class Cell:
    """One planned run: its seed, its digest, and its record where it is finished."""

    task: str
    key: Key
    seed: int
    digest: str
    artefacts: tuple[str, ...]
    record: Record | None


@dataclass(frozen=True)
class Score:
    """A ticket's score in one column, by seed; the digests lead to the runs."""

    values: Mapping[int, float]
    digests: Mapping[int, str]
    missing: int
    metric: str = "score"

    @property
    def mean(self) -> float | None:
        """The mean over the finished seeds."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds, where there are two at least."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The runs behind it, by seed."""
        return tuple(Reading(self.digests[seed], self.metric) for seed in sorted(self.values))

    @property
    def text(self) -> Quoted:
        """Mean ± std in per cent; a star where seeds are missing. It knows its runs."""
        star = "*" if self.missing and self.values else ""
        return Quoted(wording.mean_and_std(self.mean, self.std) + star, self.readings)


class PaperResults:
    """All that the artefacts of a paper study show."""

    def __init__(self, store: Store, study: Mapping[str, Any], cells: tuple[Cell, ...]) -> None:
        self.store = store
        self.study = study
        self.cells = cells
        self._items: dict[str, Mapping[str, np.ndarray]] = {}
        self._by: dict[tuple[str, Key], list[Cell]] = {}
        for cell in cells:
            self._by.setdefault((cell.task, cell.key), []).append(cell)

    @cached_property
    def lineage(self) -> Lineage:
        """The runs behind the cells, back to the first."""
        known = {cell.digest: cell.record for cell in self.cells if cell.record is not None}
        return Lineage(self.store, dict.fromkeys(cell.digest for cell in self.cells), known)

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The artefacts of the study, in its order."""
        return tuple(self.study.get("artefacts", ()))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The study's seeds."""
        return tuple(sorted({cell.seed for cell in self.cells}))

    @cached_property
    def search_seeds(self) -> tuple[int, ...]:
        """The seeds that sparsities are picked on; those besides are fresh, and quoted in Table 1 alone."""
        recipe = self.study.get("recipe") or {}
        fresh = set(recipe.get("quoted_seeds", ()))
        return tuple(seed for seed in self.seeds if seed not in fresh)

    def of(self, artefact: str) -> list[Cell]:
        """Return the cells that an artefact shows."""
        return [cell for cell in self.cells if artefact in cell.artefacts]

    def columns(self, artefact: str) -> list[Column]:
        """Return the columns of an artefact, in the paper's order."""
        tasks = {cell.task for cell in self.of(artefact)}
        return [column for column in COLUMNS if column.task in tasks]

    def levels(self, artefact: str) -> list[float]:
        """Return the sparsities above 0 that an artefact shows."""
        return sorted({cell.key.sparsity for cell in self.of(artefact)} - {0.0})

    def score(self, column: Column, key: Key, *, fresh: bool = False) -> Score:
        """Return a ticket's score in a column, over the seeds of the search and, if asked for, the fresh ones too.

        Without values where nothing is planned or finished.
        """
        cells = [cell for cell in self._by.get((column.task, key), []) if fresh or cell.seed in self.search_seeds]
        done = [cell for cell in cells if cell.record is not None and column.metric in cell.record.metrics]
        return Score(
            values={cell.seed: cell.record.metrics[column.metric] for cell in done if cell.record is not None},
            digests={cell.seed: cell.digest for cell in done},
            missing=len(cells) - len(done),
            metric=column.metric,
        )

    def items(self, column: Column, key: Key, *, fresh: bool = False) -> dict[int, np.ndarray]:
        """Return a ticket's scores in a column, test item by test item, for each finished seed as in `score`."""
        found = {seed: self._arrays(digest) for seed, digest in self.score(column, key, fresh=fresh).digests.items()}
        return {seed: arrays[column.metric] for seed, arrays in found.items() if column.metric in arrays}

    def _arrays(self, digest: str) -> Mapping[str, np.ndarray]:
        if digest not in self._items:
            self._items[digest] = self.store.arrays(digest, "items", self.lineage.records.get(digest))
        return self._items[digest]

    def compare(self, column: Column, key: Key, other: Key, *, fresh: bool = False) -> Verdict | None:
        """Return what the runs say of `key` against `other`, paired by seed and by test item; None without a pair.

        The seeds' variance is of this one level, not pooled over a curve: `other` is another run at every level.
        """
        items = self.items(column, key, fresh=fresh)
        return judge(self.items(column, other, fresh=fresh), {key.sparsity: items}).get(key.sparsity)

    def highest(self, column: Column, levels: Sequence[float]) -> float | None:
        """Return the highest sparsity of a task's own tickets by the paper's rule, over the study's seeds.

        0 where not even the lowest level holds; None before all runs are there to say so.
        """
        return highest_by_means(
            self._by_seed(column, Key(FULL, 0.0)),
            {level: self._by_seed(column, Key(column.task, level)) for level in levels},
        )

    def _by_seed(self, column: Column, key: Key) -> dict[int, float] | None:
        """Return a ticket's scores on the seeds it was looked for on, not the fresh ones; None before all are done."""
        score = self.score(column, key)
        return None if score.missing or not score.values else dict(score.values)

    def reference(self, baseline: str, task: str) -> float | None:
        """Return a task's headline score that is no training's, `chance` or `oracle`; None where it is unknown."""
        rows = self.study.get("extra_rows", ())
        return next((row["mean"] for row in rows if (row["baseline"], row.get("task")) == (baseline, task)), None)

    def masks(self, sparsity: float) -> dict[str, dict[int, str]]:
        """Return the finished masks of a sparsity: source → seed → digest."""
        found: dict[str, dict[int, str]] = {}
        for cell in self.cells:
            if cell.key.baseline == "mask" and cell.key.sparsity == sparsity and cell.record is not None:
                found.setdefault(cell.task, {})[cell.seed] = cell.digest
        return found


@dataclass(frozen=True)
class Papers:
    """What is told as one: the results of one paper study, or those of the studies that are the whole paper."""

    study: Mapping[str, Any]
    parts: tuple[PaperResults, ...]

    @property
    def store(self) -> Store:
        """The store that all parts lie in."""
        return self.parts[0].store

    @cached_property
    def lineage(self) -> Lineage:
        """The runs behind the cells of all parts."""
        known = {digest: record for part in self.parts for digest, record in part.lineage.records.items()}
        return Lineage(self.store, dict.fromkeys(cell.digest for cell in self.cells), known)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all parts."""
        return tuple(cell for part in self.parts for cell in part.cells)


def read_papers(store: Store, name: str) -> Papers:
    """Return the results of a paper study, or of all parts of a whole paper. Raises as `read_paper` does."""
    study = store.study(name)
    names = study.get("parts", ()) if study.get("study") == "whole" else (name,)
    return Papers(study, tuple(read_paper(store, str(part)) for part in names))


def rewound(task: str, share: float) -> str:
    """Return the baseline of a task's own ticket that is rewound to a share of the steps."""
    return f"{task}-rewound-{share:g}"


def read_paper(store: Store, name: str) -> PaperResults:
    """Return the results of a paper study that was planned in the store, finished or not.

    An unknown or damaged study, or one that a newer version wrote, is a `UserError`.
    """
    study = store.study(name)
    check_format(study, f"the study {name}")
    try:
        return PaperResults(store, study, tuple(_cells(store, study)))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the study {name} in {store.root} is corrupted ({error!r}); run it again to mend it") from None


def _cells(store: Store, study: Mapping[str, Any]) -> Iterator[Cell]:
    records: dict[str, Record | None] = {}
    for item in study["cells"]:
        digest = str(item["node"])
        if digest not in records:
            finished = (store.root / "runs" / digest / "record.json").exists()
            records[digest] = store.record(digest) if finished else None
        key = Key(str(item["baseline"]), float(item["sparsity"]), bool(item["adversarial"]))
        yield Cell(str(item["task"]), key, int(item["seed"]), digest, tuple(item["artefacts"]), records[digest])
