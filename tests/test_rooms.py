"""The package is a row of rooms, and imports run one way: every import of every file is read, and none is run."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
PACKAGE = SRC / "vltickets"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

ROOMS = (
    "specs",
    "store",
    "scenes",
    "data",
    "backbones",
    "tasks",
    "training",
    "tickets",
    "deploy",
    "studies",
    "reports",
    "cli",
)
# What a room may import of the package, itself and FOR_ALL apart: the rooms above it, unless it is held to fewer.
MAY_IMPORT = {room: ROOMS[:place] for place, room in enumerate(ROOMS)} | {
    "scenes": ("specs", "store"),
    "reports": ("specs", "store", "studies.verdicts"),  # a report is made from a copied store; verdicts is statistics
    "errors": (),
    "__main__": ("cli",),
}
FOR_ALL = ("errors", "__version__")
WITHOUT_TORCH = ("specs", "scenes")
TORCH = ("torch", "safetensors.torch", "accelerate", "transformers")
MOST_LINES = 400


def imports(source: str, path: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the absolute dotted name of each import in `source`, wherever in the file it stands.

    `from a import b` gives `a.b`: b may be a module. A literal name given to `import_module` counts as an import.
    """
    package = ["vltickets", *Path(path).parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = above + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str):
                dots = len(name) - len(name.lstrip("."))
                above = package[: len(package) - dots + 1] if dots else []
                yield node.lineno, ".".join([*above, name.lstrip(".")])


def is_within(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def violations(source: str, path: str) -> list[str]:
    """Return a line for each import in `source`, the file at `path` below the package, that its room forbids."""
    room = Path(path).parts[0].removesuffix(".py")
    if room == "__init__":
        return []  # the public names, from any room; that they come lazily is another test
    if room not in MAY_IMPORT:
        return [f"{path}: no room is called {room}"]
    allowed = (*MAY_IMPORT[room], *FOR_ALL, room) if room != "errors" else ()
    found = []
    for line, name in imports(source, path):
        top, _, inner = name.partition(".")
        if top == "vltickets" and not is_within(inner, allowed):
            found.append(f"{path}:{line}: imports {name}; {room} may import {', '.join(allowed) or 'nothing'}")
        if room in WITHOUT_TORCH and is_within(name, TORCH):
            found.append(f"{path}:{line}: imports {name}; {room} must not know torch")
    return found


def lines_over(source: str) -> int:
    return max(0, len(source.splitlines()) - MOST_LINES)


def is_loaded(module: str, *, by: str) -> bool:
    """Whether a fresh interpreter has `module` after it has imported the modules named in `by`."""
    program = f"import sys, {by}; print({module!r} in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip() == "True"


def test_there_are_modules_to_read() -> None:
    assert "__init__.py" in MODULES


@pytest.mark.parametrize("path", MODULES)
def test_a_room_imports_only_rooms_above_it(path: str) -> None:
    assert violations((PACKAGE / path).read_text(encoding="utf-8"), path) == []


def test_no_module_is_longer_than_the_ceiling() -> None:
    over = {path: lines_over((PACKAGE / path).read_text(encoding="utf-8")) for path in MODULES}
    assert {path: f"{count} lines over {MOST_LINES}" for path, count in over.items() if count} == {}


def test_importing_the_package_does_not_import_torch() -> None:
    assert not is_loaded("torch", by="vltickets")


def test_a_report_is_made_without_torch() -> None:
    modules = [path.removesuffix(".py").removesuffix("/__init__") for path in MODULES if path.startswith("reports/")]
    assert not is_loaded("torch", by=", ".join(f"vltickets.{module.replace('/', '.')}" for module in modules))


def test_the_specs_room_does_not_import_torch_through_another() -> None:
    modules = [path.removesuffix(".py").removesuffix("/__init__") for path in MODULES if path.startswith("specs/")]
    assert not is_loaded("torch", by=", ".join(["vltickets", *(f"vltickets.{m.replace('/', '.')}" for m in modules)]))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("training/loop.py", "from vltickets.tickets import Mask"),
        ("training/loop.py", "from vltickets import tickets"),
        ("training/loop.py", "from ..tickets.mask import Mask"),
        ("training/__init__.py", "from ..tickets import Mask"),
        ("training/loop.py", "from .. import tickets"),
        ("training/loop.py", "def run():\n    if True:\n        import vltickets.tickets"),
        ("training/loop.py", "import importlib\nimportlib.import_module('vltickets.tickets')"),
        ("training/loop.py", "from importlib import import_module\nimport_module('..tickets', __package__)"),
        ("tickets/search.py", "from vltickets.studies.paper import study"),
        ("tickets/inner/deep.py", "from ...studies import paper"),
        ("reports/page.py", "from vltickets.training import train"),
        ("reports/page.py", "from vltickets.tickets import Mask"),
        ("reports/page.py", "from vltickets.studies import Study"),
        ("reports/page.py", "from vltickets.studies.verdicts_of_others import verdict"),
        ("store/files.py", "from vltickets.backbones import uniter"),
        ("scenes/draw.py", "import torch"),
        ("scenes/draw.py", "from torch.nn import functional"),
        ("specs/node.py", "from safetensors.torch import save_file"),
        ("specs/node.py", "from vltickets.store import Store"),
        ("data/readers.py", "import vltickets"),
        ("data/readers.py", "from vltickets import find_ticket"),
        ("data/readers.py", "from vltickets.utils import chunks"),
        ("utils/chunks.py", "import math"),
        ("helpers.py", "import math"),
        ("errors.py", "from vltickets.specs import Train"),
        ("errors.py", "from vltickets import __version__"),
        ("__main__.py", "from vltickets.studies import paper"),
    ],
)
def test_mutant_a_forbidden_import_is_found(path: str, source: str) -> None:
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from vltickets.tickets import find_ticket"),
        ("__main__.py", "from vltickets.cli import main"),
        ("errors.py", "from pathlib import Path"),
        ("specs/node.py", "from .recipe import Recipe\nfrom vltickets.errors import VlticketsError"),
        ("store/files.py", "import torchless\nfrom vltickets import __version__, errors"),
        ("training/loop.py", "import torch\nfrom vltickets.tasks import vqa\nfrom . import schedule"),
        ("reports/page.py", "from vltickets.studies import verdicts\nfrom vltickets.studies.verdicts import Verdict"),
        ("cli/__init__.py", "from ..reports import page\nfrom .study import app"),
    ],
)
def test_an_allowed_import_passes(path: str, source: str) -> None:
    assert violations(source, path) == []


def test_mutant_a_module_over_the_ceiling_is_found() -> None:
    assert lines_over("x = 1\n" * MOST_LINES) == 0
    assert lines_over("x = 1\n" * (MOST_LINES + 3)) == 3


def test_mutant_a_loaded_module_is_seen() -> None:
    assert is_loaded("decimal", by="decimal")
