"""A small study in a real store: real nodes, made-up scores whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from vltickets.specs import Fresh, Prune, Recipe, Train, Uniter, Vqa, World, canonical, changed
from vltickets.store import Record, Store

ITEMS = 4000
FULL = Train(
    backbone=Uniter(layers=1, hidden=8, heads=2, intermediate=16, positions=16),
    task=Vqa(data=World(generator=1)),
    start=Fresh(),
    recipe=Recipe(steps=300, learning_rate=1e-3),
)
NAME = "demo"
# The score that each row's runs scatter around; None is planned and not run.
TRUTH: Mapping[tuple[str, float], float | None] = {
    ("full", 0.0): 0.640,
    ("full-2x", 0.0): 0.644,
    ("imp", 0.1): 0.655,
    ("imp", 0.3): 0.655,
    ("imp", 0.5): 0.655,
    ("imp", 0.7): 0.640,
    ("imp", 0.9): 0.560,
    ("random", 0.1): 0.641,
    ("random", 0.3): 0.632,
    ("random", 0.5): 0.607,
    ("random", 0.7): 0.560,
    ("random", 0.9): 0.470,
    ("text-only", 0.5): 0.575,
    ("shuffled-within", 0.5): 0.520,
    ("one-shot", 0.5): 0.610,
    ("random-start", 0.5): None,
    ("blind", 0.0): 0.450,
}


def node(baseline: str, sparsity: float, seed: int) -> Train:
    """A training of its own for each cell; that its mask is not the baseline's own does not matter to a report."""
    names = sorted({name for name, _ in TRUTH})
    place = names.index(baseline) if baseline in names else len(names) + len(baseline)
    recipe = changed(FULL.recipe, steps=300 + 10 * place)
    train = changed(FULL, seed=seed, recipe=recipe)
    return changed(train, mask=Prune(train=train, sparsity=sparsity)) if sparsity else train


def finish(store: Store, train: Train, truth: float, items: int = ITEMS) -> None:
    """Write a result whose answers are right with the probability `truth`, on items as hard in every run."""
    rng = np.random.default_rng(int(train.digest[:8], 16))
    difficulty = np.random.default_rng(5).uniform(-0.3, 0.3, items)
    right = (rng.random(items) < truth + 0.004 * rng.standard_normal() + difficulty).astype(np.float16)
    steps = range(10, train.recipe.steps + 1, 10)
    record = Record(
        digest=train.digest,
        kind="train",
        spec=canonical(train),
        metrics={
            "score": float(right.mean(dtype=np.float64)),
            "accuracy/number": float(right[::3].mean(dtype=np.float64)),
            "accuracy/yes-no": float(right[1::3].mean(dtype=np.float64)),
        },
        curve=[(step, float(0.6 + 2.2 * np.exp(-step / 80) + 0.05 * rng.random())) for step in steps],
        seconds=40.0 + train.seed,
        machine={"python": "3.11.9", "torch": "2.13.0", "cpu": "An <odd> & old CPU", "device": "cpu"},
    )
    store.finish(train, record, {"items": {"score": right}})


Build = Callable[..., Store]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Make a store with the study, of these truths and seeds; keyword arguments change the study."""

    def make(truth: Mapping[tuple[str, float], float | None] = TRUTH, seeds: int = 3, **changes: Any) -> Store:
        store = Store(tmp_path_factory.mktemp("store"))
        store.prepare()
        cells = []
        for (baseline, sparsity), score in truth.items():
            for seed in range(seeds):
                train = node(baseline, sparsity, seed)
                cells.append({"baseline": baseline, "sparsity": sparsity, "seed": seed, "node": train.digest})
                if score is not None:
                    finish(store, train, score)
        study = {
            "format": 1,
            "study": "first-ticket",
            "name": NAME,
            "title": "A first ticket <script>alert(1)</script>",
            "task": "vqa",
            "metric": "accuracy",
            "split": "test",
            "chance": 0.21,
            "command": "vltickets demo --seeds 3",
            "note": "Made for a test & nothing else.",
            "wall_seconds": 901.0,
            "phases": {"world": 12.0, "pre-training": 240.0, "tickets": 649.0},
            "workers": 2,
            "recipe": {"backbone": {"layers": 1, "hidden": 8}, "recipe": {"steps": 300, "betas": [0.9, 0.98]}},
            "cells": cells,
            "extra_rows": [
                {"baseline": "theta0", "sparsity": 0.0, "mean": 0.2, "std": None, "seeds": 0, "note": "head only"}
            ],
        }
        store.put_study(NAME, study | changes)
        return store

    return make


@pytest.fixture(scope="session")
def store(build: Build) -> Store:
    """The study of TRUTH, with three seeds and one baseline not run."""
    return build()
