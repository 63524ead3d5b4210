"""Table 3 and Figure 4 for LXMERT, Table 4 and Figure 7 for ViLT: a task's own ticket against a random mask."""

from __future__ import annotations

from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vltickets.reports import wording
from vltickets.reports.panels import curve, panels
from vltickets.reports.paper_results import FULL, RANDOM, Column, Key, PaperResults, Score
from vltickets.reports.published import published
from vltickets.reports.quoted import quoted
from vltickets.reports.style import GREY
from vltickets.reports.tables import Table, runs_table
from vltickets.studies.verdicts import Verdict, judge

LXMERT_TITLE = "Table 3 and Figure 4: LXMERT's tickets"
VILT_TITLE = "Table 4 and Figure 7: ViLT's tickets"
SHARE = 0.99


def tables(results: PaperResults, artefact: str) -> list[Table]:
    """Return the paper's table, each column at its highest sparsity; all levels with verdicts; the runs."""
    columns, levels = results.columns(artefact), results.levels(artefact)
    out = [_table(results, columns, levels), *(_all_levels(results, column, levels) for column in columns)]
    keys = [Key(FULL, 0.0)]
    keys += [Key(source, level) for source in (*dict.fromkeys(c.task for c in columns), RANDOM) for level in levels]
    return [*out, published(artefact), runs_table(results, columns, keys)]


def _table(results: PaperResults, columns: list[Column], levels: list[float]) -> Table:
    full = [results.score(column, Key(FULL, 0.0)) for column in columns]
    verdicts = [judged(results, column, levels) for column in columns]
    chosen = [results.highest(column, levels) for column in columns]
    rows = [
        ["full", *(score.text for score in full)],
        ["× 99 %", *("–" if s.mean is None else quoted(wording.score(SHARE * s.mean), s) for s in full)],
        [
            "sparsity",
            *(
                "–" if level is None else quoted(wording.percent(level), *_curve(results, column, levels))
                for column, level in zip(columns, chosen, strict=True)
            ),
        ],
    ]
    for name, source in (("ticket", None), ("random", RANDOM)):
        cells = []
        for column, level in zip(columns, chosen, strict=True):
            key = Key(source or column.task, level or 0.0)
            cells.append(results.score(column, key).text if level else "–")
        rows.append([name, *cells])
    labels = [
        quoted(wording.label(found.get(level or 0.0)), *_curve(results, column, [level] if level else []))
        for column, found, level in zip(columns, verdicts, chosen, strict=True)
    ]
    rows.append(["verdict by interval", *labels])
    note = (
        "Scores in %, mean ± std over seeds. sparsity: the highest at which the mean, as at every lower level, reaches "
        "99 % of the dense mean (0 %: not even the lowest level does). It is picked on the seeds it is quoted on, "
        f"which flatters it; the verdict asks whether these seeds and test items show it. Scored on "
        f"{results.study.get('split')}."
    )
    return Table("At the highest sparsity by the paper's rule", ["", *(column.title for column in columns)], rows, note)


def _curve(results: PaperResults, column: Column, levels: list[float]) -> list[Score]:
    """Return what a verdict on these levels looks at: the dense score, and the tickets' own."""
    return [
        results.score(column, Key(FULL, 0.0)),
        *(results.score(column, Key(column.task, level)) for level in levels),
    ]


def judged(results: PaperResults, column: Column, levels: list[float]) -> dict[float, Verdict]:
    """Return the verdict on each level's ticket, the seeds' variance pooled along the curve."""
    tickets = {level: results.items(column, Key(column.task, level)) for level in levels}
    return judge(results.items(column, Key(FULL, 0.0)), {level: items for level, items in tickets.items() if items})


def _all_levels(results: PaperResults, column: Column, levels: list[float]) -> Table:
    verdicts = judged(results, column, levels)
    dense = results.score(column, Key(FULL, 0.0))
    rows = [["0 %", dense.text, "–", "–", "–", "–"]]
    for level in levels:
        verdict, own = verdicts.get(level), results.score(column, Key(column.task, level))
        words = [wording.rule(verdict), wording.interval(verdict), wording.label(verdict)]
        random = results.score(column, Key(RANDOM, level))
        rows.append([wording.percent(level), own.text, random.text, *(quoted(word, own, dense) for word in words)])
    header = ["sparsity", "ticket", "random", "paper's rule", "minus 99 %", "verdict"]
    note = "Scores in %, mean ± std over seeds; minus 99 %: the ticket minus 99 % of dense, in points, 95 % interval."
    return Table(f"{column.title}: every level", header, rows, note)


def figure(results: PaperResults, artefact: str) -> Figure | None:
    """Return a panel for each task: its own ticket and random masks."""
    levels = results.levels(artefact)

    def draw(axes: Axes, column: Column) -> None:
        dense = (0.0, results.score(column, Key(FULL, 0.0)))
        own, random = (
            [dense, *((level, results.score(column, Key(source, level))) for level in levels)]
            for source in (column.task, RANDOM)
        )
        curve(axes, own, "ticket", "#0072b2", "o")
        curve(axes, random, "random", GREY, ".", linestyle="--")

    return panels(results, results.columns(artefact), draw, [0.0, *levels])


lxmert_tables, lxmert_figure = partial(tables, artefact="table3"), partial(figure, artefact="table3")
vilt_tables, vilt_figure = partial(tables, artefact="table4"), partial(figure, artefact="table4")
