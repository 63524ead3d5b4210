"""Pictures as users have them: a folder of image files or a Parquet file of their bytes, each with its name."""

from __future__ import annotations

import importlib
import io
import re
import string
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vltickets.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
IMAGE_COLUMNS = ("image_jpeg", "image_png")
NUMBER = re.compile(r"(?:^|[^0-9A-Za-z])([0-9]+)$")
DEFAULT_FORMAT = "{stem}.npz"

Read = TypeVar("Read")


class BrokenImage(Exception):
    """An image that can't be decoded or run; the message says why."""


@dataclass(frozen=True)
class Pictures:
    """Images in a fixed order: `names` as in the region store, and where each one's bytes lie."""

    path: Path
    names: list[str]
    files: list[Path]  # empty where `column` holds the bytes
    column: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def where(self, row: int) -> str:
        """Return which file, and which row of it, holds an image."""
        return str(self.files[row]) if self.files else f"{self.path}, row {row}"

    def content(self, row: int) -> bytes:
        """Return the encoded bytes of one image."""
        if not self.column:
            return _read(self.files[row])
        value: bytes | None = _packed_column(self.path, self.column, *_state(self.path))[row].as_py()
        return value or b""

    def size(self, row: int) -> tuple[int, int]:
        """Return an image's width and height in pixels; of a file no more than its header is read."""
        return _opened(self.content(row) if self.column else self.files[row], lambda image: image.size)

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        """Yield name and encoded bytes of the wanted images, in order, one in memory at a time."""
        if not self.column:
            for name, file in zip(self.names, self.files, strict=True):
                if name in wanted:
                    yield name, _read(file)
            return
        names = iter(self.names)
        for batch in _parquet().ParquetFile(self.path).iter_batches(batch_size=16, columns=[self.column]):
            for value, name in zip(batch.column(0), names, strict=False):
                if name in wanted:
                    yield name, value.as_py() or b""


def find_pictures(path: Path, name_format: str = DEFAULT_FORMAT) -> Pictures:
    """Return the images of `list_pictures`, of which no two have one name; else a `UserError` that names both."""
    pictures = list_pictures(path, name_format)
    if twice := first_twice(pictures.names):
        first, second = (pictures.where(row) for row in twice)
        raise UserError(
            f"{path}: {first} and {second} would both be called {pictures.names[twice[0]]!r}; "
            f"tell them apart with --name-format, such as {{path}}.npz (now {name_format!r})"
        )
    return pictures


def list_pictures(path: Path, name_format: str = DEFAULT_FORMAT, identity: str = "image_id") -> Pictures:
    """Return the images of a folder (all below it, sorted by path) or of a Parquet file (in its order), with names.

    `name_format` is a format of Python's with the fields `stem`, the file's name without its ending or the `image_id`;
    `id`, the whole number that this is or ends in; `path`, the path in the folder without its ending and `_` for `/`;
    and, of a Parquet file, every other column. So `coco_val2017_{id:012d}.npz` are the names that COCO's regions have.
    `identity` is the Parquet column in the place of `image_id`. No image at all is a `UserError`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder or file; expected images or a Parquet file of them")
    return _in_folder(path, name_format) if path.is_dir() else _in_parquet(path, name_format, identity)


def first_twice(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the first two places of the first name that stands twice, or None."""
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        if seen.setdefault(name, row) != row:
            return seen[name], row
    return None


def holds_pictures(path: Path) -> bool:
    """Say whether a path is a folder with an image file in or below it, or a Parquet file."""
    if path.is_dir():
        return any(_is_picture(file) for file in path.rglob("*"))
    return path.suffix == ".parquet" and path.is_file()


def decode(content: bytes) -> Image.Image:
    """Return an image in RGB, as its pixels lie, or raise `BrokenImage`.

    No EXIF turn, for annotations count pixels so; what is transparent has the color that lies under it, as officially
    in ViLT; 16 bits of grey are cut to their upper 8, where Pillow would show everything above 255 as white.
    """
    return _opened(content, _in_colors)


