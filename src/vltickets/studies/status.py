"""How far a study is, from its store alone: cells by artefact, runs under way, and the time left."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vltickets.errors import UserError
from vltickets.store import Store
from vltickets.studies.progress import Progress, under_way

SAMPLED = 20  # finished runs of a task whose pace is looked at


@dataclass(frozen=True)
class Status:
    """What is done of a study. `missing` counts cells by baseline, `artefacts` has (done, cells) by artefact.

    `runs_left` counts trainings, also those that only others need. `seconds_left` are of the clock, with as many runs
    side by side as now; None where no finished run tells a pace.
    """

    study: str
    cells: int
    done: int
    missing: Mapping[str, int]
    artefacts: Mapping[str, tuple[int, int]]
    running: tuple[tuple[str, Progress], ...]
    runs_left: int
    seconds_left: float | None


class Watch:
    """A study that is looked at again and again: what never changes is read once."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.cells: list[dict[str, Any]] = store.study(name)["cells"]
        self.names = {cell["node"]: cell_name(cell) for cell in self.cells}
        self._done: set[str] = set()
        self._trainings: dict[str, tuple[str, int]] = {}  # digest → task, steps
        self._paces: dict[str, list[float]] = {}
        self._needed: set[str] | None = None

    def look(self) -> Status:
        """Return how far it is now."""
        missing = Counter(str(cell["baseline"]) for cell in self.cells if not self._finished(cell["node"]))
        artefacts: dict[str, tuple[int, int]] = {}
        for cell in self.cells:
            for artefact in cell.get("artefacts", ()):
                done, planned = artefacts.get(artefact, (0, 0))
                artefacts[artefact] = (done + self._finished(cell["node"]), planned + 1)
        needed = self._nodes()
        running = [one for one in under_way(self.store) if one.digest in needed]
        left = [digest for digest in self._trainings if not self._finished(digest)]
        return Status(
            study=self.name,
            cells=len(self.cells),
            done=len(self.cells) - missing.total(),
            missing=dict(sorted(missing.items())),
            artefacts=artefacts,
            running=tuple((self.names.get(one.digest, self._task(one.digest)), one) for one in running),
            runs_left=len(left),
            seconds_left=self._seconds_left(left, running),
        )

    def _finished(self, digest: str) -> bool:
        if digest not in self._done and (self.store.root / "runs" / digest / "record.json").exists():
            self._done.add(digest)
        return digest in self._done

    def _nodes(self) -> set[str]:
        """Return the digests of all that the cells need; while some are not in the store yet, of those that are."""
        if self._needed is None:
            known = [
                cell["node"] for cell in self.cells if (self.store.root / "nodes" / f"{cell['node']}.json").exists()
            ]
            needed = set(self.store.with_ancestors(known))
            for digest in needed:
                spec = self.store.spec(digest)
                if spec["kind"] == "train":
                    steps = int(spec["recipe"]["steps"] if spec.get("until") is None else spec["until"])
                    self._trainings[digest] = (str(spec["task"]["kind"]), steps)
            if len(known) < len(self.cells):
                return needed
            self._needed = needed
        return self._needed

    def _task(self, digest: str) -> str:
        return self._trainings[digest][0] if digest in self._trainings else "mask"

    def _seconds_left(self, left: list[str], running: list[Progress]) -> float | None:
        if not left:
            return 0.0
        for digest, (task, steps) in self._trainings.items():
            paces = self._paces.setdefault(task, [])
            if steps and len(paces) < SAMPLED and self._finished(digest):
                paces.append(self.store.record(digest).seconds / steps)
        known = {task: statistics.median(paces) for task, paces in self._paces.items() if paces}
        for one in running:
            if one.seconds_left is not None and one.step < one.steps:
                known.setdefault(self._task(one.digest), one.seconds_left / (one.steps - one.step))
        if not known:
            return None
        usual = statistics.median(known.values())
        steps_done = {one.digest: one.step for one in running}
        seconds = 0.0
        for digest in left:
            task, steps = self._trainings[digest]
            seconds += (steps - steps_done.get(digest, 0)) * known.get(task, usual)
        return seconds / max(len(running), 1)


def cell_name(cell: Mapping[str, Any]) -> str:
    """Return what a cell is called while it runs."""
    try:
        level = f" {100 * cell['sparsity']:g} %" if cell["sparsity"] else ""
        where = f" on {cell['task']}" if cell.get("task") else ""
        how = ", adversarial" if cell.get("adversarial") else ""
        return f"{cell['baseline']}{level}{where} seed {cell['seed']}{how}"
    except (KeyError, TypeError) as error:
        raise UserError(f"the study's cells are corrupted ({error!r}); run it again to mend it") from None
