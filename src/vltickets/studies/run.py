"""Running a study: its cells, the work they need, and what a report wants to know besides the cells."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vltickets.backbones import check_recipe
from vltickets.backbones.checkpoints import read_about
from vltickets.data import Source, check_folder, open_source, register_folder
from vltickets.errors import UserError
from vltickets.scenes import WORLD_VERSION
from vltickets.specs import DataSpec, Node, TaskSpec, Train, World, changed, parse, parse_backbone
from vltickets.store import Store, check_study_name
from vltickets.studies.config import Common, Study, task_on
from vltickets.studies.executors import Listener, RayCluster, StudyFailed, execute
from vltickets.studies.first_ticket import check_patterns, first_ticket
from vltickets.studies.graph import Cell, Work, plan, steps_of
from vltickets.studies.oracle import oracle_score
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper
from vltickets.studies.whole import Whole
from vltickets.tasks import Task, build_task, check_task
from vltickets.tasks.answering import AnsweringTask
from vltickets.tasks.linear import is_small, ridge_answers, ridge_matching, ridge_retrieval
from vltickets.tasks.matching import MatchingTask
from vltickets.tasks.retrieval import RetrievalTask
from vltickets.training import processes


@dataclass(frozen=True)
class Planned:
    """A study ready to run: its cells, the work that is left, and the seconds that making the data took.

    `more` says what the study will ask for once results are in, in words: a study may yield cells by what was found.
    """

    name: str
    study: Study | Paper
    cells: tuple[Cell, ...]
    work: tuple[Work, ...]
    data: DataSpec
    data_seconds: float
    more: str = ""

    @property
    def steps_left(self) -> int:
        """Optimiser steps of the work that is left."""
        return sum(steps_of(item.node) for item in self.work if isinstance(item.node, Train))


def plan_study(
    name: str,
    study: Study | Paper,
    store: Store,
    folder: Path | None,
    *,
    weights_of: tuple[str, float, int] | None = None,
    only: Collection[str] = (),
    scratch: Store | None = None,
) -> Planned:
    """Make the data where it is missing, and plan the study. `folder` is the user's data, for studies that need it.

    `weights_of` names a cell (baseline, sparsity, seed) whose trained weights are wanted, not only its numbers.
    `only` names artefacts of the paper: the work of no other is planned, though its cells are. With a `scratch` store,
    `store` is only looked at: what planning itself has to write goes there, and finished results are taken as they are.
    """
    started = time.perf_counter()
    check_study_name(name)
    if name in store.studies():
        store.study(name)  # a damaged or newer one is refused before anything is written
    about = {} if study.weight_file is None else read_about(study.weight_file)
    if about and parse_backbone(about["backbone"], str(study.weight_file)) != study.named_shape:
        raise UserError(
            f"{study.weight_file} is of another backbone than the study's {study.backbone}; import it as that"
        )
    if isinstance(study, Study) and not study.sizes_needed:
        check_patterns(study)  # before anything is written
    kept = store if scratch is None else scratch
    data = _data(study, kept, folder, about.get("vocabulary"), noted=store)
    kept.prepare()
    if scratch is None and study.weight_file is not None:
        store.put_imported(study.weight_file)
    if scratch is None and isinstance(study, Paper) and study.text_weights is not None:
        store.put_imported(Path(study.text_weights))
    if scratch is None or study.sizes_needed:
        study = _with_sizes(study, data, open_source(data, kept))
    cells = tuple(
        paper(study, data, partial(_metrics, store)) if isinstance(study, Paper) else first_ticket(study, data)
    )
    for cell in cells:
        if isinstance(cell.node, Train):
            check_task(cell.node.task, cell.node.backbone)
        if scratch is None and isinstance(cell.node, Train) and store.has(cell.node):
            store.arrays(cell.node.digest, "items")  # a corrupted result is refused before anything is run
    wanted = {cell.node.digest for cell in cells if (cell.baseline, cell.sparsity, cell.seed) == weights_of}
    shown = [cell for cell in cells if not only or set(only) & set(cell.artefacts)]
    work = tuple(plan((cell.node for cell in shown), store, weights=wanted))
    for item in work:
        if isinstance(item.node, Train):
            check_recipe(item.node.recipe, item.node.backbone)
            processes.check_parts(item.node.recipe, item.node.task.kind)
    return Planned(name, study, cells, work, data, time.perf_counter() - started, _more(study, cells, work))


def _more(study: Study | Paper, cells: Sequence[Cell], work: Sequence[Work]) -> str:
    """Return what a study asks for once the work that is left is done: Table 1 waits for its tickets' scores."""
    left = {item.node.digest for item in work}
    waiting = sum(
        cell.node.digest in left
        for cell in cells
        if "table1" in cell.artefacts and cell.seed in study.seeds and cell.baseline in ("full", cell.task)
    )
    return f"Table 1's baselines, at the sparsity that {waiting} runs of it have yet to show" if waiting else ""


