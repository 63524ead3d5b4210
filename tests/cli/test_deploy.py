"""`vltickets deploy` through the real program: packed files that score as their tickets do, and exports."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from vltickets.cli.main import app
from vltickets.data import Source
from vltickets.deploy import save_packed
from vltickets.errors import UserError
from vltickets.specs import Uniter, Vqa, World, canonical
from vltickets.studies.scoring import score_ticket
from vltickets.tasks import Model, Task
from vltickets.tickets import Mask, Ticket, load_ticket, prune, random_scores, save_ticket

Run = Callable[..., subprocess.CompletedProcess[str]]
TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)


@pytest.fixture
def ticket(build: Callable[..., tuple[Model, Task]], source: Source, tmp_path: Path) -> Path:
    """A ticket file of a toy model on the small world's questions, whose answers differ from question to question."""
    model, task = build("vqa")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if tensor.dim() == 2:
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))) * 0.4)
    shapes = {name: tuple(weight.shape) for name, weight in model.backbone.prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), 0.7)
    mask.apply_({name: weights[f"backbone.{name}"] for name in mask})
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    provenance = {"task": canonical(Vqa(data=World(generator=1)))}
    labels = {"vocabulary": source.vocabulary.text(), **task.labels()}
    save_ticket(Ticket(TOY, mask, provenance, arrays, labels), tmp_path / "t.safetensors")
    return tmp_path / "t.safetensors"


def done(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, run.stderr
    return run.stdout


def refused(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 2, (run.returncode, run.stdout, run.stderr)
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    return run.stderr


def test_a_packed_file_scores_as_its_ticket_does_to_the_last_example(
    ticket: Path, small_world: Path, vltickets: Run, tmp_path: Path
) -> None:
    packed, small = tmp_path / "p.safetensors", tmp_path / "b.safetensors"
    row = json.loads(done(vltickets("deploy", "pack", ticket, "--out", packed, "--json")))
    assert (row["values"], row["bytes"]) == ("fp32", packed.stat().st_size)
    done(vltickets("deploy", "pack", ticket, "--out", small, "--values", "bf16"))
    assert small.stat().st_size < packed.stat().st_size
    found = {path: score_ticket(path, None, small_world, "test").items for path in (ticket, packed, small)}
    assert len(np.unique(found[ticket])) > 1
    assert np.array_equal(found[packed], found[ticket])
    assert np.mean(found[small] != found[ticket]) <= 0.1  # a question whose two best answers are nearly even
    scored = [
        json.loads(done(vltickets("evaluate", path, "--data", small_world, "--json"))) for path in (ticket, packed)
    ]
    assert scored[0]["accuracy"] == scored[1]["accuracy"] == pytest.approx(found[ticket].mean())


def test_a_packed_file_is_shown_verified_and_compared_as_a_ticket_file_is(
    ticket: Path, vltickets: Run, tmp_path: Path
) -> None:
    small, dense = tmp_path / "b.safetensors", tmp_path / "dense.safetensors"
    done(vltickets("deploy", "pack", ticket, "--out", small, "--values", "bf16"))
    done(vltickets("deploy", "unpack", small, "--out", dense))
    shown = json.loads(done(vltickets("ticket", "show", small, "--json")))
    whole = json.loads(done(vltickets("ticket", "show", ticket, "--json")))
    assert {name for name in shown if shown[name] != whole[name]} == {"file", "provenance"}
    assert shown["provenance"] == whole["provenance"] | {"values": "bf16"}
    assert "values rounded since to bf16" in done(vltickets("ticket", "show", small))
    assert json.loads(done(vltickets("ticket", "verify", small, "--weights", dense, "--json")))["weights"] == "pruned"
    compared = json.loads(done(vltickets("ticket", "compare", small, ticket, "--json")))
    assert compared["overlap"][0][1] == 1
    small.write_bytes(small.read_bytes()[:-1])
    assert "is not a ticket, or damaged" in refused(vltickets("ticket", "verify", small))


def answered(*arguments: object) -> str:
    """Return what `vltickets deploy run` printed, run within this process; its mistakes come as they were raised."""
    run = CliRunner().invoke(app, ["deploy", "run", *map(str, arguments)], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return run.stdout


def test_a_compiled_ticket_answers_as_the_dense_model_does(ticket: Path, small_world: Path, tmp_path: Path) -> None:
    """Of the ticket file and of a packed one; what is written are the test's own ids, and answers of the vocabulary."""
    packed, said = tmp_path / "p.safetensors", tmp_path / "said.jsonl"
    save_packed(load_ticket(ticket), packed)
    options = ("--data", small_world, "--split", "test", "--check")
    row = json.loads(answered(ticket, *options, "--out", said, "--json"))
    found = score_ticket(ticket, None, small_world, "test")
    assert (row["task"], row["split"], row["metric"], row["items"]) == ("vqa", "test", "accuracy", len(found.items))
    assert row["score"] == row["score_densely"] == pytest.approx(found.items.mean())
    assert (row["answers_differ"], row["scores_differ"]) == (0, 0)
    assert 0 < row["logits_differ"] < 1e-5 * row["largest_logit"]
    assert row["matrices_sparse"] + row["matrices_dense"] == 12
    parts = ("read", "build", "compile", "answer")
    assert row["seconds_to_first"] == pytest.approx(sum(row[f"seconds_{part}"] for part in parts))
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    asked = json.loads((small_world / "vqa" / "v2_OpenEnded_mscoco_test_questions.json").read_text())["questions"]
    assert [line["id"] for line in lines] == [question["question_id"] for question in asked]
    known = json.loads((small_world / "vqa" / "v2_mscoco_test_annotations.json").read_text())["annotations"]
    right = {one["question_id"]: {given["answer"] for given in one["answers"]} for one in known}
    assert all((line["answer"] in right[line["id"]]) == (line["score"] > 0) for line in lines)
    assert [line["score"] for line in lines] == pytest.approx(found.items.tolist())
    told = answered(packed, *options, "--values", "bf16", "--batch", 7, "--threads", 2)
    assert "2 thread(s), bf16 values" in told
    assert "computed densely: accuracy" in told
    assert "to answer the first batch" in told
    for mistake, says in (
        (("--store", tmp_path), "name the data with --data DIR"),
        (("--data", tmp_path, "--out", tmp_path), "name the file to write with --out"),
        (("--data", small_world, "--out", ticket), "what is read"),
    ):
        with pytest.raises(UserError, match=says):
            answered(ticket, *mistake)


@pytest.mark.parametrize("out", ["dense.safetensors", "folder"])
def test_a_packed_file_is_unpacked_into_the_ticket_s_weights(
    ticket: Path, vltickets: Run, tmp_path: Path, out: str
) -> None:
    done(vltickets("deploy", "pack", ticket, "--out", tmp_path / "p.safetensors"))
    done(vltickets("deploy", "unpack", tmp_path / "p.safetensors", "--out", tmp_path / out))
    written = tmp_path / out if out.endswith(".safetensors") else tmp_path / out / "model.safetensors"
    found, weights = load_file(written), load_ticket(ticket).weights
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], weights[name]) for name in weights)
    assert "is 0 wherever it prunes" in done(vltickets("ticket", "verify", ticket, "--weights", written))


