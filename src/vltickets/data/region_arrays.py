"""One image's region arrays out of foreign bytes: msgpack-numpy, npz, base64. Plain numbers only; nothing is run.

Each function raises `UserError` beginning with `where`, which names file and record.
"""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vltickets.data.records import shown
from vltickets.data.text_db import library
from vltickets.errors import UserError

LARGEST = 1 << 28  # bytes of one unpacked array; 100 regions of 2048 float32 numbers have 819,200
FLOATS = {"<f2", "<f4", "<f8"}
ROUNDED = 1e-3  # a half-precision number just above 1 is off by as much
ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class ImageRegions:
    """One image: features [n, width], boxes [n, 4] x1 y1 x2 y2 from 0 to 1, soft labels [n, classes], scores [n]."""

    features: np.ndarray
    boxes: np.ndarray
    soft_labels: np.ndarray
    scores: np.ndarray | None

    def first(self, count: int) -> ImageRegions:
        """Return the first regions only."""
        scores = None if self.scores is None else self.scores[:count]
        return ImageRegions(self.features[:count], self.boxes[:count], self.soft_labels[:count], scores)


def from_uniter(content: bytes, where: str) -> ImageRegions:
    """Return the regions of a value of UNITER's image database: msgpack with msgpack-numpy, or the bytes of an npz."""
    arrays = _from_npz(content, where) if content.startswith(ZIP_START) else _from_msgpack(content, where)
    for name in ("features", "norm_bb"):
        if name not in arrays:
            raise UserError(f"{where}: the array {name!r} is missing (found: {', '.join(arrays) or 'nothing'})")
        if arrays[name].ndim != 2:
            raise UserError(f"{where}: the array {name!r} has shape {arrays[name].shape}, expected two axes")
    features, boxes = arrays["features"], arrays["norm_bb"]
    if boxes.shape[1] < 4:
        raise UserError(f"{where}: norm_bb has {boxes.shape[1]} numbers a box, expected x1 y1 x2 y2 and more")
    if not len(features):
        raise UserError(f"{where}: no boxes, expected at least one")
    labels = arrays.get("soft_labels", np.zeros((len(features), 0), dtype=np.float16))
    confidences = arrays.get("conf")
    for name, array in arrays.items():
        if array.ndim < 1 or len(array) != len(features):
            raise UserError(f"{where}: {name} has shape {array.shape}, but there are {len(features)} features")
    if confidences is not None:
        if confidences.size != len(features):
            raise UserError(f"{where}: conf has shape {confidences.shape}, expected a number for each region")
        confidences = confidences.reshape(-1)
    return ImageRegions(features, inside(boxes[:, :4]), labels, confidences)


def from_lxmert(columns: Sequence[bytes], classes: int, where: str) -> ImageRegions:
    """Return the regions of a line of LXMERT's TSV (columns: official-models 4.1).

    The file has no soft labels, only each region's likeliest object and its confidence c: the row gets c at that
    object (which LXMERT counts without the background, so it is class id + 1) and the rest, 1 - c, at the background.
    """
    height, width, count = (
        _whole(columns[place], name, where) for place, name in ((1, "img_h"), (2, "img_w"), (7, "num_boxes"))
    )
    objects = _based(columns[3], "objects_id", "<i8", count, where)[:, 0]
    confidences = _based(columns[4], "objects_conf", "<f4", count, where)[:, 0]
    boxes = _based(columns[8], "boxes", "<f4", count, where)
    features = _based(columns[9], "features", "<f4", count, where)
    if boxes.shape[1] != 4:
        raise UserError(f"{where}: boxes has {boxes.shape[1]} numbers a box, expected 4")
    if (objects < 0).any() or (objects >= classes - 1).any():
        raise UserError(f"{where}: objects_id has a class outside 0 to {classes - 2}")
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise UserError(f"{where}: objects_conf has numbers that are not from 0 to 1")
    labels = np.zeros((count, classes), dtype=np.float16)
    labels[np.arange(count), objects + 1] = confidences
    labels[:, 0] = 1 - confidences
    sides = np.array([width, height, width, height], dtype=np.float32)
    return ImageRegions(features, inside(boxes / sides), labels, confidences)


def inside(boxes: np.ndarray) -> np.ndarray:
    """Return boxes [n, 4] as float32, with what rounding pushed just over the image's border put back on it."""
    corners = boxes.astype(np.float32)
    held: np.ndarray = np.where(np.abs(corners - 0.5) <= 0.5 + ROUNDED, np.clip(corners, 0, 1), corners)
    return held


