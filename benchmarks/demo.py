"""The demo's wall time as a user sees it, and where it goes: start-up, data, runs by baseline, report."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import show_and_keep

from vltickets.store import Store


def main() -> None:
    """Run the demo in a process of its own, print where its time went, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable, "-m", "vltickets", "demo", "--preset", arguments.preset, "--out", str(out), "--json"]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - started
        store = Store(out / "store")
        study = store.study(arguments.preset)
        seconds: dict[str, float] = {}
        for cell in study["cells"]:
            name = f"one-thread seconds: {cell['baseline']}"
            seconds[name] = seconds.get(name, 0.0) + store.record(cell["node"]).seconds
    phases: dict[str, float] = study["phases"]
    rest = {"start-up, page and ticket": wall - sum(phases.values()), "whole": wall}
    rows = [
        {"phase": name, "seconds": value, "share_of_wall": value / wall, "workers": study["workers"]}
        for name, value in {**phases, **rest, **seconds, "one-thread seconds, all": sum(seconds.values())}.items()
    ]
    print(json.dumps({"wall_seconds": wall}))
    show_and_keep(f"demo_{arguments.preset}", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
