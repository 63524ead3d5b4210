"""Figure 5: tickets found and fine-tuned adversarially against standard ones, and the sparsity that gains."""

from __future__ import annotations

import math
import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from vltickets.reports import wording
from vltickets.reports.panels import curve, panels
from vltickets.reports.paper_results import FULL, Column, Key, PaperResults
from vltickets.reports.quoted import Quoted, quoted
from vltickets.reports.tables import Table, runs_table

TITLE = "Figure 5: tickets found by adversarial training"
SHARE = 0.99
WAYS = ((False, "standard", "#0072b2", "o"), (True, "adversarial", "#d55e00", "s"))


def ticket(column: Column, level: float, adversarial: bool) -> Key:
    """Return the key of a task's own ticket, or of its dense run at level 0."""
    if level == 0:
        return Key(FULL, 0.0, adversarial)
    return Key(f"{column.task}-adversarial" if adversarial else column.task, level, adversarial)


def tables(results: PaperResults) -> list[Table]:
    """Return both curves, their difference, and the sparsity gained."""
    columns, levels = results.columns("figure5"), [0.0, *results.levels("figure5")]
    out = []
    for column in columns:
        rows = []
        for level in levels:
            standard, other = ticket(column, level, False), ticket(column, level, True)
            verdict = results.compare(column, other, standard)
            low, high = (None, None) if verdict is None else (verdict.low_full, verdict.high_full)
            span = "–" if low is None or high is None else f"{wording.points(low)} to {wording.points(high)}"
            scores = [results.score(column, key) for key in (standard, other)]
            rows.append([wording.percent(level), *(score.text for score in scores), quoted(span, *scores)])
        header = ["sparsity", "standard", "adversarial", "adversarial − standard"]
        note = "Scores in %, mean ± std over seeds; the difference in points, its 95 % interval."
        out.append(Table(f"{column.title}: both ways", header, rows, note))
    keys = [ticket(column, level, way) for column in columns for way in (False, True) for level in levels]
    return [*out, _gained(results, columns, levels[1:]), runs_table(results, columns, list(dict.fromkeys(keys)))]


def _gained(results: PaperResults, columns: list[Column], levels: list[float]) -> Table:
    rows = []
    for column in columns:
        known = pairs(results, column, levels)
        star = "*" if len(known) < len(results.search_seeds) else ""
        curves = [[results.score(column, ticket(column, level, way)) for level in levels] for way, *_ in WAYS]
        cells = [
            quoted(wording.mean_and_std(*_mean_and_std(list(values))) + star, *scores)
            for values, scores in zip(zip(*known, strict=True), curves, strict=False)
        ]
        gained = quoted(interval([b - a for a, b in known]), *curves[0], *curves[1])
        rows.append([column.title, *(cells or [Quoted(wording.NOT_RUN)] * 2), gained])
    note = (
        "The highest sparsity at which every lower level, too, reaches 99 % of the standard dense score of its seed; "
        "mean ± std over seeds, in %; a star where a seed is not done. gained: in points of sparsity, with the 95 % "
        "interval of the paired mean over seeds, none where all seeds gain the same: levels are 10 points apart."
    )
    return Table("Sparsity gained", ["task", "standard", "adversarial", "gained"], rows, note)


def pairs(results: PaperResults, column: Column, levels: list[float]) -> list[tuple[float, float]]:
    """Return the highest sparsity of each seed that is done, in the standard way and adversarially."""
    found = []
    for seed, score in sorted(results.score(column, Key(FULL, 0.0)).values.items()):
        standard, other = (_highest(results, column, levels, seed, way, SHARE * score) for way, *_ in WAYS)
        if standard is not None and other is not None:
            found.append((standard, other))
    return found


def _highest(
    results: PaperResults, column: Column, levels: list[float], seed: int, adversarial: bool, line: float
) -> float | None:
    """Return a seed's highest sparsity that holds the line, as all below do; None where a run is missing to say so."""
    highest = 0.0
    for level in levels:
        value = results.score(column, ticket(column, level, adversarial)).values.get(seed)
        if value is None:
            return None
        if value < line:
            break
        highest = level
    return highest


def _mean_and_std(values: list[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def interval(differences: list[float]) -> str:
    """Return a mean difference of sparsities in points, with its 95 % interval over seeds."""
    mean, std = _mean_and_std(differences)
    if mean is None or std is None:
        return "–"
    if std == 0:
        return f"{wording.points(mean)} (all seeds)"
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * std / math.sqrt(len(differences))
    return f"{wording.points(mean)} ({wording.points(mean - half)} to {wording.points(mean + half)})"


def figure(results: PaperResults) -> Figure | None:
    """Return a panel for each task, with both curves."""
    levels = results.levels("figure5")

    def draw(axes: Axes, column: Column) -> None:
        for adversarial, label, colour, shape in WAYS:
            scores = [(level, results.score(column, ticket(column, level, adversarial))) for level in [0.0, *levels]]
            curve(axes, scores, label, colour, shape)

    return panels(results, results.columns("figure5"), draw, [0.0, *levels])
