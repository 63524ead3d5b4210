"""Two processes train what one trains: the same loss but for rounding, and between them no bit of difference."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TASKS = ("vqa", "pretraining")

# Trains a toy model of each task under a mask, in three parts a batch, and prints what a process has in the end.
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
from vltickets.backbones import build_backbone
from vltickets.data import open_folder
from vltickets.errors import UserError
from vltickets.specs import Fresh, Pretraining, Recipe, Train, Uniter, Vqa, World, changed
from vltickets.store import Store
from vltickets.tasks import Model, build_task
from vltickets.tickets import HoldZeros, Mask, initialise, prune, prune_by_magnitude, random_scores
from vltickets.training import processes, train

processes.join()
source, toy = open_folder(Path(sys.argv[1])), Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
recipe = Recipe(steps=20, learning_rate=3e-3, batch_tokens=200, accumulation=3)
out = {}
for spec in (Vqa(data=World(generator=1)), Pretraining(data=World(generator=1), foils=0.5)):
    task = build_task(spec, source, toy)
    backbone = build_backbone(toy, vocabulary=len(source.vocabulary), region_width=task.region_width(), dropout=0.1)
    model = Model(backbone, task.head(16, 0.1))
    initialise(model, task, Train(backbone=toy, task=spec, start=Fresh(), recipe=recipe), Store(Path("none")))
    weights = backbone.prunable()
    mask = prune(random_scores(0, {name: tuple(weights[name].shape) for name in weights}), Mask.dense(
        {name: tuple(weights[name].shape) for name in weights}), 0.5)
    state = train(model, task, recipe, seed=0, hooks=[HoldZeros(model, mask, zero_stays=True)])
    found = prune_by_magnitude({name: weights[name].detach() for name in weights}, mask, 0.7)
    out[task.name] = {
        "curve": state.curve,
        "parts": state.parts,
        "weights": hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in model.parameters())).hexdigest(),
        "mask": hashlib.sha256(b"".join(found[name].numpy().tobytes() for name in found)).hexdigest(),
        "zeros": all(not weights[name][~mask[name]].any() for name in mask),
    }

def refusal(**options):
    try:
        train(model, task, changed(recipe, **options), seed=0, last_step=1)
    except (RuntimeError, UserError) as error:
        return str(error)

if processes.count() > 1:
    out["too few parts"] = refusal(accumulation=1)
    next(model.parameters()).data[7, 7] += 1e-6 * processes.rank()
    out["other weights"] = refusal()
print(json.dumps(out))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def results(count: int, folder: Path) -> list[Any]:
    """Run the script in so many processes, as torchrun would start them; return what each has printed."""
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * count, "\n".join(err for _, err in ended)
    return [json.loads(out) for out, _ in ended]


@pytest.fixture(scope="module")
def alone(small_world: Path) -> Any:
    return results(1, small_world)[0]


@pytest.fixture(scope="module")
def both(small_world: Path) -> list[Any]:
    return results(2, small_world)


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_have_the_loss_of_one_also_with_dropout(alone: Any, both: list[Any], task: str) -> None:
    for found in both:
        for (step, expected), (own_step, value) in zip(alone[task]["curve"], found[task]["curve"], strict=True):
            assert own_step == step
            assert value == pytest.approx(expected, rel=1e-5)
    assert len(alone[task]["curve"]) == 20
    assert both[0][task]["parts"].keys() == alone[task]["parts"].keys()


@pytest.mark.parametrize("task", TASKS)
def test_all_processes_have_the_same_weights_and_masks_to_the_bit(both: list[Any], task: str) -> None:
    assert both[0][task] == both[1][task]
    assert both[0][task]["zeros"]


def test_processes_that_start_from_other_weights_are_stopped(both: list[Any]) -> None:
    for found in both:
        assert "the processes have different weights before the training (SHA-256 by rank: " in found["other weights"]


def test_more_processes_than_parts_are_refused(both: list[Any]) -> None:
    for found in both:
        assert found["too few parts"].startswith(
            "2 processes share the parts of a batch, and the recipe of pretraining makes 1 of it: "
            "set its accumulation to 2"
        )
