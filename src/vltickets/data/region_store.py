"""The native store of region features: a folder of memory-mapped arrays, written image by image.

Folder, format `vltickets-regions-2`: `features.npy` float16 [n, width]; `boxes.npy` float32 [n, 4], x1 y1 x2 y2 from 0
to 1; `soft_labels.npy` float16 [n, classes], class 0 the background; `scores.npy` float16 [n]; `offsets.npy` int64
[images + 1]; `names.json`, the images' names in row order; `manifest.json`: counts, and each file's size and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from vltickets.data.records import read_json
from vltickets.errors import UserError
from vltickets.store import write_file

REGIONS_FORMAT = "vltickets-regions-2"
HEADER = 128  # bytes of an .npy header, whatever the number of rows: the rows can be appended before it is known


@dataclass(frozen=True)
class Column:
    """One array of the store: its file, its type, and the numbers of a row (none: one number)."""

    name: str
    type: str
    row: int | None

    def header(self, rows: int) -> bytes:
        """Return the .npy header of so many rows, always of the same length."""
        shape = f"({rows},)" if self.row is None else f"({rows}, {self.row})"
        text = f"{{'descr': '{self.type}', 'fortran_order': False, 'shape': {shape}, }}"
        return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11).encode() + b"\n"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.type).itemsize * (1 if self.row is None else self.row)


def columns(width: int, classes: int) -> tuple[Column, ...]:
    """Return the arrays of a store."""
    return (
        Column("features", "<f2", width),
        Column("boxes", "<f4", 4),
        Column("soft_labels", "<f2", classes),
        Column("scores", "<f2", None),
    )


class RegionWriter:
    """Writes a store image by image into `PATH.partial/`, which is renamed to `PATH` once it is whole.

    A run that was killed leaves the partial folder; opened again it goes on after the last whole image, and
    `name in writer` says which are there. As a context manager: on an exception the partial folder stays, too.
    """

    def __init__(self, path: Path, *, width: int, classes: int) -> None:
        if path.exists():
            raise UserError(f"{path} is there already; remove it, or name another")
        self.path, self.width, self.classes = path, width, classes
        self.partial = path.with_name(path.name + ".partial")
        self.partial.mkdir(parents=True, exist_ok=True)
        self._columns = columns(width, classes)
        self._same_shape_as_begun()
        self.counts = self._whole_images()
        self._rows = sum(self.counts.values())

    def __contains__(self, name: object) -> bool:
        return name in self.counts

    def add(
        self,
        name: str,
        features: np.ndarray,
        boxes: np.ndarray,
        soft_labels: np.ndarray,
        scores: np.ndarray | None = None,
    ) -> None:
        """Append one image's regions: features [n, width], boxes [n, 4] from 0 to 1, soft labels [n, classes], scores.

        Raises `UserError` that names the image where a shape, a number or a box is not as it should be.
        """
        count = len(features)
        given = (features, boxes, soft_labels, np.zeros(count) if scores is None else np.ravel(scores))
        if name in self.counts:
            raise UserError(f"the image {name!r} comes twice")
        check_image(name, self._columns, given)
        for column, values in zip(self._columns, given, strict=True):
            self._files[column.name].write(np.ascontiguousarray(values, dtype=column.type).tobytes())
        for file in self._files.values():
            file.flush()
        self._journal.write(json.dumps([name, count]) + "\n")
        self._journal.flush()
        self.counts[name] = count
        self._rows += count

    def __enter__(self) -> Self:
        self._files = {column.name: self._opened(column) for column in self._columns}
        self._journal = (self.partial / "journal.jsonl").open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._close()

    def _close(self) -> None:
        self._journal.close()
        for file in self._files.values():
            file.close()

    def _finish(self) -> None:
        if not self.counts:
            raise UserError(f"{self.path}: no image was given, so there is nothing to store")
        for column in self._columns:
            self._files[column.name].flush()
            with (self.partial / f"{column.name}.npy").open("r+b") as file:
                file.write(column.header(self._rows))
        offsets = np.concatenate([[0], np.cumsum(list(self.counts.values()))]).astype("<i8")
        content = Column("offsets", "<i8", None).header(len(offsets)) + offsets.tobytes()
        write_file(self.partial / "offsets.npy", content)
        write_file(self.partial / "names.json", json.dumps(list(self.counts)).encode())
        files = [*(f"{column.name}.npy" for column in self._columns), "offsets.npy", "names.json"]
        manifest = {
            "format": REGIONS_FORMAT,
            "images": len(self.counts),
            "regions": self._rows,
            "width": self.width,
            "classes": self.classes,
            "files": {name: _file_state(self.partial / name) for name in files},
        }
        write_file(self.partial / "manifest.json", json.dumps(manifest, indent=1).encode())
        self.partial.rename(self.path)  # first: without its notes a partial store would be begun anew
        for note in ("journal.jsonl", "begun.json"):
            (self.path / note).unlink()

    def _same_shape_as_begun(self) -> None:
        begun = self.partial / "begun.json"
        asked = {"format": REGIONS_FORMAT, "width": self.width, "classes": self.classes}
        if not begun.exists():
            for left in self.partial.iterdir():
                left.unlink()
            write_file(begun, json.dumps(asked).encode())
        elif read_json(begun) != asked:
            raise UserError(f"{self.partial} was begun with other widths ({begun}); remove it, or name another store")

    def _whole_images(self) -> dict[str, int]:
        """Return the images of the journal whose rows are all in the files, and cut the journal behind them."""
        journal = self.partial / "journal.jsonl"
        paths = {column: self.partial / f"{column.name}.npy" for column in self._columns if column.row_bytes}
        room = min(
            (path.stat().st_size - HEADER) // column.row_bytes if path.exists() else 0 for column, path in paths.items()
        )
        counts: dict[str, int] = {}
        whole, rows = 0, 0
        content = journal.read_bytes() if journal.exists() else b""
        for line in content.splitlines(keepends=True):
            try:
                name, count = json.loads(line) if line.endswith(b"\n") else (None, 0)
            except ValueError:
                break
            if not isinstance(name, str) or rows + count > room:
                break
            counts[name] = count
            whole, rows = whole + len(line), rows + count
        if whole < len(content):
            write_file(journal, content[:whole])
        return counts

    def _opened(self, column: Column) -> IO[bytes]:
        path = self.partial / f"{column.name}.npy"
        file = path.open("r+b" if path.exists() else "w+b")
        if path.stat().st_size < HEADER:
            file.write(column.header(0))
        file.truncate(HEADER + self._rows * column.row_bytes)
        file.seek(0, 2)
        return file


def check_image(name: str, parts: tuple[Column, ...], given: tuple[np.ndarray, ...]) -> None:
    """Raise `UserError` where an image's arrays are not those of a store: shapes, finite numbers, boxes inside."""
    count = len(given[0])
    if not count:
        raise UserError(f"image {name!r}: no boxes, expected at least one")
    for column, values in zip(parts, given, strict=True):
        expected = (count,) if column.row is None else (count, column.row)
        if values.shape != expected:
            raise UserError(f"image {name!r}: {column.name} has shape {values.shape}, expected {expected}")
        with np.errstate(over="ignore"):
            finite = np.isfinite(np.asarray(values, dtype=column.type)).all()
        if not finite:
            raise UserError(f"image {name!r}: {column.name} has values that are not finite in half precision")
    boxes = np.asarray(given[1])
    outside = (boxes < 0).any(1) | (boxes > 1).any(1) | (boxes[:, 2:] <= boxes[:, :2]).any(1)
    if outside.any():
        place = int(outside.argmax())
        shown = ", ".join(f"{number:.4g}" for number in boxes[place])
        raise UserError(
            f"image {name!r}: box {place} is ({shown}), expected x1 y1 x2 y2 from 0 to 1 with x1 < x2 and y1 < y2"
        )
    if (np.asarray(given[2]) < 0).any():
        raise UserError(f"image {name!r}: a soft label is below 0")


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a store's manifest; anything that is no whole store of this format is a `UserError`."""
    if not path.exists():
        raise UserError(f"{path}: no such region store; make one with vltickets data import or extract")
    if not (path / "manifest.json").exists():
        raise UserError(f"{path}: not a region store, for it has no manifest.json")
    manifest = read_json(path / "manifest.json")
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != REGIONS_FORMAT:
        raise UserError(f"{path}: format {found!r}, expected {REGIONS_FORMAT!r}; a newer vltickets may have written it")
    keys = {"images": int, "regions": int, "width": int, "classes": int, "files": dict}
    for key, kind in keys.items():
        if not isinstance(manifest.get(key), kind):
            raise UserError(f"{path}/manifest.json: {key!r} should be {kind.__name__}, found {manifest.get(key)!r}")
    return dict(manifest)


