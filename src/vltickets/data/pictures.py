"""Pictures as users have them: a folder of image files or a Parquet file of their bytes, each with its name."""

from __future__ import annotations

import importlib
import io
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

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
        value: bytes | None = _packed_column(self.path, self.column)[row].as_py()
        return value or b""

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
    """Return the images of a folder (all below it, sorted by path) or of a Parquet file (in its order), with names.

    `name_format` is a format of Python's with the fields `stem`, the file's name without its ending or the `image_id`;
    `id`, the whole number that this is or ends in; `path`, the path in the folder without its ending and `_` for `/`;
    and, of a Parquet file, every other column. So `coco_val2017_{id:012d}.npz` are the names that COCO's regions have.
    Two images of one name, or none at all, are a `UserError`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder or file; expected images or a Parquet file of them")
    pictures = _in_folder(path, name_format) if path.is_dir() else _in_parquet(path, name_format)
    seen: dict[str, int] = {}
    for row, name in enumerate(pictures.names):
        if seen.setdefault(name, row) != row:
            raise UserError(
                f"{path}: {pictures.where(seen[name])} and {pictures.where(row)} would both be called {name!r}; "
                f"tell them apart with --name-format, such as {{path}}.npz (now {name_format!r})"
            )
    return pictures


def decode(content: bytes) -> Image.Image:
    """Return an image in RGB, as its pixels lie (no EXIF turn: annotations count pixels so), or raise `BrokenImage`."""
    return _opened(content, lambda image: image.convert("RGB"))


def picture_size(content: bytes) -> tuple[int, int]:
    """Return an image's width and height from its header, or raise `BrokenImage`."""
    return _opened(content, lambda image: image.size)


def _opened(content: bytes, read: Callable[[Image.Image], Read]) -> Read:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return read(image)
    except MemoryError:
        raise
    except Exception as error:  # on broken bytes Pillow's decoders raise nearly anything
        # The buffer's address says nothing and differs from run to run.
        reason = re.sub(r" file <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))
        raise BrokenImage(" ".join(reason.split()) or type(error).__name__) from error


def _in_folder(folder: Path, name_format: str) -> Pictures:
    found = (file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
    files = sorted(file for file in found if not file.name.startswith("."))  # ._1.jpg is what a Mac leaves beside 1.jpg
    if not files:
        raise UserError(f"{folder}: no image files in it (looked for {', '.join(ENDINGS)})")
    names = []
    for file in files:
        inside = file.relative_to(folder).with_suffix("").as_posix().replace("/", "_")
        names.append(_name(name_format, file.stem, {"path": inside}, str(file)))
    return Pictures(folder, names, files)


def _in_parquet(path: Path, name_format: str) -> Pictures:
    parquet = _parquet()
    try:
        schema = parquet.read_schema(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: neither a folder nor a Parquet file ({str(error).splitlines()[0]})") from None
    found = schema.names
    column = next((name for name in IMAGE_COLUMNS if name in found), "")
    if not column or "image_id" not in found or "binary" not in str(schema.field(column).type):
        raise UserError(
            f"{path}: expected the column image_id and, with the images' bytes, {' or '.join(IMAGE_COLUMNS)} "
            f"(found: {', '.join(found)})"
        )
    fields = [name for name in _fields(name_format) if name in found and name not in ("stem", "id", "path", column)]
    rows = parquet.read_table(path, columns=sorted({"image_id", *fields})).to_pylist()
    if not rows:
        raise UserError(f"{path}: no rows, so no images")
    names = []
    for number, row in enumerate(rows):
        stem = str(row["image_id"])
        names.append(_name(name_format, stem, {"path": stem.replace("/", "_"), **row}, f"{path}, row {number}"))
    return Pictures(path, names, [], column)


@lru_cache(maxsize=4)
def _packed_column(path: Path, column: str) -> Any:
    """Return a column of encoded images, memory-mapped."""
    return _parquet().read_table(path, columns=[column], memory_map=True).column(0)


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
    except OSError as error:  # a disk or a permission, which can be mended: not a broken image to be skipped for good
        raise UserError(f"{file} can't be read ({error.strerror}); mend that and start again: it goes on") from None


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError("Parquet files need pyarrow to be read: pip install 'vltickets[data]'") from None
