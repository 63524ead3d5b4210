"""Running planned work: in this process, in worker processes side by side, or on a Ray cluster.

Several invocations may work on one store: a lease keeps them off each other's node.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from vltickets.specs import Node
from vltickets.store import Store, tidy
from vltickets.studies.graph import Work
from vltickets.studies.leased import run_leased, serve
from vltickets.studies.processes import Processes, working_processes
from vltickets.studies.ray_executor import RayCluster
from vltickets.studies.scheduling import SKIPPED, Event, Listener, StudyFailed, StudyMistaken, Transport, carry_out

__all__ = ["Event", "Listener", "RayCluster", "StudyFailed", "execute", "run_leased", "working_processes"]


def execute(
    work: Sequence[Work], store: Store, *, workers: int, listen: Listener, cluster: RayCluster | None = None
) -> None:
    """Run the work, ready nodes as they become ready: on the `cluster`, else in `workers` processes; 0 is this one.

    Raises `StudyFailed` at the end, naming the nodes that failed; what depends on them was not tried. It is a
    `UserError` too where all of it is the user's to mend. A full disk is one at once.
    """
    store.prepare()
    tidy(store)
    for item in work:
        store.put_node(item.node)
    if not work:
        return
    failures = carry_out(work, _transport(store, workers, listen, cluster), listen)
    if failures:
        lines = "; ".join(f"{event.digest}: {event.message}" for event in failures.values() if event.message != SKIPPED)
        error = StudyMistaken if all(event.mistake for event in failures.values()) else StudyFailed
        raise error(f"{len(failures)} of {len(work)} runs could not be done: {lines}")


def _transport(store: Store, workers: int, listen: Listener, cluster: RayCluster | None) -> Transport:
    if cluster is not None:
        return cluster.connect(store)
    return Processes(store, workers) if workers else _Here(store, listen)


class _Here:
    """A transport: this process, a node at a time. News of a node under way is told directly, its last is kept."""

    def __init__(self, store: Store, listen: Listener) -> None:
        self._store, self._listen = store, listen
        self._last: Event | None = None

    def has_room(self, node: Node) -> bool:
        return self._last is None

    def give(self, node: Node) -> None:
        serve(node.digest, self._store, self._tell, node)

    def _tell(self, event: Event) -> None:
        if event.last:
            self._last = event
        else:
            self._listen(event)

    def news(self, seconds: float) -> Event | None:
        event, self._last = self._last, None
        if event is None:  # all that is ready is with another invocation
            time.sleep(seconds)
        return event

    def stop(self) -> None:
        """Nothing is under way between two calls."""
