"""ViLT from the command line: its weights shown, a Lightning checkpoint imported, studies run from it and from text."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from vltickets.specs import SIZES

transformers = pytest.importorskip("transformers", reason="a ViLT needs transformers (vltickets[hf])")
Run = Callable[..., "subprocess.CompletedProcess[str]"]
SMALL = ["seeds=[0]", "levels=[0.5]", "quoted=[0.5]", "random_levels=[0.5]", "training.steps=4", "world.scenes=120"]
SMALL += ["world.examples=80", "world.heldout=40", 'backbone="vilt-tiny"']


def lightning(path: Path) -> Path:
    """Write a checkpoint of the tiny size for the world's words, as Lightning does: the weights in `state_dict`."""
    shipped = load((resources.files("vltickets") / "weights" / "theta0.safetensors").read_bytes())
    spec = SIZES["vilt-tiny"]
    torch.manual_seed(0)
    config = transformers.ViltConfig(
        vocab_size=len(shipped["embeddings.word_embeddings.weight"]),
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.intermediate,
        max_position_embeddings=spec.positions,
        image_size=spec.pixels.shorter,
        patch_size=spec.pixels.patch,
    )
    state = {name: value.clone() for name, value in transformers.ViltForMaskedLM(config).state_dict().items()}
    state["mlm_score.decoder.weight"] += 1.0  # untied, as officially
    state |= {"itm_score.fc.weight": torch.randn(2, spec.hidden), "itm_score.fc.bias": torch.zeros(2)}
    torch.save({"epoch": 1, "global_step": 10, "state_dict": state | {"mpp_score.bias": torch.zeros(3)}}, path)
    return path


def settings(*more: str) -> list[str]:
    return [part for setting in (*SMALL, *more) for part in ("--set", setting)]


def test_the_base_sizes_counts_are_shown(vltickets: Run) -> None:
    done = vltickets("backbone", "show", "vilt-base", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["prunable"], shown["total"]) == (85_524_480, 111_595_008)
    assert "row 1" in shown["unused"][0]["what"]
    assert "85,524,480 of 111,595,008" in vltickets("backbone", "show", "vilt-base").stdout


def test_a_study_of_two_pictures_starts_from_a_lightning_checkpoint(vltickets: Run, tmp_path: Path) -> None:
    out = tmp_path / "in.safetensors"
    done = vltickets("weights", "import", lightning(tmp_path / "v.ckpt"), "--backbone", "vilt-tiny", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "missing, to start random: none" in done.stdout
    assert "unexpected, left out: mlm_score.decoder.weight, mpp_score.bias" in done.stdout
    assert "note: mlm_score.decoder.weight is not tied to the word table" in done.stdout
    sets = settings('start="imported"', f'weights="{out}"', 'task="nlvr2"', 'baselines=["full","imp"]')
    done = vltickets("study", "run", "smoke", "--store", tmp_path / "store", "--workers", 0, "--json", *sets)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "store" / "imported").glob("*.safetensors"))) == 1


def test_the_world_gives_a_text_only_start(vltickets: Run, tmp_path: Path) -> None:
    objectives = "pretraining.vision_language.objectives={ mlm = 5.0, mrc_kl = 0.0, itm = 4.0 }"
    sets = settings(objectives, 'baselines=["full","imp","text-only"]', "pretraining.text.training.steps=6")
    store = tmp_path / "store"
    done = vltickets("study", "run", "smoke", "--store", store, "--workers", 0, "--json", *sets)
    assert done.returncode == 0, done.stderr
    cells = json.loads(next((store / "studies").glob("*.json")).read_text())["cells"]
    assert {cell["baseline"] for cell in cells} == {"full", "imp", "text-only"}
    nodes = [json.loads(path.read_text()) for path in (store / "nodes").glob("*.json")]
    text = [node for node in nodes if node.get("task", {}).get("text_only")]
    assert [node["backbone"]["kind"] for node in text] == ["vilt"]


def test_mistakes_are_one_sentence_and_write_nothing(vltickets: Run, tmp_path: Path) -> None:
    bert = tmp_path / "bert.bin"
    torch.save({"bert.embeddings.word_embeddings.weight": torch.zeros(9, 64)}, bert)
    vilt = lightning(tmp_path / "v.ckpt")
    for file, backbone, message in (
        (bert, "vilt-base", "none of it maps"),
        (vilt, "vilt-base", "does not fit the backbone"),
        (vilt, "uniter-tiny", "no checkpoint of UNITER"),
    ):
        done = vltickets("weights", "import", file, "--backbone", backbone, "--out", tmp_path / "o.safetensors")
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.safetensors").exists()
