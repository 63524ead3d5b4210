"""Figures 3 and 6: which ticket serves a task best, its own or another's? Curves, and the answer in numbers."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vltickets.reports import wording
from vltickets.reports.panels import panels
from vltickets.reports.paper_results import FULL, ONE_SHOT, PRETRAINING, RANDOM, SOURCES, Column, Key, PaperResults
from vltickets.reports.quoted import quoted, series_url
from vltickets.reports.style import GREY, INK
from vltickets.reports.tables import Table, runs_table

TITLE = "Figures 3 and 6: tickets transferred between tasks"
# Okabe and Ito's colours and more, each with a shape of its own for who sees no colour.
MARKS = {
    "vqa": ("#0072b2", "o"),
    "gqa": ("#56b4e9", "s"),
    "vcr": ("#d55e00", "^"),
    "nlvr2": ("#009e73", "v"),
    "snli_ve": ("#e69f00", "D"),
    "refcoco": ("#cc79a7", "P"),
    "retrieval": ("#7d6608", "X"),
    "matching": ("#a0522d", "<"),
    "nlvr1": ("#6a3d9a", ">"),
    PRETRAINING: (INK, "*"),
    RANDOM: (GREY, "."),
    ONE_SHOT: (GREY, "h"),
}


def tables(results: PaperResults) -> list[Table]:
    """Return every score, the best source of each target, and the runs."""
    columns, levels = results.columns("figure3"), results.levels("figure3")
    sources = _sources(results)
    out = []
    for level in levels:
        header = ["source", *(column.title for column in columns)]
        rows = [["full", *(results.score(column, Key(FULL, 0.0)).text for column in columns)]]
        for source in sources:
            scores = [results.score(column, Key(source, level)).text for column in columns]
            own = [text.bold() if c.task == source else text for c, text in zip(columns, scores, strict=True)]
            rows.append([SOURCES.get(source, source), *own])
        note = "Scores in %, mean ± std over seeds; seed s's mask for seed s. A task's own ticket is bold."
        out.append(Table(f"Transfer at {wording.percent(level)} sparsity", header, rows, note))
    keys = [Key(FULL, 0.0), *(Key(source, level) for source in sources for level in levels)]
    return [*out, _best(results, columns, levels, sources), runs_table(results, columns, keys)]


def _sources(results: PaperResults) -> list[str]:
    found = {cell.key.baseline for cell in results.of("figure3")} - {FULL}
    return [source for source in SOURCES if source in found]


def best_source(results: PaperResults, column: Column, level: float, sources: list[str]) -> str | None:
    """Return the source of the best mean on a target, but for its own and the controls; None before both are run."""
    means = {
        source: mean
        for source in sources
        if source not in (column.task, RANDOM, ONE_SHOT)
        and (mean := results.score(column, Key(source, level)).mean) is not None
    }
    own = results.score(column, Key(column.task, level)).mean
    return max(means, key=lambda source: means[source]) if means and own is not None else None


def best_sources(results: PaperResults, level: float) -> list[tuple[Column, str, float]]:
    """Return each target with its best other source, and how far that is above the target's own ticket."""
    found = []
    for column in results.columns("figure3"):
        best = best_source(results, column, level, _sources(results))
        if best is not None:
            means = [results.score(column, Key(source, level)).mean for source in (best, column.task)]
            found.append((column, best, (means[0] or 0.0) - (means[1] or 0.0)))
    return found


def _best(results: PaperResults, columns: list[Column], levels: list[float], sources: list[str]) -> Table:
    """Return for each target the best source but its own and random, and how far it lies from the target's own."""
    rows = []
    for column in columns:
        for level in levels:
            best, own = best_source(results, column, level, sources), Key(column.task, level)
            if best is None:
                continue
            rows.append(
                [
                    column.title,
                    wording.percent(level),
                    results.score(column, own).text,
                    SOURCES[best],
                    results.score(column, Key(best, level)).text,
                    _minus(results, column, Key(best, level), own),
                    _minus(results, column, Key(PRETRAINING, level), own),
                ]
            )
    header = [
        "target",
        "sparsity",
        "own ticket",
        "best other source",
        "its score",
        "minus own",
        "pre-training minus own",
    ]
    note = (
        "minus own: in points, with its 95 % interval, paired by seed and test item. The best of several sources is "
        "picked and quoted on the same seeds, which flatters it."
    )
    return Table("Best source for each target", header, rows, note)


def _minus(results: PaperResults, column: Column, key: Key, own: Key) -> str:
    text = wording.difference(results.compare(column, key, own))
    return quoted(text, results.score(column, key), results.score(column, own))


def figure(results: PaperResults) -> Figure | None:
    """Return a panel for each target's metric, a curve for each source."""
    columns, levels, sources = results.columns("figure3"), results.levels("figure3"), _sources(results)

    def draw(axes: Axes, column: Column) -> None:
        for source in sources:
            colour, shape = MARKS.get(source, (GREY, "."))
            points = [(level, results.score(column, Key(source, level))) for level in levels]
            known = [
                (100 * level, 100 * score.mean, 100 * (score.std or 0.0))
                for level, score in points
                if score.mean is not None
            ]
            if known:
                places, means, stds = zip(*known, strict=True)
                own = source == column.task
                drawn = axes.errorbar(
                    places,
                    means,
                    yerr=stds,
                    color=colour,
                    marker=shape,
                    markersize=6 if own else 4.5,
                    linewidth=2.2 if own else 1.0,
                    elinewidth=0.7,
                    capsize=1.5,
                    linestyle="--" if source == RANDOM else "-",
                    label=SOURCES.get(source, source),
                )
                drawn.lines[0].set_url(series_url([(level, score) for level, score in points if score.values]))

    return panels(results, columns, draw, levels)
