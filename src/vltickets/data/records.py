"""Reading annotation files with errors that name file, record and field."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vltickets.errors import UserError

LONGEST_SHOWN = 200  # letters of a wrong text in an error's sentence
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 4, 8, 8
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = LONGEST_SHOWN


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of each line of a JSON-lines file; `where` names file and line for errors."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error})") from None
        yield f"{path}, line {number}", record


def field(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return a record's field of the expected kind; else a `UserError` that names where, field and expectation."""
    expected = kind.__name__ if isinstance(kind, type) else " or ".join(item.__name__ for item in kind)
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: expected an object with the field {name!r}, found {type(record).__name__}")
    if name not in record:
        raise UserError(f"{where}: the field {name!r} is missing (expected {expected})")
    value = record[name]
    allowed = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UserError(f"{where}: the field {name!r} is {shown(value)}, expected {expected}")
    return value


def shown(value: object) -> str:
    """Return a value for an error's sentence, cut where it is long or deep."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a very large {type(value).__name__}"


def text_field(record: Any, name: str, where: str) -> str:
    """Return a record's text; an empty one, or one that no file in UTF-8 can hold, is a `UserError`."""
    return check_text(field(record, name, str, where), f"{where}: the field {name!r}")


def check_text(value: object, what: str) -> str:
    """Return the value where it is a text that says something; else a `UserError` that begins with `what`."""
    if not isinstance(value, str):
        raise UserError(f"{what} is {shown(value)}, expected str")
    if not value.strip():
        raise UserError(f"{what} is empty, expected a text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{what} is {shown(value)}, which is no text in Unicode (half of a surrogate pair)")
    return value


def number_field(record: Any, name: str, where: str) -> int:
    """Return a record's whole number, 0 or more and of at most 64 bits, as identifiers are."""
    value: int = field(record, name, int, where)
    if not 0 <= value < 2**63:
        raise UserError(f"{where}: the field {name!r} is {shown(value)}, expected a whole number from 0 to 2^63")
    return value


def first_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of these files that the folder has; where it has none, the first, whose absence then shows."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])
