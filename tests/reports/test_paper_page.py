"""The paper's page: from a number and a curve to the runs behind it, what is missing, and nothing that runs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vltickets.reports import export_artefacts, read_papers
from vltickets.reports.costs import costs, gaps
from vltickets.reports.export import escaped
from vltickets.reports.paper_page import paper_html, write_paper_page
from vltickets.reports.paper_results import Key, PaperResults, Papers
from vltickets.specs import Fresh, Prune, Recipe, Train, Uniter, Vqa, World, canonical, changed
from vltickets.store import Record, Store

NAME = "tiny-paper"
HOSTILE = "</style><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
LEVELS = (0.5, 0.7)
FULL = Train(
    backbone=Uniter(layers=1, hidden=8, heads=2, intermediate=16, positions=16),
    task=Vqa(data=World(generator=1)),
    start=Fresh(),
    recipe=Recipe(steps=300, learning_rate=1e-3),
)


def finish(store: Store, node: Train | Prune, score: float) -> None:
    """Write a made-up result: of 400 answers so many right, or a mask."""
    machine = {"cpu": f"odd {HOSTILE}", "torch": "2.13.0"}
    if isinstance(node, Prune):
        metrics = {"sparsity": node.sparsity}
        store.finish(node, Record(node.digest, "prune", canonical(node), metrics, machine=machine), {})
        return
    right = (np.arange(400) < 400 * score).astype(np.float16)
    curve = [(step, 2.0 / step) for step in range(3, 301, 3)]
    metrics = {"score": float(right.mean(dtype=np.float64))}
    record = Record(node.digest, "train", canonical(node), metrics, curve, 40.0 + node.seed, machine)
    store.finish(node, record, {"items": {"score": right}})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Table 4 of one task with two seeds; the random masks of 70 % are not run, one of them diverged."""
    store = Store(tmp_path_factory.mktemp("paper") / "store")
    store.prepare()
    cells: list[dict[str, Any]] = []

    def cell(baseline: str, sparsity: float, seed: int, node: Train, score: float | None) -> None:
        where = {"task": "vqa", "adversarial": False, "artefacts": ["table4", "figure3"] if sparsity else ["table4"]}
        cells.append({"baseline": baseline, "sparsity": sparsity, "seed": seed, "node": node.digest, **where})
        if score is not None:
            finish(store, node, score)

    for seed in (0, 1):
        dense = changed(FULL, seed=seed)
        cell("full", 0.0, seed, dense, 0.8 + 0.01 * seed)
        for level in LEVELS:
            mask = Prune(train=dense, sparsity=level)
            finish(store, mask, 0)
            cell("vqa", level, seed, changed(dense, mask=mask), 0.805 + 0.01 * seed - level / 10)
            other = changed(dense, mask=mask, recipe=changed(dense.recipe, steps=301))
            cell("random", level, seed, other, 0.5 if level == 0.5 else None)
            store.put_node(other)
    (store.root / "diverged").mkdir()
    mark = {"digest": other.digest, "times": 2, "message": f"the loss is nan {HOSTILE}", "format": 1}
    (store.root / "diverged" / f"{other.digest}.json").write_text(json.dumps(mark))
    study = {
        "study": "paper",
        "name": NAME,
        "title": f"A paper {HOSTILE}",
        "artefacts": ["table4"],
        "split": "test",
        "command": f"vltickets study run {HOSTILE}",
        "note": HOSTILE,
        "recipe": {"title": HOSTILE},
        "cells": cells,
    }
    store.put_study(NAME, study)
    return store


@pytest.fixture(scope="module")
def results(store: Store) -> Papers:
    return read_papers(store, NAME)


@pytest.fixture(scope="module")
def page(results: Papers) -> str:
    return paper_html(results)


