"""The paper's artefacts through the real program: tables, page, JSON; each number leads back to its run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vltickets.reports import read_paper
from vltickets.reports.paper_results import Key
from vltickets.store import Store

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.study
NAME = "paper-smoke"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, vltickets: Run) -> tuple[Path, list[dict[str, object]]]:
    store = tmp_path_factory.mktemp("paper") / "store"
    found = vltickets("study", "run", NAME, "--store", store, "--json")
    assert found.returncode == 0, found.stderr
    return store, json.loads(found.stdout)


def test_every_number_is_that_of_its_run(done: tuple[Path, list[dict[str, object]]]) -> None:
    store, rows = done
    assert {row["metric"] for row in rows if row["task"] == "retrieval"} == {"score", "tr@1"}
    for row in rows:
        assert row["not_run"] == 0
        for run in row["runs"]:  # type: ignore[attr-defined]
            assert Store(store).record(run["node"]).metrics[row["metric"]] == run["score"]


def test_the_tables_show_the_numbers_of_the_store(
    done: tuple[Path, list[dict[str, object]]], vltickets: Run, tmp_path: Path
) -> None:
    store, _ = done
    made = vltickets(
        "report", NAME, "--store", store, "--out", tmp_path / "page.html", "--markdown", tmp_path / "tables.md",
        "--figure", tmp_path / "figure.png",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "tables.md").read_text()
    results = read_paper(Store(store), NAME)
    columns = results.columns("table2")
    assert [column.title for column in columns] == ["VQA", "RefCOCO+", "IR R@1", "TR R@1"]
    table2 = text.partition("### Table 2")[2]
    row = next(line for line in table2.splitlines() if line.startswith("| 70 % |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    for column, cell in zip(columns, cells[1:], strict=False):
        score = results.score(column, Key("pretraining", 0.7))
        assert cell == f"{100 * score.mean:.2f} ± {100 * score.std:.2f}"  # type: ignore[operator]
    drops = []
    for seed in (0, 1):
        pairs = [
            (results.score(c, Key("pretraining", 0.7)).values[seed], results.score(c, Key("full", 0.0)).values[seed])
            for c in columns
        ]
        drops.append(sum((full - ticket) / full for ticket, full in pairs) / len(pairs))
    assert cells[1 + len(columns)].startswith(f"{100 * sum(drops) / 2:.2f} ±")
    assert cells[1 + len(columns) + 1].startswith(f"{100 * (1 - sum(drops) / 2):.2f} ±")
    for title in (
        "Table 1",
        "VQA: rewinding",
        "Transfer at 70 %",
        "Best source for each target",
        "Sparsity gained",
        "Table 5",
        "Overlap in %",
    ):
        assert title in text
    for artefact in ("figure2", "figure3", "figure5", "figure8", "pretraining"):
        assert (tmp_path / f"figure.{artefact}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in re.sub(r"http-equiv", "", page)
    digests = {cell.digest[:8] for cell in results.cells if "table2" in cell.artefacts}
    assert all(digest in page for digest in digests)


def test_masks_are_compared_with_chance_and_between_seeds(
    done: tuple[Path, list[dict[str, object]]], vltickets: Run
) -> None:
    store, _ = done
    masks = read_paper(Store(store), NAME).masks(0.7)
    assert set(masks) == {"vqa", "refcoco", "retrieval", "pretraining", "one-shot"}
    compared = vltickets("ticket", "compare", masks["vqa"][0], masks["pretraining"][0], "--store", store, "--json")
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)


def test_one_seed_is_no_answer_but_not_denied(
    done: tuple[Path, list[dict[str, object]]], vltickets: Run, tmp_path: Path
) -> None:
    """In a folder whose name a terminal's markup would swallow."""
    store = tmp_path / "s[old]"
    shutil.copytree(done[0], store)
    note = store / "studies" / f"{NAME}.json"
    study = json.loads(note.read_text())
    study["cells"] = [cell for cell in study["cells"] if cell["seed"] == 0]
    note.write_text(json.dumps(study))
    made = vltickets("report", NAME, "--store", store, "--markdown", tmp_path / "t.md")
    assert made.returncode == 0, made.stderr
    assert f"page: {store / NAME}.html" in made.stdout
    text = (tmp_path / "t.md").read_text()
    assert "Not run yet" not in text
    assert "**Q3: Does rewinding improve performance?** What is run so far gives no answer" in text


def test_a_page_is_made_of_an_unfinished_study(vltickets: Run, tmp_path: Path, done: object) -> None:
    store = tmp_path / "store"
    settings = ("training.steps=1", "artefacts=['table2']", "tasks={refcoco = {}}")
    chosen = [part for setting in settings for part in ("--set", setting)]
    begun = vltickets("study", "run", NAME, "--store", store, *chosen)
    assert begun.returncode == 0, begun.stderr
    note = store / "studies" / f"{NAME}.json"
    study = json.loads(note.read_text())
    study["cells"][0]["node"] = "0" * 20  # planned, not run
    note.write_text(json.dumps(study))
    made = vltickets("report", NAME, "--store", store)
    assert made.returncode == 0, made.stderr
    assert "*" in made.stdout


TOY_VILT = (
    "levels=[0.5, 0.7]",
    "seeds=[0, 1]",
    "world.scenes=60",
    "world.examples=60",
    "world.heldout=60",
    "pretraining.vision_language.training.steps=4",
    "training.steps=3",
    "tasks={vqa={}}",
)


def test_vilt_s_table_has_each_column_at_its_highest_sparsity(vltickets: Run, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="a ViLT needs transformers (vltickets[hf])")
    settings = [word for setting in TOY_VILT for word in ("--set", setting)]
    found = vltickets("study", "run", "paper-vilt", "--store", tmp_path / "store", *settings)
    assert found.returncode == 0, found.stderr
    told = vltickets(
        "report",
        "paper-vilt",
        "--store",
        tmp_path / "store",
        "--markdown",
        tmp_path / "t.md",
        "--figure",
        tmp_path / "f.png",
    )
    assert told.returncode == 0, told.stderr
    results = read_paper(Store(tmp_path / "store"), "paper-vilt")
    (column,) = results.columns("table4")
    dense = results.score(column, Key("full", 0.0)).mean
    assert dense is not None
    highest = 0.0
    for level in (0.5, 0.7):
        mean = results.score(column, Key("vqa", level)).mean
        assert mean is not None
        if mean < 0.99 * dense:
            break
        highest = level
    text = (tmp_path / "t.md").read_text()
    assert f"| sparsity | {100 * highest:.0f} % |" in text
    row = "–" if not highest else results.score(column, Key("random", highest)).text
    assert f"| random | {row} |" in text
    assert (tmp_path / "f.table4.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("command", [("find", "--preset", NAME), ("demo", "--preset", NAME)])
def test_commands_of_one_ticket_refuse_the_paper(command: tuple[str, ...], vltickets: Run, tmp_path: Path) -> None:
    refused = vltickets(*command, "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert refused.stderr.strip() == f"vltickets: {NAME} is a study of several tasks: vltickets study run {NAME}"
