"""Runs of a study in TensorBoard, Weights & Biases or MLflow, through accelerate's trackers: each a tracked run.

A listener beside the others: when a training is finished, wherever it ran, its curve, metrics and spec go from its
record to the tracker. It changes nothing of the run.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vltickets.errors import UserError, unknown
from vltickets.store import Record, Store
from vltickets.studies.executors import Event, Listener
from vltickets.studies.status import cell_name

Open = Callable[[str, str, Path], Any]  # study, run's name, folder → a tracker of accelerate's, not started


def check_tracker(name: str) -> None:
    """Raise `UserError` unless this is tensorboard, wandb or mlflow, and installed."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if importlib.util.find_spec(name) is None:
        how = 'pip install "vltickets[track]"' if name == "tensorboard" else f"pip install {name}"
        raise UserError(f"--track {name} needs the package {name}, which is not installed: {how}")


def tracking(name: str, studies: Sequence[str], store: Store, listen: Listener) -> Listener:
    """Return a listener that does as `listen` does, and tracks every training of some studies when it is finished.

    A tracker that fails is warned of, once, and the study goes on without it.
    """
    check_tracker(name)
    tracked: set[str] = set()
    broken = False

    def hear(event: Event) -> None:
        nonlocal broken
        listen(event)
        if event.state != "finished" or event.digest in tracked or broken:
            return
        tracked.add(event.digest)
        record = store.record(event.digest)
        if record.kind != "train":
            return
        try:
            study, cell = _place(store, studies, record)
            called = f"{cell} {record.digest[:8]}".replace("/", "-")
            _track(TRACKERS[name](study, called, store.root / "tracked"), record)
        except Exception as error:  # whatever a tracker dies of: runs of days must not
            broken = True
            warnings.warn(f"{name} does not work ({error}); the study goes on without it", stacklevel=2)

    return hear


def _place(store: Store, studies: Sequence[str], record: Record) -> tuple[str, str]:
    """Return the study that shows a run, and what it calls it; one that others only need is called by its task."""
    for study in studies:
        for cell in store.study(study)["cells"]:
            if cell["node"] == record.digest:
                return study, cell_name(cell)
    return studies[0], str(record.spec["task"]["kind"])


def _track(tracker: Any, record: Record) -> None:
    tracker.start()
    tracker.store_init_configuration(dict(_flat(record.spec)) | {"digest": record.digest})
    for step, loss in record.curve:
        tracker.log({"loss": loss}, step=step)
    last = record.curve[-1][0] if record.curve else 0
    tracker.log({name: value for name, value in record.metrics.items() if math.isfinite(value)}, step=last)
    tracker.finish()


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """Yield a spec as dotted names and plain values, which all trackers take."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item if isinstance(item, bool | int | float | str) else str(item)


def _tensorboard(study: str, run: str, folder: Path) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker(run, folder / study)


def _wandb(study: str, run: str, folder: Path) -> Any:
    from accelerate.tracking import WandBTracker

    return WandBTracker(study, name=run, dir=str(folder.parent), reinit=True)


def _mlflow(study: str, run: str, folder: Path) -> Any:
    from accelerate.tracking import MLflowTracker

    return MLflowTracker(experiment_name=study, run_name=run)


TRACKERS: dict[str, Open] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
