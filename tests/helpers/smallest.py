"""The smallest study that has everything: a dense run, two rounds of pruning, random masks; fresh weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from vltickets.store import Store
from vltickets.studies.executors import Event
from vltickets.studies.loading import load_study
from vltickets.studies.run import Planned, plan_study, run_studies

SMALLEST = (
    "world.scenes=12",
    "world.examples=12",
    "world.heldout=8",
    "levels=[0.5, 0.7]",
    "quoted=[0.7]",
    'start="fresh"',
    'baselines=["full", "imp", "random"]',
    "training.steps=6",
    "training.batch_tokens=128",
)


def plan_smallest(root: Path, *settings: str) -> tuple[Planned, Store]:
    """Plan the smallest study in a store."""
    store = Store(root)
    return plan_study("smallest", load_study("smoke", (*SMALLEST, *settings)), store, None), store


def run_smallest(root: Path, *settings: str, listen: Callable[[Event], None] = lambda event: None) -> None:
    """Run the smallest study in this process."""
    planned, store = plan_smallest(root, *settings)
    run_studies([planned], store, workers=0, listen=listen, command="")


def bits(root: Path) -> dict[str, object]:
    """Everything a study leaves that should not depend on its history: hashes of weights, masks and items, numbers."""
    out: dict[str, object] = {
        f"weights {path.parent.name}": json.loads(path.read_text())
        for path in (root / "weights").glob("*/sums.json")
        if not path.parent.name.startswith(".")
    }
    for path in (root / "runs").glob("*/record.json"):
        if not path.parent.name.startswith("."):
            record = json.loads(path.read_text())
            out[record["digest"]] = (record["files"], record["metrics"], record["curve"], record["parts"])
    return out
