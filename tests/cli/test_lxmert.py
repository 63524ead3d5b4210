"""LXMERT from the command line: its weights shown, an official checkpoint imported, a study run from it."""

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

transformers = pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def tiny(path: Path) -> Path:
    """Write an official checkpoint of the tiny size for the world's words and features."""
    shipped = load((resources.files("vltickets") / "weights" / "theta0.safetensors").read_bytes())
    words = len(shipped["embeddings.word_embeddings.weight"])
    width = shipped["img_embeddings.img_linear.weight"].shape[1]
    spec = SIZES["lxmert-tiny"]
    torch.manual_seed(0)
    config = transformers.LxmertConfig(
        vocab_size=words,
        hidden_size=spec.hidden,
        num_attention_heads=spec.heads,
        intermediate_size=spec.intermediate,
        max_position_embeddings=spec.positions,
        l_layers=spec.language_layers,
        r_layers=spec.object_layers,
        x_layers=spec.cross_layers,
        visual_feat_dim=width,
        num_qa_labels=5,
    )
    model = transformers.LxmertForPreTraining(config)
    torch.save({name.replace("lxmert.", "bert."): value for name, value in model.state_dict().items()}, path)
    return path


def test_the_base_sizes_counts_are_shown(vltickets: Run) -> None:
    done = vltickets("backbone", "show", "lxmert-base", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["prunable"], shown["total"]) == (182_255_616, 207_936_768)
    unused = {one["task"]: one["weights"] for one in shown["unused"]}
    assert "encoder.x_layers.4.visn_output.dense.weight" in unused["vqa"]
    assert unused["refcoco"] == ["pooler.dense.weight", "pooler.dense.bias"]
    said = vltickets("backbone", "show", "lxmert-base").stdout
    assert "182,255,616 of 207,936,768" in said
    assert "the visual side of the last crossing layer" in said


def test_a_study_starts_from_an_official_checkpoint(vltickets: Run, tmp_path: Path) -> None:
    out = tmp_path / "in.safetensors"
    table = tmp_path / "all_ans.json"
    table.write_text(json.dumps([{"ans": answer} for answer in ("Yes.", "a no", "two", "zebra", "llama")]))
    options = ["--backbone", "lxmert-tiny", "--out", out, "--answers", table, "--json"]
    done = vltickets("weights", "import", tiny(tmp_path / "c.pth"), *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["missing"] == report["unexpected"] == []
    assert "answer_head.logit_fc.3.weight" in report["mapped"]
    assert report["answers"] == 5
    sets = ['start="imported"', f'weights="{out}"', 'backbone="lxmert-tiny"', "seeds=[0]", "training.steps=4"]
    sets += ["levels=[0.5]", "quoted=[0.5]", "random_levels=[0.5]", 'baselines=["theta0","full","imp","random"]']
    options = [part for setting in sets for part in ("--set", setting)]
    store = tmp_path / "store"
    done = vltickets("study", "run", "smoke", "--store", store, "--workers", 0, "--json", *options)
    assert done.returncode == 0, done.stderr
    study = json.loads(next((store / "studies").glob("*.json")).read_text())
    masked = {cell["baseline"]: cell["node"] for cell in study["cells"]}
    record = json.loads((store / "runs" / masked["full"] / "record.json").read_text())
    assert record["metrics"]["answers_transferred"] == 3  # yes, no and 2, however they are written
    compared = vltickets("ticket", "compare", masked["imp"], masked["random"], "--store", store, "--json")
    assert compared.returncode == 0, compared.stderr
    kept = json.loads(compared.stdout)["tickets"][0]["modalities"]
    assert sorted(kept) == ["cross", "language", "vision"]
    assert all(0 < share < 1 for share in kept.values())
    other = vltickets("study", "run", "smoke", "--store", store, *options, "--set", 'backbone="tiny"')
    assert other.returncode == 2
    assert "another backbone" in other.stderr


def test_a_task_it_cannot_do_is_refused_before_anything_runs(vltickets: Run, tmp_path: Path) -> None:
    sets = ['start="fresh"', 'backbone="lxmert-tiny"', 'task="vcr"', 'baselines=["full"]']
    options = [part for setting in sets for part in ("--set", setting)]
    done = vltickets("study", "run", "smoke", "--store", tmp_path / "store", *options)
    assert done.returncode == 2
    assert "vcr needs 4 token types" in done.stderr
    assert "Traceback" not in done.stderr
