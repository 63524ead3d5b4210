from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vltickets.scenes import write_captions, write_nlvr2, write_vocabulary, write_vqa


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_vocabulary(folder)
    write_captions(folder, "train", seed=3, scenes=2000)
    write_vqa(folder, "train", seed=3, questions=3000)
    write_nlvr2(folder, "train", seed=3, examples=2001)
    return folder


@pytest.fixture(scope="session")
def captions(world: Path) -> dict[str, Any]:
    return json.loads((world / "captions/captions_train.json").read_text())


@pytest.fixture(scope="session")
def questions(world: Path) -> dict[str, Any]:
    return json.loads((world / "vqa/v2_OpenEnded_mscoco_train_questions.json").read_text())


@pytest.fixture(scope="session")
def annotations(world: Path) -> dict[str, Any]:
    return json.loads((world / "vqa/v2_mscoco_train_annotations.json").read_text())


@pytest.fixture(scope="session")
def pair_examples(world: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world / "nlvr2/train.json").read_text().splitlines()]
