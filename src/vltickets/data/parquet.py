"""Parquet files: columns whose absence or kind is said, and the region features packed in them (needs pyarrow)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.records import shown
from vltickets.data.regions import Regions
from vltickets.errors import UserError


def read_parquet(path: Path, columns: list[str]) -> dict[str, Any]:
    """Return columns of a Parquet file as lists; a missing or broken file or column is a `UserError`."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{path} needs pyarrow to be read: pip install 'vltickets[data]'") from None
    try:
        found = parquet.read_schema(path).names
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({_first_line(error)})") from None
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path}: the columns {', '.join(missing)} are missing (found: {', '.join(found)})")
    try:
        table: dict[str, Any] = parquet.read_table(path, columns=columns).to_pydict()
    except Exception as error:  # torn pages, text that is not UTF-8: pyarrow raises errors of many kinds
        raise UserError(f"{path}: a broken Parquet file ({_first_line(error)})") from None
    return table


def check_column(table: dict[str, Any], name: str, kind: type, path: Path) -> list[Any]:
    """Return a column all of whose values are of this kind; else a `UserError` that names file, row and field."""
    values: list[Any] = table[name]
    for row, value in enumerate(values):
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{path}, row {row}: the field {name!r} is {shown(value)}, expected {kind.__name__}")
    return values


def packed_regions(path: Path) -> Regions:
    """Read a file of region features: per image `num_boxes`, `boxes`, `features`, `soft_labels` (background last)."""
    table = read_parquet(path, ["image_id", "num_boxes", "boxes", "features", "soft_labels"])
    names = [str(name) for name in table["image_id"]]
    counts = np.array(check_column(table, "num_boxes", int, path), dtype=np.int64)
    if (counts < 0).any():
        raise UserError(f"{path}: num_boxes has a number below 0")
    total = int(counts.sum())
    try:
        boxes = np.array([box for item in table["boxes"] for box in item], dtype=np.float32).reshape(total, 4)
        features = np.frombuffer(b"".join(table["features"]), dtype="<f2").reshape(total, -1)
        labels = np.frombuffer(b"".join(table["soft_labels"]), dtype=np.uint8).reshape(total, -1)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: the arrays do not fit num_boxes ({error})") from None
    # As UNITER: class 0 is the background; these files have it last.
    background_first = np.roll(labels, 1, axis=1).astype(np.float16) / np.float16(255)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Regions.from_arrays(names, offsets, features, boxes, background_first, where=str(path))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
