"""Trainings that diverged: marked in the store, so that they are told of, and not tried for ever."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vltickets.errors import UserError
from vltickets.store.atomic import write_file
from vltickets.store.store import FORMAT, Store, check_format


@dataclass(frozen=True)
class Divergence:
    """How often the training of a node diverged, always with the same seed, and why the last time."""

    digest: str
    times: int
    message: str
    format: int = FORMAT


def divergence_path(store: Store, digest: str) -> Path:
    """Return where a node's mark is, or would be."""
    return store.root / "diverged" / f"{digest}.json"


def divergence(store: Store, digest: str) -> Divergence | None:
    """Return a node's mark; None where its training never diverged. A damaged mark is a `UserError`."""
    path = divergence_path(store, digest)
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_bytes())
        check_format(value, str(path))
        return Divergence(str(value["digest"]), int(value["times"]), str(value["message"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is corrupted ({error}); delete it to try the run again") from None


def note_divergence(store: Store, digest: str, message: str) -> Divergence:
    """Mark that a node's training diverged, once more; return the mark."""
    known = divergence(store, digest)
    mark = Divergence(digest, 1 if known is None else known.times + 1, message)
    write_file(divergence_path(store, digest), json.dumps(asdict(mark), indent=1, sort_keys=True).encode())
    return mark


def divergences_behind(store: Store, digests: Iterable[str]) -> dict[str, Divergence]:
    """Return for each node that is not finished the mark that explains it, its own or one of what it needs.

    Nodes without such a mark are left out: they are only not run yet.
    """
    marked = {path.stem for path in (store.root / "diverged").glob("*.json") if not path.name.startswith(".")}
    marked -= {digest for digest in marked if _finished(store, digest)}
    causes: dict[str, str | None] = {digest: digest for digest in marked}
    found = {}
    for digest in digests if marked else ():
        cause = None if _finished(store, digest) else _cause(store, digest, causes)
        mark = None if cause is None else divergence(store, cause)
        if mark is not None:
            found[digest] = mark
    return found


def _cause(store: Store, digest: str, causes: dict[str, str | None]) -> str | None:
    """Return the first marked node among a node and its ancestors; `causes` holds what is known, and is filled."""
    stack = [digest]
    while stack:  # parents first, without recursion: a chain of rounds may be long
        parents = store.parents_of(stack[-1]) if stack[-1] not in causes else []
        missing = [parent for parent in parents if parent not in causes]
        if missing:
            stack += missing
            continue
        current = stack.pop()
        if current not in causes:
            causes[current] = next((cause for parent in parents if (cause := causes[parent])), None)
    return causes[digest]


def _finished(store: Store, digest: str) -> bool:
    return (store.root / "runs" / digest / "record.json").exists()
