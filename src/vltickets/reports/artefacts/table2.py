"""Table 2: the universal ticket on every task, what it loses on average, and the share of the dense score it keeps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from vltickets.reports import wording
from vltickets.reports.paper_results import FULL, PRETRAINING, Column, Key, PaperResults
from vltickets.reports.published import published
from vltickets.reports.quoted import quoted
from vltickets.reports.tables import Table, runs_table

TITLE = "Table 2: the universal ticket, found on pre-training, at given sparsities"
VCR = "vcr"


def tables(results: PaperResults) -> list[Table]:
    """Return the table and the runs behind it."""
    columns = results.columns("table2")
    levels = [0.0, *results.levels("table2")]
    some = [column for column in columns if column.task != VCR]
    averaged: list[tuple[str, Sequence[Column]]] = [("all", columns)]
    if len(some) < len(columns):
        averaged.append(("w/o VCR", some))
    header = [
        "sparsity",
        *(column.title for column in columns),
        *(f"drop, {name}" for name, _ in averaged),
        *(f"kept, {name}" for name, _ in averaged),
    ]
    rows = []
    for level in levels:
        key = Key(FULL if level == 0 else PRETRAINING, level)
        drops = ["–" if level == 0 else _over_seeds(results, chosen, key, _drop) for _, chosen in averaged]
        kept = ["–" if level == 0 else _over_seeds(results, chosen, key, _kept) for _, chosen in averaged]
        rows.append([wording.percent(level), *(results.score(column, key).text for column in columns), *drops, *kept])
    for name in ("oracle", "chance"):
        known = [results.reference(name, c.task) if c.metric == "score" else None for c in columns]
        if any(value is not None for value in known):
            texts = ["–" if value is None else wording.score(value) for value in known]
            rows.append([name, *texts, *["–"] * (2 * len(averaged))])
    note = (
        "Scores in %, mean ± std over seeds. drop: the mean over the columns of (full − ticket) / full, in %; kept: "
        "the mean over the columns of ticket / full, in %; both seed by seed, then mean ± std; a star where a seed is "
        "not done in every column."
    )
    keys = [Key(FULL, 0.0), *(Key(PRETRAINING, level) for level in levels[1:])]
    return [Table(TITLE, header, rows, note), published("table2"), runs_table(results, columns, keys)]


def kept(results: PaperResults, columns: Sequence[Column], level: float) -> str:
    """Return the mean share of the dense score that the universal ticket keeps, mean ± std over seeds, in %."""
    return _over_seeds(results, columns, Key(PRETRAINING, level), _kept)


def _drop(ticket: float, full: float) -> float:
    return (full - ticket) / full


def _kept(ticket: float, full: float) -> float:
    return ticket / full


def _over_seeds(
    results: PaperResults, columns: Sequence[Column], key: Key, rule: Callable[[float, float], float]
) -> str:
    """Return mean ± std over the seeds that every column has, of the rule's mean over the columns."""
    scores = [(results.score(column, key), results.score(column, Key(FULL, 0.0))) for column in columns]
    pairs = [(ticket.values, full.values) for ticket, full in scores]
    seeds = set.intersection(*(set(ticket) & set(full) for ticket, full in pairs)) if pairs else set()
    if not seeds:
        return wording.NOT_RUN
    if any(full[seed] == 0 for _, full in pairs for seed in seeds):
        return "–"  # no share of nothing
    values = [statistics.fmean(rule(ticket[seed], full[seed]) for ticket, full in pairs) for seed in sorted(seeds)]
    star = "*" if len(seeds) < len(results.search_seeds) else ""
    text = wording.mean_and_std(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None) + star
    return quoted(text, *(score for pair in scores for score in pair))
