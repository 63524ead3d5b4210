"""How much the masks of several sources overlap, beside what chance gives: numbers, table and heat map (Figure 8).

Reads masks from a store as packed bits; needs no torch. Overlap is |A∩B|/|A∪B| of kept weights.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from vltickets.errors import UserError
from vltickets.reports.figures import MARKS
from vltickets.reports.markdown import escaped
from vltickets.reports.style import GREY, INK, PAPER, drawing_style
from vltickets.specs import BackboneSpec, Place, parse_backbone, weight_places
from vltickets.store import Store
from vltickets.store import masks as counting
from vltickets.store.masks import Densities, Packed

COLOURS = LinearSegmentedColormap.from_list("overlap", [PAPER, "#9cc7e4", MARKS["imp"].colour, "#00304d"])
CELL = 0.56  # inches, for a number of four characters
CHARACTER = 0.083  # inches, of a label
TURN = 40  # degrees, of the labels above
TURNED, RISEN = 0.77, 0.65  # of its length a turned label takes to the side and upwards
NOTE = "Overlap of kept weights in %; below it what chance gives for the same counts in every tensor."
TABLE_NOTE = "Mean ± std over seeds; in brackets what chance gives for the same counts in every tensor."
DIAGONAL = "On the diagonal: between two seeds of one source."
NOTHING = "–"


@dataclass(frozen=True)
class Overlap:
    """The overlap of two sources, in [0, 1]: mean and sample deviation over pairs of masks, and the mean by chance.

    `pairs` is how many pairs of masks these are of: None for all three where it is 0, no deviation where it is 1.
    """

    mean: float | None = None
    chance: float | None = None
    std: float | None = None
    pairs: int = 0


@dataclass(frozen=True)
class OverlapResults:
    """The overlaps of sources with each other, by label.

    `cells` holds each pair of labels in both orders: the mean over the seeds that both have. A label with itself is
    the mean over pairs of different seeds. A mask that stands under several seeds (a universal ticket, one-shot) is one
    mask: no pair counts twice, and it has no overlap with itself. `densities` are of single masks, by label and seed,
    and `digests` lead back to the runs that made them.
    """

    labels: tuple[str, ...]
    cells: Mapping[tuple[str, str], Overlap]
    densities: Mapping[str, Mapping[int, Densities]] = field(default_factory=dict)
    digests: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def density(self, label: str) -> float | None:
        """Return the mean share of weights that a source's masks keep."""
        of_seeds = [one.total for one in self.densities.get(label, {}).values()]
        return statistics.fmean(of_seeds) if of_seeds else None


def overlaps(store: Store, masks: Mapping[str, Mapping[int, str]]) -> OverlapResults:
    """Return the overlaps of finished masks of a store, given as label → seed → digest of the mask's node.

    Raises `UserError` where a digest is of no mask, is not finished, or the masks are of different backbones.
    """
    loaded = {label: {seed: _load(store, digest) for seed, digest in seeds.items()} for label, seeds in masks.items()}
    counting.check_same_backbone(
        {
            f"{label}, seed {seed} ({one.digest})": one.backbone
            for label, seeds in loaded.items()
            for seed, one in seeds.items()
        }
    )
    cells: dict[tuple[str, str], Overlap] = {}
    for label, seeds in loaded.items():
        cells[label, label] = _mean([(seeds[one], seeds[other]) for one, other in combinations(seeds, 2)], apart=True)
    for one, other in combinations(loaded, 2):
        common = [seed for seed in loaded[one] if seed in loaded[other]]
        cell = _mean([(loaded[one][seed], loaded[other][seed]) for seed in common])
        cells[one, other] = cells[other, one] = cell
    return OverlapResults(
        labels=tuple(masks),
        cells=cells,
        densities={
            label: {seed: counting.densities(one.kept, one.places) for seed, one in seeds.items()}
            for label, seeds in loaded.items()
        },
        digests={label: dict(seeds) for label, seeds in masks.items()},
    )


def densities(store: Store, digest: str) -> Densities:
    """Return the shares of weights that a finished mask keeps: of all, by layer and by kind of module."""
    mask = _load(store, digest)
    return counting.densities(mask.kept, mask.places)


def overlap_table(results: OverlapResults) -> str:
    """Return the overlaps as a Markdown table, in per cent: mean ± std over seeds, by chance, and the share kept."""
    lines = [
        f"| overlap in % (by chance) | kept | {' | '.join(map(escaped, results.labels))} |",
        f"|---|---:|{'---:|' * len(results.labels)}",
    ]
    for label in results.labels:
        density = results.density(label)
        cells = [_percent(density), *(cell_text(results.cells[label, other]) for other in results.labels)]
        lines.append(f"| {escaped(label)} | {' | '.join(cells)} |")
    return "\n".join(lines) + f"\n\n{TABLE_NOTE} {DIAGONAL}\n"


def draw_overlap(panels: Mapping[str, OverlapResults], path: Path) -> None:
    """Draw heat maps side by side, title → overlaps, on one scale of colours, into a PNG or SVG file.

    Each cell has its overlap written in it and, small below, the chance value. Another suffix is a `UserError`.
    """
    if path.suffix not in (".png", ".svg"):
        raise UserError(f"{path}: a figure is written as .png or .svg; name the file so")
    with drawing_style("overlap"):
        figure = overlap_figure(panels)
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=160, metadata=metadata)


@dataclass(frozen=True)
class _Loaded:
    """A mask of a store: its bits and what is needed to count on them."""

    digest: str
    backbone: BackboneSpec
    bits: Packed

    @cached_property
    def places(self) -> dict[str, Place]:
        return weight_places(self.backbone)

    @cached_property
    def kept(self) -> dict[str, int]:
        return counting.kept_counts(self.bits)