def open_arrays(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return a store's names and memory-mapped arrays, after checks that read none of the large ones."""
    manifest = read_manifest(path)
    for name, state in manifest["files"].items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if not isinstance(state, dict) or size != state.get("size"):
            wanted = state.get("size") if isinstance(state, dict) else "a size"
            raise UserError(f"{path / name}: {size} bytes, expected {wanted}; the store is damaged, make it again")
    names = read_json(path / "names.json")
    if not isinstance(names, list) or len(set(map(str, names))) != manifest["images"]:
        raise UserError(f"{path}/names.json: expected a list of {manifest['images']} different names")
    regions, parts = manifest["regions"], columns(manifest["width"], manifest["classes"])
    arrays = {}
    for column in parts:
        shape = (regions,) if column.row is None else (regions, column.row)
        arrays[column.name] = _mapped(path / f"{column.name}.npy", column.type, shape)
    offsets = np.array(_mapped(path / "offsets.npy", "<i8", (len(names) + 1,)))
    if offsets[0] != 0 or offsets[-1] != regions or (np.diff(offsets) < 0).any():
        raise UserError(f"{path}/offsets.npy: the offsets should rise from 0 to the {regions} regions")
    return [str(name) for name in names], {**arrays, "offsets": offsets}


def verify_store(path: Path) -> dict[str, int]:
    """Return a store's counts after checking every checksum and every value; else a `UserError` that says where."""
    names, arrays = open_arrays(path)
    manifest = read_manifest(path)
    for name, state in manifest["files"].items():
        if _file_state(path / name)["sha256"] != state.get("sha256"):
            raise UserError(f"{path / name}: the checksum differs from the manifest's; the store is damaged")
    parts = columns(manifest["width"], manifest["classes"])
    for row, name in enumerate(names):
        place = slice(arrays["offsets"][row], arrays["offsets"][row + 1])
        try:
            check_image(name, parts, tuple(np.asarray(arrays[column.name][place]) for column in parts))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return {key: manifest[key] for key in ("images", "regions", "width", "classes")}


def remove_partial(path: Path) -> None:
    """Remove what a broken import left: nothing of it may be taken for a run to be continued."""
    shutil.rmtree(path.with_name(path.name + ".partial"), ignore_errors=True)


def _mapped(path: Path, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        # Copy on write: torch wants an array it might write to, and the file stays as it is.
        array = np.load(path, mmap_mode="c" if shape and np.prod(shape) else None, allow_pickle=False)
    except Exception as error:  # a broken header is parsed as Python and raises errors of many kinds
        raise UserError(f"{path}: not an .npy file ({' '.join(str(error).split())[:200]})") from None
    if array.dtype != np.dtype(kind) or array.shape != shape:
        raise UserError(f"{path}: {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape}")
    mapped: np.ndarray = array
    return mapped


def _file_state(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
