"""Planning a study of 10,000 runs: cells, work left and forecast, in an empty and a half-full store.

The study is `paper-tiny` with as many seeds as it takes. `plan`: from the recipe's values to the work that is left
(every node is made, checked, hashed and looked up); `forecast`: evidence, groups, workers side by side, longest chain.
The costs are made up (a second a step, a record's where there is one): planning takes as long whatever they are.
`nodes` are all runs of the study. Starting Python and torch is not part of it. `cpu_seconds` is processor time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rows import show_and_keep

from vltickets.specs import Node, canonical
from vltickets.store import Record, Store
from vltickets.store.store import sealed
from vltickets.studies.calibration import examples_of, this_machine
from vltickets.studies.costs import Cost, Figures, shape
from vltickets.studies.forecast import Forecast, forecast
from vltickets.studies.graph import closure
from vltickets.studies.loading import load_study
from vltickets.studies.planning import joined, nodes_left, recorded_costs
from vltickets.studies.run import Planned, plan_study


def study_of(nodes: int, scratch: Store, store: Store) -> Any:
    """Return `paper-tiny` with the fewest seeds that make so many runs."""
    counts = [len(closure(cell.node for cell in _plan(_seeded(seeds), scratch, store).cells)) for seeds in (1, 2)]
    return _seeded(-(-(nodes - counts[0]) // (counts[1] - counts[0])) + 1)


def _seeded(seeds: int) -> Any:
    return load_study("paper-tiny", (f"seeds={list(range(seeds))}", "quoted_seeds=[]"))


def _plan(study: Any, scratch: Store, store: Store) -> Planned:
    return plan_study("paper-tiny", study, store, None, scratch=scratch)


def foreseen(planned: Planned, store: Store) -> Forecast:
    """Forecast as `study plan` does, once everything is measured."""
    shapes = examples_of(nodes_left([planned]))
    costs = {name: Cost(1.0, 1.0, 1e6, 1e4, evidence="made up") for name in shapes}
    figures = Figures(this_machine(), costs, {name: shape(node) for name, node in shapes.items()})
    return forecast([planned], store, joined(recorded_costs([planned], store), figures.costs), workers=2)


def put_record(node: Node, store: Store) -> None:
    """Write a finished record, without the flushes to the disk that a real one has."""
    record = Record(
        node.digest, node.kind, canonical(node), {"score": 0.5, "tr@1": 0.5}, seconds=9.0, machine=this_machine()
    )
    folder = store.root / "runs" / node.digest
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(sealed(asdict(record))))


def timed(study: Any, scratch: Store, store: Store, repeats: int, name: str) -> dict[str, Any]:
    """Return the medians of planning and forecasting."""
    times = []
    for _ in range(repeats):
        started, processor = time.perf_counter(), time.process_time()
        planned = _plan(study, scratch, store)
        ready = time.perf_counter()
        found = foreseen(planned, store)
        times.append((ready - started, time.perf_counter() - ready, time.process_time() - processor))
    plan_seconds, forecast_seconds, cpu_seconds = (statistics.median(each) for each in zip(*times, strict=True))
    return {
        "store": name,
        "nodes": found.runs,
        "left": found.left,
        "repeats": repeats,
        "plan_seconds": plan_seconds,
        "forecast_seconds": forecast_seconds,
        "seconds": plan_seconds + forecast_seconds,
        "cpu_seconds": cpu_seconds,
    }


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch, store = Store(Path(folder) / "scratch"), Store(Path(folder) / "store")
        study = study_of(arguments.nodes, scratch, store)
        rows = [timed(study, scratch, store, arguments.repeats, "empty")]
        work = _plan(study, scratch, store).work
        for item in work[: len(work) // 2]:  # parents come first
            put_record(item.node, store)
        rows.append(timed(study, scratch, store, arguments.repeats, "half full"))
    show_and_keep("planning", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
