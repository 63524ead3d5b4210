"""SNLI-VE in the world: classes are what the executor finds over all that the unseen could be."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.scenes import write_entailment
from vltickets.scenes.entailment import CLASSES, Pair, PartlySeen, judge, sample_pairs
from vltickets.scenes.grammar import MAX_WORDS, vocabulary
from vltickets.scenes.regions import CLASSES_BY_VALUES, describe_all, detect_all
from vltickets.scenes.statements import Description, Exists, HasAttribute
from vltickets.scenes.world import Scene, SceneObject, random_stream


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return sample_pairs(3, "train", 1500)


def test_every_class_is_the_executors(pairs: list[Pair]) -> None:
    assert all(judge(pair.picture, pair.hypothesis) == pair.label for pair in pairs)


def test_the_unseen_decides_between_the_classes() -> None:
    cube = Scene((SceneObject((0, 1, 0, 1), 0.5, 0.5),))
    metal = HasAttribute(Description((0, None, None, None)), 3, 1)
    assert judge(PartlySeen(cube, (-1,)), metal) == "entailment"
    assert judge(PartlySeen(cube, (3,)), metal) == "neutral"
    assert judge(PartlySeen(cube, (3,)), Exists(Description((1, None, None, None)))) == "contradiction"
    assert judge(PartlySeen(cube, (1,)), HasAttribute(Description((None, 1, None, None)), 3, 1)) is None


def test_each_hypothesis_is_put_to_one_picture_of_each_class(pairs: list[Pair]) -> None:
    for start in range(0, len(pairs), 3):
        three = pairs[start : start + 3]
        assert len({pair.text for pair in three}) == 1
        assert {pair.label for pair in three} == set(CLASSES)


def test_hypotheses_are_of_every_kind_short_and_of_known_words(pairs: list[Pair]) -> None:
    kinds = Counter(type(pair.hypothesis).__name__ for pair in pairs)
    assert min(kinds[name] for name in ("Exists", "Relation", "HasAttribute", "CountIs")) > 0.05 * len(pairs)
    known = set(vocabulary())
    for pair in pairs:
        assert set(pair.text.split()) | set(pair.premise.split()) <= known
        assert pair.text.count(" ") < MAX_WORDS


def test_a_reader_of_words_alone_is_at_chance(pairs: list[Pair], blind_share: Callable[[Any], float]) -> None:
    items = [
        ([{f"{name}|{word}" for word in (*pair.text.split(), "")} for name in CLASSES], CLASSES.index(pair.label))
        for pair in pairs
    ]
    assert blind_share(items) < 0.36


def test_what_can_be_seen_of_a_picture_shows_no_class_by_itself(pairs: list[Pair]) -> None:
    unseen, sizes = defaultdict(list), defaultdict(list)
    for pair in pairs:
        unseen[pair.label].append(sum(attribute >= 0 for attribute in pair.picture.hidden))
        sizes[pair.label].append(len(pair.picture.hidden))
    for counts in (unseen, sizes):
        means = [np.mean(counts[label]) for label in CLASSES]
        assert max(means) - min(means) < 0.2
    assert {min(counts) for counts in unseen.values()} == {1}


def test_a_hidden_attribute_leaves_no_trace_in_the_regions() -> None:
    scenes = [Scene((SceneObject((0, color, 0, 0), 0.5, 0.5),)) for color in range(6) for _ in range(200)]
    seen = detect_all(scenes, random_stream(1, "a", "b"))
    unseen = detect_all(scenes, random_stream(1, "a", "b"), [1] * len(scenes))

    def spread(features: np.ndarray, offsets: np.ndarray) -> float:
        first = features[offsets[:-1]].astype(np.float32).reshape(6, 200, -1).mean(axis=1)
        return float(first.std(axis=0).mean())

    assert spread(unseen.features, unseen.offsets) < 0.1 * spread(seen.features, seen.offsets)
    grid = unseen.soft_labels[:, 1:].astype(np.float32).reshape(-1, 5, 6, 2, 2)
    assert float(np.abs(grid - grid.mean(axis=2, keepdims=True)).max()) < 1e-3
    np.testing.assert_allclose(unseen.soft_labels.astype(np.float32).sum(axis=1), 1.0, atol=0.01)


def test_regions_of_given_objects_are_one_each_with_exact_boxes() -> None:
    scene = Scene((SceneObject((0, 1, 0, 1), 0.5, 0.5), SceneObject((4, 5, 1, 0), 0.2, 0.8)))
    regions = describe_all([scene] * 50, random_stream(1, "a", "b"))
    assert regions.offsets.tolist() == list(range(0, 102, 2))
    np.testing.assert_allclose(regions.boxes[:2], [[0.35, 0.35, 0.65, 0.65], [0.105, 0.705, 0.295, 0.895]], atol=1e-6)
    best = regions.soft_labels.argmax(axis=1).reshape(50, 2)
    assert np.mean(best == [CLASSES_BY_VALUES[0, 1, 0, 1], CLASSES_BY_VALUES[4, 5, 1, 0]]) > 0.8


def test_files_have_the_official_fields(tmp_path: Path) -> None:
    write_entailment(tmp_path, "train", seed=3, pairs=30)
    write_entailment(tmp_path, "dev", seed=3, pairs=31)
    rows = {
        split: [json.loads(line) for line in (tmp_path / f"snli_ve/snli_ve_{split}.jsonl").read_text().splitlines()]
        for split in ("train", "dev")
    }
    assert [len(rows["train"]), len(rows["dev"])] == [30, 31]
    for row in rows["train"]:
        assert row["Flikr30kID"] == f"{row['Flickr30K_ID']}.jpg"
        assert row["gold_label"] in CLASSES
        assert row["pairID"].startswith(row["captionID"])
        assert {"sentence1", "sentence2", "annotator_labels"} <= set(row)
    assert len({row["pairID"] for row in rows["train"]}) == 30
    assert not {r["Flickr30K_ID"] for r in rows["train"]} & {r["Flickr30K_ID"] for r in rows["dev"]}
    again = tmp_path / "again"
    write_entailment(again, "dev", seed=3, pairs=31)
    name = "snli_ve/snli_ve_dev.jsonl"
    assert (again / name).read_bytes() == (tmp_path / name).read_bytes()
