"""A worker process: reads digests, one a line, runs each node, and prints its events as JSON lines.

`python -m vltickets.studies.worker STORE`. When its standard input ends, its parent is gone, and it dies at once: what
it was doing goes on from the checkpoint with whoever comes next.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import warnings
from dataclasses import asdict
from pathlib import Path

from vltickets.store import Store
from vltickets.studies.leased import serve
from vltickets.studies.scheduling import Event


def main(root: str) -> None:
    """Serve until the parent is gone."""
    store = Store(Path(root))
    inbox: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(inbox,), daemon=True).start()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the standard error, not among the events

    def tell(event: Event) -> None:
        out.write(json.dumps(asdict(event)) + "\n")
        out.flush()

    while True:
        serve(inbox.get(), store, tell)


def _listen(inbox: queue.Queue[str]) -> None:
    for line in sys.stdin:
        inbox.put(line.strip())
    os._exit(0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1])
