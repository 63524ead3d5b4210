"""A study whose processes torchrun starts leaves what one process leaves: the same nodes, losses and masks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETTINGS = ["world.scenes=60", "world.examples=60", "world.heldout=30", "levels=[0.7]", "seeds=[0]"]
SETTINGS += ['baselines=["imp"]', "training.steps=6", "training.accumulation=2"]
for stage in ("text", "vision_language"):
    SETTINGS += [f"pretraining.{stage}.training.steps=4", f"pretraining.{stage}.training.accumulation=2"]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def run(store: Path, *launcher: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", *launcher, "vltickets", "study", "run", "smoke", "--store", str(store), *settings]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=500)


def records(store: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in (store / "runs").glob("*/record.json")]
    return {record["digest"]: record for record in found}


@pytest.mark.study
def test_two_processes_leave_what_one_leaves(tmp_path: Path) -> None:
    for store, launcher in ((tmp_path / "one", []), (tmp_path / "two", TORCHRUN)):
        done = run(store, *launcher, options=("--workers", "0"))
        assert done.returncode == 0, done.stderr
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert one.keys() == two.keys()
    assert {record["kind"] for record in one.values()} == {"train", "prune"}
    for digest, record in one.items():
        if record["kind"] == "prune":
            assert two[digest]["files"] == record["files"]  # the mask, by its hash
        losses = [loss for _, loss in record["curve"]]
        assert [loss for _, loss in two[digest]["curve"]] == pytest.approx(losses, rel=1e-5)


@pytest.mark.study
def test_worker_processes_and_torchrun_s_do_not_go_together(tmp_path: Path) -> None:
    done = run(tmp_path / "store", *TORCHRUN, options=("--workers", "2"))
    assert done.returncode == 1
    assert "processes of torchrun do each run together" in done.stderr
    assert not (tmp_path / "store" / "runs").exists()
