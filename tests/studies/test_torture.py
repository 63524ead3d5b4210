"""Fifty kills at random places and moments change nothing. `make torture` does ten times as many."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = Path(__file__).resolve().parents[1] / "helpers" / "torture.py"


@pytest.mark.study
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each life is a fork")
def test_fifty_kills_in_training_pruning_writing_and_leasing_leave_the_same_bits() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(TORTURE), "--kills", "50"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = dict(re.findall(r"^(\w+) +(\d+) +\d+$", done.stdout, re.MULTILINE))
    assert all(int(kills[place]) > 0 for place in ("training", "pruning", "writing", "leasing")), done.stdout
    assert int(re.findall(r"^(\d+) kills", done.stdout, re.MULTILINE)[0]) >= 50
