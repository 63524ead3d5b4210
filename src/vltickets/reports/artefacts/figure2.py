"""Figure 2: own ticket, pre-training ticket and random mask at every sparsity; and rewinding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vltickets.reports import wording
from vltickets.reports.panels import curve, panels
from vltickets.reports.paper_results import FULL, PRETRAINING, RANDOM, Column, Key, PaperResults, Score, rewound
from vltickets.reports.quoted import quoted
from vltickets.reports.style import GREY
from vltickets.reports.tables import Table, runs_table

TITLE = "Figure 2: tickets of the task, of pre-training, and random masks, at every sparsity"
CURVES = (  # None: the task's own
    (None, "ticket", "#b5179e", "o", "-"),
    (PRETRAINING, "pre-training ticket", "#009e73", "s", "-"),
    (RANDOM, "random", GREY, ".", "--"),
)
REWOUND = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#7d6608")


def tables(results: PaperResults) -> list[Table]:
    """Return the scores of the three curves for each column, rewinding, and the runs."""
    columns, levels = results.columns("figure2"), results.levels("figure2")
    out = [_curves(results, column, levels) for column in columns]
    out += [_rewinding(results, column, levels) for column in columns if shares(results, column)]
    keys = [Key(FULL, 0.0)]
    for source in (*dict.fromkeys(column.task for column in columns), PRETRAINING, RANDOM):
        keys += [Key(source, level) for level in levels]
    for column in columns:
        keys += [Key(rewound(column.task, share), level) for share in shares(results, column) for level in levels]
    return [*out, runs_table(results, columns, list(dict.fromkeys(keys)))]


def shares(results: PaperResults, column: Column) -> list[float]:
    """Return the shares of the steps that a task's tickets are rewound to, besides 0."""
    prefix = rewound(column.task, 0.0).removesuffix("0")
    found = {c.key.baseline for c in results.of("figure2") if c.key.baseline.startswith(prefix)}
    return sorted(float(name.removeprefix(prefix)) for name in found)


def _curves(results: PaperResults, column: Column, levels: Sequence[float]) -> Table:
    rows = [["0 %", *[results.score(column, Key(FULL, 0.0)).text] * len(CURVES), "–"]]
    for level in levels:
        keys = [Key(source or column.task, level) for source, *_ in CURVES]
        scores = [results.score(column, key) for key in keys]
        difference = quoted(wording.difference(results.compare(column, keys[1], keys[0])), scores[1], scores[0])
        rows.append([wording.percent(level), *(score.text for score in scores), difference])
    header = ["sparsity", *(name for _, name, *_ in CURVES), "pre-training − ticket"]
    note = "Scores in %, mean ± std over seeds; the difference in points, with its 95 % interval."
    return Table(f"{column.title}: three curves", header, rows, note, aside=True)


def _rewinding(results: PaperResults, column: Column, levels: Sequence[float]) -> Table:
    found = shares(results, column)
    rows = []
    for level in levels:
        own = Key(column.task, level)
        cells = [results.score(column, own).text]
        for share in found:
            key = Key(rewound(column.task, share), level)
            score, above = results.score(column, key), wording.difference(results.compare(column, key, own))
            cells.append(quoted(f"{score.text}; {above}", score, results.score(column, own)))
        rows.append([wording.percent(level), *cells])
    header = ["sparsity", "to θ₀", *(f"to {wording.percent(share)}" for share in found)]
    note = (
        "Scores in %, mean ± std over seeds, of tickets found and trained from θᵢ, i a share of the steps; behind it, "
        "in points, what that is above rewinding to θ₀, with its 95 % interval."
    )
    return Table(f"{column.title}: rewinding", header, rows, note)


def figure(results: PaperResults) -> Figure | None:
    """Return a panel for each column: the three curves, and the rewound ones where there are any."""
    levels = results.levels("figure2")

    def draw(axes: Axes, column: Column) -> None:
        dense = (0.0, results.score(column, Key(FULL, 0.0)))

        def points(baseline: str) -> list[tuple[float, Score]]:
            return [dense, *((level, results.score(column, Key(baseline, level))) for level in levels)]

        for share, colour in zip(shares(results, column), cycle(REWOUND), strict=False):
            label = f"rewound to {wording.percent(share)}"
            curve(axes, points(rewound(column.task, share)), label, colour, "", linestyle="-.")
        for source, label, colour, shape, line in CURVES:
            curve(axes, points(source or column.task), label, colour, shape, linestyle=line)

    return panels(results, results.columns("figure2"), draw, [0.0, *levels])
