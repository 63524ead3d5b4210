"""The documents hold: tutorials run as typed, every `vltickets …` line parses, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from vltickets.cli.main import app
from vltickets.specs import NAMED, SIZES
from vltickets.studies.loading import load_studies, presets
from vltickets.studies.whole import chosen

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted(DOCS.rglob("*.md"))]
RECIPES = sorted((ROOT / "src" / "vltickets" / "recipes").glob("*.toml"))
PLACEHOLDER = re.compile(r"[A-Z_]+(-[A-Z]+)?(\.\w+)?|\w+-TASK|…")  # NAME, RECIPE.toml, world-TASK


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, with the line of its first line."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    found, inside, language, start = [], list[str](), "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```") and not start:
            language, start, inside = line[3:].strip(), number + 1, []
        elif line.startswith("```"):
            found.append(Block(language, "\n".join(inside), start))
            start = 0
        elif start:
            inside.append(line)
    return found


# Tutorials, as typed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type in, where `vltickets` is this tree's."""
    program = tmp_path / "bin" / "vltickets"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vltickets "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run_page(page: Path) -> str:
    """Run a document's bash and Python blocks in order; the Python ones are one program. Returns what bash printed."""
    printed, names = "", dict[str, Any](__name__="__main__")
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "bash":
            done = subprocess.run(["bash", "-euc", block.text], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{page.name}, line {block.line}:\n{block.text}\n{done.stderr}"
            printed += done.stdout
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)  # its own line numbers
    return printed


@pytest.mark.study
def test_the_first_ticket_is_found_tested_and_packed_as_typed(here: Path) -> None:
    printed = run_page(DOCS / "tutorials" / "first-ticket.md")
    assert "first.safetensors: 50.00% pruned" in printed
    assert ", 2 to do" in printed  # the mask and its training: the rest was `find`'s
    assert {"first.safetensors", "small.safetensors", "smoke.md", "store"} <= {path.name for path in here.iterdir()}
    assert (here / "store" / "smoke.html").exists()
    assert (here / "small.safetensors").stat().st_size < (here / "first.safetensors").stat().st_size
    score = float(re.search(r"^accuracy: (.*)$", printed, flags=re.M)[1])  # type: ignore[index]
    packed = json.loads(printed.splitlines()[-1])
    assert packed["accuracy"] == pytest.approx(score, abs=1e-4)


@pytest.mark.filterwarnings("default")  # of the libraries in whose loops it trains
def test_a_model_of_one_s_own_goes_through_every_step(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="this tutorial's model is one of transformers (vltickets[hf])")
    run_page(DOCS / "tutorials" / "your-own-model.md")
    assert "70% of " in capsys.readouterr().out
    assert (here / "finder-70.safetensors").exists()


