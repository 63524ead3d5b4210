"""`backbone show --prunable`, and `ticket compare` of masks that cover other parts, through the real program."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vltickets.backbones import prunable_shapes
from vltickets.specs import Uniter, covering
from vltickets.tickets import Mask, Ticket, prune, random_scores

Run = Callable[..., subprocess.CompletedProcess[str]]
TOY = Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64)


def test_what_masks_would_cover_is_shown_with_counts_and_shares(vltickets: Run) -> None:
    shown = json.loads(
        vltickets("backbone", "show", "uniter-base", "--prunable", "encoder,embeddings", "--json").stdout
    )
    assert shown["prunable"] == 84_934_656 + 28_996 * 768
    parts = {row["part"]: row for row in shown["parts"]}
    assert {part: row["prunable"] for part, row in parts.items()} == {
        "encoder": True, "embeddings": True, "pooler": False, "projection": False
    }  # fmt: skip
    assert parts["embeddings"]["count"] == 28_996 * 768
    assert parts["embeddings"]["share"] == pytest.approx(28_996 * 768 / 109_898_752)
    covered = {row["name"]: row["prunable"] for row in shown["weights"]}
    assert covered["embeddings.word_embeddings.weight"]
    assert not covered["embeddings.position_embeddings.weight"]
    assert not covered["pooler.dense.weight"]
    text = vltickets("backbone", "show", "uniter-base", "--prunable", "encoder,embeddings").stdout
    assert "107,203,584 of 109,898,752" in text
    assert "embeddings: 22,268,928 (20.3%), prunable" in text
    assert "pooler: 589,824 (0.5%), not prunable" in text


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [("encodr", "did you mean 'encoder'"), ("encoder,encoder", "none twice"), ("", "unknown part")],
)
def test_parts_that_are_none_are_refused_in_one_sentence(vltickets: Run, parts: str, sentence: str) -> None:
    done = vltickets("backbone", "show", "uniter-tiny", "--prunable", parts)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_masks_with_embeddings_are_compared_with_their_like_alone(
    vltickets: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, words in (("one", 9), ("other", 9), ("longer", 10)):
        spec = covering(TOY, ("encoder", "embeddings"), vocabulary=words, region_width=5)
        shapes = prunable_shapes(spec)
        mask = prune(random_scores(len(name), shapes), Mask.dense(shapes), 0.5)
        Ticket(spec, mask, {}).save(f"{name}.safetensors")
    Ticket(TOY, Mask.dense(prunable_shapes(TOY)), {}).save("usual.safetensors")
    said = json.loads(vltickets("ticket", "compare", "one.safetensors", "other.safetensors", "--json").stdout)
    assert 0 < said["tickets"][0]["kinds"]["embedding"] < 1
    assert "pooler" not in said["tickets"][0]["kinds"]
    for against, sentence in (
        ("longer.safetensors", "(vocabulary 9 against vocabulary 10)"),
        ("usual.safetensors", "(prunable encoder+embeddings, vocabulary 9 against prunable encoder+pooler)"),
    ):
        done = vltickets("ticket", "compare", "one.safetensors", against)
        assert done.returncode == 2
        assert sentence in done.stderr
