"""A small study in a real store: real nodes, made-up scores whose truth is known."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
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


CHROMIUM = Path("/usr/bin/chromium")


class Browser:
    """A headless Chromium, driven through its own pipe: pages are opened, clicked and asked as a person would."""

    def __init__(self, profile: Path, width: int, height: int) -> None:
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}"]
        flags += ["--remote-debugging-pipe", f"--window-size={width},{height}", "about:blank"]
        program = ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", str(CHROMIUM), *flags]
        self.process = subprocess.Popen(program, pass_fds=(read, write), stderr=subprocess.DEVNULL)
        os.close(read)
        os.close(write)
        self._count, self._rest, self._session = 0, b"", ""
        (target,) = (one for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page")
        found = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = found["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its answer."""
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": params, **session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._answer(lambda one: one.get("id") == self._count)["result"]  # type: ignore[no-any-return]

    def _answer(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._read, 1 << 16)
                assert part, "Chromium is gone"
                self._rest += part
            line, _, self._rest = self._rest.partition(b"\0")
            found: dict[str, Any] = json.loads(line)
            if wanted(found):
                return found

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.ask("Page.navigate", url=path.as_uri())
        self._answer(lambda one: one.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def click(self, selector: str) -> None:
        """Bring an element into view and click in its middle."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{where}.scrollIntoView({{block: 'center'}})")
        x, y = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({where}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def stop(self) -> None:
        """End the browser."""
        self.ask("Browser.close")
        self.process.wait(30)
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[[int, int], Browser]]:
    """Start a browser with a window of some width and height."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed: the page is not opened in a browser")
    started: list[Browser] = []

    def start(width: int, height: int) -> Browser:
        started.append(Browser(tmp_path / f"profile{len(started)}", width, height))
        return started[-1]

    yield start
    for one in started:
        one.stop()
