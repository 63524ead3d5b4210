"""Running planned work: in this process, or in worker processes side by side, one thread each.

The truth about what is done lies in the store, so an executor only has to run "node K" and may die at any time. Several
may work on one store: a lease keeps them off each other's node.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vltickets.errors import UserError
from vltickets.specs import Node, Train
from vltickets.store import Store
from vltickets.studies.graph import Work

ATTEMPTS = 3  # a worker that dies is replaced and its node tried again; three deaths are no accident
POLL_SECONDS = 0.5
SKIPPED = "a run it needs failed"


@dataclass(frozen=True)
class Event:
    """News of a node: `state` is started, step, finished, failed or waiting (another process has it).

    `mistake` marks a failure that is the user's to mend, such as a corrupted result the node needs.
    """

    state: str
    digest: str
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    message: str = ""
    mistake: bool = False


Listener = Callable[[Event], None]


class StudyFailed(RuntimeError):
    """Some nodes could not be run; the others are done and kept."""


def execute(work: Sequence[Work], store: Store, *, workers: int, listen: Listener) -> None:
    """Run the work, ready nodes as they become ready. `workers` 0 means this process.

    Raises `StudyFailed` at the end, naming the nodes that failed; what depends on them was not tried. `UserError`
    instead where all of it is the user's to mend.
    """
    store.prepare()
    for item in work:
        store.put_node(item.node)
    failures = _in_process(work, store, listen) if workers == 0 else _Pool(work, store, workers, listen).run()
    if failures:
        lines = "; ".join(f"{event.digest}: {event.message}" for event in failures.values() if event.message != SKIPPED)
        error = UserError if all(event.mistake for event in failures.values()) else StudyFailed
        raise error(f"{len(failures)} of {len(work)} runs could not be done: {lines}")


def run_leased(node: Node, store: Store, listen: Listener) -> bool:
    """Run one node under its lease; False where another process has it."""
    from vltickets.studies.work import run_node  # torch only where work is done

    with store.lease(node.digest) as mine:
        if not mine:
            return False
        if store.has(node) and (not isinstance(node, Train) or store.has_weights(node)):
            listen(Event("finished", node.digest))  # another invocation did it since it was planned
            return True
        started, told = time.monotonic(), [0.0]
        listen(Event("started", node.digest))

        def progress(step: int, steps: int, loss: float) -> None:
            if time.monotonic() - told[0] > POLL_SECONDS:
                told[0] = time.monotonic()
                listen(Event("step", node.digest, step, steps, time.monotonic() - started))

        run_node(node, store, progress)
        listen(Event("finished", node.digest, seconds=time.monotonic() - started))
    return True


def failed(digest: str, error: Exception) -> Event:
    """Return the news of a node that died of an error."""
    message = str(error) or type(error).__name__
    return Event("failed", digest, message=message, mistake=isinstance(error, UserError))


def _in_process(work: Sequence[Work], store: Store, listen: Listener) -> dict[str, Event]:
    failures: dict[str, Event] = {}
    for item in work:
        broken = next((failures[parent] for parent in item.after if parent in failures), None)
        if broken is not None:
            failures[item.node.digest] = replace(broken, digest=item.node.digest, message=SKIPPED)
            continue
        try:
            while not run_leased(item.node, store, listen):
                listen(Event("waiting", item.node.digest))
                time.sleep(POLL_SECONDS)
        except Exception as error:  # whatever a run dies of is told, and the others go on
            failures[item.node.digest] = failed(item.node.digest, error)
            listen(failures[item.node.digest])
    return failures


class _Worker:
    """A process that runs one node after another. It dies with its parent, whose death closes its standard input."""

    def __init__(self, store: Store, inbox: queue.Queue[tuple[_Worker, Event | None]]) -> None:
        command = [sys.executable, "-m", "vltickets.studies.worker", str(store.root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.digest: str | None = None
        self._inbox = inbox
        threading.Thread(target=self._read, daemon=True).start()

    def give(self, digest: str) -> None:
        """Hand over a node."""
        self.digest = digest
        assert self.process.stdin is not None
        with suppress(
            BrokenPipeError
        ):  # it died between two nodes: its reader reports that, and another takes the node
            self.process.stdin.write(digest + "\n")
            self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self._inbox.put((self, Event(**json.loads(line))))
        finally:  # also after half a line, the last of a killed worker
            self.process.kill()
            self.process.wait()
            self._inbox.put((self, None))

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


class _Pool:
    """Workers, the nodes that are ready for them, and what became of each."""

    def __init__(self, work: Sequence[Work], store: Store, workers: int, listen: Listener) -> None:
        self.left = {item.node.digest: set(item.after) for item in work}
        self.store, self.listen, self.size = store, listen, workers
        self.failures: dict[str, Event] = {}
        self.deaths: dict[str, int] = {}
        self.chain = _chain_lengths(work)
        self.ready = [digest for digest, after in self.left.items() if not after]
        self.waiting: list[str] = []  # another invocation has their lease
        self.inbox: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
        self.workers: list[_Worker] = []

    def run(self) -> dict[str, Event]:
        """Run everything; return the failures."""
        looked = time.monotonic()
        try:
            while self.left:
                self._hand_out()
                with suppress(queue.Empty):
                    self._take(*self.inbox.get(timeout=POLL_SECONDS))
                if time.monotonic() - looked > POLL_SECONDS:
                    self._look_again()
                    looked = time.monotonic()
        finally:
            for worker in self.workers:
                worker.stop()
        return self.failures

    def _hand_out(self) -> None:
        idle = [worker for worker in self.workers if worker.digest is None]
        while self.ready and (idle or len(self.workers) < self.size):
            if not idle:
                idle.append(_Worker(self.store, self.inbox))
                self.workers.append(idle[-1])
            # The start of the longest chain first: a search's rounds wait for each other, baselines for nobody.
            digest = max(self.ready, key=self.chain.__getitem__)
            self.ready.remove(digest)
            idle.pop().give(digest)

    def _look_again(self) -> None:
        """Try again for what another invocation had: it may have finished, or died."""
        self.ready += self.waiting
        self.waiting = []

    def _take(self, worker: _Worker, event: Event | None) -> None:
        if event is None:
            self._replace(worker)
            return
        if event.state in ("finished", "failed", "waiting"):
            worker.digest = None
        self.listen(event)
        if event.state == "finished":
            self._done(event.digest)
        elif event.state == "failed":
            self._fail(event)
        elif event.state == "waiting":
            self.waiting.append(event.digest)

    def _replace(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        digest = worker.digest
        if digest is None:
            return
        self.deaths[digest] = self.deaths.get(digest, 0) + 1
        if self.deaths[digest] < ATTEMPTS:
            self.ready.append(digest)  # it goes on from its checkpoint
        else:
            message = f"its worker died {ATTEMPTS} times (exit status {worker.process.returncode})"
            self._fail(Event("failed", digest, message=message))

    def _done(self, digest: str) -> None:
        self.left.pop(digest, None)
        for other, after in self.left.items():
            if digest in after:
                after.discard(digest)
                if not after:
                    self.ready.append(other)

    def _fail(self, event: Event) -> None:
        self.failures[event.digest] = event
        self.left.pop(event.digest, None)
        for other in [name for name, after in self.left.items() if event.digest in after]:
            self._fail(replace(event, digest=other, message=SKIPPED))


def _chain_lengths(work: Sequence[Work]) -> dict[str, int]:
    """Return for each node how many must follow one another from it on, itself included."""
    lengths = {item.node.digest: 1 for item in work}
    for item in reversed(work):  # parents come first, so children are known when their parents are looked at
        for parent in item.after:
            lengths[parent] = max(lengths[parent], lengths[item.node.digest] + 1)
    return lengths


def working_processes() -> int:
    """Return how many one-thread processes this machine runs side by side: its cores, as far as we may use them."""
    path = Path("/sys/fs/cgroup/cpu.max")
    allowed = _usable_cores()
    if path.exists():
        quota, period = path.read_text().split()[:2]
        if quota != "max":
            allowed = min(allowed, max(int(quota) // int(period), 1))
    return allowed


def _usable_cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
