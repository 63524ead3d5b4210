"""Which nodes are ready, longest chain first, and what became of each. Knows neither processes nor machines.

The truth about what is done lies in the store, so a transport only has to run "node K" and may lose it at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from vltickets.errors import NoSpace, UserError
from vltickets.specs import Node
from vltickets.studies.graph import Work

ATTEMPTS = 3  # a node whose worker dies is tried again; three deaths are no accident
POLL_SECONDS = 0.5
SKIPPED = "a run it needs failed"


@dataclass(frozen=True)
class Event:
    """News of a node. `state` is started, step, retried (it diverged, and is trained again), finished, failed,
    waiting (another invocation has it) or lost (its worker or machine died).

    `mistake` marks a failure that is the user's to mend, such as a corrupted result the node needs; `stop` one that
    all other nodes would share, such as a full disk.
    """

    state: str
    digest: str
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    message: str = ""
    mistake: bool = False
    stop: bool = False

    @property
    def last(self) -> bool:
        """Is it the last news of the node, as far as its worker can tell?"""
        return self.state in ("finished", "failed", "waiting")


Listener = Callable[[Event], None]


class StudyFailed(RuntimeError):
    """Some nodes could not be run; the others are done and kept."""


class StudyMistaken(StudyFailed, UserError):
    """So it is, and all that failed is the user's to mend: data that is not here, a result that is corrupted."""


class Transport(Protocol):
    """Where nodes run: this process, processes beside it, or machines."""

    def has_room(self, node: Node) -> bool:
        """Can the node be run now?"""

    def give(self, node: Node) -> None:
        """Run a node. Its last event is finished, failed, waiting or lost."""

    def news(self, seconds: float) -> Event | None:
        """Return the next event of any node; None after about so many seconds without one."""

    def stop(self) -> None:
        """End what is under way."""


def failed(digest: str, error: Exception) -> Event:
    """Return the news of a node that died of an error."""
    message = str(error) or type(error).__name__
    mistake, stop = isinstance(error, UserError), isinstance(error, NoSpace)
    return Event("failed", digest, message=message, mistake=mistake, stop=stop)


def carry_out(work: Sequence[Work], transport: Transport, listen: Listener) -> dict[str, Event]:
    """Run the work, ready nodes as they become ready; return the failures, those of what was skipped among them.

    A failure that all would share is raised at once, as a `UserError`; what is done is done.
    """
    schedule, looked = _Schedule(work, listen), time.monotonic()
    try:
        while schedule.left:
            schedule.hand_out(transport)
            event = transport.news(POLL_SECONDS)
            if event is not None:
                schedule.take(event)
            if time.monotonic() - looked > POLL_SECONDS:
                schedule.look_again()
                looked = time.monotonic()
    finally:
        transport.stop()
    return schedule.failures


class _Schedule:
    """The nodes that are left, those of them that are ready, and the failures."""

    def __init__(self, work: Sequence[Work], listen: Listener) -> None:
        self.left = {item.node.digest: set(item.after) for item in work}
        self.failures: dict[str, Event] = {}
        self._nodes = {item.node.digest: item.node for item in work}
        self._children: dict[str, list[str]] = {}
        for item in work:
            for parent in item.after:
                self._children.setdefault(parent, []).append(item.node.digest)
        self._chain = _chain_lengths(work)
        self._ready = [digest for digest, after in self.left.items() if not after]
        self._waiting: list[str] = []  # another invocation has their lease
        self._deaths: dict[str, int] = {}
        self._listen = listen

    def hand_out(self, transport: Transport) -> None:
        """Give away what there is room for."""
        # The start of the longest chain first: a search's rounds wait for each other, baselines for nobody.
        for digest in sorted(self._ready, key=self._chain.__getitem__, reverse=True):
            if transport.has_room(self._nodes[digest]):
                self._ready.remove(digest)
                transport.give(self._nodes[digest])

    def look_again(self) -> None:
        """Try again for what another invocation had: it may have finished, or died."""
        self._ready += self._waiting
        self._waiting = []

    def take(self, event: Event) -> None:
        """Take in the news of a node."""
        if event.stop:
            raise UserError(event.message)
        if event.state == "lost":
            self._lost(event)
        elif event.state == "failed":
            self._fail(event)
        else:
            self._listen(event)
        if event.state == "finished":
            self._done(event.digest)
        elif event.state == "waiting":
            self._waiting.append(event.digest)

    def _lost(self, event: Event) -> None:
        deaths = self._deaths[event.digest] = self._deaths.get(event.digest, 0) + 1
        if deaths < ATTEMPTS:
            self._listen(event)
            self._ready.append(event.digest)  # it goes on from its checkpoint
        else:
            message = f"its worker died {ATTEMPTS} times ({event.message})"
            self._fail(replace(event, state="failed", message=message))

    def _done(self, digest: str) -> None:
        self.left.pop(digest, None)
        for child in self._children.get(digest, ()):
            after = self.left.get(child)
            if after is not None and digest in after:
                after.discard(digest)
                if not after:
                    self._ready.append(child)

    def _fail(self, event: Event) -> None:
        """Note a failure, and skip all that needs the node."""
        self.failures[event.digest] = event
        self._listen(event)
        pending = [event.digest]
        while pending:
            digest = pending.pop()
            self.left.pop(digest, None)
            for child in self._children.get(digest, ()):
                if child in self.left:
                    self.failures[child] = replace(event, digest=child, message=SKIPPED)
                    pending.append(child)


def _chain_lengths(work: Sequence[Work]) -> dict[str, int]:
    """Return for each node how many must follow one another from it on, itself included."""
    lengths = {item.node.digest: 1 for item in work}
    for item in reversed(work):  # parents come first, so children are known when their parents are looked at
        for parent in item.after:
            lengths[parent] = max(lengths[parent], lengths[item.node.digest] + 1)
    return lengths
