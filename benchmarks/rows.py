"""A benchmark's rows: a table on the screen, and a CSV that names the machine and the command."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def cpu() -> str:
    """Return the processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    quartiles = statistics.quantiles(values, n=4)
    return statistics.median(values), (quartiles[2] - quartiles[0]) / 2


def show_and_keep(name: str, rows: Sequence[Mapping[str, object]], *, keep: bool) -> None:
    """Print the rows, and add them to `results/NAME.csv` where `keep` says so."""
    table = Table(title=name)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    if not keep:
        return
    where = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*where, *rows[0]])
        if fresh:
            writer.writeheader()
        writer.writerows([where | row for row in rows])
    print(f"added to {path}")