class Tags(HTMLParser):
    """Collects ids, links and tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "xlink:href")]


def test_every_link_has_its_end_and_each_run_is_there_once(page: str, results: Papers) -> None:
    found = Tags(page)
    assert len(found.ids) == len(set(found.ids))
    assert {link.removeprefix("#") for link in found.links} - {"-"} <= set(found.ids)
    runs = {name.removeprefix("r-") for name in found.ids if name.startswith("r-")}
    assert runs == set(results.lineage.records)
    assert len(runs) == 12  # 2 dense, 4 masks, 4 tickets, 2 random


def test_a_number_s_sheet_has_its_runs_and_their_scores(page: str, store: Store, results: Papers) -> None:
    score = results.parts[0].score(results.parts[0].columns("table4")[0], Key("vqa", 0.7))
    place = re.search(rf'href="#n(\d+)"[^>]*>{re.escape(score.text)}<', page)
    assert place is not None
    sheet = page[page.index(f'id="n{place[1]}"') :]
    sheet = sheet[: sheet.index("</aside>")]
    for seed, digest in score.digests.items():
        assert re.search(
            rf"seed {seed}</td><td>{100 * store.record(digest).metrics['score']:.2f}</td>.*?#p-{digest}.*?#r-{digest}",
            sheet,
        )


def test_a_curve_leads_to_its_points(page: str, results: Papers) -> None:
    curves = re.findall(r'<a href="#c(\d+)">', page)
    assert len(curves) >= 2  # ticket and random
    points = results.parts[0].score(results.parts[0].columns("table4")[0], Key("vqa", 0.5))
    sheets = [page[page.index(f'id="c{place}"') :].split("</aside>")[0] for place in curves]
    assert any("50 %</td><td><a href=" in sheet and points.text in sheet for sheet in sheets)


def test_what_is_missing_says_why(results: Papers, page: str) -> None:
    found = {(gap.seeds, gap.why.partition(" <")[0].partition("</")[0].strip()) for gap in gaps(results)}
    assert found == {("0", "not begun"), ("1", "diverged 2 times with the same seed: the loss is nan")}
    assert "diverged 2 times" in page


def test_costs_count_a_shared_run_once(results: Papers) -> None:
    study = {**results.study, "artefacts": ["table4", "figure3"]}
    rows, sharing = costs(Papers(study, (PaperResults(results.store, study, results.cells),)))
    assert [(row.runs, row.finished) for row in rows] == [(14, 12), (14, 12)]
    assert (sharing.runs, sharing.runs_apart) == (14, 28)
    assert sharing.seconds == pytest.approx(rows[0].seconds)
    assert rows[0].alone == 0


def test_hostile_names_are_text(page: str) -> None:
    assert Tags(page).tags & {"script", "img", "iframe", "object", "link"} == set()
    assert page.count("&lt;script&gt;") >= 4
    assert "default-src 'none'" in page
    assert not re.search(r"https?:", page)


def test_export_has_a_row_a_run_and_escaped_latex(results: Papers, store: Store, tmp_path: Path) -> None:
    files = export_artefacts(results, tmp_path)
    assert {path.name for path in files} >= {f"table4.{suffix}" for suffix in ("tex", "csv", "png", "pdf")}
    with (tmp_path / "table4.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["artefact", "row", "column", "seed", "metric", "value", "run"]
    assert len(rows) == 8
    for row in rows:
        assert float(row["value"]) == store.record(row["run"]).metrics[row["metric"]]
    assert {(row["row"], row["seed"]) for row in rows if row["row"].startswith("VQA")} == {
        (f"VQA {level} %", str(seed)) for level in (50, 70) for seed in (0, 1)
    }
    text = (tmp_path / "table4.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"70 \%" in text
    assert re.search(r"(?<!\\)%", text.partition("\n")[2].replace("{!}{%", "")) is None
    with Image.open(tmp_path / "table4.png") as picture:
        assert picture.width > 600
    first = (tmp_path / "table4.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    export_artefacts(read_papers(store, NAME), tmp_path)
    assert (tmp_path / "table4.pdf").read_bytes() == first


def test_latex_has_no_commands_of_others() -> None:
    assert escaped(r"\input{x} & 50 % of_it $1$ ~^#") == (
        r"\textbackslash{}input\{x\} \& 50 \% of\_it \$1\$ \textasciitilde{}\textasciicircum{}\#"
    )
    assert escaped("**64.31 ± 0.5**") == r"\textbf{64.31 $\pm$ 0.5}"


def test_the_page_is_clicked_in_a_browser(results: Papers, tmp_path: Path, browser: Callable[[int, int], Any]) -> None:
    path = tmp_path / "page.html"
    write_paper_page(results, path)
    phone = browser(390, 800)
    phone.open(path)
    assert phone.value("document.title").startswith("A paper </style><script>")  # not "owned"
    assert phone.value("document.documentElement.scrollWidth") <= 390  # wide tables scroll in their boxes
    shown = "[...document.querySelectorAll('.sheet')].filter(e => getComputedStyle(e).display != 'none').map(e => e.id)"
    assert phone.value(shown) == []
    number = phone.value("document.querySelector('#table4 td a').getAttribute('href')")
    phone.click("#table4 td a")
    assert phone.value(shown) == [number.removeprefix("#")]
    run = phone.value(f"document.querySelector('{number} td a').getAttribute('href')")
    phone.click(f"{number} td a")
    assert phone.value(shown) == [run.removeprefix("#")]
    assert phone.value(f"document.querySelector('{run} path').getTotalLength()") > 0
    phone.click(f"{run} .close")
    assert phone.value(shown) == []
    phone.click("#table4 figure svg a")
    assert phone.value(shown)[0].startswith("c")
    assert phone.value("document.title") != "owned"


def test_a_damaged_curve_or_no_figure_is_no_end(store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store.root, copy)
    for folder in (copy / "runs").iterdir():
        shutil.rmtree(folder)
    empty = read_papers(Store(copy), NAME)
    assert "not run" in paper_html(empty)
    export_artefacts(empty, tmp_path / "out")
    assert (tmp_path / "out" / "table4.csv").read_text().splitlines() == ["artefact,row,column,seed,metric,value,run"]