def _in_colors(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    if values.dtype.kind == "f" or lowest < 0 or highest > 65535:
        raise ValueError(f"its pixels are numbers from {lowest} to {highest}, expected 8 or 16 bits")
    if image.mode != "I" or highest > 255:
        values = values >> 8
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _opened(source: bytes | Path, read: Callable[[Image.Image], Read]) -> Read:
    """Read something of an image; what goes wrong within it is a `BrokenImage`, an unreadable file a `UserError`."""
    try:
        with warnings.catch_warnings():
            # A size from which Pillow warns is no error; from twice that on, it raises one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return read(image)
    except MemoryError:
        raise
    except Exception as error:  # on broken bytes Pillow's decoders raise nearly anything
        if isinstance(source, Path) and isinstance(error, OSError) and error.strerror:
            raise _unreadable(source, error) from None
        # The buffer's address says nothing and differs from run to run; the file's name is said by the caller.
        reason = re.sub(r" file (<_io\.BytesIO object at 0x[0-9a-f]+>|'.*')", "", str(error))
        raise BrokenImage(" ".join(reason.split()) or type(error).__name__) from error


def _is_picture(file: Path) -> bool:
    hidden = file.name.startswith(".")  # ._1.jpg is what a Mac leaves beside 1.jpg
    return file.suffix.lower() in ENDINGS and not hidden and file.is_file()


def _in_folder(folder: Path, name_format: str) -> Pictures:
    files = sorted(file for file in folder.rglob("*") if _is_picture(file))
    if not files:
        raise UserError(f"{folder}: no image files in it (looked for {', '.join(ENDINGS)})")
    names = []
    for file in files:
        inside = file.relative_to(folder).with_suffix("").as_posix().replace("/", "_")
        names.append(_name(name_format, file.stem, {"path": inside}, str(file)))
    return Pictures(folder, names, files)


def _in_parquet(path: Path, name_format: str, identity: str) -> Pictures:
    parquet = _parquet()
    try:
        schema = parquet.read_schema(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: neither a folder nor a Parquet file ({str(error).splitlines()[0]})") from None
    found = schema.names
    column = next((name for name in IMAGE_COLUMNS if name in found), "")
    if not column or identity not in found or "binary" not in str(schema.field(column).type):
        raise UserError(
            f"{path}: expected the column {identity} and, with the images' bytes, {' or '.join(IMAGE_COLUMNS)} "
            f"(found: {', '.join(found)})"
        )
    fields = [name for name in _fields(name_format) if name in found and name not in ("stem", "id", "path", column)]
    rows = _table(path, sorted({identity, *fields})).to_pylist()
    if not rows:
        raise UserError(f"{path}: no rows, so no images")
    names = []
    for number, row in enumerate(rows):
        stem = str(row[identity])
        names.append(_name(name_format, stem, {"path": stem.replace("/", "_"), **row}, f"{path}, row {number}"))
    return Pictures(path, names, [], column)


@lru_cache(maxsize=4)
def _packed_column(path: Path, column: str, size: int, changed: int) -> Any:
    """Return a column of encoded images, all of it in memory; `size` and `changed` tell a file from its successor."""
    return _table(path, [column]).column(0)


def _table(path: Path, columns: list[str]) -> Any:
    try:
        return _parquet().read_table(path, columns=columns, memory_map=True)
    except MemoryError:
        raise
    except Exception as error:  # torn pages, text that is not UTF-8: pyarrow raises errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: a broken Parquet file ({reason})") from None


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return state.st_size, state.st_mtime_ns


def _name(name_format: str, stem: str, fields: dict[str, Any], where: str) -> str:
    values = {**fields, "stem": stem}
    number = NUMBER.search(stem)
    if number:
        values["id"] = int(number[1])
    elif "id" in _fields(name_format):
        raise UserError(f"{where}: {stem!r} does not end in a number, which {{id}} of the name format needs")
    try:
        name = name_format.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"the name format {name_format!r} does not fit {where} ({error}); fields: {', '.join(sorted(values))}"
        ) from None
    if not name.isprintable() or not name:
        raise UserError(f"{where}: {name!r} can't be an image's name; expected printable letters")
    return name


def _fields(name_format: str) -> set[str]:
    try:
        return {field for _, field, _, _ in string.Formatter().parse(name_format) if field}
    except ValueError as error:
        raise UserError(f"the name format {name_format!r} can't be read ({error})") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> UserError:
    """Return the error of a disk or a permission, which can be mended: not of a broken image to be skipped for good."""
    return UserError(f"{file} can't be read ({error.strerror}); mend that and start again: it goes on")


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError("Parquet files need pyarrow to be read: pip install 'vltickets[data]'") from None
