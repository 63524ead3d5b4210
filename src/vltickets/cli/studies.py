"""`vltickets demo` and `study run|export|import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import screen
from vltickets.cli.executor import AddressOption, Executor, ExecutorOption, GpusOption, place_to_run
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.cli.running import Asked, asked_for, run_asked
from vltickets.errors import UserError
from vltickets.specs import Train
from vltickets.store import Store, export_records, import_records
from vltickets.studies.config import Study
from vltickets.studies.loading import load_ticket_study

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
        str, typer.Option(help="demo (3 minutes on 2 cores) or smoke (1 minute, plumbing only).")
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
    asked = Asked(name, {name: study}, weights_of=wanted)
    run_asked(asked, Store(out / "store"), None, where, as_json, page=out / "report.html")
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

    asked = asked_for(name, preset, settings, called, only)
    together = processes.join()
    if together and (workers or executor not in (None, Executor.PROCESS)):
        raise UserError("processes of torchrun do each run together, one run after another: leave --workers out")
    where = place_to_run(Executor.PROCESS if together else executor, workers, ray_address, gpus_per_run)
    if processes.rank() > 0:
        follow(Store(store))
    else:
        run_asked(asked, Store(store), data, where, as_json, page=store / f"{asked.called}.html", track=track)
        processes.tell(None)
    if together:
        processes.leave()


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
    count = export_records(results, digests, file, studies=[name, *results.study(name).get("parts", ())])
    screen().print(f"{count} records of {len(digests)} runs written to {file} ({file.stat().st_size / 1e6:.2f} MB)")


@study_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file that `study export` wrote.")],
    store: StoreOption = Path("store"),
) -> None:
    """Take exported records into a store, where they count as done."""
    new, known = import_records(Store(store), file)
    screen().print(f"{new} new records, {known} already there; next: vltickets study run … --store {store}")


def _save_ticket(name: str, study: Study, store: Store, out: Path, quiet: bool) -> None:
    """Save the ticket at the quoted sparsity of the first seed beside the page."""
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
