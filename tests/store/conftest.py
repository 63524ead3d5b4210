from __future__ import annotations

from pathlib import Path

import pytest

from vltickets.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    return made
