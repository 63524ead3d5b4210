"""How far a run under way is: a small file in its work folder, written every few seconds, for `study status`."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vltickets.store import Store

EVERY_SECONDS = 2.0
SILENT_SECONDS = 600.0  # after which a run on another machine is taken for dead
FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """A run under way: the last finished step of `steps`, the first of this sitting, its seconds, and who runs it.

    `when` is in seconds since 1970.
    """

    digest: str
    step: int
    steps: int
    first: int
    seconds: float
    loss: float
    when: float
    process: int
    host: str

    @property
    def seconds_left(self) -> float | None:
        """Seconds to its last step at this sitting's pace; scoring comes after it. None before a pace is known."""
        fresh = self.step - self.first
        return (self.steps - self.step) * self.seconds / fresh if fresh > 0 else None

    @property
    def alive(self) -> bool:
        """Does its process live? Of another machine only the time of its last word is known."""
        if self.host != socket.gethostname():
            return time.time() - self.when < SILENT_SECONDS
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class Noting:
    """Called after each step (step, steps, loss), it writes the file now and then. It never fails a run."""

    def __init__(self, digest: str, store: Store) -> None:
        self.digest = digest
        self.path = store.work(digest) / FILE
        self.started = self.noted = time.monotonic()
        self.first: int | None = None

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """Take in a step."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = step, now
        if now - self.noted < EVERY_SECONDS and step < steps:
            return
        self.noted = now
        found = Progress(
            digest=self.digest,
            step=step,
            steps=steps,
            first=self.first,
            seconds=now - self.started,
            loss=loss,
            when=time.time(),
            process=os.getpid(),
            host=socket.gethostname(),
        )
        with suppress(OSError):  # a full disk stops the run where its results are written, not here
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed, so that readers see it whole; not flushed, for after a loss of power nobody runs.
            temporary = self.path.with_name(f".{FILE}")
            temporary.write_text(json.dumps(asdict(found)))
            temporary.replace(self.path)


def under_way(store: Store) -> list[Progress]:
    """Return the runs under way in a store, whoever runs them, in the order of their digests."""
    found = [_read(path) for path in sorted((store.root / "work").glob(f"*/{FILE}"))]
    return [progress for progress in found if progress is not None and progress.alive]


def _read(path: Path) -> Progress | None:
    try:
        return Progress(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):  # gone since it was listed, or of another version: nothing is known then
        return None
