"""How figures look, and from a figure to a file: the same figure gives the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#1b1f24"
PAPER = "#ffffff"
GREY = "#767b82"


def inline(svg: str) -> str:
    """Return an SVG fit to stand in a page: no prolog, no name spaces, and the page's own ink and paper.

    Ids that nothing refers to go: they are numbers of parts, the same in every figure, and a page's ids are unique.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", body)
    body = re.sub(
        r'<svg ([^>]*?)\s?width="[^"]*"', r"<svg \1", re.sub(r' height="[\d.]+pt"', "", body, count=1), count=1
    )
    used = set(re.findall(r"#([^\s\"')]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    return body.replace(INK, "currentColor").replace(PAPER, "var(--paper)").strip()


@contextmanager
def drawing_style(salt: str = "scores") -> Iterator[None]:
    """Settings for one figure. `salt` makes the ids in its SVG: always the same, others in each figure of a page."""
    settings: Any = {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "axes.facecolor": PAPER,
        "figure.facecolor": PAPER,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(settings):
        yield


def svg_text(figure: Figure, salt: str) -> str:
    buffer = io.StringIO()
    with drawing_style(salt):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG picture."""
    with drawing_style():
        FigureCanvasAgg(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()
