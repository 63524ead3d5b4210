from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.scenes import write_captions, write_nlvr2, write_vocabulary, write_vqa

BlindItem = tuple[Sequence[set[str]], int]


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


@pytest.fixture(scope="session")
def blind_share() -> Callable[[Sequence[BlindItem]], float]:
    return _blind_share


def _blind_share(items: Sequence[BlindItem]) -> float:
    """Return how often naive Bayes picks the right option of the last third of items, having learnt on the others.

    An item is its options, each a set of features (words, pairs of words, ...), and which of them is right.
    """
    cut = len(items) * 2 // 3
    row = {feature: index for index, feature in enumerate(sorted({f for item in items for o in item[0] for f in o}))}
    counts = np.ones((2, len(row)))
    seen = np.full(2, 2.0)
    for options, right in items[:cut]:
        for place, features in enumerate(options):
            truth = int(place == right)
            seen[truth] += 1
            counts[truth, [row[feature] for feature in features]] += 1
    odds = np.log(counts[1] / seen[1]) - np.log(counts[0] / seen[0])
    guesses = [
        int(np.argmax([odds[[row[feature] for feature in features]].sum() for features in options]))
        for options, _ in items[cut:]
    ]
    return float(np.mean([guess == right for guess, (_, right) in zip(guesses, items[cut:], strict=True)]))
