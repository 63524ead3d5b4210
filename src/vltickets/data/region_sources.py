"""Where imported regions come from: UNITER's LMDB, LXMERT's TSV, a folder of npz files. Images are read one by one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from vltickets.data.lmdb_file import LmdbFile, Value
from vltickets.data.records import read_json, shown
from vltickets.data.region_arrays import ImageRegions, from_lxmert, from_uniter
from vltickets.errors import UserError, unknown

KINDS = ("uniter-lmdb", "lxmert-tsv", "npz")
NAMES = b"__keys__"  # UNITER's entry with the list of all names
LEAST, MOST, THRESHOLD = 10, 100, 0.2  # UNITER's rule of how many regions an image keeps
CLASSES = 1601  # Visual Genome's 1600 objects and the background
COLUMNS = 10  # of LXMERT's TSV
LONGEST_LINE = 1 << 26  # bytes; 36 regions have about 400,000
LARGEST_FILE = 1 << 28


@dataclass(frozen=True)
class StoredImage:
    """An image that a source has; `where` names file and record. `read` works while `images` goes on."""

    name: str
    where: str
    read: Callable[[], ImageRegions]


class RegionSource(Protocol):
    """Images with regions, in an order that is always the same."""

    kind: str
    path: Path

    def images(self) -> Iterator[StoredImage]:
        """Yield the images; nothing of them is unpacked before `read` is called."""

    def total(self, done: int) -> int:
        """Return how many images there are, once so many are done: an estimate where only the end tells."""

    def counts(self) -> list[int]:
        """Return how many regions the images have, where that is known without reading them; else nothing."""

    def size(self) -> int:
        """Return the bytes on the disk."""

    def state(self) -> str:
        """Return a text that changes when the source does."""


def find_source(path: Path, kind: str | None = None, threshold: float | None = None) -> RegionSource:
    """Return the source at `path`; the kind is found out where it is None.

    `threshold` cuts each image to the first n regions, as UNITER does: n counts those that score above it, at least 10
    and at most 100. It is 0.2 for UNITER's databases `all` and `all_compressed`, which hold every region, where no
    `nbb_….json` lies beside; npz files are kept whole unless it is given.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind of region features", kind, KINDS)
    if path.name == "data.mdb":
        path = path.parent
    kind = kind or find_kind(path)
    if kind == "uniter-lmdb":
        return UniterDatabase(path, threshold)
    if threshold is not None and kind == "lxmert-tsv":
        raise UserError(f"{path}: LXMERT's files have a fixed number of regions; leave out the threshold")
    return LxmertTable(path) if kind == "lxmert-tsv" else NpzFolder(path, threshold)


def find_kind(path: Path) -> str:
    """Return which kind of region features a path holds."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected a folder with data.mdb, a .tsv or a folder of .npz")
    if path.is_file():
        return "lxmert-tsv"
    if (path / "data.mdb").exists():
        return "uniter-lmdb"
    if next(path.glob("*.npz"), None):
        return "npz"
    inner = sorted(str(found.parent) for found in path.glob("*/data.mdb"))
    hint = f"; name one of its databases: {', '.join(inner)}" if inner else ""
    raise UserError(f"{path}: expected a folder with data.mdb (UNITER), a .tsv file (LXMERT) or a folder of .npz{hint}")


class UniterDatabase:
    """A folder such as `coco_val2014/feat_th0.2_max100_min10/` with `data.mdb`, and beside it `nbb_….json`."""

    kind = "uniter-lmdb"

    def __init__(self, path: Path, threshold: float | None = None) -> None:
        self.path = path
        self.file = path / "data.mdb"
        with LmdbFile(self.file) as database:
            self._entries = len(database)
            self._named = any(key == NAMES for key, _ in database.places())
        self._counts = None if threshold is not None else self._side_file()
        fixed = re.fullmatch(r"feat_numbb(\d{1,4})(_compressed)?", path.name)
        self._most = int(fixed[1]) if fixed and threshold is None else None
        whole = path.name in ("all", "all_compressed") and self._counts is None
        self.threshold = THRESHOLD if whole and threshold is None else threshold

    def images(self) -> Iterator[StoredImage]:
        """Yield the images in the order of their names' bytes."""
        with LmdbFile(self.file) as database:
            listed: set[str] | None = None
            found = set()
            for key, value in database.places():
                if key == NAMES:
                    listed = self._listed(database.read(value))
                    continue
                name = self._name(key)
                where = f"{self.file}, image {name!r}"
                found.add(name)
                yield StoredImage(name, where, partial(self._read, database, value, name, where))
            if listed is not None and listed != found:
                raise UserError(f"{self.file}: __keys__ and the entries differ in the image {min(listed ^ found)!r}")

    def total(self, done: int) -> int:
        """Return how many images there are."""
        return self._entries - self._named

    def counts(self) -> list[int]:
        """Return the numbers of the side file."""
        return list((self._counts or {}).values())

    def size(self) -> int:
        """Return the bytes on the disk."""
        return self.file.stat().st_size

    def state(self) -> str:
        """Return the database's size and time, and how images are cut."""
        cut = hashlib.sha256(json.dumps([self._counts, self._most, self.threshold]).encode()).hexdigest()[:16]
        return f"{_stamp(self.file)} {cut}"

    def _side_file(self) -> dict[str, int] | None:
        """Return how many regions each image keeps, from `nbb_th….json`; a database without one is cut already."""
        name = self.path.name.removesuffix("_compressed")
        if name == "all":
            found = sorted(self.path.parent.glob("nbb_*.json"))
            path = found[0] if len(found) == 1 else None
        else:
            path = self.path.parent / f"nbb_{name.removeprefix('feat_')}.json"
        if path is None or not path.exists():
            return None
        counts = read_json(path)
        sound = isinstance(counts, dict) and all(type(count) is int and count > 0 for count in counts.values())
        if not sound:
            raise UserError(f"{path}: expected an object that gives each image's name its number of regions, 1 or more")
        return dict(counts)

    def _listed(self, content: bytes) -> set[str]:
        try:
            names = json.loads(content)
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{self.file}: its entry __keys__ is not a JSON list of names")
        return set(names)

    def _name(self, key: bytes) -> str:
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.file}: the key {shown(key)} is not a name in UTF-8") from None

    def _read(self, database: LmdbFile, value: Value, name: str, where: str) -> ImageRegions:
        found = from_uniter(database.read(value), where)
        if self._counts is not None:
            if name not in self._counts:
                raise UserError(f"{where}: the nbb_….json beside the database does not have it")
            return found.first(self._counts[name])
        if self._most is not None:
            return found.first(self._most)
        return found if self.threshold is None else _above(found, self.threshold, where)


