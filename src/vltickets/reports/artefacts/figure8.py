"""Figure 8: how far the masks of the tasks and of pre-training are the same, and what they keep where."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations

from matplotlib.figure import Figure

from vltickets.reports import wording
from vltickets.reports.overlap import DIAGONAL, TABLE_NOTE, OverlapResults, cell_text, overlap_figure, overlaps
from vltickets.reports.paper_results import SOURCES, PaperResults
from vltickets.reports.quoted import Quoted, Reading
from vltickets.reports.style import drawing_style
from vltickets.reports.tables import Row, Table
from vltickets.store.masks import Densities

TITLE = "Figure 8: overlap of the masks"


def tables(results: PaperResults) -> list[Table]:
    """Return overlaps beside those by chance, densities by layer and kind of module, and the masks' digests."""
    out = []
    for title, found in _levels(results).items():
        header = [f"at {title}", *found.labels]
        rows = [
            [label, *(Quoted(cell_text(found.cells[label, o]), _masks(found, label, o)) for o in found.labels)]
            for label in found.labels
        ]
        out.append(Table(f"Overlap in % (by chance) at {title}", header, rows, f"{TABLE_NOTE} {DIAGONAL}"))
        out.append(_kept(f"Weights kept at {title}, by kind of module and by layer", found))
        digests = [
            [label, Quoted(" ".join(f"`{r.digest[:8]}`" for r in _masks(found, label)), _masks(found, label))]
            for label in found.labels
        ]
        out.append(Table(f"Masks at {title}, by seed", ["source", "digests"], digests, aside=True))
    return out


def _masks(found: OverlapResults, *labels: str) -> list[Reading]:
    return [Reading(digest, "sparsity") for label in labels for _, digest in sorted(found.digests[label].items())]


def figure(results: PaperResults) -> Figure | None:
    """Return a heat map for each sparsity."""
    found = _levels(results)
    with drawing_style():
        return overlap_figure(found) if found else None


def rows(results: PaperResults) -> Iterator[Row]:
    """Yield the overlaps of every two sources' masks of one seed, and what chance gives; `run` names both masks."""
    for title, found in _levels(results).items():
        for one, other in combinations(found.labels, 2):
            for seed in sorted(set(found.digests[one]) & set(found.digests[other])):
                masks = {label: {seed: found.digests[label][seed]} for label in (one, other)}
                cell = overlaps(results.store, masks).cells[one, other]
                runs = " ".join(by_seed[seed] for by_seed in masks.values())
                for metric, value in (("overlap", cell.mean), ("overlap_by_chance", cell.chance)):
                    if value is not None:
                        yield "figure8", f"{one} {title}", other, seed, metric, value, runs


@lru_cache(maxsize=1)  # for tables and figure alike
def _levels(results: PaperResults) -> dict[str, OverlapResults]:
    out = {}
    for level in results.levels("figure8"):
        masks = results.masks(level)
        if masks:
            named = {label: masks[source] for source, label in SOURCES.items() if source in masks}
            out[wording.percent(level)] = overlaps(results.store, named)
    return out


def _kept(title: str, found: OverlapResults) -> Table:
    """Return the share of weights kept by every source, over its seeds."""
    some = next(iter(next(iter(found.densities.values())).values()))
    parts: list[tuple[str, Callable[[Densities], Mapping[str, float]]]] = [
        ("kind", lambda one: {str(name): value for name, value in one.kinds.items()}),
        ("layer", lambda one: {f"layer {name}": value for name, value in one.layers.items()}),
    ]
    columns = [(name, part) for _, part in parts for name in part(some)]
    rows = [
        [
            label,
            *(
                Quoted(_percent([part(one)[name] for one in seeds.values()]), _masks(found, label))
                for name, part in columns
            ),
        ]
        for label, seeds in found.densities.items()
    ]
    return Table(
        title, ["source", *(name for name, _ in columns)], rows, "In % of the part's weights, mean over seeds."
    )


def _percent(values: list[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f}"
