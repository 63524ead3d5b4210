"""Worker processes side by side, one node each at a time."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from vltickets.specs import Node
from vltickets.store import Store
from vltickets.studies.scheduling import Event


class Processes:
    """A transport: up to `count` worker processes, started as they are needed."""

    def __init__(self, store: Store, count: int) -> None:
        self._store, self._count = store, count
        self._inbox: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def has_room(self, node: Node) -> bool:
        """Is a worker idle, or may one be started?"""
        return len(self._workers) < self._count or any(worker.digest is None for worker in self._workers)

    def give(self, node: Node) -> None:
        """Hand a node to an idle worker, or to a new one."""
        worker = next((worker for worker in self._workers if worker.digest is None), None)
        if worker is None:
            worker = _Worker(self._store, self._inbox)
            self._workers.append(worker)
        worker.give(node.digest)

    def news(self, seconds: float) -> Event | None:
        """Return the next event of any worker."""
        try:
            worker, event = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if event is None:
            self._workers.remove(worker)
            status = f"exit status {worker.process.returncode}"
            return None if worker.digest is None else Event("lost", worker.digest, message=status)
        if event.last:
            worker.digest = None
        return event

    def stop(self) -> None:
        """End all workers; what they were doing goes on from its checkpoint another time."""
        for worker in self._workers:
            worker.stop()


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
        with suppress(BrokenPipeError):  # it died between two nodes: its reader says so, and another takes the node
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
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
