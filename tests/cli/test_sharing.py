"""`vltickets ticket verify|push|pull` through the real program."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vltickets as vlt

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ticket of a linear layer, the layer's weights, and the same pruned; the program runs in it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6))
    ticket = vlt.prune(model, 0.5)
    ticket.save(tmp_path / "mine.safetensors")
    save_file(model.state_dict(), tmp_path / "dense.safetensors")
    ticket.apply_(model)
    save_file(model.state_dict(), tmp_path / "pruned.safetensors")
    return tmp_path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_a_ticket_is_verified_alone_and_against_weights(folder: Path, vltickets: Run) -> None:
    done = vltickets("ticket", "verify", "mine.safetensors", "--weights", "pruned.safetensors")
    assert done.returncode == 0, done.stderr
    assert "a mask alone, 50.00% of 48 weights in 1 tensors pruned" in done.stdout
    assert "pruned.safetensors is 0 wherever it prunes" in done.stdout
    said = refused(vltickets("ticket", "verify", "mine.safetensors", "--weights", "dense.safetensors"))
    assert "24 weights that it prunes are not 0, first in 0.weight" in said
    content = bytearray((folder / "mine.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "mine.safetensors").write_bytes(content)
    assert "damaged" in refused(vltickets("ticket", "verify", "mine.safetensors"))


def test_a_ticket_is_pushed_to_a_folder_with_its_card_and_pulled(folder: Path, vltickets: Run) -> None:
    done = vltickets("ticket", "push", "mine.safetensors", "./hub/half", "--base-model", "me/layer", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pruned"] == 24
    card = (folder / "hub" / "half" / "README.md").read_text()
    assert 'base_model: "me/layer"' in card
    assert "50 %: 24 of 48 prunable weights are 0" in card
    assert vltickets("ticket", "pull", "./hub/half").stdout.startswith("half.safetensors: verified, 50.00%")
    assert (folder / "half.safetensors").read_bytes() == (folder / "mine.safetensors").read_bytes()
    looked = vltickets("ticket", "push", "mine.safetensors", "me/half", "--to", "look")
    assert looked.returncode == 0, looked.stderr
    assert "vltickets ticket pull me/half" in (folder / "look" / "README.md").read_text()


def test_a_hub_out_of_reach_is_one_sentence(folder: Path, vltickets: Run) -> None:
    nowhere = ("--endpoint", "http://127.0.0.1:9")
    assert "the Hub can't be reached" in refused(vltickets("ticket", "pull", "me/half", *nowhere))
    assert "the Hub can't be reached" in refused(vltickets("ticket", "push", "mine.safetensors", "me/half", *nowhere))
    assert "no such file" in refused(vltickets("ticket", "push", "absent.safetensors", "./hub"))
    assert not (folder / "half.safetensors").exists()
    assert not (folder / "hub").exists()
