"""`vltickets doctor` and `data world`."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
from pathlib import Path

import typer

from vltickets.cli.console import screen
from vltickets.cli.reporting import JsonOption


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
        "ray (studies on a cluster)": "yes" if importlib.util.find_spec("ray") else "no: vltickets[ray]",
        "llvmlite (sparse kernels)": "yes" if importlib.util.find_spec("llvmlite") else "no: vltickets[deploy]",
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
