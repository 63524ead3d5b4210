"""Planning before anything runs: which evidence there is of what a study costs, and what its data lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vltickets.errors import UserError
from vltickets.specs import Folder, Node, Pretraining, TaskSpec, Train
from vltickets.store import Store
from vltickets.studies.calibration import examples_of, this_machine
from vltickets.studies.config import Study
from vltickets.studies.costs import (
    Cost,
    Figures,
    costs_from_records,
    figures_path,
    joined,
    read_figures,
    unknown,
)
from vltickets.studies.first_ticket import first_ticket
from vltickets.studies.forecast import Forecast, forecast
from vltickets.studies.graph import closure, plan
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper
from vltickets.studies.run import Planned

TASK_FOLDERS = {"retrieval": "flickr30k", "matching": "captions", "lxmert_pretraining": "captions"}
CORPUS_FOLDERS = {"coco": "captions", "vg": "visual_genome", "cc": "conceptual_captions", "sbu": "sbu"}


def nodes_left(plans: Sequence[Planned]) -> list[Node]:
    """Return the runs that are left of the plans, each once."""
    return list({item.node.digest: item.node for planned in plans for item in planned.work}.values())


def kept_figures(store: Store) -> Figures:
    """Return what was measured on this machine before and is kept in the store; nothing, where nothing is."""
    path = figures_path(store, this_machine())
    return read_figures(path) if path.exists() else Figures(this_machine(), {}, {})


def recorded_costs(plans: Sequence[Planned], store: Store) -> dict[str, Cost]:
    """Return what the shapes of the runs left took on this machine, by finished records; see `costs_from_records`."""
    left = nodes_left(plans)
    if not left:
        return {}
    waiting = {node.digest for node in left}
    nodes = closure(cell.node for planned in plans for cell in planned.cells)
    done = [node for digest, node in nodes.items() if digest not in waiting and store.has(node)]
    return costs_from_records(examples_of(left), done, store, this_machine())


def to_measure(plans: Sequence[Planned], recorded: Mapping[str, Cost], measured: Figures) -> dict[str, Node]:
    """Return a run of each shape of which neither records nor measured figures tell everything."""
    return {
        name: node
        for name, node in examples_of(nodes_left(plans)).items()
        if name not in measured.costs and (name not in recorded or unknown(recorded[name]))
    }


def expected(plans: Sequence[Planned], store: Store, workers: int, only: Collection[str] = ()) -> Forecast:
    """Return what the plans take by what is known already: nothing is measured."""
    return forecast(plans, store, joined(recorded_costs(plans, store), kept_figures(store).costs), workers, only)


def of_device(path: Path) -> Figures:
    """Return the figures of a device's file, which names itself as their evidence."""
    figures = read_figures(path)
    costs = {name: replace(cost, evidence=f"{path.name}: {cost.evidence}") for name, cost in figures.costs.items()}
    return Figures(figures.machine, costs, figures.of)


# Data that is not there


def check_data(name: str, study: Study | Paper, store: Store, folder: Path | None) -> None:
    """Raise `UserError` where a study needs a folder that is not there, and say which runs that keeps from running."""
    if study.data == "world" or (folder is not None and folder.is_dir()):
        return
    what = "names none with --data" if folder is None else f"{folder} is no folder"
    if study.sizes_needed:
        raise UserError(f"all runs of {name} need the folder of its data, and the command {what}; none can run without")
    data = Folder(layout=study.layout or "official", fingerprint="not there")
    cells = paper(study, data) if isinstance(study, Paper) else first_ticket(study, data)
    work = plan((cell.node for cell in cells), store)
    tasks = Counter(item.node.task.kind for item in work if isinstance(item.node, Train))
    masks = [item.node for item in work if not isinstance(item.node, Train) and not item.after]
    counts = ", ".join(f"{count} of {task}" for task, count in sorted(tasks.items()))
    rest = f"only its {len(masks)} masks that need no training can be made" if masks else "none can run"
    raise UserError(
        f"the {sum(tasks.values())} trainings of {name} ({counts}) need the folder of its data, and "
        f"{'the command ' if folder is None else ''}{what}; without it {rest}"
    )


def lacking(planned: Planned, folder: Path | None) -> str:
    """Return what an official folder lacks: which runs that keeps from running and what can run all the same.

    One sentence; nothing where nothing is lacking. Only that a task's own folder is there is looked at.
    """
    if folder is None or not isinstance(planned.data, Folder) or planned.data.layout != "official":
        return ""
    blocked: dict[str, str] = {}
    counts: dict[str, Counter[str]] = {}
    for item in planned.work:  # parents come first: what needs the result of a blocked run is blocked as well
        missing = [blocked[parent] for parent in item.after if parent in blocked]
        if isinstance(item.node, Train):
            missing += [name for name in _folders(item.node.task) if not (folder / name).is_dir()]
        if missing:
            blocked[item.node.digest] = missing[0]
            what = item.node.task.kind if isinstance(item.node, Train) else "masks"
            counts.setdefault(missing[0], Counter())[what] += 1
    if not counts:
        return ""
    told = "; ".join(
        f"{count.total()} runs need {name}/ ({', '.join(f'{number} of {what}' for what, number in count.items())})"
        for name, count in counts.items()
    )
    return f"{planned.name}: {folder} lacks data: {told}; the other {len(planned.work) - len(blocked)} runs can be done"


def _folders(task: TaskSpec) -> list[str]:
    if isinstance(task, Pretraining):
        ratios = {"coco": 1.0} if task.corpora is None else task.corpora.model_dump()
        return [CORPUS_FOLDERS[name] for name, ratio in ratios.items() if ratio]
    return [TASK_FOLDERS.get(task.kind, task.kind)]
