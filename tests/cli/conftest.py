"""One smoke study, run once through the real command line, for all tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def vltickets() -> Run:
    """Run `vltickets` with these arguments and return what it printed."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vltickets", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def smoke(vltickets: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The smoke demo's folder, and what `demo --json` printed."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = vltickets("demo", "--preset", "smoke", "--out", out, "--json", "--workers", 2)
    assert done.returncode == 0, done.stderr
    return out, done
