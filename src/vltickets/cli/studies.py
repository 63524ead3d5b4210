"""`vltickets demo` and `study run|export|import`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vltickets.cli.console import duration, following, screen, typed
from vltickets.cli.executor import AddressOption, Executor, ExecutorOption, GpusOption, place_to_run
from vltickets.cli.reporting import JsonOption, StoreOption, show, show_paper
from vltickets.errors import UserError
from vltickets.specs import Train
from vltickets.store import Store, export_records, import_records
from vltickets.studies.config import Study
from vltickets.studies.executors import RayCluster, StudyFailed
from vltickets.studies.graph import steps_of
from vltickets.studies.loading import load_studies, load_ticket_study
from vltickets.studies.paper_config import Paper
from vltickets.studies.whole import Whole, chosen, sharing

if TYPE_CHECKING:
    from vltickets.studies.forecast import Forecast
    from vltickets.studies.run import Planned

study_app = typer.Typer(no_args_is_help=True, help="Run, watch, carry and report studies.")

OutOption = Annotated[Path, typer.Option("--out", help="Folder for the store, the page and the ticket.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of real data, for studies that need it.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=0, help="Processes side by side; 0: this one. Default: one a core.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a recipe's value, as training.steps=200.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Keep the study under this name.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="Of the whole `paper`: tiny (embedded world), real (photos) or full.")
]
TrackOption = Annotated[
    str | None, typer.Option("--track", help="Track each run too: tensorboard (STORE/tracked), wandb or mlflow.")
]
OnlyOption = Annotated[
    str | None, typer.Option("--only", help="Run these of the paper's tables and figures alone: table2,fig8.")
]


def demo(
    out: OutOption = Path("demo-out"),
    preset: Annotated[
        str, typer.Option(help="demo (5 minutes on 2 cores) or smoke (1 minute, plumbing only).")
    ] = "demo",
    pretrain: Annotated[
        bool, typer.Option("--pretrain", help="Make θ₀ anew instead of using the shipped one.")
    ] = False,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find a ticket in the embedded world, test it against the baselines, and write report.html."""
    chosen = [*(settings or []), *(['start="pretrained"'] if pretrain else [])]
    study = load_ticket_study(preset, tuple(chosen))
    if study.data != "world":
        raise UserError(
            f"the demo runs in the embedded world; for {preset} use: vltickets study run {preset} --data DIR"
        )
    name = Path(preset).stem
    wanted = ("imp", study.quoted[-1], study.seeds[0]) if study.quoted else None
    where = place_to_run(None, workers, None, None)
    _run({name: study}, Store(out / "store"), None, where, as_json, page=out / "report.html", weights_of=wanted)
    _save_ticket(name, study, Store(out / "store"), out, as_json)


@study_app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="A preset, or the path of a recipe in TOML.")],
    store: StoreOption = Path("store"),
    data: DataOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    called: NameOption = None,
    preset: PresetOption = None,
    only: OnlyOption = None,
    executor: ExecutorOption = None,
    ray_address: AddressOption = None,
    gpus_per_run: GpusOption = None,
    track: TrackOption = None,
) -> None:
    """Run what is left of a study. A killed one goes on where it was; what is done is never done again.

    Started by torchrun, its processes train each run together (docs/training.md).
    """
    from vltickets.studies.work import follow
    from vltickets.training import processes

    called, whole, studies, artefacts = asked_for(name, preset, settings, called, only)
    together = processes.join()
    if together and (workers or executor not in (None, Executor.PROCESS)):
        raise UserError("processes of torchrun do each run together, one run after another: leave --workers out")
    where = place_to_run(Executor.PROCESS if together else executor, workers, ray_address, gpus_per_run)
    if processes.rank() > 0:
        follow(Store(store))
    else:
        page = store / f"{called}.html"
        _run(studies, Store(store), data, where, as_json, page=page, whole=whole, only=artefacts, track=track)
        processes.tell(None)
    if together:
        processes.leave()


def asked_for(
    name: str, preset: str | None, settings: list[str] | None, called: str | None, only: str | None
) -> tuple[str, Whole | None, dict[str, Study | Paper], frozenset[str]]:
    """Return what a command's arguments name: what it is called, how it is told as one, its studies, its artefacts."""
    if preset is not None and name != "paper":
        raise UserError(f"--preset is of the whole paper: vltickets study run paper --preset {preset}")
    name = f"whole-{preset or 'tiny'}" if name == "paper" else name
    whole, studies = load_studies(name, tuple(settings or ()))
    if called is not None and whole is None:
        studies = dict.fromkeys([called], next(iter(studies.values())))
    called = called or Path(name).stem
    artefacts = chosen(only) if only is not None else frozenset()
    if artefacts and not all(isinstance(study, Paper) for study in studies.values()):
        raise UserError(f"--only chooses among the paper's tables and figures, and {name} is a study of one ticket")
    return called, whole, studies, artefacts


@study_app.command("export")
def export(
    name: Annotated[str, typer.Argument(help="The study whose finished records are written.")],
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    store: StoreOption = Path("store"),
) -> None:
    """Write a study's finished records (specs, numbers, masks; no weights) into one small file."""
    results = Store(store)
    cells = results.study(name)["cells"]
    digests = results.with_ancestors(cell["node"] for cell in cells)
    count = export_records(results, digests, file, studies=[name])
    screen().print(f"{count} records of {len(digests)} runs written to {file} ({file.stat().st_size / 1e6:.2f} MB)")


