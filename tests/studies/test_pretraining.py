"""The shipped weights come from the project's own recipe, and the recipe gets there again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from vltickets.data import open_source
from vltickets.specs import Fresh, Shipped, Train, Trained, changed
from vltickets.store import Store
from vltickets.studies.first_ticket import first_ticket, starts
from vltickets.studies.loading import load_study
from vltickets.studies.run import plan_study
from vltickets.studies.work import run_node
from vltickets.tickets import shipped

WEIGHTS = Path(str(resources.files("vltickets") / "weights"))
GATE = 0.85  # image-text matching, half of the mismatches false wordings of the same caption; below, tickets are noise


def shipped_record(name: str) -> dict[str, object]:
    record: dict[str, object] = json.loads((WEIGHTS / f"{name}.json").read_text())
    return record


def test_the_shipped_files_are_small_and_are_those_their_records_describe() -> None:
    files = [WEIGHTS / f"{name}.safetensors" for name in ("theta0", "text-only")]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    for file in files:
        record = shipped_record(file.stem)
        assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() == shipped(file.stem).sha256
        assert record["curve"]


def test_the_shipped_weights_are_of_the_runs_that_the_demo_recipe_plans(tmp_path: Path) -> None:
    study = load_study("demo", ('start="pretrained"',))
    planned = plan_study("demo", study, Store(tmp_path / "store"), None)
    for name, start in zip(("theta0", "text-only"), starts(study, planned.data), strict=True):
        assert isinstance(start, Trained)
        assert shipped_record(name)["run"] == start.train.digest


def test_text_only_is_the_parent_of_theta0() -> None:
    spec = shipped_record("theta0")["spec"]
    assert isinstance(spec, dict)
    assert spec["start"] == {"kind": "trained", "train": {"node": shipped_record("text-only")["run"]}}


def test_shipped_weights_of_another_hash_are_refused(tmp_path: Path) -> None:
    study = load_study("demo")
    planned = plan_study("demo", study, Store(tmp_path / "store"), None)
    node = changed(planned.cells[0].node, start=Shipped(name="theta0", sha256="0" * 64))
    with pytest.raises(Exception, match="not those this run was planned with"):
        run_node(node, Store(tmp_path / "store"))


@pytest.mark.study
@pytest.mark.timeout(3000)
def test_the_recipe_gets_to_grounded_weights_again(tmp_path: Path) -> None:
    """Several minutes: pre-training anew, then one dense fine-tuning from it against one from random weights."""
    command = ["weights", "make", "demo", "--out", tmp_path / "weights", "--store", tmp_path / "store"]
    done = subprocess.run([sys.executable, "-m", "vltickets", *map(str, command)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    made = json.loads((tmp_path / "weights" / "theta0.json").read_text())
    assert made["metrics"]["itm_accuracy"] > GATE
    store = Store(tmp_path / "store")
    settings = ('start="pretrained"', 'split="dev"', "seeds=[0]", 'baselines=["full"]')
    study = load_study("demo", settings)
    planned = plan_study("check", study, store, None)
    assert open_source(planned.data, store)
    (cell,) = first_ticket(study, planned.data)
    scores = {}
    for name, node in (("pre-trained", cell.node), ("random", changed(cell.node, start=Fresh()))):
        assert isinstance(node, Train)
        run_node(node, store)
        scores[name] = store.record(node.digest).metrics["score"]
    assert scores["pre-trained"] > 0.75
    assert scores["random"] < 0.6