def _metrics(store: Store, node: Train) -> dict[str, float] | None:
    return store.record(node.digest).metrics if store.has(node) else None


def merged(plans: Sequence[Planned]) -> list[Work]:
    """Return the work of several studies, what they share once."""
    after: dict[str, set[str]] = {}
    nodes: dict[str, Node] = {}
    for item in (item for planned in plans for item in planned.work):
        nodes[item.node.digest] = item.node
        after.setdefault(item.node.digest, set()).update(item.after)
    return [Work(node, tuple(sorted(after[digest]))) for digest, node in nodes.items()]


def _with_sizes(study: Study | Paper, data: DataSpec, source: Source) -> Study | Paper:
    """Return the study with the sizes that its masks take from the data; a recipe that says others is a `UserError`."""
    found = {}
    if "vocabulary" in study.sizes_needed:
        found["vocabulary"] = len(source.vocabulary)
    if "region_width" in study.sizes_needed:
        if isinstance(study, Paper):
            name, plan = next(iter(study.tasks.items()))
            spec = task_on(name, plan.options, data, study.split)
        else:
            spec = study.task_on(data)
        found["region_width"] = build_task(spec, source, study.named_shape).region_width()
    for size, value in found.items():
        if getattr(study, size) not in (None, value):
            raise UserError(
                f"the recipe says {size} = {getattr(study, size)} and the data has {value}; leave it out of the recipe"
            )
    return changed(study, **found) if found else study


def run_studies(
    plans: Sequence[Planned],
    store: Store,
    *,
    workers: int,
    listen: Listener,
    command: str,
    cluster: RayCluster | None = None,
) -> None:
    """Run what is left of studies side by side, and keep their cells for `report`. What is done stays as it is.

    Each counts its share of the time, by steps.

    Raises as `execute` does; where only some runs failed (`StudyFailed`), all else is kept as after a whole run.
    """
    earlier = [_earlier(planned, store) for planned in plans]
    for planned, (phases, rows) in zip(plans, earlier, strict=True):
        note_study(planned, store, command=command, workers=workers, phases=phases, rows=rows)
    started = time.perf_counter()
    failure = None
    try:
        execute(merged(plans), store, workers=workers, listen=listen, cluster=cluster)
    except StudyFailed as error:
        failure = error
    ran = time.perf_counter() - started
    steps = sum(planned.steps_left for planned in plans)
    for planned, (phases, _) in zip(plans, earlier, strict=True):
        share = planned.steps_left / steps if steps else 1 / len(plans)
        started = time.perf_counter()
        rows = _reference_rows(planned, store)
        spent = {
            "data and plan": planned.data_seconds,
            "runs": share * ran if planned.work else 0.0,
            "reference rows": time.perf_counter() - started,
        }
        whole = {name: phases.get(name, 0.0) + seconds for name, seconds in spent.items()}
        note_study(planned, store, command=command, workers=workers, phases=whole, rows=rows)
    if failure is not None:
        raise failure


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
    store.put_study(
        planned.name,
        {
            "study": study.study,
            "name": planned.name,
            "title": study.title,
            **_of_its_kind(study, rows or []),
            "split": study.split,
            "command": command,
            "note": study.note,
            "wall_seconds": sum(phases.values()) or None,
            "phases": phases,
            "workers": workers,
            "recipe": study.model_dump(mode="json"),
            "cells": [_cell(cell, study) for cell in planned.cells],
            "extra_rows": rows or [],
        },
    )