class LxmertTable:
    """A TSV file of LXMERT (`train2014_obj36.tsv`), read line by line; images get the names our readers ask for."""

    kind = "lxmert-tsv"

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"{path}: not a file; expected LXMERT's .tsv")
        self._place = 0

    def images(self) -> Iterator[StoredImage]:
        """Yield the images in the order of the lines."""
        try:
            with self.path.open("rb") as file:
                number = 0
                while line := file.readline(LONGEST_LINE):
                    number += 1
                    self._place = file.tell()
                    if line.strip():
                        yield self._image(line.rstrip(b"\r\n").split(b"\t"), number)
        except OSError as error:
            raise UserError(f"{self.path}: it can't be read ({error.strerror})") from None

    def total(self, done: int) -> int:
        """Return an estimate from the lines' length so far; at the end of the file it is exact."""
        return done if self._place >= self.size() else max(done, round(done * self.size() / max(self._place, 1)))

    def counts(self) -> list[int]:
        """Return nothing."""
        return []

    def size(self) -> int:
        """Return the bytes on the disk."""
        return self.path.stat().st_size

    def state(self) -> str:
        """Return the file's size and time."""
        return _stamp(self.path)

    def _image(self, columns: list[bytes], number: int) -> StoredImage:
        where = f"{self.path}, line {number}"
        if len(columns) != COLUMNS:
            raise UserError(f"{where}: {len(columns)} columns, expected the {COLUMNS} of LXMERT's region features")
        try:
            identity = columns[0].decode("utf-8")
        except UnicodeDecodeError:
            identity = ""
        if not identity.strip():
            raise UserError(f"{where}: img_id is {shown(columns[0])}, expected a name in UTF-8")
        return StoredImage(lxmert_name(identity), where, partial(from_lxmert, columns, CLASSES, where))


class NpzFolder:
    """A folder of npz files, one an image, as UNITER's extractor writes them; an image's name is its file's."""

    kind = "npz"

    def __init__(self, path: Path, threshold: float | None = None) -> None:
        self.path = path
        self.threshold = threshold
        if not path.is_dir():
            raise UserError(f"{path}: not a folder; expected one with .npz files")
        self._names = sorted(file.name for file in path.glob("*.npz"))

    def images(self) -> Iterator[StoredImage]:
        """Yield the images in the order of their names."""
        for name in self._names:
            yield StoredImage(name, str(self.path / name), partial(self._read, self.path / name))

    def total(self, done: int) -> int:
        """Return how many files there are."""
        return len(self._names)

    def counts(self) -> list[int]:
        """Return nothing."""
        return []

    def size(self) -> int:
        """Return the bytes on the disk."""
        return sum((self.path / name).stat().st_size for name in self._names)

    def state(self) -> str:
        """Return a digest of the files' names, sizes and times, and how images are cut."""
        stamps = [f"{name} {_stamp(self.path / name)}" for name in self._names]
        return hashlib.sha256("\n".join([*stamps, str(self.threshold)]).encode()).hexdigest()

    def _read(self, path: Path) -> ImageRegions:
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise UserError(f"{path}: {path.stat().st_size} bytes are more than any image's regions")
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: it can't be read ({error.strerror})") from None
        if not content.startswith(b"PK"):
            raise UserError(f"{path}: not an .npz file of plain arrays; it may be cut off, or empty")
        found = from_uniter(content, str(path))
        return found if self.threshold is None else _above(found, self.threshold, str(path))


def lxmert_name(identity: str) -> str:
    """Return the name under which our readers look for an image of LXMERT's: COCO's, NLVR2's and GQA's, then others."""
    if identity.lower().startswith("coco_"):
        return f"{identity.lower()}.npz"
    if re.fullmatch(r"\w+-\d+-\d+-img[01]", identity):
        return f"nlvr2_{identity}.npz"
    return f"vg_{identity}.npz" if re.fullmatch(r"n?\d+", identity) else f"{identity}.npz"


def _above(found: ImageRegions, threshold: float, where: str) -> ImageRegions:
    """Cut as UNITER's `compute_num_bb` does."""
    if found.scores is None:
        raise UserError(f"{where}: it has no array 'conf', so its regions can't be cut by their scores")
    return found.first(min(max(int(np.count_nonzero(found.scores > threshold)), LEAST), MOST))


def _stamp(path: Path) -> str:
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}"
