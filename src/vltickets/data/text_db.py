"""UNITER's own text databases, `NAME_SPLIT.db/`: examples whose words are numbers of BERT's cased vocabulary already.

A folder holds `data.mdb` (LMDB: example id -> lz4 frame of a msgpack map), `meta.json` (numbers of the special tokens),
`txt2img.json` (example id -> image name, or a pair of names) and `id2len.json` (not needed: lengths are counted).
Source: official-models 8.2. Needs msgpack and lz4: the extra `data`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vltickets.data.lmdb_file import LmdbFile
from vltickets.data.records import field, read_json, shown
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError

LARGEST = 1 << 20  # bytes of an unpacked example; official ones have a few thousand


@dataclass(frozen=True)
class TextDatabase:
    """An open folder. `images`: txt2img.json."""

    path: Path
    images: dict[str, Any]
    vocabulary: Vocabulary

    def records(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield (where, id, example), in the order of txt2img.json."""
        msgpack, frames = (library(name, self.path) for name in ("msgpack", "lz4.frame"))
        with LmdbFile(self.path / "data.mdb") as database:
            places = dict(database.places())
            for identity in self.images:
                where = f"{self.path}, example {identity!r}"
                place = places.get(identity.encode("utf-8", "replace"))
                if place is None:
                    raise UserError(f"{where}: txt2img.json names it, but data.mdb does not have it")
                yield where, identity, _unpacked(database.read(place), msgpack, frames, where)

    def pieces(self, record: Any, name: str, where: str) -> list[int]:
        """Return a text's numbers, each a piece of the vocabulary, without specials."""
        return self._checked(field(record, name, list, where), name, where)

    def four(self, record: Any, name: str, where: str) -> list[list[int]]:
        """Return the four texts of a field."""
        texts = field(record, name, list, where)
        if len(texts) != 4:
            raise UserError(f"{where}: the field {name!r} has {len(texts)} entries, expected 4")
        return [self._checked(text, name, where) for text in texts]

    def coded(self, record: Any, longest: int, where: str) -> list[int]:
        """Return [CLS] pieces [SEP] of `input_ids`, cut to `longest` numbers."""
        return [self.vocabulary.cls, *self.pieces(record, "input_ids", where)[: longest - 2], self.vocabulary.sep]

    def image(self, identity: str, where: str) -> str:
        """Return the name of an example's image."""
        name = self.images[identity]
        if not isinstance(name, str):
            raise UserError(f"{where}: txt2img.json gives it the image {shown(name)}, expected a name")
        return name

    def image_pair(self, identity: str, where: str) -> tuple[str, str]:
        """Return the names of an example's two images."""
        names = self.images[identity]
        if not isinstance(names, list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where}: txt2img.json gives it the images {shown(names)}, expected two names")
        return names[0], names[1]

    def _checked(self, numbers: Any, name: str, where: str) -> list[int]:
        if not isinstance(numbers, list) or not numbers:
            raise UserError(f"{where}: the field {name!r} is {shown(numbers)}, expected a list of word pieces' numbers")
        for number in numbers:
            if type(number) is not int or not 0 <= number < len(self.vocabulary):
                raise UserError(
                    f"{where}: the field {name!r} has the word piece {shown(number)}, "
                    f"but the vocabulary has the numbers 0 to {len(self.vocabulary) - 1}"
                )
        return numbers


def find_databases(folder: Path, names: list[str]) -> list[Path]:
    """Return the text databases `*_NAME.db` of these names in a task's folder."""
    return [path for name in names for path in sorted(folder.glob(f"*_{name}.db")) if path.is_dir()]


def open_database(path: Path, vocabulary: Vocabulary) -> TextDatabase:
    """Open a text database; its word pieces must be numbered as the vocabulary's.

    Raises `UserError` where files are missing, or where [CLS] and [SEP] are other numbers there: then the folder's
    vocab.txt is not the one that made the database (bert-base-cased).
    """
    if not (path / "data.mdb").is_file():
        raise UserError(f"{path / 'data.mdb'}: no such file; it should hold the examples")
    meta = read_json(path / "meta.json")
    for name, number in (("CLS", vocabulary.cls), ("SEP", vocabulary.sep), ("MASK", vocabulary.mask)):
        given = field(meta, name, int, str(path / "meta.json"))
        if given != number:
            raise UserError(
                f"{path / 'meta.json'}: {name} is {given}, but the vocabulary has [{name}] as {number}; "
                "put the vocab.txt of the database's tokenizer (bert-base-cased) into the folder"
            )
    images = read_json(path / "txt2img.json")
    if not isinstance(images, dict) or not images:
        raise UserError(f"{path / 'txt2img.json'}: expected an object that gives each example its image")
    return TextDatabase(path, images, vocabulary)


def library(name: str, path: Path | str) -> ModuleType:
    """Return an optional library; where it is missing, a `UserError` that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{path} needs {name.partition('.')[0]} to be read: pip install 'vltickets[data]'") from None


def _unpacked(packed: bytes, msgpack: ModuleType, frames: ModuleType, where: str) -> dict[str, Any]:
    """Return the example of one value: plain data only, and never more than `LARGEST` bytes of it."""
    try:
        frame = frames.LZ4FrameDecompressor()
        content = frame.decompress(packed, max_length=LARGEST)
        if not frame.eof:
            raise UserError(f"{where}: its lz4 frame is cut off, or larger than {LARGEST} bytes")
        record = msgpack.unpackb(content, raw=False, strict_map_key=True, ext_hook=_no_extension)
    except UserError:
        raise
    except Exception as error:  # both libraries raise errors of many kinds on broken bytes
        raise UserError(f"{where}: not an lz4 frame of msgpack ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a map of fields, found {type(record).__name__}")
    return record


def _no_extension(code: int, _content: bytes) -> Any:
    raise ValueError(f"it holds the extension type {code}, expected plain data")
