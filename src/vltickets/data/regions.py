"""Regions of images as a detector gave them: features, boxes, soft labels, one row of each a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch

from vltickets.data.ragged import JoinedRagged, Ragged, RaggedRows
from vltickets.data.region_store import open_arrays
from vltickets.errors import UserError


class Regions:
    """The regions of a set of images, as stored (half precision); memory-mapped where they come from a store.

    `features`, `soft_labels` and `boxes` (UNITER's seven numbers) give an image's rows, or some images' rows padded.
    """

    def __init__(
        self, names: Sequence[str], features: RaggedRows, boxes: RaggedRows, soft_labels: RaggedRows, where: str
    ) -> None:
        self.names = list(names)
        self.where = where
        self.features = features
        self.boxes = boxes
        self.soft_labels = soft_labels
        self._opened: tuple[Callable[..., Regions], tuple[Any, ...]] | None = None
        self._index = {name: row for row, name in enumerate(self.names)}

    @classmethod
    def from_arrays(
        cls,
        names: Sequence[str],
        offsets: np.ndarray,
        features: np.ndarray,
        boxes: np.ndarray,
        soft_labels: np.ndarray,
        where: str,
    ) -> Regions:
        """Return the regions of arrays [n, width], [n, 4] and [n, classes]; image i has the rows from offsets[i]."""
        rows = Ragged(features, offsets), Boxes(boxes, offsets), Ragged(soft_labels, offsets)
        return cls(names, *rows, where=where)

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Send a store to another process as its path, to be opened there: never its gigabytes."""
        return self._opened or super().__reduce_ex__(protocol)

    @property
    def width(self) -> int:
        """Numbers in one region's feature."""
        return self.features.width

    @property
    def classes(self) -> int:
        """Classes of the detector, the background among them."""
        return self.soft_labels.width

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def index(self, name: str, needed_by: str) -> int:
        """Return the row of an image; a missing one is a `UserError` that names file, image and who needs it."""
        if name not in self._index:
            raise UserError(f"{self.where} has no regions of image {name!r}, which {needed_by} needs")
        return self._index[name]


class Boxes(Ragged):
    """Boxes stored as x1, y1, x2, y2, given as UNITER's seven numbers, which are made when they are asked for."""

    def row(self, index: int) -> torch.Tensor:
        """Return one image's boxes [n, 7]."""
        return geometry(super().row(index))

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some images' boxes [rows, most, 7], and the mask [rows, most] of those that are there."""
        corners, mask = super().padded(rows, dtype)
        return geometry(corners), mask


def geometry(boxes: torch.Tensor) -> torch.Tensor:
    """Return UNITER's seven numbers of boxes [..., 4]: x1, y1, x2, y2, w, h, w·h, all as shares of the image.

    Source: the official `img_pos_feat` (official-models 1.2).
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes, sides, sides[..., :1] * sides[..., 1:]], dim=-1)


def read_regions(path: Path) -> Regions:
    """Open a region store, memory-mapped; a missing or damaged one is a `UserError` that names it."""
    names, arrays = open_arrays(path)
    regions = Regions.from_arrays(
        names, arrays["offsets"], arrays["features"], arrays["boxes"], arrays["soft_labels"], where=str(path)
    )
    regions._opened = read_regions, (path,)
    return regions


def find_regions(folder: Path, name: str) -> Regions:
    """Return the regions of a task's folder: `regions_NAME` in it, else all stores of `regions/` beside it, as one."""
    own = folder / f"regions_{name}"
    if own.exists():
        return read_regions(own)
    stores = folder.parent / "regions"
    found = sorted(path.parent for path in stores.glob("*/manifest.json"))
    if not found:
        raise UserError(
            f"{own}: no such region store, and no stores in {stores} either; make one with vltickets data import"
        )
    return join_regions([read_regions(path) for path in found], where=str(stores))


def join_regions(parts: Sequence[Regions], where: str) -> Regions:
    """Return several stores as one; widths and classes must agree, and no image may stand in two of them."""
    first = parts[0]
    seen: dict[str, str] = {}
    for part in parts:
        if (part.width, part.classes) != (first.width, first.classes):
            raise UserError(
                f"{part.where} has {part.width} numbers and {part.classes} classes a region, {first.where} has "
                f"{first.width} and {first.classes}; they can't be read as one"
            )
        for name in part.names:
            if name in seen:
                raise UserError(f"the image {name!r} stands in {seen[name]} and in {part.where}; expected it in one")
            seen[name] = part.where
    if len(parts) == 1:
        return first
    joined = Regions(
        list(seen),
        JoinedRagged([part.features for part in parts]),
        JoinedRagged([part.boxes for part in parts]),
        JoinedRagged([part.soft_labels for part in parts]),
        where,
    )
    joined._opened = join_regions, (list(parts), where)
    return joined


def soft_targets(regions: Regions, images: np.ndarray) -> torch.Tensor:
    """Return the padded soft labels [images, regions, classes], each region's summing to 1."""
    labels, mask = regions.soft_labels.padded(images)
    labels = labels.float()
    total = labels.sum(-1, keepdim=True).clamp(min=1e-6)
    return torch.where(mask[..., None], labels / total, labels)
