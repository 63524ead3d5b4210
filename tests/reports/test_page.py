"""The page and the figure: offline, escaped, the store's numbers, the same bytes each time."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from vltickets.reports import figure_png, figure_svg, read_results, write_page
from vltickets.reports.page import page_html
from vltickets.reports.results import Results
from vltickets.store import Store

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1100,2000",
]


class Links(HTMLParser):
    """Collects ids, where links lead, and anything else that names a resource."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "xlink:href"):
                self.targets.append(value or "")
            elif name in ("src", "srcset", "action", "data", "poster"):
                self.sources.append(value or "")


@pytest.fixture(scope="module")
def results(store: Store) -> Results:
    return read_results(store, "demo")


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    return page_html(results)


def links(page: str) -> Links:
    parser = Links()
    parser.feed(page)
    return parser


def test_the_figure_has_the_same_bytes_each_time_and_no_date(store: Store) -> None:
    one, two = (figure_svg(read_results(store, "demo")) for _ in range(2))
    assert one == two
    assert "<dc:date>" not in one
    assert one.startswith("<?xml")


def test_the_picture_is_a_png_of_a_readable_size(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(figure_png(results))
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 600


def test_the_pages_numbers_are_the_stores(store: Store, page: str) -> None:
    for cell in store.study("demo")["cells"]:
        pattern = rf'<a href="#run-{cell["node"]}" title="seed {cell["seed"]}, run \w+">([^<]+)</a>'
        shown = re.findall(pattern, page)
        if cell["baseline"] == "random-start":
            assert shown == []
        else:
            assert shown == [f"{100 * store.record(cell['node']).metrics['score']:.2f}"]


def test_means_lead_to_their_runs_and_every_link_has_its_end(page: str, results: Results) -> None:
    found = links(page)
    assert len(found.ids) == len(set(found.ids))
    assert {target.removeprefix("#") for target in found.targets} <= set(found.ids)
    for row in results.rows:
        if row.runs and row.mean is not None:
            assert row.std is not None
            number = f"{100 * row.mean:.2f} ± {100 * row.std:.2f}"
            assert f'<a href="#runs-{row.anchor}">{number}</a>' in page


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    found = links(page)
    assert found.sources == []
    assert all(target.startswith("#") for target in found.targets)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page


def test_what_comes_from_the_store_is_escaped(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "An &lt;odd&gt; &amp; old CPU" in page


def test_a_baseline_that_is_not_run_says_so(page: str) -> None:
    row = page[page.index('data-row="random-start-50"') :]
    row = row[: row.index("</tr>")]
    assert row.count("not run") == 2
    assert "0.00" not in row


def test_an_empty_study_has_a_page_too(store: Store, tmp_path: Path) -> None:
    empty = Store(tmp_path / "store")
    empty.prepare()
    empty.put_study(
        "empty", {"format": 1, "name": "empty", "cells": [], "study": "first-ticket"} | dict.fromkeys(OPTIONAL)
    )
    path = tmp_path / "report.html"
    write_page(read_results(empty, "empty"), path)
    assert "Nothing can be said yet" in path.read_text(encoding="utf-8")


OPTIONAL = (
    "title",
    "task",
    "metric",
    "split",
    "chance",
    "command",
    "note",
    "wall_seconds",
    "phases",
    "workers",
    "recipe",
)


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: the page is not opened in a browser")
def test_the_page_opens_in_a_browser(results: Results, tmp_path: Path) -> None:
    path, picture = tmp_path / "report.html", tmp_path / "page.png"
    write_page(results, path)
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    run = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr
    assert "alert(1)" in run.stdout
    assert run.stdout.count("data-row=") == len(results.rows)
    assert run.stdout.count("<svg") == 2
    subprocess.run([*command, f"--screenshot={picture}", path.as_uri()], capture_output=True, timeout=90, check=True)
    with Image.open(picture) as image:
        assert image.size == (1100, 2000)
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24) or []) > 50
