"""A pickle of plain data, such as RefCOCO's `refs(unc).p`, read without running anything that stands in it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from vltickets.errors import UserError

DEEPEST = 16  # lists within lists; RefCOCO's have four


class PlainUnpickler(pickle.Unpickler):
    """Takes numbers, texts, lists, dicts and the like; every class or function a pickle may name is refused.

    The one exception is how Python 3 writes bytes in Python 2's protocols: as `_codecs.encode(text, "latin1")`.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Refuse: a pickle that names code is not data."""
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it names {module}.{name}: code, not data")


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it encodes something else than bytes")
    return text.encode("latin1")


def read_plain_pickle(path: Path) -> Any:
    """Return the plain data of a pickle, texts of Python 2 among it as text; anything else is a `UserError`."""
    try:
        with path.open("rb") as file:
            return _with_text(PlainUnpickler(file, encoding="latin1").load(), DEEPEST, {})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # a broken pickle raises nearly every exception there is
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise UserError(f"{path}: not a pickle of plain data ({reason})") from None


def _with_text(value: Any, deepest: int, done: dict[int, Any]) -> Any:
    """Return the value with its bytes as text: Python 2 wrote some texts in that way.

    `done` has what was changed already: a list that stands in many places, as a pickle can say, is gone through once.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, list | tuple | dict):
        return value
    if deepest == 0:
        raise ValueError(f"lists within lists, more than {DEEPEST} deep")
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {
                _with_text(key, 0, done): _with_text(item, deepest - 1, done) for key, item in value.items()
            }
        else:
            done[id(value)] = [_with_text(item, deepest - 1, done) for item in value]
    return done[id(value)]