def _from_msgpack(content: bytes, where: str) -> dict[str, np.ndarray]:
    msgpack = library("msgpack", where)
    try:
        record = msgpack.unpackb(content, raw=False, strict_map_key=True, ext_hook=_no_extension)
    except Exception as error:  # the library raises errors of many kinds on broken bytes
        raise UserError(f"{where}: not a msgpack record, and no npz either ({_line(error)})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a map of arrays, found {type(record).__name__}")
    return {name: _packed_array(record[name], f"{where}: {name}") for name in _wanted(record)}


def _packed_array(packed: object, what: str) -> np.ndarray:
    """Return an array in msgpack-numpy's layout; a kind 'O' would be a pickle, and is refused unread."""
    if not isinstance(packed, dict):
        raise UserError(f"{what} is {shown(packed)}, expected a numeric array of msgpack-numpy")
    record = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in packed.items()}
    if record.get("kind") not in (None, b"", ""):
        raise UserError(f"{what} is an array of kind {shown(record['kind'])}; only numbers are read, no objects")
    kind, shape, data = record.get("type"), record.get("shape"), record.get("data")
    if isinstance(kind, bytes):
        kind = kind.decode("latin1")
    if record.get("nd") is not True or not isinstance(data, bytes) or not isinstance(shape, list):
        raise UserError(f"{what} is not an array of msgpack-numpy")
    return _numbers(data, kind, shape, False, what)


def _from_npz(content: bytes, where: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            return {name: _npy(archive, names[name], f"{where}: {name}") for name in _wanted(names)}
    except UserError:
        raise
    except Exception as error:  # a broken archive raises errors of many kinds
        raise UserError(f"{where}: not an .npz file of plain arrays ({_line(error)})") from None


def _npy(archive: zipfile.ZipFile, member: str, what: str) -> np.ndarray:
    """Return a member of an npz; unlike np.load it takes no memory on the word of a header."""
    if archive.getinfo(member).file_size > LARGEST:
        raise UserError(f"{what} has {archive.getinfo(member).file_size} bytes, more than any image's regions")
    stream = io.BytesIO(archive.read(member))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, kind = read(stream)
    if kind.hasobject:
        raise ValueError(f"{member} holds objects, a pickle; it is not run")
    return _numbers(stream.read(), kind.str, list(shape), by_columns, what)


def _numbers(data: bytes, kind: object, shape: list[Any], by_columns: bool, what: str) -> np.ndarray:
    if kind not in FLOATS:
        raise UserError(f"{what} has the type {shown(kind)}, expected {', '.join(sorted(FLOATS))}")
    if not 0 < len(shape) < 4 or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise UserError(f"{what} has the shape {shown(shape)}, expected whole numbers")
    array = np.frombuffer(data[: len(data) // int(kind[2]) * int(kind[2])], dtype=kind)
    expected = 1
    for side in shape:
        expected *= side
    if expected * int(kind[2]) != len(data):
        raise UserError(f"{what} has {len(data)} bytes, which is not the shape {shown(shape)} of {kind}")
    return array.reshape(shape, order="F" if by_columns else "C")


def _based(text: bytes, name: str, kind: str, count: int, where: str) -> np.ndarray:
    """Return a base64 column as [count, numbers]."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype=kind)
        if not values.size:
            raise ValueError("it is empty")
        return values.reshape(count, -1)
    except ValueError as error:
        kind = np.dtype(kind).name
        raise UserError(f"{where}: {name} is not base64 of {count} rows of {kind} ({_line(error)})") from None


def _whole(text: bytes, name: str, where: str) -> int:
    if text.isdigit() and len(text) < 8 and int(text) > 0:
        return int(text)
    raise UserError(f"{where}: {name} is {shown(text.decode('latin1'))}, expected a whole number above 0")


def _wanted(names: Mapping[str, object]) -> list[str]:
    return [name for name in ("features", "norm_bb", "conf", "soft_labels") if name in names]


def _no_extension(code: int, _content: bytes) -> object:
    raise ValueError(f"it holds the extension type {code}, expected plain data")


def _line(error: Exception) -> str:
    """Return what an error says, on one line and not too long."""
    return " ".join(str(error).split())[:200] or type(error).__name__