def note_whole(name: str, whole: Whole, plans: Sequence[Planned], store: Store, *, command: str) -> None:
    """Keep which studies are the whole paper, and all their cells under its name."""
    cells = [_cell(cell, planned.study) | {"part": planned.name} for planned in plans for cell in planned.cells]
    parts = [planned.name for planned in plans]
    told = {"title": whole.title, "note": whole.note, "parts": parts, "command": command}
    store.put_study(name, {"study": "whole", "name": name, **told, "cells": cells})


def _of_its_kind(study: Study | Paper, rows: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(study, Paper):
        return {"artefacts": list(study.artefacts), "tasks": list(study.tasks)}
    chance = next((row["mean"] for row in rows if row["baseline"] == "chance"), None)
    return {"task": study.task, "metric": study.metric, "chance": chance}


def _cell(cell: Cell, study: Study | Paper) -> dict[str, Any]:
    values = {"baseline": cell.baseline, "sparsity": cell.sparsity, "seed": cell.seed, "node": cell.node.digest}
    if isinstance(study, Paper):
        values |= {"task": cell.task, "adversarial": cell.adversarial, "artefacts": list(cell.artefacts)}
    return values


def _earlier(planned: Planned, store: Store) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the phases' seconds and the reference rows of earlier sittings, if they were of the very same study."""
    if planned.name in store.studies():
        noted = store.study(planned.name)
        if _is_of(noted.get("recipe") or {}, planned.study):
            return dict(noted.get("phases", {})), list(noted.get("extra_rows", []))
    return {}, []


def _is_of(recipe: dict[str, Any], study: Study | Paper) -> bool:
    """Is a noted recipe this study's? One noted before there was some field is: it had what is now the default."""
    try:
        return parse(type(study), recipe, "the noted recipe") == study
    except UserError:
        return False


def _reference_rows(planned: Planned, store: Store) -> list[dict[str, Any]]:
    study = planned.study
    if isinstance(study, Study):
        return _rows_of(study.task_on(planned.data), planned, store, linear=True)
    rows: list[dict[str, Any]] = []
    for name, own in study.tasks.items():
        spec = task_on(name, own.options, planned.data, study.split)
        with suppress(UserError):  # its data is not here, which its runs have said already
            rows += [{**row, "task": name} for row in _rows_of(spec, planned, store, linear=False)]
    return rows


def _rows_of(spec: TaskSpec, planned: Planned, store: Store, *, linear: bool) -> list[dict[str, Any]]:
    """Return a task's rows that are not trainings; `linear` asks for a linear model's too, where there is one."""
    source, split = open_source(planned.data, store), spec.split
    task = build_task(spec, source, planned.study.shape)
    rows = [_row("chance", task.chance(split), "the best constant answer, or guessing")]
    if isinstance(planned.data, World):
        oracle = oracle_score(task, planned.data, split)
        rows.append(_row("oracle", oracle, "a reader of the true structure"))
    if linear:
        rows += _linear_rows(task, source, planned, split)
    return rows


def _linear_rows(task: Task, source: Source, planned: Planned, split: str) -> list[dict[str, Any]]:
    """Return what a linear model scores on the same items, where there is one for the task and the data is small."""
    if isinstance(task, MatchingTask) and is_small(task.captions("train").texts):
        score = ridge_matching(source.captions("train"), source.captions(split), split)
        note = "linear: ridge from mean and whole-image region features to the captions' words, same items"
    elif planned.study.data == "world":
        return []
    elif isinstance(task, RetrievalTask) and is_small(task.captions("train").texts):
        score = ridge_retrieval(task.captions("train"), task.scored(split))
        note = "linear: ridge from mean and whole-image region features to the captions' words"
    elif isinstance(task, AnsweringTask) and is_small(task.questions("train").texts):
        score = ridge_answers(task.questions("train"), task.questions(split))
        note = "linear: ridge from words and mean region features to the answers' scores"
    else:
        return []
    return [_row("ridge", score, note)]


def _row(baseline: str, mean: float, note: str) -> dict[str, Any]:
    return {"baseline": baseline, "sparsity": 0.0, "mean": mean, "std": None, "seeds": 0, "note": note}


def _data(study: Common, store: Store, folder: Path | None, vocabulary: str | None, *, noted: Store) -> DataSpec:
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
    check_folder(folder, study.layout)  # refuses before anything is written
    store.prepare()
    return register_folder(folder, store, study.layout, vocabulary=vocabulary, noted=noted)
