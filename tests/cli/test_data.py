"""Region features through the real command line: imported, inspected, verified; mistakes are one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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


def test_pictures_are_inspected_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "val2014"
    folder.mkdir(parents=True)
    for number, size in enumerate([(640, 480), (480, 640), (1000, 400)]):
        Image.new("RGB", size).save(folder / f"COCO_val2014_{number:012d}.jpg")
    about = json.loads(run("data", "inspect", str(folder.parent), "--json").stdout)
    assert (about["images"], about["smallest, pixels"], about["largest, pixels"]) == (3, "640 x 480", "1000 x 400")
    assert (about["patches of an image, fewest"], about["patches of an image, most"]) == (19 * 8, 16 * 12)
    assert about["shapes in patches"] == 3
    tiny = json.loads(run("data", "inspect", str(folder), "--backbone", "vilt-tiny", "--json").stdout)
    assert tiny["patches of an image, most"] == 4 * 3
    assert json.loads(run("data", "verify", str(folder), "--json").stdout) == {"images": 3, "verified": True}
    path = folder / "COCO_val2014_000000000001.jpg"
    path.write_bytes(path.read_bytes()[:-400])
    for arguments, said in (
        (("verify", str(folder)), "COCO_val2014_000000000001.jpg: the image can't be decoded"),
        (("inspect", str(folder), "--backbone", "uniter-base"), "uniter-base takes no patches of pictures"),
    ):
        done = run("data", *arguments)
        assert done.returncode == 2
        assert said in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_the_world_is_drawn_where_that_is_asked_for(tmp_path: Path) -> None:
    done = run("data", "world", str(tmp_path / "world"), "--split", "train", "--examples", "12", "--pictures")
    assert done.returncode == 0
    drawn = {path.parent.parent.name: path.parent for path in (tmp_path / "world").rglob("pixels.npy")}
    assert sorted(drawn) == ["captions", "flickr30k", "gqa", "nlvr2", "refcoco", "snli_ve", "vqa"]
    about = run("data", "inspect", str(drawn["vqa"]), "--backbone", "vilt-tiny", "--json")
    assert json.loads(about.stdout)["patches of an image, most"] == 9
