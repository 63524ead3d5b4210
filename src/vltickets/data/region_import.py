"""Region features of others, imported into a native store: UNITER's LMDB, LXMERT's TSV, a folder of npz files.

Each is read image by image and never whole in memory; an import that was killed goes on. Nothing is unpickled: an array
of objects is refused. Source: official-models 8.1 (UNITER), airsplay/lxmert's `load_obj_tsv` (LXMERT).
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.records import read_json
from vltickets.data.region_store import RegionWriter, remove_partial
from vltickets.data.text_db import check_whole, library
from vltickets.errors import UserError, unknown

KINDS = ("uniter-lmdb", "lxmert-tsv", "npz")
VISUAL_GENOME_CLASSES = 1601  # the detector's classes, the background among them
TSV_COLUMNS = tuple(
    "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()  # noqa: SIM905
)
Tell = Callable[[int, int | None], None]  # images done, images in all where that is known


@dataclass(frozen=True)
class Image:
    """One image's regions as a store takes them."""

    name: str
    features: np.ndarray
    boxes: np.ndarray
    soft_labels: np.ndarray
    scores: np.ndarray | None


def import_regions(source: Path, out: Path, kind: str | None = None, tell: Tell = lambda done, total: None) -> int:
    """Import `source` into the store `out` and return the number of images; the kind is seen unless given.

    Raises `UserError` naming file and record where one is broken; then nothing is left at `out`.
    """
    kind = kind or find_kind(source)
    if kind not in KINDS:
        raise unknown("kind of region features", kind, KINDS)
    total, images = {"uniter-lmdb": _lmdb, "lxmert-tsv": _tsv, "npz": _npz}[kind](source)
    first = next(images, None)
    if first is None:
        raise UserError(f"{source}: no images in it")
    width, classes = first.features.shape[1], first.soft_labels.shape[1]
    try:
        with RegionWriter(out, width=width, classes=classes) as writer:
            for done, image in enumerate(_with_first(first, images), 1):
                if image.name not in writer:
                    writer.add(image.name, image.features, image.boxes, image.soft_labels, image.scores)
                tell(done, total)
            return len(writer.counts)
    except UserError as error:
        if not out.exists():
            remove_partial(out)
        where = "" if str(source) in str(error) or str(out) in str(error) else f"{source}: "
        raise UserError(f"{where}{error}") from None


def find_kind(source: Path) -> str:
    """Return which kind of region features a path holds."""
    if (source / "data.mdb").is_file():
        return "uniter-lmdb"
    if source.is_file() and source.suffix == ".tsv":
        return "lxmert-tsv"
    if source.is_dir() and next(source.glob("*.npz"), None):
        return "npz"
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    raise UserError(f"{source}: neither an LMDB folder (data.mdb), nor a .tsv file, nor a folder of .npz files")


def _with_first(first: Image, others: Iterator[Image]) -> Iterator[Image]:
    yield first
    yield from others


def _lmdb(source: Path) -> tuple[int | None, Iterator[Image]]:
    lmdb, msgpack = library("lmdb", source), library("msgpack", source)
    counts = _box_counts(source)

    def images() -> Iterator[Image]:
        try:
            opened = lmdb.open(str(source), readonly=True, lock=False, readahead=False)
            with opened as database, database.begin(buffers=False) as reading:
                for key, value in reading.cursor():
                    if key == b"__keys__":
                        continue
                    name = _text(key, source)
                    arrays = _unpacked(value, msgpack, f"{source}, {name!r}")
                    yield _uniter_image(name, arrays, counts.get(name), f"{source}, {name!r}")
        except lmdb.Error as error:
            raise UserError(f"{source}/data.mdb: not a whole LMDB file ({error})") from None

    try:
        with lmdb.open(str(source), readonly=True, lock=False) as database:
            check_whole(database, source / "data.mdb")
            with database.begin() as reading:
                listed = reading.get(b"__keys__") is not None
            return database.stat()["entries"] - listed, images()
    except lmdb.Error as error:
        raise UserError(f"{source}/data.mdb: not an LMDB file ({error})") from None


def _box_counts(source: Path) -> dict[str, int]:
    """Return the number of boxes that the side file `../nbb_….json` cuts each image to, where there is one."""
    name = source.name.removesuffix("_compressed")
    path = source.parent / f"{name.replace('feat_', 'nbb_', 1)}.json"
    if not name.startswith("feat_") or not path.is_file():
        return {}
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(type(count) is int and count > 0 for count in counts.values()):
        raise UserError(f"{path}: expected an object that gives each image its number of boxes")
    return counts


def _unpacked(value: bytes, msgpack: Any, where: str) -> dict[str, np.ndarray]:
    if value[:2] == b"PK":  # the `_compressed` variant keeps an .npz file
        return _npz_arrays(io.BytesIO(value), where)
    try:
        found = msgpack.unpackb(value, raw=True, strict_map_key=False)
    except Exception as error:  # msgpack has no common base of its exceptions
        raise UserError(f"{where}: not a msgpack record ({error or type(error).__name__})") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected a map of arrays, found {type(found).__name__}")
    return {_text(name, where): _array(packed, where) for name, packed in found.items()}