def _load(store: Store, digest: str) -> _Loaded:
    spec = store.spec(digest)  # its JSON: to build the node would be to build all its ancestors
    if spec["kind"] == "train":
        raise UserError(f"{digest} is a training, not a mask; name the mask it was trained under or pruned to")
    where = spec if spec["kind"] != "prune" else store.spec(spec["train"]["node"])
    loaded = _Loaded(digest, parse_backbone(where["backbone"], f"the run {digest}"), store.arrays(digest, "mask"))
    counting.check_packed(loaded.bits, loaded.places, digest)
    return loaded


def _mean(asked: list[tuple[_Loaded, _Loaded]], *, apart: bool = False) -> Overlap:
    """Return the mean over the pairs that are not the same two masks again; with `apart`, not of a mask with itself."""
    distinct = {(one.digest, other.digest): (one, other) for one, other in asked}
    pairs = [pair for (one, other), pair in distinct.items() if not (apart and one == other)]
    if not pairs:
        return Overlap()
    sizes = {name: place.size for name, place in pairs[0][0].places.items()}
    found = [counting.overlap(one.bits, other.bits) for one, other in pairs]
    chance = [counting.chance_overlap(one.kept, other.kept, sizes) for one, other in pairs]
    return Overlap(
        mean=statistics.fmean(found),
        chance=statistics.fmean(chance),
        std=statistics.stdev(found) if len(found) > 1 else None,
        pairs=len(pairs),
    )


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def cell_text(cell: Overlap) -> str:
    """Return an overlap as mean ± std (by chance), in per cent."""
    if cell.mean is None:
        return NOTHING
    spread = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
    return f"{_percent(cell.mean)}{spread} ({_percent(cell.chance)})"


def overlap_figure(panels: Mapping[str, OverlapResults]) -> Figure:
    """Return heat maps side by side, title → overlaps, on one scale of colours."""
    # Laid out in inches, from the left: names, a square for each panel, the bar of colours; turned names above.
    every = list(panels.values())
    side = CELL * max(len(results.labels) for results in every)
    names = CHARACTER * max(len(label) for results in every for label in results.labels) + 0.15
    beyond = max(TURNED * names - CELL / 2, 0.0)  # how far the last turned name reaches past its panel
    apart = max(0.25, beyond) + (names if any(results.labels != every[0].labels for results in every) else 0.0)
    right = names + len(every) * side + (len(every) - 1) * apart
    width = right + max(0.8, beyond)
    note = textwrap.wrap(f"{NOTE} {DIAGONAL}" if any(map(_has_seeds, every)) else NOTE, int(width / 0.068))
    bottom, top = 0.14 * len(note) + 0.2, RISEN * names + (0.35 if any(panels) else 0.1)
    height = bottom + side + top
    figure = Figure(figsize=(width, height))
    scale = _scale(panels)
    for index, (title, results) in enumerate(panels.items()):
        left = names + index * (side + apart)
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        _draw(axes, results, scale, named=index == 0 or results.labels != every[0].labels)
        figure.text((left + side / 2) / width, 1 - 0.2 / height, title, ha="center", va="center", fontsize=10.5)
    _bar(figure, figure.add_axes(((right + 0.12) / width, bottom / height, 0.13 / width, side / height)), scale)
    figure.text(0.1 / width, 0.08 / height, "\n".join(note), fontsize=8, color=GREY, va="bottom")
    return figure


def _has_seeds(results: OverlapResults) -> bool:
    return any(results.cells[label, label].pairs for label in results.labels)


def _bar(figure: Figure, axes: Axes, scale: Normalize) -> None:
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=axes)
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face")  # no picture inside the picture: a page may not load one
    axes.spines[:].set_visible(False)
    axes.tick_params(length=3, width=0.7, labelsize=8.5)
    bar.locator = MaxNLocator(steps=[1, 2, 5, 10], nbins=6)


def _scale(panels: Mapping[str, OverlapResults]) -> Normalize:
    """Return one scale for all panels, from the least value, by chance or not, rounded down to 10 %, up to 100 %."""
    cells = [cell for results in panels.values() for cell in results.cells.values()]
    values = [100 * value for cell in cells for value in (cell.mean, cell.chance) if value is not None]
    return Normalize(10 * (min(values, default=0.0) // 10), 100.0)


def _draw(axes: Axes, results: OverlapResults, scale: Normalize, *, named: bool) -> None:
    count = len(results.labels)
    for row, label in enumerate(results.labels):
        for column, other in enumerate(results.labels):
            _draw_cell(axes, results.cells[label, other], (column, row), scale, diagonal=row == column)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.set_xticks(range(count), results.labels, rotation=TURN, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(count), results.labels if named else [""] * count)


def _draw_cell(axes: Axes, cell: Overlap, place: tuple[int, int], scale: Normalize, *, diagonal: bool) -> None:
    x, y = place
    colour = PAPER if cell.mean is None else COLOURS(scale(100 * cell.mean))
    edge = {"edgecolor": GREY if cell.mean is None else INK, "linewidth": 1.2} if diagonal else {"linewidth": 0}
    half = 0.45 if diagonal else 0.47
    axes.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, facecolor=colour, **edge))
    if cell.mean is None:
        axes.text(x, y, NOTHING, ha="center", va="center", color=GREY)
        return
    ink = PAPER if scale(100 * cell.mean) > 0.5 else INK
    axes.text(x, y - 0.1, _percent(cell.mean), ha="center", va="center", color=ink, fontsize=9.5)
    axes.text(x, y + 0.24, _percent(cell.chance), ha="center", va="center", color=ink, fontsize=6.5, alpha=0.85)
