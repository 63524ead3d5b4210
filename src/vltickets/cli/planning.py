"""`vltickets study plan`: what a study would do and cost, before anything runs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vltickets.cli.console import duration, screen
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.cli.running import asked_for
from vltickets.cli.studies import (
    DataOption,
    NameOption,
    OnlyOption,
    PresetOption,
    SetOption,
    WorkersOption,
)
from vltickets.store import Store

if TYPE_CHECKING:
    from vltickets.studies.costs import Cost, Figures
    from vltickets.studies.forecast import Forecast
    from vltickets.studies.outcome import Compared
    from vltickets.studies.run import Planned


def plan(
    name: Annotated[str, typer.Argument(help="A preset, or the path of a recipe in TOML.")],
    store: StoreOption = Path("store"),
    data: DataOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
    called: NameOption = None,
    preset: PresetOption = None,
    only: OnlyOption = None,
    calibrate: Annotated[
        bool, typer.Option(help="Measure what nothing is known of, about a minute; kept in the store.")
    ] = True,
    device: Annotated[
        Path | None, typer.Option("--device", help="Plan for the device whose figures are in this file.")
    ] = None,
    save_device: Annotated[
        Path | None, typer.Option("--save-device", help="Write this machine's measured figures to a file.")
    ] = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="List every run, too.")] = False,
) -> None:
    """Say what a study would run, what is done and shared, and what the rest takes. Runs nothing of it."""
    from vltickets.studies.executors import working_processes
    from vltickets.studies.forecast import forecast
    from vltickets.studies.outcome import compared
    from vltickets.studies.planning import check_data, lacking
    from vltickets.studies.run import plan_study

    asked, found = asked_for(name, preset, settings, called, only), Store(store)
    for part, study in asked.studies.items():
        check_data(part, study, found, data)
    processes = working_processes() if workers is None else workers
    with tempfile.TemporaryDirectory() as folder:
        scratch = Store(Path(folder) / "scratch")
        plans = [
            plan_study(part, study, found, data, only=asked.only, scratch=scratch)
            for part, study in asked.studies.items()
        ]
        costs, figures, written = _costs(plans, found, scratch, device, calibrate)
    if save_device is not None:
        figures.save(save_device)
        written = [*written, str(save_device)]
    expected = forecast(plans, found, costs, processes, asked.only)
    missing = "; ".join(sentence for planned in plans if (sentence := lacking(planned, data)))
    rows = compared(asked.called, found)
    gpu = figures.machine.get("device", "cpu") != "cpu"
    if as_json:
        out = forecast_as_json(asked.called, expected, gpu=gpu, nodes=nodes)
        out |= {"missing_data": missing, "written": written, "planned_against_actual": [_as_json(row) for row in rows]}
        print(json.dumps(out))
        return
    console = screen()
    for told in [asked.whole] if asked.whole is not None else asked.studies.values():
        console.print(told.title, soft_wrap=True)
    show(expected, console, gpu=gpu)
    if nodes:
        _show_nodes(expected, console)
    for line in (missing, expected.more and f"more will follow: {expected.more}"):
        if line:
            console.print(line, soft_wrap=True)
    console.print(f"written: {', '.join(written) or 'nothing'}", soft_wrap=True)
    show_compared(rows, console)


def _costs(
    plans: list[Planned], store: Store, scratch: Store, device: Path | None, measure: bool
) -> tuple[dict[str, Cost], Figures, list[str]]:
    """Return the costs by shape, all measured figures, and the files that were written."""
    from vltickets.studies import calibration
    from vltickets.studies.costs import figures_path, joined
    from vltickets.studies.planning import kept_figures, of_device, recorded_costs, to_measure

    if device is not None:
        figures = of_device(device)
        return dict(figures.costs), figures, []
    recorded, figures = recorded_costs(plans, store), kept_figures(store)
    wanted = to_measure(plans, recorded, figures) if measure else {}
    if not wanted:
        return joined(recorded, figures.costs), figures, []
    console = screen(to_stderr=True)

    def tell(count: int, total: int, what: str) -> None:
        console.print(f"measuring {count + 1} of {total}: {what}", soft_wrap=True)

    figures = figures.with_more(calibration.calibrate(wanted, scratch, tell))
    store.prepare()
    path = figures_path(store, figures.machine)
    figures.save(path)
    return joined(recorded, figures.costs), figures, [str(path)]


def show(expected: Forecast, console: Console, *, gpu: bool) -> None:
    """Print a forecast: its groups, then time, hours and disk."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "task", "baseline"):
        table.add_column(title, no_wrap=True)
    for title in ("runs", "done", "shared", "left", "takes"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("by")
    for group in expected.groups:
        label = group.label
        counts = [str(count or "") for count in (group.runs, group.done, group.shared, group.left)]
        takes = "" if not group.left else "?" if group.seconds is None else duration(group.seconds)
        table.add_row(label.kind, label.task, label.baseline, *counts, takes, group.evidence if group.left else "")
    console.print(table)
    for line in lines(expected, gpu=gpu):
        console.print(line, soft_wrap=True)


def lines(expected: Forecast, *, gpu: bool) -> list[str]:
    """Return a forecast's totals, a sentence each."""
    runs, apart = expected.runs, expected.apart
    saved = f" ({runs / apart:.0%} of the {apart} there were if nothing were shared)" if apart > runs else ""
    out = [f"{runs} runs{saved}: {expected.done} done, {expected.left} left"]
    if not expected.left:
        return out
    if not expected.seconds:
        return [*out, "what they take is not known here: leave out --no-calibrate, or name a --device that knows"]
    least = "at least " if expected.unknown else ""
    if expected.unknown:
        out.append(f"nothing is known of {expected.unknown} runs that are left; they count as nothing below")
    busy = expected.wall > 1.2 * expected.idle_wall
    idle = f", as busy as this machine was when measured ({duration(expected.idle_wall)} when idle)" if busy else ""
    processes = f"{expected.workers} process{'es' if expected.workers > 1 else ''}"
    chain = f"{len(expected.chain)} run{'s' if len(expected.chain) > 1 else ''}, {duration(expected.chain_seconds)}"
    out.append(f"time: {least}{duration(expected.wall)} on {processes}{idle}; the longest chain: {chain}")
    hours = "GPU-hours" if gpu else "core-hours"
    out.append(f"{hours}: {least}{sum(expected.processor.values()) / 3600:.2f}")
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in expected.disk.items() if size)
    out.append(f"disk: {least}{_bytes(sum(expected.disk.values()))} ({parts})")
    return out


