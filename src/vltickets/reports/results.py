"""A study's results as rows, read from a store: means, seeds, verdicts. Runs nothing and knows no models."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vltickets.errors import UserError
from vltickets.reports import wording
from vltickets.reports.diverged import diverged_cells
from vltickets.store import Record, Store
from vltickets.store.store import check_format
from vltickets.studies.verdicts import Verdict, highest_sparsity, judge

DENSE = "full"


@dataclass(frozen=True)
class Run:
    """One cell of a study: a seed, the digest of its run, and its score, which is None while it is not run."""

    seed: int
    digest: str
    score: float | None


@dataclass(frozen=True)
class Row:
    """One baseline at one sparsity, over its seeds. `mean` is None where nothing is run yet.

    `verdict` compares the row with `full`, seed by seed; for a row at sparsity 0 it is a comparison only, and `label`
    is None: what is not sparse is no ticket.
    """

    baseline: str
    sparsity: float
    mean: float | None
    std: float | None
    seeds: int
    runs: tuple[Run, ...] = ()
    verdict: Verdict | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def label(self) -> str | None:
        """The verdict's word, for sparse rows that have one."""
        return self.verdict.label if self.verdict is not None and self.sparsity > 0 else None

    @property
    def missing(self) -> int:
        """How many of the planned runs have no result yet."""
        return sum(run.score is None for run in self.runs)

    @property
    def anchor(self) -> str:
        """A name for this row that is unique in the study and fit for a link."""
        return f"{self.baseline}-{100 * self.sparsity:g}"


@dataclass(frozen=True)
class Results:
    """All that a report says: the study as planned, its rows in the order of the table, and the finished records.

    `ancestors` are the finished records of what the cells needed besides each other: pre-training and masks.
    `diverged` says in words which cells have no number because a training diverged.
    """

    study: Mapping[str, Any]
    rows: tuple[Row, ...]
    records: Mapping[str, Record]
    ancestors: tuple[Record, ...] = ()
    diverged: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The study's title, or its name where it has none."""
        return str(self.study.get("title") or self.study["name"])

    @property
    def metric(self) -> str:
        """The name of the headline score."""
        return str(self.study.get("metric") or "score")

    def rows_of(self, baseline: str) -> list[Row]:
        """Return the rows of one baseline, by sparsity."""
        return [row for row in self.rows if row.baseline == baseline]

    def row(self, baseline: str, sparsity: float = 0.0) -> Row | None:
        """Return the row of a baseline at a sparsity, or None where the study has none."""
        return next((row for row in self.rows_of(baseline) if row.sparsity == sparsity), None)

    def share_of_full(self, row: Row) -> float | None:
        """Return the row's score over the dense one, on the seeds that both have where the row has a verdict."""
        if row.verdict is not None:
            return row.verdict.share
        full = self.row(DENSE)
        if row.mean is None or full is None or not full.mean:
            return None
        return row.mean / full.mean

    def highest(self, baseline: str = "imp", *, plain: bool = False) -> Row | None:
        """Return the row of the highest sparsity at which every lower level of the baseline passes too.

        A level that is planned and not run, or has no verdict, ends the search: nothing is said past a gap.
        """
        verdicts = {}
        for row in self.rows_of(baseline):
            if row.verdict is None:
                break
            if row.sparsity > 0:
                verdicts[row.sparsity] = row.verdict
        found = highest_sparsity(verdicts, plain=plain)
        return None if found is None else self.row(baseline, found)


