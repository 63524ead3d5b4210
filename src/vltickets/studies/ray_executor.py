"""Runs on a Ray cluster, or on one machine: nodes as tasks, which share CPUs and GPUs as Ray counts them.

The store is a folder that all machines share under one path. A task that is lost with its worker or machine is given
out again by the schedule; Ray itself retries nothing. See docs/cluster.md.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vltickets.errors import UserError
from vltickets.specs import Node, Train
from vltickets.store import Store
from vltickets.studies.scheduling import POLL_SECONDS, Event, failed

OBJECT_STORE_BYTES = 128 * 1024 * 1024  # of a Ray of our own: results go through the store, only news through Ray
ROUNDING = 1e-6  # ten tenths of a GPU are one


@dataclass(frozen=True)
class RayCluster:
    """Which Ray, and how much of a GPU a training takes; None: a whole one wherever the cluster has any.

    `address` is that of a running cluster (`auto`: the one on this machine), else RAY_ADDRESS; where neither is given,
    a Ray of our own is started on this machine for as long as the study runs.
    """

    address: str | None = None
    gpus_per_run: float | None = None

    def connect(self, store: Store) -> RayTasks:
        """Return the transport; `UserError` where Ray is not installed or does not answer."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        try:
            import ray
        except ImportError:
            raise UserError("running on Ray needs Ray: pip install 'vltickets[ray]'") from None
        ours = not ray.is_initialized()  # else it is the calling program's, and stays as it is
        address = self.address or os.environ.get("RAY_ADDRESS") or "local"
        quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
        if ours and address == "local":
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        elif ours:
            try:
                _knock(address)
                ray.init(address, **quiet)
            except OSError as error:
                raise UserError(
                    f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or leave the "
                    "address out to run on this machine alone"
                ) from None
        return RayTasks(ray, store, self.gpus_per_run, ours=ours)


def _knock(address: str) -> None:
    """Make sure that something answers at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not host or not port.isdigit():
        raise UserError(
            f"{address!r} is no address of a Ray cluster as seen from one of its machines: give HOST:PORT or auto, "
            "and run the study on such a machine"
        )
    socket.create_connection((host, int(port)), timeout=10).close()


class RayTasks:
    """A transport: the machines of a cluster, as long as there are CPUs and GPUs left."""

    def __init__(self, ray: Any, store: Store, gpus_per_run: float | None, *, ours: bool) -> None:
        self._ray, self._root, self._ours = ray, str(store.root.resolve()), ours
        self._running: dict[Any, Node] = {}  # by the stream of its news
        self._looked = -POLL_SECONDS
        self._found: list[dict[str, float]] = []
        on_gpus = any(machine.get("GPU") for machine in self._machines())
        self._gpus_per_run = gpus_per_run if gpus_per_run is not None else float(on_gpus)
        # A process that used a GPU ends with its run, as Ray advises: torch would keep the memory, and the device.
        self._on_cpu, self._on_gpu = ray.remote(_stream), ray.remote(max_calls=1)(_stream)

    def has_room(self, node: Node) -> bool:
        """Are there CPUs and GPUs left for the node? A node that no machine of the cluster fits is a `UserError`."""
        needs, machines = self._needs(node), self._machines()
        if not any(all(machine.get(name, 0) >= need for name, need in needs.items()) for machine in machines):
            if self._running:
                return False
            wanted = " and ".join(f"{need:g} {name}" for name, need in needs.items() if need)
            raise UserError(f"no machine of the Ray cluster has {wanted}, which the run {node.digest} needs")
        taken = [self._needs(other) for other in self._running.values()]
        return all(
            sum(other[name] for other in taken) + need <= sum(machine.get(name, 0) for machine in machines) + ROUNDING
            for name, need in needs.items()
        )

    def give(self, node: Node) -> None:
        """Hand a node to the cluster; Ray chooses the machine."""
        needs = self._needs(node)
        task = self._on_gpu if needs["GPU"] else self._on_cpu
        options = {"num_cpus": needs["CPU"], "num_gpus": needs["GPU"], "max_retries": 0, "name": node.digest}
        self._running[task.options(**options).remote(self._root, node.digest)] = node

    def news(self, seconds: float) -> Event | None:
        """Return the next event of any node; one whose worker or machine died is lost."""
        if not self._running:
            time.sleep(seconds)
            return None
        ready, _ = self._ray.wait(list(self._running), timeout=seconds)
        if not ready:
            return None
        node = self._running.pop(ready[0])
        try:
            event = Event(**self._ray.get(next(ready[0])))
        except StopIteration:
            return Event("lost", node.digest, message="it ended without a word")
        except self._ray.exceptions.RayError as error:
            return Event("lost", node.digest, message=type(error).__name__)
        if not event.last:
            self._running[ready[0]] = node  # at the end: every node's turn comes
        return event

    def stop(self) -> None:
        """End what is under way, and the connection where it is our own."""
        for stream in self._running:
            self._ray.cancel(stream, force=True)
        if self._ours:
            self._ray.shutdown()

    def _needs(self, node: Node) -> dict[str, float]:
        if isinstance(node, Train):
            return {"CPU": float(node.recipe.threads), "GPU": self._gpus_per_run}
        return {"CPU": 1.0, "GPU": 0.0}  # a mask

    def _machines(self) -> list[dict[str, float]]:
        """Return what each machine has that is alive, asked anew now and then: they come and go."""
        if time.monotonic() - self._looked >= POLL_SECONDS:
            self._found = [machine["Resources"] for machine in self._ray.nodes() if machine["Alive"]]
            self._looked = time.monotonic()
        return self._found


def _stream(root: str, digest: str) -> Iterator[dict[str, Any]]:
    """Run a node where Ray put this call, and yield its news."""
    import ray

    warnings.filterwarnings("ignore")
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a GPU that was not given to this run may be another's
    told: queue.Queue[Event | None] = queue.Queue()
    threading.Thread(target=_work, args=(Path(root), digest, told), daemon=True).start()
    while (event := told.get()) is not None:
        yield asdict(event)


def _work(root: Path, digest: str, told: queue.Queue[Event | None]) -> None:
    from vltickets.studies.leased import serve

    try:
        if (root / "store.json").exists():
            serve(digest, Store(root), told.put)
        else:
            where = f"{root} is not a store on {socket.gethostname()}"
            told.put(failed(digest, UserError(f"{where}: all machines need the same folder under the same path")))
    finally:
        told.put(None)
