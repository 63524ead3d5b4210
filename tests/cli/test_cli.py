"""The command line, as a newcomer and as a script use it. Everything goes through the real program."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vltickets.store import Store
from vltickets.tickets import load_ticket

Run = Callable[..., subprocess.CompletedProcess[str]]
Smoke = tuple[Path, subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.study


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Assert that a command refused: exit code 2, one sentence, no traceback. Return the sentence."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_the_demo_prints_its_rows_as_json_and_nothing_else(smoke: Smoke) -> None:
    rows = json.loads(smoke[1].stdout)
    for row in rows:
        assert {"baseline", "sparsity", "mean", "std", "seeds"} <= set(row)
    found = {(row["baseline"], row["sparsity"]) for row in rows}
    assert found >= {("full", 0.0), ("full-2x", 0.0), ("blind", 0.0), ("imp", 0.5), ("imp", 0.7), ("random", 0.7)}
    assert found >= {(name, 0.7) for name in ("text-only", "shuffled-within", "one-shot", "random-start")}
    assert ("chance", 0.0) in found


def test_smoke_says_that_it_proves_nothing(smoke: Smoke) -> None:
    assert "too small for the paper's findings" in smoke[1].stderr


def test_every_number_leads_back_to_its_run(smoke: Smoke) -> None:
    out, done = smoke
    store = Store(out / "store")
    for row in json.loads(done.stdout):
        scores = [store.record(run["node"]).metrics["score"] for run in row["runs"]]
        assert scores == [run["score"] for run in row["runs"]]
        if scores:
            assert row["mean"] == pytest.approx(sum(scores) / len(scores))


def test_the_ticket_it_leaves_is_verified_and_shown(smoke: Smoke, vltickets: Run) -> None:
    shown = vltickets("ticket", "show", smoke[0] / "vqa-70.ticket.safetensors", "--json")
    ticket = json.loads(shown.stdout)
    assert ticket["pruned"] == round(0.7 * ticket["prunable"])
    assert ticket["trained_weights"]


def test_a_run_and_its_ticket_score_alike_on_any_folder_of_the_layout(
    smoke: Smoke, vltickets: Run, tmp_path: Path
) -> None:
    out, done = smoke
    vltickets("data", "world", tmp_path / "world", "--split", "fresh", "--seed", "9", "--examples", "150")
    row = next(row for row in json.loads(done.stdout) if (row["baseline"], row["sparsity"]) == ("imp", 0.7))
    run = row["runs"][0]
    where = ("--data", tmp_path / "world", "--split", "fresh", "--json")
    by_run = json.loads(vltickets("evaluate", run["node"], "--store", out / "store", *where).stdout)
    by_ticket = json.loads(vltickets("evaluate", out / "vqa-70.ticket.safetensors", *where).stdout)
    assert by_run["items"] == by_ticket["items"] == 150
    assert by_run["accuracy"] == by_ticket["accuracy"]
    again = json.loads(vltickets("evaluate", run["node"], "--store", out / "store", "--json").stdout)
    assert again["accuracy"] == pytest.approx(run["score"])


def test_status_export_import_and_report_agree(smoke: Smoke, vltickets: Run, tmp_path: Path) -> None:
    out, done = smoke
    status = json.loads(vltickets("study", "status", "smoke", "--store", out / "store", "--json").stdout)
    assert {"study": "smoke", "cells": 12, "done": 12, "missing": "", "runs_left": 0}.items() <= status[0].items()
    watched = vltickets("study", "status", "smoke", "--store", out / "store", "--watch")  # all done: it ends by itself
    assert watched.stdout == "smoke: 12 of 12 cells done; missing: none\n"
    records = tmp_path / "smoke.records"
    vltickets("study", "export", "smoke", records, "--store", out / "store")
    assert records.stat().st_size < 1_000_000
    vltickets("study", "import", records, "--store", tmp_path / "other")
    report = vltickets("report", "smoke", "--store", tmp_path / "other", "--json")
    assert json.loads(report.stdout) == json.loads(done.stdout)
    carried_on = vltickets("study", "run", "smoke", "--store", tmp_path / "other", "--json")
    assert ", 0 to do" in carried_on.stderr


def test_find_writes_a_ticket_of_the_sparsity_asked_for(vltickets: Run, tmp_path: Path) -> None:
    done = vltickets(
        "find", "--preset", "smoke", "--sparsity", 0.6, "--out", tmp_path / "t.safetensors", "--store", tmp_path / "s",
        "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["sparsity"] == pytest.approx(0.6, abs=1e-5)
    pushed = vltickets(
        "ticket", "push", tmp_path / "t.safetensors", tmp_path / "hub", "--store", tmp_path / "s",
        "--no-weights", "--json",
    )  # fmt: skip
    assert json.loads(pushed.stdout)["trained_weights"] is False
    run = json.loads(vltickets("ticket", "show", tmp_path / "t.safetensors", "--json").stdout)["provenance"]
    full = 100 * json.loads(done.stdout)["full"]
    own = 100 * run["metrics"]["score"]
    assert f"| {own:.2f} | {own:.2f} (1 seed) | {full:.2f} (1 seed) |" in (tmp_path / "hub" / "README.md").read_text()
    assert run["levels"][-1] == 0.6
    assert 100 * run["dense"]["score"] == pytest.approx(full)


def test_find_searches_under_a_pattern(vltickets: Run, tmp_path: Path) -> None:
    done = vltickets(
        "find", "--preset", "smoke", "--pattern", "2:4", "--out", tmp_path / "t.safetensors", "--store", tmp_path / "s",
        "--set", "training.steps=2", "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["sparsity"] == 0.5, done.stderr
    found = load_ticket(tmp_path / "t.safetensors")
    assert found.provenance["pattern"] == "2:4"
    assert all(bool((found.mask[name].view(-1, 4).sum(1) == 2).all()) for name in found.mask)


def test_a_ticket_is_found_without_its_weights_where_asked(vltickets: Run, tmp_path: Path) -> None:
    done = vltickets(
        "find", "--preset", "smoke", "--sparsity", 0.3, "--out", tmp_path / "t.safetensors", "--store", tmp_path / "s",
        "--set", "training.steps=2", "--no-weights", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(vltickets("ticket", "show", tmp_path / "t.safetensors", "--json").stdout)
    assert not shown["trained_weights"]
    assert "a mask without trained weights" in refused(vltickets("evaluate", tmp_path / "t.safetensors"))


def test_doctor_finds_the_shipped_weights(vltickets: Run) -> None:
    done = vltickets("doctor", "--json")
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["problems"] == []


def test_help_does_not_wait_for_torch(vltickets: Run) -> None:
    import sys

    code = "import sys; sys.argv = ['vltickets', '--help']\nfrom vltickets.cli import main\ntry: main()\nfinally: "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("False")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("demo", "--preset", "smokee"), "did you mean 'smoke'"),
        (("study", "run", "dmo"), "did you mean 'demo'"),
        (("study", "run", "absent.toml"), "no such recipe file"),
        (("study", "run", "smoke", "--set", "training.stepz=3"), "did you mean 'training.steps'"),
        (("study", "run", "smoke", "--set", 'task="vqb"'), "did you mean 'vqa'"),
        (("study", "run", "smoke", "--set", "training.steps=1.5"), "training.steps = 1.5 (float)"),
        (("study", "run", "smoke", "--set", "training"), "expected KEY=VALUE"),
        (("study", "run", "real-first"), "--data DIR"),
        (("study", "run", "real-first", "--data", "/nowhere"), "no such folder"),
        (("find", "--preset", "smoke", "--sparsity", "1.0"), "outside [0, 1)"),
        (("find", "--preset", "smoke", "--sparsity", "-0.1"), "outside [0, 1)"),
        (("ticket", "show", "absent.safetensors"), "no such file"),
        (("find", "--out", "."), "is a folder"),
        (("find", "--preset", "smoke", "--pattern", "2:4", "--sparsity", "0.7"), "2:4 removes 0.5 of the weights"),
        (("find", "--preset", "smoke", "--pattern", "block-3x1"), "can't be pruned in blocks of 3 × 1"),
        (("find", "--preset", "smoke", "--pattern", "half"), "unknown pattern 'half'"),
        (("study", "run", "smoke", "--name", "../out"), "can't be called"),
        (("study", "run", "smoke", "--set", 'split="tset"'), "dev or test"),
        (("study", "run", "smoke", "--set", "training.betas=[2.0, 3.0]"), "must be in [0, 1)"),
        (("evaluate", "abcdef"), "is no store"),
        (("report", "smoke"), "has no study"),
        (("study", "status"), "is no store yet"),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_2_and_changes_nothing(
    arguments: tuple[str, ...], sentence: str, vltickets: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(vltickets(*arguments))
    assert everything_in(tmp_path) == {}


def test_a_store_of_a_newer_version_is_refused(smoke: Smoke, vltickets: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(smoke[0] / "store", store)
    (store / "store.json").write_text('{"format": 99}')
    before = everything_in(store)
    assert "format 99" in refused(vltickets("report", "smoke", "--store", store))
    assert everything_in(store) == before


def test_a_corrupted_result_is_refused_and_says_what_to_delete(smoke: Smoke, vltickets: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(smoke[0] / "store", store)
    items = next((store / "runs").glob("*/items.safetensors"))
    items.write_bytes(items.read_bytes()[:-1] + b"x")
    before = everything_in(store)
    assert "delete the folder" in refused(vltickets("report", "smoke", "--store", store))
    assert everything_in(store) == before


def test_a_folder_of_something_else_is_not_taken_for_a_store(vltickets: Run, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    assert "is not a store" in refused(vltickets("study", "run", "smoke", "--store", tmp_path))
    assert set(everything_in(tmp_path)) == {str(tmp_path / "letter.txt")}


def test_a_damaged_ticket_is_refused(smoke: Smoke, vltickets: Run, tmp_path: Path) -> None:
    content = bytearray((smoke[0] / "vqa-70.ticket.safetensors").read_bytes())
    header = int.from_bytes(content[:8], "little")
    content[8 + header + 10] ^= 0xFF
    (tmp_path / "bad.safetensors").write_bytes(content)
    assert "damaged" in refused(vltickets("ticket", "show", tmp_path / "bad.safetensors"))


def test_a_backbone_is_shown_weight_by_weight(vltickets: Run) -> None:
    shown = json.loads(vltickets("backbone", "show", "uniter-base", "--json").stdout)
    assert (shown["total"], shown["prunable"]) == (109_898_752, 85_524_480)
    assert sum(row["count"] for row in shown["weights"] if row["prunable"]) == 85_524_480
    assert sum(row["share"] for row in shown["weights"]) == pytest.approx(1)
    assert "85,524,480 of 109,898,752" in vltickets("backbone", "show", "uniter-base").stdout
    assert "did you mean 'uniter-base'" in refused(vltickets("backbone", "show", "uniter-bas"))
