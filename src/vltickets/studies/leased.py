"""Running one node under its lease, wherever that is: its news, and a training that diverges."""

from __future__ import annotations

import time

from vltickets.specs import Node, Train
from vltickets.store import Store, divergence, divergence_path, note_divergence
from vltickets.studies.scheduling import POLL_SECONDS, Event, Listener, failed

TRAININGS = 2  # of one node: one that diverged is tried once more, with the same seed


def serve(digest: str, store: Store, tell: Listener, node: Node | None = None) -> None:
    """Run a node and tell its news, the last of which is finished, failed or waiting."""
    try:
        if not run_leased(node or store.node(digest), store, tell):
            tell(Event("waiting", digest))
    except Exception as error:  # whatever a run dies of is told, and the next one is served
        if _ends_all(error):
            raise
        tell(failed(digest, error))


def _ends_all(error: Exception) -> bool:
    """Return whether an error ends the program: the processes that train with this one wait in the middle of a run.

    A loss that is no number is the same on all of them, and they are ready for the next run.
    """
    from vltickets.training import Diverged, processes  # torch only where work is done

    return processes.count() > 1 and not isinstance(error, Diverged)


def run_leased(node: Node, store: Store, listen: Listener) -> bool:
    """Run one node under its lease; False where another process has it.

    Raises `training.Diverged` where it diverged as often as it is tried; that is marked in the store.
    """
    with store.lease(node.digest) as mine:
        if not mine:
            return False
        if store.has(node) and (not isinstance(node, Train) or store.has_weights(node)):
            listen(Event("finished", node.digest))  # another invocation did it since it was planned
            return True
        started = time.monotonic()
        listen(Event("started", node.digest))
        _run(node, store, listen)
        listen(Event("finished", node.digest, seconds=time.monotonic() - started))
    return True


def _run(node: Node, store: Store, listen: Listener) -> None:
    from vltickets.studies.work import run_node  # torch only where work is done
    from vltickets.training import Diverged

    started, told = time.monotonic(), [0.0]

    def progress(step: int, steps: int, loss: float) -> None:
        if time.monotonic() - told[0] > POLL_SECONDS:
            told[0] = time.monotonic()
            listen(Event("step", node.digest, step, steps, time.monotonic() - started))

    known = divergence(store, node.digest)
    while known is None or known.times < TRAININGS:
        try:
            return run_node(node, store, progress)
        except Diverged as error:
            store.end_work(node.digest)  # a checkpoint may hold what it diverged from: again from the start
            known = note_divergence(store, node.digest, str(error))
            if known.times < TRAININGS:
                listen(Event("retried", node.digest, message=str(error)))
    raise Diverged(
        f"it diverged {known.times} times with the same seed: {known.message} "
        f"(delete {divergence_path(store, node.digest)} to try it again)"
    )