def _array(packed: Any, where: str) -> np.ndarray:
    """Return an array in msgpack-numpy's layout: a map of `nd`, `type`, `kind`, `shape`, `data`."""
    if not isinstance(packed, Mapping) or packed.get(b"nd") is not True:
        raise UserError(f"{where}: expected a numeric array, found {type(packed).__name__}")
    kind = packed.get(b"type")
    if not isinstance(kind, bytes) or packed.get(b"kind") == b"O" or kind.lstrip(b"<>|=")[:1] not in b"fiu":
        raise UserError(f"{where}: an array of type {kind!r}; only arrays of numbers are read, no objects")
    try:
        return np.frombuffer(packed[b"data"], dtype=np.dtype(kind.decode("ascii"))).reshape(packed[b"shape"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: a broken array ({error})") from None


def _npz(source: Path) -> tuple[int | None, Iterator[Image]]:
    files = sorted(source.glob("*.npz"))
    return len(files), (
        _uniter_image(path.name, _npz_arrays(io.BytesIO(path.read_bytes()), str(path)), None, str(path))
        for path in files
    )


def _npz_arrays(file: io.BytesIO, where: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{where}: not an .npz file of plain arrays ({reason})") from None


def _uniter_image(name: str, arrays: dict[str, np.ndarray], count: int | None, where: str) -> Image:
    """Return an image of UNITER's four arrays; the first four of `norm_bb`'s numbers are the corners."""
    missing = [key for key in ("features", "norm_bb", "soft_labels") if key not in arrays]
    if missing:
        raise UserError(f"{where}: the array {missing[0]!r} is missing (found {', '.join(sorted(arrays)) or 'none'})")
    for key in ("features", "norm_bb", "soft_labels"):
        if arrays[key].ndim != 2 or arrays[key].dtype.kind not in "fiu":
            raise UserError(
                f"{where}: {key} should be a table of numbers, found {arrays[key].dtype} {arrays[key].shape}"
            )
    if arrays["norm_bb"].shape[1] < 4:
        raise UserError(
            f"{where}: norm_bb has {arrays['norm_bb'].shape[1]} numbers a box, expected 6 (or the 4 corners)"
        )
    first = slice(None, count)
    scores = np.ravel(arrays["conf"])[first] if "conf" in arrays else None
    return Image(name, arrays["features"][first], arrays["norm_bb"][first, :4], arrays["soft_labels"][first], scores)


def _tsv(source: Path) -> tuple[int | None, Iterator[Image]]:
    csv.field_size_limit(1 << 30)

    def images() -> Iterator[Image]:
        try:
            with source.open(encoding="utf-8", newline="") as file:
                for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                    yield _tsv_image(row, f"{source}, line {number}")
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{source}: not a tab-separated text in UTF-8 ({error})") from None

    return None, images()


def _tsv_image(row: list[str], where: str) -> Image:
    """Return an image of LXMERT's ten columns, arrays in base64, boxes in pixels.

    There are no soft labels in it: the detected class (`objects_id`, without the background) gets its confidence, the
    background the rest.
    """
    if len(row) != len(TSV_COLUMNS):
        raise UserError(f"{where}: {len(row)} columns, expected {len(TSV_COLUMNS)} ({', '.join(TSV_COLUMNS)})")
    value = dict(zip(TSV_COLUMNS, row, strict=True))
    height, width, count = (_number(value[name], name, where) for name in ("img_h", "img_w", "num_boxes"))
    classes = _decoded(value["objects_id"], "<i8", count, "objects_id", where)[:, 0]
    scores = _decoded(value["objects_conf"], "<f4", count, "objects_conf", where)[:, 0]
    corners = _decoded(value["boxes"], "<f4", count, "boxes", where)
    features = _decoded(value["features"], "<f4", count, "features", where)
    if corners.shape[1] != 4:
        raise UserError(f"{where}: boxes has {corners.shape[1]} numbers a box, expected 4")
    if (classes < 0).any() or (classes >= VISUAL_GENOME_CLASSES - 1).any():
        raise UserError(f"{where}: objects_id has a class outside 0 to {VISUAL_GENOME_CLASSES - 2}")
    labels = np.zeros((count, VISUAL_GENOME_CLASSES), dtype=np.float32)
    labels[np.arange(count), classes + 1] = scores
    labels[:, 0] = 1 - scores
    boxes = corners / np.array([width, height, width, height], dtype=np.float32)
    return Image(f"{value['img_id']}.npz", features, boxes, labels, scores)


def _number(text: str, name: str, where: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{where}: {name} is {text[:40]!r}, expected a whole number above 0")
    return int(text)


def _decoded(text: str, kind: str, count: int, name: str, where: str) -> np.ndarray:
    """Return a base64 column as [count, numbers]."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype=kind)
        return values.reshape(count, -1)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: {name} is not base64 of {count} rows of {np.dtype(kind).name} ({error})") from None


def _text(value: Any, where: object) -> str:
    try:
        text: str = value.decode("utf-8")
    except (AttributeError, UnicodeDecodeError):
        raise UserError(f"{where}: a name that is no text in UTF-8: {value!r}"[:200]) from None
    return text


def count_images(source: Path) -> dict[str, Any]:
    """Return what can be said of region features before they are imported: kind, images, the first one's widths."""
    kind = find_kind(source)
    total, images = {"uniter-lmdb": _lmdb, "lxmert-tsv": _tsv, "npz": _npz}[kind](source)
    first = next(images, None)
    about: dict[str, Any] = {"kind": kind, "images": total if total is not None else "not counted before the import"}
    if first is not None:
        about |= {
            "width": first.features.shape[1],
            "classes": first.soft_labels.shape[1],
            "first image": first.name,
            "regions of the first image": len(first.features),
        }
    return about