def show_compared(rows: list[Compared], console: Console) -> None:
    """Print planned against actual, group by group, of the runs that are done."""
    from vltickets.studies.outcome import total

    finished = [row for row in rows if row.runs]
    if not finished:
        return
    table = Table(title="planned against actual, of finished runs", title_justify="left", box=None, pad_edge=False)
    for title in ("", "task", "baseline"):
        table.add_column(title)
    for title in ("runs", "planned", "actual", "error", "(processor) planned", "actual", "error"):
        table.add_column(title, justify="right")
    for row in [*finished, total(finished)]:
        values = [str(row.runs), duration(row.planned), duration(row.actual), f"{100 * row.error:+.0f} %"]
        values += [duration(row.planned_processor), duration(row.processor), f"{100 * row.processor_error:+.0f} %"]
        table.add_row(row.label.kind, row.label.task, row.label.baseline, *values)
    console.print(table)


def forecast_as_json(name: str, expected: Forecast, *, gpu: bool, nodes: bool) -> dict[str, Any]:
    """Return a forecast for a program."""
    out: dict[str, Any] = {
        "study": name,
        **{key: getattr(expected, key) for key in ("runs", "done", "left", "apart", "unknown", "workers", "more")},
        "wall_seconds": expected.wall,
        "idle_wall_seconds": expected.idle_wall,
        "chain": {"runs": list(expected.chain), "seconds": expected.chain_seconds},
        "gpu_hours" if gpu else "core_hours": sum(expected.processor.values()) / 3600,
        "disk_bytes": {key: round(value) for key, value in expected.disk.items()},
        "groups": [
            {**vars(group.label), **{key: value for key, value in vars(group).items() if key != "label"}}
            for group in expected.groups
        ],
    }
    if nodes:
        out["nodes"] = [
            {"node": digest, **vars(label), "left": digest in expected.waiting, "seconds": expected.seconds.get(digest)}
            for digest, label in expected.labels.items()
        ]
    return out


def _as_json(row: Compared) -> dict[str, Any]:
    return {
        **vars(row.label),
        **{key: value for key, value in vars(row).items() if key != "label"},
        "error": row.error,
        "processor_error": row.processor_error,
    }


def _show_nodes(expected: Forecast, console: Console) -> None:
    for digest, label in expected.labels.items():
        left = digest in expected.waiting
        takes = duration(expected.seconds[digest]) if digest in expected.seconds else "?" if left else ""
        what = " ".join(part for part in (label.kind, label.task, label.baseline) if part)
        console.print(f"{digest}  {what}  {'left' if left else 'done'}  {takes}".rstrip(), soft_wrap=True)


def _bytes(size: float) -> str:
    """Return a size as 12 MB."""
    for unit, width in (("GB", 1e9), ("MB", 1e6)):
        if size >= width:
            return f"{size / width:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
