"""Figures of a study: score against sparsity, and loss against step. The same results give the same bytes of SVG."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vltickets.reports.results import DENSE, Results, Row
from vltickets.reports.style import GREY, INK, PAPER, drawing_style, png_bytes, svg_text
from vltickets.reports.wording import PATTERNED


@dataclass(frozen=True)
class Mark:
    """How a baseline is drawn: Okabe and Ito's colours, and a shape of its own for who sees no colour."""

    colour: str
    shape: str


MARKS = {
    "imp": Mark("#0072b2", "o"),
    "random": Mark("#d55e00", "s"),
    "random-layerwise": Mark("#c48600", "D"),
    "text-only": Mark("#009e73", "^"),
    "shuffled-within": Mark("#b8608f", "v"),
    "shuffled-all": Mark("#8a5a9e", "p"),
    "random-start": Mark("#3d9bd1", "X"),
    "one-shot": Mark("#7d6608", "P"),
    "full-2x": Mark(GREY, "*"),
}
PATTERN_MARKS = (Mark("#56b4e9", "h"), Mark("#e69f00", "d"), Mark("#004d40", "<"), Mark("#a05195", ">"))
OPEN = "imp, not shown to reach 99 %"
FLOORS = ("scratch", "blind", "chance")
LEARNING = ("full", "imp", "random")


def figure_svg(results: Results) -> str:
    """Return score against sparsity as SVG text: the same results, the same bytes."""
    return svg_text(_scores(results), "scores")


def figure_png(results: Results) -> bytes:
    """Return score against sparsity as a PNG picture."""
    return png_bytes(_scores(results))


def learning_svg(results: Results) -> str | None:
    """Return the learning curves of a few runs as SVG text, or None where no record holds a curve."""
    curves = list(_learning_curves(results))
    return svg_text(_learning(curves), "learning") if curves else None


