"""Running a study: its cells, the work they need, and what a report wants to know besides the cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vltickets.data import find_layout, open_source, register_folder
from vltickets.errors import UserError
from vltickets.scenes import WORLD_VERSION
from vltickets.specs import DataSpec, Train, World
from vltickets.store import Store
from vltickets.studies.config import Study
from vltickets.studies.executors import Listener, execute
from vltickets.studies.first_ticket import first_ticket
from vltickets.studies.graph import Cell, Work, plan, steps_of
from vltickets.tasks import build_task
from vltickets.tasks.linear import ridge_matching

Clock = Callable[[], float]


@dataclass(frozen=True)
class Planned:
    """A study ready to run: its cells, the work that is left, and the seconds that making the data took."""

    name: str
    study: Study
    cells: tuple[Cell, ...]
    work: tuple[Work, ...]
    data: DataSpec
    data_seconds: float

    @property
    def steps_left(self) -> int:
        """Optimiser steps of the work that is left."""
        return sum(steps_of(item.node) for item in self.work if isinstance(item.node, Train))


def plan_study(name: str, study: Study, store: Store, folder: Path | None) -> Planned:
    """Make the data where it is missing, and plan the study. `folder` is the user's data, for studies that need it."""
    started = time.perf_counter()
    data = _data(study, store, folder)
    store.prepare()
    open_source(data, store)
    cells = tuple(first_ticket(study, data))
    work = tuple(plan((cell.node for cell in cells), store))
    return Planned(name, study, cells, work, data, time.perf_counter() - started)


def run_study(planned: Planned, store: Store, *, workers: int, listen: Listener, command: str) -> None:
    """Run what is left of a study, and keep its cells for `report`. What is done already stays as it is."""
    earlier = _phases(planned.name, store)
    note_study(planned, store, command=command, workers=workers, phases=earlier)
    started = time.perf_counter()
    execute(planned.work, store, workers=workers, listen=listen)
    ran = time.perf_counter()
    rows = _reference_rows(planned, store)
    spent = {
        "data and plan": planned.data_seconds,
        "runs": ran - started if planned.work else 0.0,
        "reference rows": time.perf_counter() - ran,
    }
    phases = {name: earlier.get(name, 0.0) + seconds for name, seconds in spent.items()}
    note_study(planned, store, command=command, workers=workers, phases=phases, rows=rows)


def note_study(
    planned: Planned,
    store: Store,
    *,
    command: str,
    workers: int,
    phases: dict[str, float],
    rows: list[dict[str, Any]] | None = None,
) -> None:
    """Keep a study's cells in the store. `phases` are the seconds of all sittings so far; `rows` those that are not
    trainings (chance, a linear model)."""
    study = planned.study
    chance = next((row["mean"] for row in rows or [] if row["baseline"] == "chance"), None)
    store.put_study(
        planned.name,
        {
            "format": 1,
            "study": study.study,
            "name": planned.name,
            "title": study.title,
            "task": study.task,
            "metric": "accuracy",
            "split": study.split,
            "chance": chance,
            "command": command,
            "note": study.note,
            "wall_seconds": sum(phases.values()) or None,
            "phases": phases,
            "workers": workers,
            "recipe": study.model_dump(mode="json"),
            "cells": [
                {"baseline": cell.baseline, "sparsity": cell.sparsity, "seed": cell.seed, "node": cell.node.digest}
                for cell in planned.cells
            ],
            "extra_rows": rows or [],
        },
    )


def _phases(name: str, store: Store) -> dict[str, float]:
    """Return the seconds that earlier sittings of a study took, by phase."""
    return dict(store.study(name)["phases"]) if name in store.studies() else {}


def _reference_rows(planned: Planned, store: Store) -> list[dict[str, Any]]:
    source = open_source(planned.data, store)
    task: Any = build_task(planned.study.task_on(planned.data), source, planned.study.uniter)
    rows = [_row("chance", task.chance(planned.study.split), "the best constant answer, or guessing")]
    if planned.study.task == "matching":
        score = ridge_matching(source.captions("train"), source.captions(planned.study.split), planned.study.split)
        note = "linear: ridge from mean and whole-image region features to the captions' words, same items"
        rows.append(_row("ridge", score, note))
    return rows


def _row(baseline: str, mean: float, note: str) -> dict[str, Any]:
    return {"baseline": baseline, "sparsity": 0.0, "mean": mean, "std": None, "seeds": 0, "note": note}


def _data(study: Study, store: Store, folder: Path | None) -> DataSpec:
    if study.data == "world":
        size = study.world
        return World(
            generator=WORLD_VERSION,
            seed=size.seed,
            scenes=size.scenes,
            examples=size.examples,
            heldout=size.heldout,
        )
    if folder is None:
        raise UserError("this study runs on real data: name its folder with --data DIR")
    find_layout(folder)  # refuses before anything is written
    store.prepare()
    return register_folder(folder, store)


def digests_of(cells: Sequence[Cell], store: Store) -> list[str]:
    """Return the digests of all nodes that the cells need, ancestors included."""
    found: dict[str, None] = {}
    pending = [cell.node.digest for cell in cells]
    while pending:
        digest = pending.pop()
        if digest not in found:
            found[digest] = None
            pending.extend(store.parents_of(digest))
    return list(found)