@study_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `study export` wrote.")],
    store: StoreOption = Path("store"),
) -> None:
    """Take exported records into a store, where they count as done."""
    new, known = import_records(Store(store), file)
    screen().print(f"{new} new records, {known} already there; next: vltickets study run … --store {store}")


def _run(
    studies: Mapping[str, Study | Paper],
    store: Store,
    data: Path | None,
    where: tuple[int, RayCluster | None],
    as_json: bool,
    *,
    page: Path,
    whole: Whole | None = None,
    weights_of: tuple[str, float, int] | None = None,
    only: frozenset[str] = frozenset(),
    track: str | None = None,
) -> None:
    from vltickets.studies.outcome import keep_forecast
    from vltickets.studies.planning import expected
    from vltickets.studies.run import note_whole, plan_study, run_studies
    from vltickets.studies.tracking import check_tracker, tracking

    if track is not None:
        check_tracker(track)
    started = time.perf_counter()
    console = screen(to_stderr=as_json)
    for told in [whole] if whole is not None else studies.values():
        console.print(f"{told.title}\n{told.note}".strip(), soft_wrap=True)
    workers, cluster = where
    place = "on Ray" if cluster else f"{workers or 'no'} worker processes"
    called = page.stem if whole is not None else next(iter(studies))
    foreseen: list[Forecast] = []
    known, failure = -1, None
    while True:
        plans = [plan_study(name, one, store, data, weights_of=weights_of, only=only) for name, one in studies.items()]
        cells = sum(len(planned.cells) for planned in plans)
        if cells == known:
            break  # what has been found asks for nothing more
        known = cells
        if whole is not None:
            note_whole(page.stem, whole, plans, store, command=typed())
        console.print(f"{_to_do(plans)}, {place}; store: {store.root}", soft_wrap=True)
        foreseen.append(expected(plans, store, workers, only))
        keep_forecast(called, foreseen[-1], store)
        if foreseen[-1].left and not foreseen[-1].unknown and cluster is None:
            console.print(f"expected to take {duration(foreseen[-1].wall)}", soft_wrap=True)
        failure = None
        try:
            with following(plans, console) as listen:
                tracked = listen if track is None else tracking(track, list(studies), store, listen)
                run_studies(plans, store, workers=workers, listen=tracked, command=typed(), cluster=cluster)
        except StudyFailed as error:  # all else is done and shown
            failure = error
        if not any(isinstance(study, Paper) for study in studies.values()):
            break
    took = time.perf_counter() - started
    state = f"{'not whole after' if failure else 'done in'} {duration(took)}"
    _finish(called, store, page, as_json, state + _against(called, store, foreseen, took if cluster is None else None))
    if failure is not None:
        raise failure


def _to_do(plans: Sequence[Planned]) -> str:
    from vltickets.studies.run import merged

    work = merged(plans)
    steps = sum(steps_of(item.node) for item in work if isinstance(item.node, Train))
    together, apart = sharing([planned.cells for planned in plans])
    shared = f" ({together / apart:.0%} of the {apart} that artefacts take apart)" if apart > together else ""
    cells = sum(len(planned.cells) for planned in plans)
    runs = f"; {together} runs{shared}," if apart else ","
    return f"{cells} cells{runs} {len(work)} runs to do ({steps} steps)"


def _finish(name: str, store: Store, page: Path, as_json: bool, state: str) -> None:
    """Write the page, and show what was found."""
    from vltickets import reports

    last_line = f"{state}; page: {page}"
    if store.study(name)["study"] in ("paper", "whole"):
        parts = reports.read_papers(store, name)
        reports.write_paper_page(parts, page)
        notes = [f"Note: {sentence}" for sentence in reports.diverged_cells(store, store.study(name)["cells"])]
        show_paper(parts, as_json, "\n".join([*notes, last_line]))
        return
    results = reports.read_results(store, name)
    reports.write_page(results, page)
    show(results, as_json, last_line)


def _against(name: str, store: Store, foreseen: Sequence[Forecast], took: float | None) -> str:
    """Return how this sitting and all its study's runs compare with what was planned, where it was.

    A sitting on a cluster, whose workers are not counted here, gives no time that it `took`.
    """
    from vltickets.studies.outcome import compared, total

    whole = total(compared(name, store))
    if not whole.runs or not any(one.left for one in foreseen):
        return ""
    wall = sum(one.wall for one in foreseen)
    known = not any(one.unknown for one in foreseen)
    planned = f" (planned {duration(wall)}, {wall / took - 1:+.0%})" if took and known else ""
    return f"{planned}; {whole.runs} runs planned {duration(whole.planned)}, took {duration(whole.actual)}"


def _save_ticket(name: str, study: Study, store: Store, out: Path, quiet: bool) -> None:
    """Save the ticket at the quoted sparsity of the first seed beside the page."""
    from vltickets.specs import Train
    from vltickets.studies.scoring import ticket_of
    from vltickets.tickets import save_ticket

    if not study.quoted:
        return
    cells = store.study(name)["cells"]
    wanted = {"baseline": "imp", "sparsity": study.quoted[-1], "seed": study.seeds[0]}
    digest = next((cell["node"] for cell in cells if wanted.items() <= cell.items()), None)
    if digest is None:
        return
    node = store.node(digest)
    assert isinstance(node, Train)
    path = out / f"{study.task}-{study.quoted[-1] * 100:.0f}.ticket.safetensors"
    save_ticket(ticket_of(node, store), path)
    screen(to_stderr=quiet).print(f"ticket: {path}; next: vltickets ticket show {path}", soft_wrap=True)
