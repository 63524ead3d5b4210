"""A study that is killed, anywhere, goes on with the same bits as one that never was."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = ["world.scenes=60", "world.examples=60", "world.heldout=30", "levels=[0.5, 0.7]"]
SETTINGS += ['baselines=["full", "imp", "random", "one-shot"]', "training.steps=10"]
SETTINGS += ["pretraining.text.training.steps=6", "pretraining.vision_language.training.steps=10"]
UNIVERSAL = ["world.scenes=60", "world.examples=60", "world.heldout=30", "levels=[0.5, 0.7]", "seeds=[0]"]
UNIVERSAL += ['artefacts=["figure8"]', "tasks={refcoco = {}}", "training.steps=4", "universal.share=1.0"]
UNIVERSAL += ["pretraining.text.training.steps=4", "pretraining.vision_language.training.steps=10"]
TRAINING, PRUNING, WRITING = "training", "pruning", "writing"

# Runs a study in one process that kills itself, for good, at the n-th arrival at a place. Checkpoints at every step.
VICTIM = """
import os, signal, sys
place, countdown = sys.argv[1], int(sys.argv[2])
sys.argv = ["vltickets", *sys.argv[3:]]
from vltickets.cli import main
from vltickets.store import atomic, store
from vltickets.studies import work
from vltickets.training import loop

loop.CHECKPOINT_SECONDS = 0.0

def deadly(function):
    def arrive(*args, **kwargs):
        global countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return arrive

if place == "training":
    loop.learning_rate = deadly(loop.learning_rate)
elif place == "pruning":
    work._by_magnitude = deadly(work._by_magnitude)
elif place == "writing":
    atomic.Path.replace = deadly(atomic.Path.replace)  # between a temporary file and its name
main()
"""


def command(store: Path, *, workers: int = 0, study: str = "smoke") -> list[str]:
    chosen = SETTINGS if study == "smoke" else UNIVERSAL
    settings = [part for setting in chosen for part in ("--set", setting)]
    return ["study", "run", study, "--store", str(store), "--workers", str(workers), *settings]


def run(store: Path, *, workers: int = 0, study: str = "smoke") -> None:
    typed = command(store, workers=workers, study=study)
    done = subprocess.run([sys.executable, "-m", "vltickets", *typed], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def bits(store: Path) -> dict[str, object]:
    """Everything a study leaves that should not depend on its history: hashes of weights, masks and items, numbers."""
    out: dict[str, object] = {
        f"weights {path.parent.name}": json.loads(path.read_text()) for path in (store / "weights").glob("*/sums.json")
    }
    for path in (store / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        out[record["digest"]] = (record["files"], record["metrics"], record["curve"], record["parts"])
    return out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    store = tmp_path_factory.mktemp("whole") / "store"
    run(store)
    found = bits(store)
    assert len(found) > 15
    return found


@pytest.mark.study
@pytest.mark.parametrize(
    ("place", "arrival"),
    [
        (TRAINING, 3),
        (TRAINING, 21),
        (TRAINING, 55),
        (PRUNING, 1),
        (PRUNING, 2),
        (WRITING, 1),
        (WRITING, 40),
        (WRITING, 75),
        (WRITING, 130),
    ],
)
def test_killed_and_run_again_it_has_the_same_bits(
    place: str, arrival: int, uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    victim = subprocess.run([sys.executable, "-c", VICTIM, place, str(arrival), *command(store)], capture_output=True)
    assert victim.returncode == -signal.SIGKILL, victim.stderr.decode()
    assert bits(store).items() <= uninterrupted.items()  # what is visible is whole
    assert len(bits(store)) < len(uninterrupted)
    run(store)
    assert bits(store) == uninterrupted


@pytest.mark.study
def test_workers_killed_at_random_moments_leave_the_same_bits(uninterrupted: dict[str, object], tmp_path: Path) -> None:
    store = tmp_path / "store"
    moments = random.Random(7)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "vltickets", *command(store, workers=2)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moments.uniform(2.0, 9.0))
        process.kill()  # its workers see their standard input end
        process.wait()
        assert bits(store).items() <= uninterrupted.items()
    run(store, workers=2)
    assert bits(store) == uninterrupted


@pytest.mark.study
def test_what_is_done_is_not_done_again(uninterrupted: dict[str, object], tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(store)
    before = {path: path.stat().st_mtime_ns for path in (store / "runs").rglob("*") if path.is_file()}
    run(store)
    assert {path: path.stat().st_mtime_ns for path in (store / "runs").rglob("*") if path.is_file()} == before


@pytest.mark.study
def test_a_rewound_search_runs_and_its_dense_run_goes_on_from_step_i_with_the_same_bits(
    uninterrupted: dict[str, object], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-m", "vltickets", *command(store), "--set", "rewind=0.5"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found = bits(store)
    dense = [key for key in uninterrupted if key in found]
    assert len(dense) > 8  # all but the rewound rounds are the very same nodes
    assert {key: found[key] for key in dense} == {key: uninterrupted[key] for key in dense}


@pytest.fixture(scope="module")
def universal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    store = tmp_path_factory.mktemp("universal") / "store"
    run(store, study="paper-smoke")
    return bits(store)


@pytest.mark.study
@pytest.mark.parametrize(
    "arrival", [55, 75]
)  # a step arrives twice: 4 + 10 steps make θ₀, 2 x 4 a task's ticket, then 2 x 10 the universal one
def test_pruning_on_pre_training_killed_in_a_round_goes_on_with_the_same_bits(
    arrival: int, universal: dict[str, object], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    typed = command(store, study="paper-smoke")
    victim = subprocess.run([sys.executable, "-c", VICTIM, TRAINING, str(arrival), *typed], capture_output=True)
    assert victim.returncode == -signal.SIGKILL, victim.stderr.decode()
    (begun,) = (store / "work").glob("*/checkpoint.safetensors")
    node = json.loads((store / "nodes" / f"{begun.parent.name}.json").read_text())
    assert (node["task"]["kind"], node["recipe"]["steps"]) == ("pretraining", 10)
    theta0 = json.loads((store / "runs" / node["start"]["train"]["node"] / "record.json").read_text())
    assert not theta0["spec"]["task"].get("text_only")
    assert len(bits(store)) < len(universal)
    run(store, study="paper-smoke")
    assert bits(store) == universal
