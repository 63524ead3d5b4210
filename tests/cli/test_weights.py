"""`weights import`, and a study that starts from what it wrote."""

import json
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def tiny(path: Path) -> Path:
    content = (resources.files("vltickets") / "weights" / "theta0.safetensors").read_bytes()
    torch.save({f"uniter.{name}": value for name, value in load(content).items()}, path)
    return path


def test_a_study_starts_from_an_imported_checkpoint(vltickets: Run, tmp_path: Path) -> None:
    out = tmp_path / "in.safetensors"
    done = vltickets("weights", "import", tiny(tmp_path / "c.pt"), "--backbone", "uniter-tiny", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["missing"] == []
    sets = ['start="imported"', f'weights="{out}"', "seeds=[0]", 'baselines=["theta0","full"]', "training.steps=4"]
    options = [part for setting in sets for part in ("--set", setting)]
    store = tmp_path / "store"
    done = vltickets("study", "run", "smoke", "--store", store, "--workers", 0, "--json", *options)
    assert done.returncode == 0, done.stderr
    assert len(list((store / "imported").glob("*.safetensors"))) == 1
    other = vltickets("study", "run", "smoke", "--store", store, *options, "--set", 'backbone="small"')
    assert other.returncode == 2
    assert "another backbone" in other.stderr


def test_mistakes_are_one_sentence(vltickets: Run, tmp_path: Path) -> None:
    checkpoint = tiny(tmp_path / "c.pt")
    for backbone, message in (("uniter-bas", "did you mean"), ("uniter-base", "does not fit the backbone")):
        done = vltickets("weights", "import", checkpoint, "--backbone", backbone, "--out", tmp_path / "o.safetensors")
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.safetensors").exists()
