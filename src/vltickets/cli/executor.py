"""Where a study runs: `--executor`, `--workers`, and what belongs to Ray."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from vltickets.errors import UserError
from vltickets.studies.executors import RayCluster, working_processes


class Executor(StrEnum):
    """The choices of `--executor`."""

    PROCESS = "process"
    WORKERS = "workers"
    RAY = "ray"


ExecutorOption = Annotated[
    Executor | None, typer.Option("--executor", help="This process, workers beside it (default), or Ray.")
]
AddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="A running cluster, or auto. Default: RAY_ADDRESS, or none: here.")
]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-run", min=0, max=1, help="Share of a GPU a training takes. Default: 1 if there are any."),
]


def place_to_run(
    executor: Executor | None, workers: int | None, address: str | None, gpus_per_run: float | None
) -> tuple[int, RayCluster | None]:
    """Return the number of worker processes, 0 for none, and the cluster where the choice is Ray."""
    if executor != Executor.RAY and (address is not None or gpus_per_run is not None):
        raise UserError("--ray-address and --gpus-per-run are for --executor ray; add that, or leave them out")
    if executor == Executor.RAY:
        if workers is not None:
            raise UserError("--workers is for worker processes; on Ray the machines' CPUs say how many runs go at once")
        return 0, RayCluster(address, gpus_per_run)
    if executor == Executor.PROCESS:
        if workers:
            raise UserError(f"--workers {workers} and --executor process: leave one of them out")
        return 0, None
    if executor == Executor.WORKERS and workers == 0:
        raise UserError("--workers 0 means this process: write --executor process, or a number above 0")
    return working_processes() if workers is None else workers, None
