"""A study looked at while it runs, and its runs in a tracker: the real training loop, a toy model."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vltickets.errors import UserError
from vltickets.scenes import WORLD_VERSION
from vltickets.specs import Fresh, Recipe, Train, Uniter, Vqa, World, changed
from vltickets.store import Store
from vltickets.studies import progress
from vltickets.studies.executors import Event
from vltickets.studies.progress import FILE, Noting, under_way
from vltickets.studies.status import Status, Watch
from vltickets.studies.tracking import tracking
from vltickets.studies.work import run_node

NODE = Train(
    backbone=Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64),
    task=Vqa(data=World(generator=WORLD_VERSION, scenes=30, examples=30, heldout=20)),
    start=Fresh(),
    recipe=Recipe(steps=6, learning_rate=1e-3, batch_tokens=640, dropout=0.0),
)
OTHER = changed(NODE, seed=1)


@dataclass(frozen=True)
class Ran:
    """A store in which one of two cells was run, and what was seen after each step."""

    store: Store
    seen: list[Status]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    store = Store(tmp_path_factory.mktemp("status") / "store")
    store.prepare()
    cells = [
        {
            "baseline": "full",
            "sparsity": 0.0,
            "seed": one.seed,
            "node": one.digest,
            "task": "vqa",
            "artefacts": ["table1"],
        }
        for one in (NODE, OTHER)
    ]
    store.put_study("two", {"cells": cells})
    for one in (NODE, OTHER):
        store.put_node(one)
    watch, seen = Watch(store, "two"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "EVERY_SECONDS", 0.0)
        run_node(NODE, store, lambda step, steps, loss: seen.append(watch.look()))
    seen.append(watch.look())
    return Ran(store, seen)


def test_a_run_under_way_is_seen_with_its_step_and_time_left(ran: Ran) -> None:
    for step, status in enumerate(ran.seen[:-1], 1):
        ((name, one),) = status.running
        assert (name, one.step, one.steps) == ("full on vqa seed 0", step, 6)
        assert status.artefacts == {"table1": (0, 2)}
        assert status.runs_left == 2
        assert (one.seconds_left is None) == (step == 1)
    assert ran.seen[-2].running[0][1].seconds_left == 0


def test_when_it_is_finished_the_pace_says_how_long_the_rest_takes(ran: Ran) -> None:
    last = ran.seen[-1]
    assert (last.done, last.cells, last.running, last.runs_left) == (1, 2, (), 1)
    assert last.seconds_left == pytest.approx(ran.store.record(NODE.digest).seconds)
    assert not ran.store.work(NODE.digest).exists()


def test_a_run_whose_process_is_gone_is_not_under_way(ran: Ran, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from vltickets.store import Store\n"
        "from vltickets.studies.progress import Noting, under_way\n"
        "store = Store(Path(sys.argv[1])); store.prepare(); Noting('d' * 20, store)(5, 5, 0.1)\n"
        "print([one.step for one in under_way(store)])"
    )
    told = subprocess.run([sys.executable, "-c", program, tmp_path / "store"], capture_output=True, text=True)
    assert told.stdout.strip() == "[5]", told.stderr
    left = tmp_path / "store" / "work" / ("d" * 20) / FILE
    assert json.loads(left.read_text())["step"] == 5
    assert under_way(Store(tmp_path / "store")) == []
    left.write_text("{")
    assert under_way(Store(tmp_path / "store")) == []


def test_a_note_that_can_not_be_written_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("in the way")
    Noting("d" * 20, Store(tmp_path / "none"))(1, 1, 0.1)
    store = Store(tmp_path / "store")
    store.prepare()
    (store.root / "work").write_text("in the way")
    Noting("d" * 20, store)(1, 1, 0.1)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
@pytest.mark.filterwarnings("default::DeprecationWarning:tensorboard")
def test_a_finished_run_is_tracked_with_curve_metrics_and_spec(ran: Ran) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    heard: list[Event] = []
    listen = tracking("tensorboard", ["two"], ran.store, heard.append)
    for state in ("started", "finished", "finished"):
        listen(Event(state, NODE.digest))
    assert [event.state for event in heard] == ["started", "finished", "finished"]
    (folder,) = (ran.store.root / "tracked" / "two").iterdir()
    assert folder.name == f"full on vqa seed 0 {NODE.digest[:8]}"
    events = EventAccumulator(str(folder))
    events.Reload()
    record = ran.store.record(NODE.digest)
    assert [(one.step, one.value) for one in events.Scalars("loss")] == [
        (step, pytest.approx(loss, rel=1e-6)) for step, loss in record.curve
    ]
    assert events.Scalars("score")[0].value == pytest.approx(record.metrics["score"], rel=1e-6)
    (settings,) = folder.rglob("hparams.yml")
    assert "recipe.steps: 6" in settings.read_text()


def test_a_tracker_that_breaks_does_not_stop_the_study(ran: Ran, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(ran.store.root, store.root, ignore=shutil.ignore_patterns("tracked"))
    (store.root / "tracked").write_text("in the way")
    listen = tracking("tensorboard", ["two"], store, lambda event: None)
    with pytest.warns(UserWarning, match="goes on without it"):
        listen(Event("finished", NODE.digest))
    listen(Event("finished", OTHER.digest))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "did you mean 'tensorboard'"),
        pytest.param(
            "wandb",
            "needs the package wandb, which is not installed: pip install wandb",
            marks=pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed"),
        ),
    ],
)
def test_a_tracker_that_is_not_here_is_one_sentence(name: str, said: str, ran: Ran) -> None:
    with pytest.raises(UserError, match=said) as error:
        tracking(name, ["two"], ran.store, lambda event: None)
    assert "\n" not in str(error.value)
