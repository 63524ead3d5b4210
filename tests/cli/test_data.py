"""Region features through the real command line: imported, inspected, verified; mistakes are one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "vltickets", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    folder = tmp_path / "npz"
    folder.mkdir()
    for number in range(3):
        count = number + 1
        box = np.tile([0.1, 0.1, 0.6, 0.7, 0.5, 0.6], (count, 1))
        arrays = {
            "features": np.ones((count, 4)),
            "norm_bb": box,
            "conf": np.ones(count),
            "soft_labels": np.ones((count, 2)),
        }
        np.savez(folder / f"{number}.npz", **arrays)
    return folder


def test_features_are_imported_inspected_and_verified(features: Path, tmp_path: Path) -> None:
    before = run("data", "inspect", str(features), "--json")
    assert json.loads(before.stdout)["kind"] == "npz"
    done = run("data", "import", str(features), str(tmp_path / "store"))
    assert (done.returncode, done.stdout.strip()) == (0, f"{tmp_path / 'store'}: 3 images")
    about = json.loads(run("data", "inspect", str(tmp_path / "store"), "--json").stdout)
    assert (about["images"], about["regions"], about["width"], about["classes"]) == (3, 6, 4, 2)
    assert (about["regions of an image, fewest"], about["regions of an image, most"]) == (1, 3)
    assert json.loads(run("data", "verify", str(tmp_path / "store"), "--json").stdout)["verified"] is True


def test_a_broken_file_is_a_sentence_and_nothing_is_written(features: Path, tmp_path: Path) -> None:
    (features / "1.npz").write_bytes(b"PK nothing")
    done = run("data", "import", str(features), str(tmp_path / "store"))
    assert done.returncode == 2
    assert "1.npz" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["npz"]