def test_what_one_adds_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(DOCS / "extending.md")
    assert "'accuracy/1': " in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_in_a_page_is_python(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "python":
            compile("\n" * (block.line - 1) + block.text, str(page), "exec")


# Commands


def typed_in(line: str) -> Iterator[list[str]]:
    """Yield the words of each `vltickets …` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    command = list[str]()
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|"):
            if command[:1] == ["vltickets"] or (command[:1] == ["torchrun"] and "vltickets" in command):
                yield command[command.index("vltickets") + 1 :]
            command = []
        else:
            command.append(word)


def commands(page: Path) -> list[tuple[str, list[str], bool]]:
    """Return each command of a page: where it stands, its words, and whether it is whole, as those in blocks are."""
    text = page.read_text(encoding="utf-8")
    found = []
    if page.suffix == ".toml":  # a recipe's header: more may follow on the line, after a wide gap
        for number, line in enumerate(text.splitlines(), 1):
            said = re.fullmatch(r"#(?: +\w+:)? +(vltickets .*?)(?: {3,}.*)?", line)
            if said:
                found += [(f"{page.name}:{number}", words, True) for words in typed_in(said[1])]
        return found
    for block in blocks(text):
        if block.language not in ("python", "toml"):
            for number, line in enumerate(block.text.replace("\\\n", "  ").splitlines(), block.line):
                if "vltickets " in line:
                    found += [(f"{page.name}:{number}", words, True) for words in typed_in(line.replace("…", ""))]
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
    for said in re.finditer(r"`(vltickets [a-z][^`|]*)`", prose):
        words = shlex.split(said[1].replace("…", ""))[1:]
        found.append((f"{page.name}:{prose.count(chr(10), 0, said.start()) + 1}", words, False))
    return found


def problem(words: list[str], whole: bool = True) -> str:
    """Return what is wrong with a command line, "" where it parses and names what there is; nothing is run.

    In prose an argument may be left out (`whole`: it may not).
    """
    command, path = typer.main.get_command(app), list[str]()
    while hasattr(command, "commands"):
        if not words:
            return "" if not whole else f"vltickets {' '.join(path)} needs a sub-command"
        if words[0] not in command.commands:
            return f"there is no vltickets {' '.join([*path, words[0]])}"
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    try:
        given = command.make_context(" ".join(path), list(words)).params
    except Exception as error:  # typer's own copy of click has no public names
        if not whole and type(error).__name__ == "MissingParameter":
            return ""
        return f"vltickets {' '.join(path)}: {type(error).__name__} {getattr(error, 'message', error)}"
    return unknown_name(path, given)


def unknown_name(path: list[str], given: dict[str, Any]) -> str:
    """Return which preset, setting, artefact or backbone of a command is not there."""
    name, preset = given.get("name"), given.get("preset")
    if path in (["study", "run"], ["study", "plan"]):
        preset = f"whole-{preset or 'tiny'}" if name == "paper" else name
        if given["only"] is not None:
            chosen(given["only"])
    elif path == ["weights", "import"]:
        return "" if given["backbone"] in NAMED else f"no backbone {given['backbone']}"
    elif path == ["backbone", "show"]:
        return "" if name in {*NAMED, *SIZES} or PLACEHOLDER.fullmatch(str(name)) else f"no backbone {name}"
    if preset is None or PLACEHOLDER.fullmatch(preset) or preset.endswith(".toml"):
        return ""
    if preset not in presets():
        return f"no recipe {preset}"
    load_studies(preset, tuple(given.get("settings") or ()))  # a setting that does not fit is an error
    return ""


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_parses(page: Path) -> None:
    found = commands(page)
    assert found or page.suffix == ".md"
    wrong = {where: problem(words, whole) for where, words, whole in found}
    assert {where: what for where, what in wrong.items() if what} == {}


def test_the_pages_have_commands_to_check() -> None:
    counts = {page.name: len(commands(page)) for page in PAGES if page.parent != ROOT / "results"}
    assert counts["README.md"] > 25
    assert counts["full-paper.md"] > 15
    assert counts["first-ticket.md"] > 10


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vltickets studie run demo", "there is no vltickets studie"),
        ("vltickets study rum demo", "there is no vltickets study rum"),
        ("vltickets study run demo --stor x", "No such option"),
        ("vltickets study run", "MissingParameter"),
        ("vltickets study run demmo", "no recipe demmo"),
        ("vltickets study run paper --preset ful", "no recipe whole-ful"),
        ("vltickets demo --preset smoke --workers many", "a valid integer"),
        ("vltickets weights import x.pt --backbone uniter-bas", "no backbone uniter-bas"),
        ("true && vltickets backbone show uniter-bas", "no backbone uniter-bas"),
        ("vltickets backbone", "needs a sub-command"),
    ],
)
def test_mutant_a_wrong_command_is_found(line: str, said: str) -> None:
    (words,) = typed_in(line)
    assert said in problem(words)


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_lead_somewhere(page: Path) -> None:
    prose = "".join(re.split(r"^```.*?^```", page.read_text(encoding="utf-8"), flags=re.M | re.S))
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_every_page_stands_in_the_site_s_navigation() -> None:
    named = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in DOCS.rglob("*.md") if f" {page.relative_to(DOCS).as_posix()}\n" not in named] == []
