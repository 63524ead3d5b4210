"""Our UNITER, loaded from the official key names, gives the official modules' outputs within 1e-5."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "uniter"
CASES = sorted(json.loads((GOLDEN / "manifest.json").read_text())["cases"])


def run_check(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "golden_check.py"), str(folder), *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(HERE.parent / "src")}
    )


@pytest.mark.parametrize("options", [(), ("--packed",)])
def test_every_case_agrees_with_the_official_modules(options: tuple[str, ...]) -> None:
    done = run_check(GOLDEN.parent, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(line.split()[0] for line in done.stdout.splitlines()[:-1]) == CASES
    assert len(CASES) == 9


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    return folder


@pytest.mark.parametrize(
    ("case", "tensor"),
    [
        ("pretraining", "state.feat_regress.net.0.weight"),
        ("pretraining", "out.ot_dist_neg"),
        ("vcr", "in.txt_type_ids"),
        ("refcoco_mlp2", "state.re_output.3.weight"),
        ("retrieval", "out.rank_loss"),
    ],
)
def test_a_difference_anywhere_is_seen(copied: Path, case: str, tensor: str) -> None:
    path = copied / f"{case}.safetensors"
    tensors = load_file(path)
    changed = tensors[tensor].clone()
    changed.view(-1)[0] += 1 if tensor.startswith("in.") else 0.01
    save_file(tensors | {tensor: changed}, path)
    done = run_check(copied)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DIFFERS" in done.stdout


def test_a_folder_without_golden_vectors_is_refused(tmp_path: Path) -> None:
    done = run_check(tmp_path)
    assert done.returncode == 2
    assert "no manifest.json" in done.stderr
