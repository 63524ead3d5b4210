"""Studies on Ray: two machines (node processes) of which one dies, and mistakes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smallest import bits, plan_smallest, run_smallest
from vltickets.errors import UserError
from vltickets.studies.executors import RayCluster

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'vltickets[ray]'"
)


@needs_ray
@pytest.mark.study
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="who holds a lease is read from /proc")
def test_a_machine_that_dies_in_mid_run_costs_nothing_but_time(tmp_path: Path) -> None:
    """Its run goes on elsewhere from its checkpoint; the results are those of one process, bit for bit."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(HELPERS / "ray_node_killed.py"), str(tmp_path / "store")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    lost = seen["killed"]
    story = [state for state, digest, _ in seen["events"] if digest == lost]
    assert [state for state in story if state != "waiting"] == ["started", "lost", "started", "finished"]
    assert seen["step"] >= 2
    assert seen["later"]
    assert min(seen["later"]) >= seen["step"]  # nobody began it anew
    assert {state for state, digest, _ in seen["events"] if digest != lost} <= {"started", "finished"}
    run_smallest(tmp_path / "alone")
    assert bits(tmp_path / "store") == bits(tmp_path / "alone")


@needs_ray
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
        ("ray://head:10001", "give HOST:PORT or auto"),
        ("head", "give HOST:PORT or auto"),
    ],
)
def test_a_wrong_address_is_one_sentence_at_once(address: str, sentence: str, tmp_path: Path) -> None:
    _, store = plan_smallest(tmp_path / "store")
    with pytest.raises(UserError, match=sentence):
        RayCluster(address).connect(store)


def test_without_ray_one_sentence_names_the_extra(tmp_path: Path) -> None:
    without = "import sys; sys.modules['ray'] = None; from vltickets.cli import main; sys.argv[0] = 'vltickets'; main()"
    command = ["study", "run", "smoke", "--store", str(tmp_path / "store"), "--executor", "ray"]
    done = subprocess.run([sys.executable, "-c", without, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "vltickets: running on Ray needs Ray: pip install 'vltickets[ray]'\n"
