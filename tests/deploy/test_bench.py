"""`vltickets deploy bench` says what it measured, and of what; how fast that was is no test."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vltickets.backbones import build_backbone
from vltickets.backbones.uniter import Encoder
from vltickets.cli.main import app
from vltickets.deploy.bench import SIZES
from vltickets.deploy.layers import parts_of
from vltickets.deploy.rivals import rivals
from vltickets.errors import UserError
from vltickets.specs import Uniter, Vilt
from vltickets.tickets import Mask, Ticket

SPEC = Uniter(layers=2, hidden=32, heads=2, intermediate=64, positions=16)
HAS_ORT = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
RIVALS = ("torch_fp32", "onnxruntime_fp32", "int8") if HAS_ORT else ("torch_fp32",)


def run(*arguments: object) -> str:
    """Return what `vltickets deploy bench` printed; its mistakes come as they were raised."""
    done = CliRunner().invoke(app, ["deploy", "bench", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def ticket_file(path: Path, spec: Uniter = SPEC, every: int = 2, **known: object) -> Path:
    """Write a ticket of a toy UNITER that keeps one weight of `every` so many."""
    torch.manual_seed(0)
    backbone = build_backbone(spec, vocabulary=20, region_width=8, dropout=0.0)
    mask = Mask(
        {
            name: torch.arange(weight.numel()).view(weight.shape) % every == 0
            for name, weight in backbone.prunable().items()
        }
    )
    mask.apply_(backbone.prunable())
    weights = {f"backbone.{name}": value.numpy() for name, value in backbone.state_dict().items()}
    metrics = {"score": 0.625, "accuracy": 0.625, "accuracy/yes": 0.5}
    provenance = {"task": {"kind": "vqa"}, "metrics": metrics, "found_by": "prune", **known}
    Ticket(spec, mask, provenance, weights).save(path)
    return path


def test_random_weights_are_measured_for_each_sparsity_and_batch(tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    numbers = ("--sparsity", 0.7, "0.9", "--batch", 1, 3, "--tokens", 5, "--turns", 2)
    rows = json.loads(run("--size", "small", *numbers, "--json", "--figure", picture))
    assert [(row["batch"], round(row["sparsity"], 1)) for row in rows] == [(1, 0.7), (1, 0.9), (3, 0.7), (3, 0.9)]
    for row in rows:
        assert (row["weights"], row["mask"], row["size"], row["tokens"], row["threads"]) == (
            "random",
            "random",
            "small",
            5,
            1,
        )
        assert all(row[f"speedup_vs_{rival}"] > 0 and row[f"spread_vs_{rival}"] >= 0 for rival in RIVALS)
        assert row["largest_difference"] < 1e-4
        assert row["matrices_sparse"] + row["matrices_dense"] == 12
    assert rows[1]["bytes"] < 0.3 * rows[1]["dense_bytes"]
    assert "onnxruntime" in picture.read_text() or not HAS_ORT


def test_tickets_are_measured_with_their_own_weights_and_named_with_their_scores(tmp_path: Path) -> None:
    """Two of one backbone, one of another: each row is its own ticket's, with the dense score where that is known."""
    half = ticket_file(tmp_path / "half.safetensors", dense={"score": 0.75})
    other = ticket_file(tmp_path / "other.safetensors", Uniter(layers=1, hidden=16, heads=2, intermediate=32))
    fourth = ticket_file(tmp_path / "fourth.safetensors", every=4)
    picture = tmp_path / "bench.svg"
    options = ("--batch", 2, "--tokens", 9, "--turns", 2, "--store", tmp_path)
    rows = json.loads(run(half, other, fourth, *options, "--json", "--figure", picture))
    assert [row["weights"] for row in rows] == [str(half), str(fourth), str(other)]
    assert [round(row["sparsity"], 2) for row in rows] == [0.5, 0.75, 0.5]
    assert [row["size"] for row in rows] == ["2x32", "2x32", "1x16"]
    assert [row["dense_accuracy"] for row in rows] == [0.75, None, None]
    for row, path in zip(rows, (half, fourth, other), strict=True):
        assert (row["task"], row["metric"], row["accuracy"], row["batch"]) == ("vqa", "accuracy", 0.625, 2)
        assert row["file_bytes"] == path.stat().st_size
        assert 0 < row["largest_difference"] < 1e-4
    assert "62.5" in picture.read_text()
    said = run(half, *options)
    assert "vqa  2x32  62.5  75.0  50.0%   2x9" in said
    assert all(len(line) <= 80 for line in said.splitlines()[:2])
    assert "half.safetensors" in said


def test_mistakes_are_told_in_a_sentence(tmp_path: Path) -> None:
    path = ticket_file(tmp_path / "ticket.safetensors")
    vilt = Vilt(layers=2, hidden=32, heads=2, intermediate=64)
    other = tmp_path / "vilt.safetensors"
    shapes = build_backbone(vilt, vocabulary=20, region_width=vilt.pixels.width, dropout=0.0).prunable()
    Ticket(vilt, Mask({name: torch.ones(one.shape, dtype=torch.bool) for name, one in shapes.items()}), {}).save(other)
    for arguments, told in (
        (("--size", "huge"), "unknown size"),
        (("--sparsity", 70), "write 0.7"),
        ((path, "--sparsity", 0.7), "its own sparsity"),
        ((other,), "tickets of UNITER"),
        ((tmp_path / "none",), "no such file"),
        (("--figure", "x.pdf"), ".png"),
        (("--batch", 0), "1 or more"),
    ):
        with pytest.raises(UserError, match=told):
            run(*arguments)


def test_the_dense_rivals_compute_the_encoder() -> None:
    torch.manual_seed(0)
    encoder = Encoder(SIZES["small"], 0.0).eval()
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, 0.5, 0.5) if weight.ndim == 1 else None
    states = torch.randn(3, 7, 128)
    with torch.inference_mode():
        expected = encoder(states, torch.zeros(3, 1, 1, 7))
        for name, one in rivals([parts_of(layer) for layer in encoder.layer], threads=1).items():
            found = torch.as_tensor(one(states))
            assert float((found - expected).abs().max()) < (0.2 if name in ("int8", "torch_bf16") else 1e-4), name
