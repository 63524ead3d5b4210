"""Regions of images as a detector gave them: features, boxes, soft labels, one row of each a region.

Native file, `vltickets-regions-1` (safetensors): `features` float16 [n, width]; `boxes` float32 [n, 4], x1 y1 x2 y2
from 0 to 1; `offsets` int64 [images + 1]; `soft_labels` float16 [n, classes], class 0 the background; metadata `names`,
a JSON list of the images' names in row order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vltickets.data.ragged import Ragged
from vltickets.errors import UserError

REGIONS_FORMAT = "vltickets-regions-1"


class Regions:
    """The regions of a set of images, in memory as stored (half precision)."""

    def __init__(
        self,
        names: Sequence[str],
        offsets: np.ndarray,
        features: np.ndarray,
        boxes: np.ndarray,
        soft_labels: np.ndarray,
        where: str,
    ) -> None:
        self.names = list(names)
        self.where = where
        self.features = Ragged(features, offsets)
        self.soft_labels = Ragged(soft_labels, offsets)
        self.boxes = Ragged(geometry(boxes), offsets)
        self._index = {name: row for row, name in enumerate(self.names)}

    @property
    def width(self) -> int:
        """Numbers in one region's feature."""
        return self.features.values.shape[1]

    @property
    def classes(self) -> int:
        """Classes of the detector, the background among them."""
        return self.soft_labels.values.shape[1]

    def index(self, name: str, needed_by: str) -> int:
        """Return the row of an image; a missing one is a `UserError` that names file, image and who needs it."""
        if name not in self._index:
            raise UserError(f"{self.where} has no regions of image {name!r}, which {needed_by} needs")
        return self._index[name]


def geometry(boxes: np.ndarray) -> np.ndarray:
    """Return UNITER's seven numbers of each box: x1, y1, x2, y2, w, h, w·h, all as shares of the image.

    Source: the official `img_pos_feat` (official-models 1.2).
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes, sides, sides[:, :1] * sides[:, 1:]], axis=1).astype(np.float32)


def read_regions(path: Path) -> Regions:
    """Read a native region file; a missing or broken one is a `UserError` that names it."""
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != REGIONS_FORMAT:
                raise UserError(f"{path}: format {metadata.get('format')!r}, expected {REGIONS_FORMAT!r}")
            names = json.loads(metadata["names"])
            arrays = {key: file.get_tensor(key) for key in ("features", "boxes", "offsets", "soft_labels")}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it should hold the region features of this split") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a region file ({error})") from None
    offsets = arrays["offsets"]
    if len(offsets) != len(names) + 1:
        raise UserError(f"{path}: {len(names)} names but {len(offsets) - 1} images")
    rows = len(arrays["features"])
    if offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
        raise UserError(f"{path}: the offsets should rise from 0 to the {rows} regions")
    for key, shape in (("features", "[n, width]"), ("boxes", "[n, 4]"), ("soft_labels", "[n, classes]")):
        found = arrays[key].shape
        if len(found) != 2 or found[0] != rows or (key == "boxes" and found[1] != 4):
            raise UserError(f"{path}: {key} has shape {found}, expected {shape} with n = {rows}")
    return Regions(
        names, arrays["offsets"], arrays["features"], arrays["boxes"], arrays["soft_labels"], where=str(path)
    )


def find_regions(folder: Path, name: str) -> Regions:
    """Return the regions `regions_NAME` of a task's folder."""
    return read_regions(folder / f"regions_{name}.safetensors")


def soft_targets(regions: Regions, images: np.ndarray) -> torch.Tensor:
    """Return the padded soft labels [images, regions, classes], each region's summing to 1."""
    labels, mask = regions.soft_labels.padded(images)
    labels = labels.float()
    total = labels.sum(-1, keepdim=True).clamp(min=1e-6)
    return torch.where(mask[..., None], labels / total, labels)
