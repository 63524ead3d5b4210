"""The figure of `vltickets deploy bench`: how many times as fast a sparse encoder is as each dense run, by sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vltickets.reports.style import GREY, INK, drawing_style, png_bytes, svg_text

Row = Mapping[str, Any]
ACROSS = 3
# By the rival's name in a row: what it is called, its colour and its mark.
RIVALS = {
    "torch_fp32": ("torch fp32", "#0072b2", "o"),
    "onnxruntime_fp32": ("onnxruntime fp32", "#009e73", "s"),
    "int8": ("onnxruntime int8", "#d55e00", "^"),
    "torch_bf16": ("torch bf16", "#b8608f", "D"),
}


def draw_speedups(rows: Sequence[Row], path: Path) -> None:
    """Write the figure, PNG or SVG by the file's name: a panel for each batch and length, a curve for each dense run.

    Rows of tickets show each ticket's score below its sparsity; several sizes and tasks have panels of their own.
    """
    panels: dict[str, list[Row]] = {}
    for row in rows:
        whose = str(row.get("size")) + (f", {row['task']}" if row.get("task") else "")
        panels.setdefault(f"{whose}, batch {row['batch']}, {row['tokens']} tokens", []).append(row)
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    with drawing_style("bench"):
        figure = Figure(figsize=(max(3.1 * across, 5.6), 2.6 * down + 1.0), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            title, mine = list(panels.items())[place]
            _panel(axes, sorted(mine, key=lambda row: float(row["sparsity"])))
            axes.set_title(title, fontsize=9.5, loc="left")
            if place % across == 0:
                axes.set_ylabel("times as fast as dense", fontsize=8.5)
        found: dict[str, Artist] = {}
        for axes in grid.flat:
            handles, labels = axes.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
        figure.supxlabel(_below(rows), fontsize=8.5, color=INK)
        columns = 2 if across == 1 else 4
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=columns, handlelength=1.6)
    if path.suffix == ".png":
        path.write_bytes(png_bytes(figure))
    else:
        path.write_text(svg_text(figure, "bench"), encoding="utf-8")


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    places = [100 * row["sparsity"] for row in rows]
    for rival, (name, colour, shape) in RIVALS.items():
        known = [(place, row) for place, row in zip(places, rows, strict=True) if row[f"speedup_vs_{rival}"]]
        if known:
            axes.errorbar(
                [place for place, _ in known],
                [row[f"speedup_vs_{rival}"] for _, row in known],
                [row[f"spread_vs_{rival}"] for _, row in known],
                color=colour,
                marker=shape,
                markersize=4.5,
                linewidth=1.4,
                elinewidth=0.8,
                capsize=2,
                label=name,
            )
    axes.axhline(1, color=INK, linewidth=0.9, zorder=1)
    axes.set_xticks(places, [_tick(row) for row in rows])
    axes.margins(x=0.08)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.7, labelsize=8)
    axes.grid(axis="y", color=GREY, alpha=0.18, linewidth=0.6)


def _tick(row: Row) -> str:
    score = row.get("accuracy")
    return f"{100 * row['sparsity']:.0f}" + ("" if score is None else f"\n{100 * score:.1f}")


def _below(rows: Sequence[Row]) -> str:
    """Return what stands below the sparsities, and below the scores of tickets."""
    what = f"sparsity of the encoder (%), {rows[0]['threads']} thread{'s' if rows[0]['threads'] > 1 else ''}"
    scored = [row for row in rows if row.get("accuracy") is not None]
    if not scored:
        return what
    dense = {f"{100 * row['dense_accuracy']:.1f}" for row in scored if row.get("dense_accuracy") is not None}
    beside = f", dense {', '.join(sorted(dense))}" if dense else ""
    return f"{what}; below it the ticket's {scored[0].get('metric') or 'score'} (%){beside}"
