"""`vltickets doctor`, `weights make` and `data world`."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import following, screen
from vltickets.cli.studies import DataOption, JsonOption, SetOption, StoreOption
from vltickets.store import Store

weights_app = typer.Typer(no_args_is_help=True, help="Make initial weights.")


def doctor(as_json: JsonOption = False) -> None:
    """Check this machine: versions, cores, space, the shipped weights, what is optional and missing."""
    import torch

    from vltickets import __version__
    from vltickets.studies.executors import working_processes
    from vltickets.tickets.initialisations import SHIPPED, shipped_file

    checks = {
        "vltickets": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cores": str(working_processes()),
        "free disk (GB)": f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f}",
        "pyarrow (to read Parquet)": "yes" if importlib.util.find_spec("pyarrow") else "no: vltickets[data]",
    }
    problems = []
    for name in SHIPPED:
        try:
            checks[f"shipped {name}"] = f"{len(shipped_file(name)) / 1e3:.0f} kB"
        except OSError:
            problems.append(f"the shipped weights {name} are missing: install the package again")
    if as_json:
        print(json.dumps({"checks": checks, "problems": problems}))
    else:
        for name, value in checks.items():
            screen().print(f"{name}: {value}")
        screen().print("; ".join(problems) or "all is well; next: vltickets demo")
    if problems:
        raise typer.Exit(1)


@weights_app.command("make")
def make(
    preset: Annotated[str, typer.Argument(help="A preset or recipe with a table [pretraining].")] = "demo",
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights.")] = Path("weights"),
    store: StoreOption = Path("store"),
    data: DataOption = None,
    settings: SetOption = None,
) -> None:
    """Pre-train θ₀ and its text-only parent as a recipe says, and write them as fp16 safetensors with their record."""
    from vltickets.specs import Train, Trained
    from vltickets.studies.config import load_study
    from vltickets.studies.executors import execute
    from vltickets.studies.first_ticket import starts
    from vltickets.studies.graph import plan
    from vltickets.studies.run import plan_study
    from vltickets.studies.shipping import write_weights

    study = load_study(preset, (*(settings or ()), 'start="pretrained"'))
    results = Store(store)
    planned = plan_study(preset, study, results, data)
    theta0, text_only = starts(study, planned.data)
    named = {"theta0": theta0, "text-only": text_only}
    nodes: dict[str, Train] = {name: start.train for name, start in named.items() if isinstance(start, Trained)}
    work = tuple(plan(nodes.values(), results))
    with following(replace(planned, cells=(), work=work), screen()) as listen:
        execute(work, results, workers=0, listen=listen)
    for name, node in nodes.items():
        file = out / f"{name}.safetensors"
        size = write_weights(results, node, file, recipe=preset)
        metrics = ", ".join(f"{key} {value:.3f}" for key, value in results.record(node.digest).metrics.items())
        screen().print(f"{file}: {size / 1e3:.0f} kB, run {node.digest}, {metrics}", soft_wrap=True)
