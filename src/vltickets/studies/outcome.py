"""Planned against actual: what a study was expected to take, kept beside it, and what its runs took."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import astuple, dataclass
from pathlib import Path

from vltickets.errors import UserError
from vltickets.store import Store, check_format, check_study_name, write_file
from vltickets.studies.costs import spent
from vltickets.studies.forecast import Forecast, Label

FORMAT = 1
Seconds = tuple[float, float]  # of time, of processor time


@dataclass(frozen=True)
class Compared:
    """The finished ones of some runs that were planned: their seconds as planned and as they were.

    `planned_processor` and `processor` are the same of processor time, which other work on the machine does not change.
    """

    label: Label
    runs: int
    unfinished: int
    planned: float
    actual: float
    planned_processor: float
    processor: float

    @property
    def error(self) -> float:
        """The plan's error, as a share of what was: +0.1 where it said a tenth too much."""
        return self.planned / self.actual - 1 if self.actual else 0.0

    @property
    def processor_error(self) -> float:
        """The same of processor time."""
        return self.planned_processor / self.processor - 1 if self.processor else 0.0


def keep_forecast(name: str, forecast: Forecast, store: Store) -> None:
    """Keep what each run is expected to take. A run that was planned before keeps its first figure."""
    check_study_name(name)
    if not forecast.seconds:
        return
    known = _kept(name, store)
    runs = {
        digest: ((seconds, forecast.processor[digest]), forecast.labels[digest])
        for digest, seconds in forecast.seconds.items()
    } | known
    values = {digest: [*seconds, *astuple(label)] for digest, (seconds, label) in runs.items()}
    content = {"format": FORMAT, "runs": values}
    write_file(_path(name, store), json.dumps(content, sort_keys=True, ensure_ascii=False).encode())


def compared(name: str, store: Store) -> list[Compared]:
    """Return planned against actual seconds, label by label; nothing, where no forecast was kept."""
    groups: dict[Label, list[tuple[Seconds, Seconds | None]]] = defaultdict(list)
    for digest, (seconds, label) in _kept(name, store).items():
        groups[label].append((seconds, _actual(digest, store)))
    out = []
    for label, runs in sorted(groups.items()):
        done = [(*planned, *actual) for planned, actual in runs if actual is not None]
        planned, planned_processor, actual, processor = (sum(run[place] for run in done) for place in range(4))
        out.append(Compared(label, len(done), len(runs) - len(done), planned, actual, planned_processor, processor))
    return out


def total(rows: list[Compared]) -> Compared:
    """Return all rows as one."""
    names = ("runs", "unfinished", "planned", "actual", "planned_processor", "processor")
    sums = [sum(getattr(row, name) for row in rows) for name in names]
    return Compared(Label("all", "", ""), *sums)


def _actual(digest: str, store: Store) -> Seconds | None:
    if not (store.root / "runs" / digest / "record.json").exists():
        return None
    record = store.record(digest)
    return spent(record), record.processor_seconds


def _kept(name: str, store: Store) -> dict[str, tuple[Seconds, Label]]:
    path = _path(name, store)
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
        check_format(value, str(path))
        return {digest: ((run[0], run[1]), Label(*run[2:])) for digest, run in value["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is corrupted ({error}); delete it") from None


def _path(name: str, store: Store) -> Path:
    return store.root / "plans" / f"{name}.json"
