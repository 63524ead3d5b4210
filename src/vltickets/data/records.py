"""Reading annotation files with errors that name file, record and field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vltickets.errors import UserError


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, record) of each line of a JSON-lines file; `where` names file and line for errors."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
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
    if not isinstance(value, kind):
        raise UserError(f"{where}: the field {name!r} is {value!r}, expected {expected}")
    return value
