"""The runs behind a study's cells, back to the first: who needs whom, and the finished records, each read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from vltickets.store import Record, Store
from vltickets.store.store import references


class Lineage:
    """All nodes that some cells need. `records` are those that are finished, `parents` what each node names.

    A planned node that the store does not know yet has no parents here.
    """

    def __init__(self, store: Store, digests: Iterable[str], known: Mapping[str, Record]) -> None:
        self.store = store
        self.records: dict[str, Record] = {}
        self.parents: dict[str, tuple[str, ...]] = {}
        pending = list(digests)
        while pending:
            digest = pending.pop()
            if digest in self.parents:
                continue
            record = known.get(digest) or self._finished(digest)
            if record is not None:
                self.records[digest] = record
                self.parents[digest] = tuple(references(record.spec))
            else:
                planned = (store.root / "nodes" / f"{digest}.json").exists()
                self.parents[digest] = tuple(store.parents_of(digest)) if planned else ()
            pending.extend(self.parents[digest])

    def _finished(self, digest: str) -> Record | None:
        done = (self.store.root / "runs" / digest / "record.json").exists()
        return self.store.record(digest) if done else None

    def record(self, digest: str) -> Record:
        """Return a finished record; `UserError` where it is not here."""
        return self.records.get(digest) or self.store.record(digest)

    def needed(self, digests: Iterable[str]) -> set[str]:
        """Return these nodes and all that they need."""
        found: set[str] = set()
        pending = list(digests)
        while pending:
            digest = pending.pop()
            if digest not in found:
                found.add(digest)
                pending.extend(self.parents.get(digest, ()))
        return found

    @cached_property
    def finished(self) -> list[Record]:
        """The finished records, in the order of their digests."""
        return [self.records[digest] for digest in sorted(self.records)]

    def seconds(self, digests: Iterable[str]) -> float:
        """Return the seconds of the finished ones among some nodes, added up."""
        return sum(self.records[digest].seconds for digest in sorted(digests) if digest in self.records)
