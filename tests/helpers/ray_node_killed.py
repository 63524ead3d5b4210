"""Run the smallest study on a Ray of two node processes, kill one in mid-run, and print what was seen as JSON.

`python ray_node_killed.py STORE`. The node that dies is the one whose worker holds the lease of a training that has a
checkpoint. Linux only: who holds a lease is read from /proc.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster
from safetensors import SafetensorError, safe_open

from smallest import plan_smallest
from vltickets.studies.executors import Event, RayCluster
from vltickets.studies.run import run_studies


def every_step() -> None:
    """Called in each worker process as it starts: a checkpoint at every step, and steps slow enough to be met."""
    from vltickets.training import loop

    loop.CHECKPOINT_SECONDS = 0.0
    rate = loop.learning_rate
    loop.learning_rate = lambda step, recipe: (time.sleep(0.05), rate(step, recipe))[1]


def checkpoint_step(path: Path) -> int | None:
    try:
        with safe_open(str(path), "np") as file:
            return int(file.metadata()["step"])
    except (OSError, SafetensorError):
        return None


def holder(lease: Path) -> psutil.Process | None:
    """Return the process that has a lease's file open."""
    for process in psutil.process_iter():
        try:
            if any(path.resolve() == lease for path in Path(f"/proc/{process.pid}/fd").iterdir()):
                return process
        except OSError:
            continue
    return None


def suspended(process: psutil.Process) -> bool:
    """Stop a process where it is; False where it is gone."""
    try:
        process.suspend()
    except psutil.NoSuchProcess:
        return False
    return True


def kill_one(root: Path, cluster: Cluster, seen: dict[str, object], over: threading.Event) -> None:
    """Wait for a checkpoint, kill the machine it comes from, and watch who goes on from it."""
    while not over.wait(0.01):
        for checkpoint in (root / "work").glob("*/checkpoint.safetensors"):
            digest, step = checkpoint.parent.name, checkpoint_step(checkpoint)
            worker = holder((root / "leases" / f"{digest}.lock").resolve()) if step and step > 1 else None
            raylets = [process.pid for process in worker.parents()] if worker else []
            node = next((n for n in cluster.worker_nodes if n.all_processes["raylet"][0].process.pid in raylets), None)
            if node is None or not suspended(worker):  # so that the run is not over before its machine is
                continue
            if not checkpoint.exists():
                worker.resume()
                continue
            cluster.remove_node(node, allow_graceful=False)
            worker.kill()  # a machine's processes die with it
            seen |= {"killed": digest, "step": checkpoint_step(checkpoint) or step, "worker": worker.pid}
            later: list[int] = []
            while not over.wait(0.005):
                if (now := checkpoint_step(checkpoint)) is not None and now not in later[-1:]:
                    later.append(now)
            seen["later"] = later
            return


def main(root: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    ray.init(
        cluster.address,
        runtime_env={"worker_process_setup_hook": every_step},
        log_to_driver=False,
        logging_level="error",
    )
    planned, store = plan_smallest(root)
    told: list[Event] = []
    seen: dict[str, object] = {"machines": len(cluster.worker_nodes)}
    over = threading.Event()
    killer = threading.Thread(target=kill_one, args=(root, cluster, seen, over))
    killer.start()
    try:
        run_studies([planned], store, workers=0, listen=told.append, command="", cluster=RayCluster())
    finally:
        over.set()
        killer.join()
        ray.shutdown()
        cluster.shutdown()
    seen["events"] = [(event.state, event.digest, event.message) for event in told if event.state != "step"]
    print(json.dumps(seen))


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main(Path(sys.argv[1]))