def read_results(store: Store, name: str) -> Results:
    """Return the results of a study that was planned in the store, finished or not.

    An unknown study, a study a newer version wrote, or a damaged record is a `UserError`.
    """
    study = store.study(name)
    check_format(study, f"the study {name}")
    try:
        cells = [(str(c["baseline"]), float(c["sparsity"]), int(c["seed"]), str(c["node"])) for c in study["cells"]]
        extra = [_extra_row(item) for item in study.get("extra_rows", [])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the study {name} in {store.root} is corrupted ({error!r}); run it again to mend it") from None
    records = {digest: store.record(digest) for *_, digest in cells if _is_finished(store, digest)}
    grouped: dict[tuple[str, float], list[Run]] = {}
    for baseline, sparsity, seed, digest in cells:
        score = records[digest].metrics["score"] if digest in records else None
        grouped.setdefault((baseline, sparsity), []).append(Run(seed, digest, score))
    verdicts = _verdicts(store, records, grouped)
    rows = [_row(key, runs, records, verdicts.get(key)) for key, runs in grouped.items()]
    chance = study.get("chance")
    if chance is not None and all(row.baseline != "chance" for row in [*rows, *extra]):
        extra.append(Row("chance", 0.0, float(chance), None, 0))
    others = set(store.with_ancestors(records)) - {digest for *_, digest in cells}
    ancestors = tuple(store.record(digest) for digest in sorted(others) if _is_finished(store, digest))
    diverged = tuple(diverged_cells(store, study["cells"]))
    return Results(study, tuple(sorted([*rows, *extra], key=_place)), records, ancestors, diverged)


def rows_as_json(results: Results) -> list[dict[str, Any]]:
    """Return the rows as plain values for `--json`. `low` and `high` bound the row's score minus 99 % of the dense one.

    What is not known is null: `mean` is null where nothing is run, `verdict` where the row is not sparse.
    """
    return [_row_as_json(row, results.share_of_full(row)) for row in results.rows]


def _row_as_json(row: Row, share: float | None) -> dict[str, Any]:
    verdict = row.verdict
    return {
        "baseline": row.baseline,
        "sparsity": row.sparsity,
        "mean": row.mean,
        "std": row.std,
        "seeds": row.seeds,
        "not_run": row.missing,
        "share_of_full": share,
        "verdict": row.label,
        "plain": verdict.plain if verdict and row.sparsity > 0 else None,
        "lenient": verdict.lenient if verdict and row.sparsity > 0 else None,
        "low": verdict.low if verdict else None,
        "high": verdict.high if verdict else None,
        "low_full": verdict.low_full if verdict else None,
        "high_full": verdict.high_full if verdict else None,
        "metrics": dict(row.metrics),
        "note": row.note,
        "runs": [{"seed": run.seed, "node": run.digest, "score": run.score} for run in row.runs],
    }


def _is_finished(store: Store, digest: str) -> bool:
    return (store.root / "runs" / digest / "record.json").exists()


def _extra_row(item: Mapping[str, Any]) -> Row:
    mean, std = item.get("mean"), item.get("std")
    return Row(
        baseline=str(item["baseline"]),
        sparsity=float(item.get("sparsity", 0.0)),
        mean=None if mean is None else float(mean),
        std=None if std is None else float(std),
        seeds=int(item.get("seeds", 0)),
        note=str(item.get("note") or ""),
    )


def _verdicts(
    store: Store, records: Mapping[str, Record], grouped: Mapping[tuple[str, float], list[Run]]
) -> dict[tuple[str, float], Verdict]:
    """Return the verdict on every row that has per-item scores, each baseline's levels judged as one curve."""
    items: dict[tuple[str, float], dict[int, np.ndarray]] = {}
    for key, runs in grouped.items():
        for run in runs:
            if run.digest in records and "items.safetensors" in records[run.digest].files:
                items.setdefault(key, {})[run.seed] = store.arrays(run.digest, "items")["score"]
    dense = items.pop((DENSE, 0.0), {})
    out: dict[tuple[str, float], Verdict] = {}
    for baseline in {name for name, _ in items}:
        curve = {sparsity: runs for (name, sparsity), runs in items.items() if name == baseline}
        try:
            out |= {(baseline, sparsity): verdict for sparsity, verdict in judge(dense, curve).items()}
        except ValueError as error:
            raise UserError(f"{baseline} can't be compared with {DENSE} in {store.root}: {error}") from None
    return out


def _row(key: tuple[str, float], runs: list[Run], records: Mapping[str, Record], verdict: Verdict | None) -> Row:
    scores = [run.score for run in runs if run.score is not None]
    finished = [records[run.digest].metrics for run in runs if run.digest in records]
    names = sorted({name for metrics in finished for name in metrics} - {"score"})
    return Row(
        baseline=key[0],
        sparsity=key[1],
        mean=statistics.fmean(scores) if scores else None,
        std=statistics.stdev(scores) if len(scores) > 1 else None,
        seeds=len(scores),
        runs=tuple(sorted(runs, key=lambda run: run.seed)),
        verdict=verdict,
        metrics={name: statistics.fmean(m[name] for m in finished if name in m) for name in names},
    )


def _place(row: Row) -> tuple[tuple[int, str], float]:
    return wording.place(row.baseline), row.sparsity