def _axes(height: float, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    with drawing_style():
        figure = Figure(figsize=(7.6, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=3, width=0.7)
        axes.grid(axis="y", color=GREY, alpha=0.18, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, axes


def _scores(results: Results) -> Figure:
    figure, axes = _axes(4.6, "sparsity: prunable weights removed (%)", f"{results.metric} (%)")
    with drawing_style():
        marks = _marks(results)
        drawn = [row for row in results.rows if row.mean is not None and row.baseline in marks]
        _draw_curves(axes, results, drawn, marks)
        lines = _reference_lines(results)
        _limit(axes, drawn, lines)
        _draw_lines(axes, results, lines)
        _legend(axes, marks)
    return figure


def _marks(results: Results) -> dict[str, Mark]:
    """Return the marks of what is drawn, with those of a study's patterns, as many as there are."""
    patterns = list(dict.fromkeys(row.baseline for row in results.rows if PATTERNED.fullmatch(row.baseline)))
    return MARKS | dict(zip(patterns, itertools.cycle(PATTERN_MARKS), strict=False))


def _draw_curves(axes: Axes, results: Results, rows: Sequence[Row], marks: Mapping[str, Mark]) -> None:
    single = [name for name in marks if sum(row.baseline == name for row in rows) == 1]
    for name, mark in marks.items():
        mine = [row for row in rows if row.baseline == name]
        if not mine:
            continue
        places = [100 * row.sparsity + _aside(name, single, row, rows) for row in mine]
        axes.errorbar(
            places,
            [100 * (row.mean or 0.0) for row in mine],
            yerr=[100 * (row.std or 0.0) for row in mine],
            color=mark.colour,
            linestyle="-" if len(mine) > 1 else "none",
            linewidth=1.8 if name == "imp" else 1.2,
            elinewidth=1.0,
            capsize=2.5,
            label=name,
            zorder=4 if name == "imp" else 3,
            **_marker(mark, size=6.5 if name == "imp" else 5.5),
        )
        if name == "imp":
            open_ones = [(x, r) for x, r in zip(places, mine, strict=True) if not (r.verdict and r.verdict.passes)]
            _draw_open(axes, mark, [x for x, _ in open_ones], [100 * (r.mean or 0.0) for _, r in open_ones])


def _marker(mark: Mark, size: float) -> dict[str, Any]:
    return {"marker": mark.shape, "markersize": size, "markeredgecolor": mark.colour, "markeredgewidth": 1.2}


def _draw_open(axes: Axes, mark: Mark, places: list[float], means: list[float]) -> None:
    """Draw the tickets that are not shown to reach 99 % of dense as open circles, over the filled ones."""
    if places:
        face = _marker(mark, 6.5) | {"markerfacecolor": PAPER, "linestyle": "none", "label": OPEN}
        axes.plot(places, means, zorder=5, **face)


def _aside(name: str, single: list[str], row: Row, rows: Sequence[Row]) -> float:
    """Return a small step to the side for points that share a sparsity, so that error bars don't hide each other."""
    here = [other for other in single if any(r.baseline == other and r.sparsity == row.sparsity for r in rows)]
    if name not in here or row.sparsity == 0:
        return 0.0
    place = here.index(name)
    return 1.4 * (place // 2 + 1) * (1 if place % 2 else -1)


def _reference_lines(results: Results) -> list[tuple[str, float, str, str]]:
    """Return label, score in per cent, colour and line style of each horizontal line."""
    lines: list[tuple[str, float, str, str]] = []
    full = results.row(DENSE)
    if full is not None and full.mean is not None:
        lines.append(("full", 100 * full.mean, INK, "-"))
        lines.append(("99 % of full", 99 * full.mean, INK, "--"))
    for name, style in zip(FLOORS, ("--", "-.", ":"), strict=True):
        row = results.row(name)
        if row is not None and row.mean is not None:
            lines.append((name, 100 * row.mean, GREY, style))
    return lines


def _limit(axes: Axes, rows: Sequence[Row], lines: Sequence[tuple[str, float, str, str]]) -> None:
    """Fit the score's axis to what is compared; a floor far below is named at the edge instead of drawn."""
    ends = [100 * (row.mean + sign * (row.std or 0.0)) for row in rows if row.mean is not None for sign in (-1, 1)]
    ends += [value for name, value, *_ in lines if name not in FLOORS] or [value for _, value, *_ in lines]
    if not ends:
        ends = [0.0, 100.0]
    low, high = min(ends), max(ends)
    span = max(high - low, 2.0)
    for name, value, *_ in sorted(lines, key=lambda line: -line[1]):
        if name in FLOORS and low - value <= 0.6 * span:
            low = min(low, value)
    margin = 0.07 * max(high - low, 2.0)
    axes.set_ylim(low - margin, high + margin)
    levels = sorted({100 * row.sparsity for row in rows if row.sparsity > 0})
    axes.set_xlim(-4, max([*levels, 90.0]) + 4)
    axes.set_xticks([0, *levels] if 0 < len(levels) <= 10 else list(range(0, 100, 10)))


def _draw_lines(axes: Axes, results: Results, lines: Sequence[tuple[str, float, str, str]]) -> None:
    low, high = axes.get_ylim()
    full = results.row(DENSE)
    if full is not None and full.mean is not None and full.std is not None:
        spread = (100 * (full.mean - full.std), 100 * (full.mean + full.std))
        axes.axhspan(*spread, color=GREY, alpha=0.16, linewidth=0, zorder=0.5)
    shown = [line for line in lines if low <= line[1] <= high]
    for _, value, colour, style in shown:
        axes.axhline(value, color=colour, linestyle=style, linewidth=1.0, zorder=1)
    places = _apart([value for _, value, *_ in shown], gap=0.042 * (high - low))
    for (name, value, colour, _), place in zip(shown, places, strict=True):
        _label(axes, f"{name} {value:.1f}", place, colour)
    below = [f"{name} {value:.1f}" for name, value, *_ in lines if value < low]
    if below:
        note = f"below this axis: {', '.join(below)}"
        axes.text(0.005, 0.012, note, transform=axes.transAxes, color=GREY, fontsize=8.5, va="bottom")


def _label(axes: Axes, text: str, place: float, colour: str) -> None:
    axes.annotate(
        text,
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        color=colour,
        fontsize=8.5,
        va="center",
        annotation_clip=False,
    )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Return places for labels, as near to their values as a gap between neighbours lets them be."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    places = list(values)
    for _ in range(50):
        for lower, upper in itertools.pairwise(order):
            overlap = gap - (places[upper] - places[lower])
            if overlap > 1e-9:
                places[lower] -= overlap / 2
                places[upper] += overlap / 2
    return places


def _legend(axes: Axes, marks: Mapping[str, Mark]) -> None:
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    labels = [name for name in dict.fromkeys(("imp", OPEN, *marks)) if name in found]
    handles = [found[name] for name in labels]
    if handles:
        columns = min(4, len(handles))
        axes.figure.legend(
            handles, labels, loc="outside upper left", ncols=columns, handlelength=1.8, columnspacing=1.6
        )


def _learning_curves(results: Results) -> Iterator[tuple[str, str, str, list[tuple[int, float]]]]:
    """Yield label, colour, line style and curve of one run each of full, IMP and random, at the finding's sparsity."""
    highest = results.highest()
    for name, style in zip(LEARNING, ("-", "-", "--"), strict=True):
        rows = [row for row in results.rows_of(name) if row.mean is not None]
        wanted = [row for row in rows if highest is not None and row.sparsity == highest.sparsity] or rows[-1:]
        for row in wanted[:1]:
            run = next((run for run in row.runs if run.score is not None), None)
            curve = results.records[run.digest].curve if run is not None else []
            if run is not None and len(curve) > 1:
                label = name if row.sparsity == 0 else f"{name} at {100 * row.sparsity:g} %"
                yield f"{label}, seed {run.seed}", MARKS[name].colour if name in MARKS else INK, style, _smooth(curve)


def _smooth(curve: Sequence[tuple[int, float]], most: int = 60) -> list[tuple[int, float]]:
    """Return at most `most` points: means of neighbours, since single batches jump."""
    width = -(-len(curve) // most)
    parts = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _learning(curves: Sequence[tuple[str, str, str, list[tuple[int, float]]]]) -> Figure:
    figure, axes = _axes(2.7, "step", "training loss")
    with drawing_style():
        for label, colour, style, curve in curves:
            axes.plot(*zip(*curve, strict=True), color=colour, linestyle=style, linewidth=1.4, label=label)
        axes.margins(x=0.02)
        axes.legend(loc="upper right", handlelength=1.8)
    return figure
