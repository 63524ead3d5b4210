"""The one exception a user's own mistake raises. Imports nothing of the package; every room may raise it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend: one clear sentence, shown without a traceback; the command line exits with code 2.

    The sentence names the file or field, the value found, what was expected, and what to do.
    """


class NoSpace(UserError):
    """The disk is full: whatever is tried next fails alike, so all work stops."""


def unknown(what: str, given: str, allowed: Iterable[str]) -> UserError:
    """Return the error for an unknown name: it names the nearest allowed value and lists them all."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {given!r}{hint} (allowed: {', '.join(names)})")
