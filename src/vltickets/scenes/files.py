"""The world's files, each written whole or not at all. The same content gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vltickets.scenes.regions import Regions
from vltickets.store import sha256, write_file, write_folder

REGION_FORMAT = "vltickets-regions-2"
PICTURE_FORMAT = "vltickets-pictures-1"


def write_json(path: Path, value: object) -> None:
    """Write one compact JSON value."""
    write_file(path, _json(value))


def write_json_lines(path: Path, values: Iterable[object]) -> None:
    """Write one compact JSON value a line."""
    write_file(path, b"".join(_json(value) + b"\n" for value in values))


def write_regions(path: Path, names: Sequence[str], regions: Regions) -> None:
    """Write regions as a region store (the format is `data/region_store.py`'s); `names`: the pictures in row order."""
    if len(names) != len(regions.offsets) - 1:
        raise ValueError(f"{len(names)} names for the regions of {len(regions.offsets) - 1} pictures")
    files = {
        "features.npy": _npy(regions.features),
        "boxes.npy": _npy(regions.boxes),
        "soft_labels.npy": _npy(regions.soft_labels),
        "scores.npy": _npy(regions.scores),
        "offsets.npy": _npy(regions.offsets),
        "names.json": _json(list(names)),
    }
    manifest = {
        "format": REGION_FORMAT,
        "images": len(names),
        "regions": len(regions.features),
        "width": regions.features.shape[1],
        "classes": regions.soft_labels.shape[1],
        "files": {name: {"size": len(content), "sha256": sha256(content)} for name, content in files.items()},
    }
    write_folder(path, files | {"manifest.json": _json(manifest)})


def write_pictures(path: Path, names: Sequence[str], pictures: Sequence[Image.Image]) -> None:
    """Write pictures of one size as a folder of `pixels.npy` (uint8 [n, h, w, 3]) and `names.json`, in row order."""
    if len(names) != len(pictures):
        raise ValueError(f"{len(names)} names for {len(pictures)} pictures")
    pixels = _npy(np.stack([np.asarray(picture) for picture in pictures]))
    manifest = {"format": PICTURE_FORMAT, "images": len(names), "size": len(pixels)}
    write_folder(path, {"pixels.npy": pixels, "names.json": _json(list(names)), "manifest.json": _json(manifest)})


def _npy(array: NDArray[np.generic]) -> bytes:
    """Return the bytes of an .npy file, little-endian; the same array always gives the same bytes."""
    buffer = BytesIO()
    np.save(buffer, array.astype(array.dtype.newbyteorder("<"), copy=False), allow_pickle=False)
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
