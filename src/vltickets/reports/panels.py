"""Small panels side by side, one for each column, with the dense score and its 99 % as lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vltickets.reports.paper_results import FULL, Column, Key, PaperResults, Score
from vltickets.reports.quoted import series_url
from vltickets.reports.style import GREY, INK, drawing_style

ACROSS = 4


def panels(
    results: PaperResults,
    columns: Sequence[Column],
    draw: Callable[[Axes, Column], None],
    levels: Sequence[float],
) -> Figure | None:
    """Return a figure with a panel for each column; `draw` puts its curves in. None where nothing is finished."""
    shown = [column for column in columns if results.score(column, Key(FULL, 0.0)).mean is not None]
    if not shown:
        return None
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    with drawing_style():
        figure = Figure(figsize=(max(2.7 * across, 5.4), 2.5 * down + 0.6), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(shown):
                axes.set_visible(False)
                continue
            column = shown[place]
            draw(axes, column)
            _dense_lines(axes, results, column)
            axes.set_title(column.title, fontsize=10, loc="left")
            axes.set_xticks([100 * level for level in levels])
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=3, width=0.7, labelsize=8)
            axes.grid(axis="y", color=GREY, alpha=0.18, linewidth=0.6)
            if place % across == 0:
                axes.set_ylabel("score (%)", fontsize=8.5)
            if place + across >= len(shown):
                axes.set_xlabel("sparsity (%)", fontsize=8.5)
        found: dict[str, Artist] = {}
        for axes in grid.flat:
            handles, labels = axes.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        figure.legend(
            list(found.values()), list(found), loc="outside upper left", ncols=min(5, len(found)), handlelength=1.8
        )
    return figure


def curve(
    axes: Axes, points: Sequence[tuple[float, Score]], label: str, colour: str, shape: str, *, linestyle: str = "-"
) -> None:
    """Draw scores over sparsities, mean ± std, without those that are not run."""
    known = [(100 * level, score) for level, score in points if score.mean is not None]
    drawn = axes.errorbar(
        [place for place, _ in known],
        [100 * (score.mean or 0.0) for _, score in known],
        yerr=[100 * (score.std or 0.0) for _, score in known],
        color=colour,
        marker=shape,
        markersize=4.5,
        linewidth=1.4,
        linestyle=linestyle,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )
    drawn.lines[0].set_url(series_url([(place / 100, score) for place, score in known]))


def _dense_lines(axes: Axes, results: PaperResults, column: Column) -> None:
    full = results.score(column, Key(FULL, 0.0)).mean
    if full is not None:
        axes.axhline(100 * full, color=INK, linewidth=0.9, zorder=1, label="full")
        axes.axhline(99 * full, color=INK, linewidth=0.9, linestyle=":", zorder=1, label="99 % of full")