def test_exports_say_what_was_checked(ticket: Path, vltickets: Run, tmp_path: Path) -> None:
    told = done(vltickets("deploy", "export", ticket, "--to", "hf", "--out", tmp_path / "hf"))
    assert "exact zeros; to be loaded by vltickets, as its README says" in told
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (vltickets[onnx])")
    run = vltickets("deploy", "export", ticket, "--to", "onnx-int8", "--out", tmp_path / "m.onnx", "--json")
    row = json.loads(done(run))
    assert run.stderr == ""
    assert row["outputs"] == ["logits"]
    assert 0 < row["difference"] < row["largest_output"]


def test_mistakes_are_one_sentence_and_write_nothing(ticket: Path, vltickets: Run, tmp_path: Path) -> None:
    save_ticket(load_ticket(ticket).without_weights(), tmp_path / "bare.safetensors")
    out = tmp_path / "out"
    for command, says in (
        (("pack", tmp_path / "bare.safetensors", "--out", out), "a mask without trained weights"),
        (("run", tmp_path / "bare.safetensors", "--data", tmp_path), "holds a mask without trained weights"),
        (("pack", ticket, "--out", ticket), "is what is read; name another file"),
        (("pack", ticket, "--out", tmp_path), "is a folder; name the file to write"),
        (("unpack", ticket, "--out", out), "is no packed file: it has no 'vltickets-packed' header"),
        (("export", tmp_path / "bare.safetensors", "--to", "hf", "--out", out), "a mask without trained weights"),
        (("export", tmp_path / "absent.safetensors", "--to", "onnx", "--out", out), "no such file"),
    ):
        assert says in refused(vltickets("deploy", *command))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["bare.safetensors", "t.safetensors"]
    assert not out.exists()
