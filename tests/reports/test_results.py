"""Rows, JSON, the terminal's table and Markdown: what a report says is what the store holds."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from vltickets.errors import UserError
from vltickets.reports import figure_svg, markdown_table, print_table, read_results, rows_as_json
from vltickets.reports.finding import finding, warnings
from vltickets.reports.page import page_html
from vltickets.reports.results import Results
from vltickets.reports.wording import VERDICTS, baseline
from vltickets.store import Store
from vltickets.studies.verdicts import judge

Build = Callable[..., Store]


@pytest.fixture(scope="module")
def results(store: Store) -> Results:
    return read_results(store, "demo")


def stored_scores(store: Store, baseline: str, sparsity: float) -> list[float]:
    cells = [c for c in store.study("demo")["cells"] if (c["baseline"], c["sparsity"]) == (baseline, sparsity)]
    return [store.record(cell["node"]).metrics["score"] for cell in cells]


def printed(results: Results, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_table(results, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("baseline", "sparsity"), [("full", 0.0), ("imp", 0.7), ("text-only", 0.5), ("blind", 0.0)])
def test_a_row_is_the_mean_of_the_stores_scores(store: Store, results: Results, baseline: str, sparsity: float) -> None:
    row, scores = results.row(baseline, sparsity), stored_scores(store, baseline, sparsity)
    assert row is not None
    assert (row.mean, row.std, row.seeds) == (statistics.fmean(scores), statistics.stdev(scores), 3)
    assert [run.score for run in row.runs] == scores


def test_rows_stand_in_the_protocols_order_and_chance_is_among_them(results: Results) -> None:
    names = list(dict.fromkeys(row.baseline for row in results.rows))
    assert names[:4] == ["full", "full-2x", "imp", "random"]
    assert names[-3:] == ["theta0", "blind", "chance"]
    assert [row.sparsity for row in results.rows_of("imp")] == [0.1, 0.3, 0.5, 0.7, 0.9]


def test_rows_of_patterns_follow_what_they_are_patterns_of_and_are_explained_and_drawn(build: Build) -> None:
    patterned = {("imp-2:4", 0.5): 0.63, ("imp-block-4x1", 0.5): 0.6, ("random-2:4", 0.5): None}
    truth = {("full", 0.0): 0.64, ("imp", 0.5): 0.65, ("random", 0.5): 0.6, ("one-shot", 0.5): 0.6}
    results = read_results(build(truth | patterned), "demo")
    shown = [row.baseline for row in results.rows if row.sparsity]
    assert shown == ["imp", "imp-2:4", "imp-block-4x1", "random", "random-2:4", "one-shot"]
    assert results.row("imp-2:4", 0.5).label in VERDICTS  # type: ignore[union-attr]
    assert "exactly 2 of each 4 neighbours" in (baseline("imp-2:4") or "")
    assert "blocks of 4 × 1" in (baseline("random-block-4x1") or "")
    assert baseline("imp-half") is None
    assert "imp-block-4x1" in figure_svg(results)
    assert "random-2:4" in page_html(results)


def test_the_verdicts_are_those_of_the_stores_items(store: Store, results: Results) -> None:
    items: dict[tuple[str, float], dict[int, Any]] = {}
    for cell in store.study("demo")["cells"]:
        if cell["baseline"] in ("full", "imp"):
            scores = store.arrays(cell["node"], "items")["score"]
            items.setdefault((cell["baseline"], cell["sparsity"]), {})[cell["seed"]] = scores
    expected = judge(items.pop(("full", 0.0)), {sparsity: runs for (_, sparsity), runs in items.items()})
    assert {row.sparsity: row.verdict for row in results.rows_of("imp")} == expected


def test_what_is_not_sparse_has_a_comparison_and_no_verdict(results: Results) -> None:
    row = results.row("full-2x")
    assert row is not None
    assert row.verdict is not None
    assert row.label is None


def test_the_highest_sparsity_stops_at_a_level_that_is_not_run(build: Build) -> None:
    truth = {("full", 0.0): 0.5, ("imp", 0.1): 0.7, ("imp", 0.3): None, ("imp", 0.5): 0.7}
    highest = read_results(build(truth), "demo").highest()
    assert highest is not None
    assert highest.sparsity == 0.1


def test_json_has_the_fields_and_null_for_what_is_not_run(results: Results) -> None:
    rows = json.loads(json.dumps(rows_as_json(results), allow_nan=False))
    wanted = {
        "baseline",
        "sparsity",
        "mean",
        "std",
        "seeds",
        "share_of_full",
        "verdict",
        "plain",
        "low",
        "high",
        "runs",
    }
    assert all(wanted <= set(row) for row in rows)
    missing = next(row for row in rows if row["baseline"] == "random-start")
    assert (missing["mean"], missing["verdict"], missing["seeds"], missing["not_run"]) == (None, None, 0, 3)
    assert [run["score"] for run in missing["runs"]] == [None, None, None]
    last = next(row for row in rows if (row["baseline"], row["sparsity"]) == ("imp", 0.9))
    assert (last["verdict"], last["plain"]) == ("not", False)
    assert last["low"] < last["high"] < 0


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_terminals_table_holds_the_numbers_and_not_run(results: Results, width: int) -> None:
    text = printed(results, width)
    for row in results.rows:
        if row.mean is not None:
            assert f"{100 * row.mean:.2f}" in text
    assert "not run" in text
    assert "0 of 3" in text
    assert "…" not in text  # nothing is cut off
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_markdown_has_a_line_for_each_row(results: Results) -> None:
    lines = markdown_table(results).splitlines()
    assert len(lines) == 2 + len(results.rows)
    assert len({line.count("|") for line in lines}) == 1
    row = results.row("imp", 0.7)
    assert row is not None
    assert row.mean is not None
    line = next(line for line in lines if line.startswith("| imp | 70 %"))
    assert f"{100 * row.mean:.2f}" in line
    assert row.runs[0].digest[:8] in line


def test_one_seed_says_so_and_gives_no_interval(build: Build) -> None:
    results = read_results(build({("full", 0.0): 0.6, ("imp", 0.5): 0.7}, seeds=1), "demo")
    assert "undecided" in printed(results, 80)
    assert "one seed" in printed(results, 80)
    assert finding(results)[0].startswith("Undecided")
    assert any("1 seed" in text for text in warnings(results))


def test_an_under_trained_dense_model_is_said(build: Build) -> None:
    results = read_results(build({("full", 0.0): 0.55, ("full-2x", 0.0): 0.70, ("imp", 0.5): 0.65}), "demo")
    assert "winning tickets" in finding(results)[0]
    text = " ".join(warnings(results))
    assert "The dense model is under-trained" in text
    assert "above the dense model at equal steps" in text


def test_nothing_found_and_nothing_run_are_said(build: Build) -> None:
    none = read_results(build({("full", 0.0): 0.65, ("imp", 0.1): 0.45}), "demo")
    assert finding(none)[0].startswith("No ticket was found")
    empty = read_results(build({("full", 0.0): None, ("imp", 0.1): None}), "demo")
    assert finding(empty)[0].startswith("Nothing can be said yet")
    assert any("not run yet" in text for text in warnings(empty))


def test_a_study_that_is_damaged_newer_or_unknown_is_a_users_error(build: Build) -> None:
    truth = {("full", 0.0): None}
    with pytest.raises(UserError, match="has no study 'other'"):
        read_results(build(truth), "other")
    with pytest.raises(UserError, match="upgrade"):
        read_results(build(truth, format=99), "demo")
    with pytest.raises(UserError, match="corrupted"):
        read_results(build(truth, cells=[{"baseline": "imp"}]), "demo")
