"""The world's files, each written whole or not at all. The same content gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vltickets.scenes.regions import Regions
from vltickets.store import write_file

REGION_FORMAT = "vltickets-regions-1"
_TENSOR_TYPES = {"float16": "F16", "float32": "F32", "int64": "I64"}


def write_json(path: Path, value: object) -> None:
    """Write one compact JSON value."""
    write_file(path, _json(value))


def write_json_lines(path: Path, values: Iterable[object]) -> None:
    """Write one compact JSON value a line."""
    write_file(path, b"".join(_json(value) + b"\n" for value in values))


def write_regions(path: Path, names: Sequence[str], regions: Regions) -> None:
    """Write regions as a safetensors file; `names` gives the pictures in row order."""
    if len(names) != len(regions.offsets) - 1:
        raise ValueError(f"{len(names)} names for the regions of {len(regions.offsets) - 1} pictures")
    # Wider numbers first, so that each tensor starts at a multiple of its number's size.
    tensors: dict[str, NDArray[np.generic]] = {
        "offsets": regions.offsets,
        "boxes": regions.boxes,
        "features": regions.features,
        "scores": regions.scores,
        "soft_labels": regions.soft_labels,
    }
    metadata = {"format": REGION_FORMAT, "names": json.dumps(list(names), separators=(",", ":"))}
    write_file(path, b"".join(_safetensors(tensors, metadata)))


def _safetensors(tensors: dict[str, NDArray[np.generic]], metadata: dict[str, str]) -> list[bytes]:
    """Return the bytes of a safetensors file.

    The safetensors library keeps metadata in a hash map and so may write two orders of the same header; here the same
    content always gives the same bytes.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    chunks: list[bytes] = []
    start = 0
    for name, tensor in tensors.items():
        chunk = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()
        span = [start, start + len(chunk)]
        header[name] = {"dtype": _TENSOR_TYPES[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": span}
        chunks.append(chunk)
        start = span[1]
    text = _json(header)
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *chunks]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
