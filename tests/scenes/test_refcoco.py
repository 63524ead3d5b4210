"""RefCOCO+ in the world: each expression means one object, and has to be read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.scenes import write_refcoco
from vltickets.scenes.grammar import MAX_WORDS, vocabulary
from vltickets.scenes.refcoco import PHOTO_SIDE, Reference, box_in_pixels, overlap, sample_references
from vltickets.scenes.regions import detect_all
from vltickets.scenes.world import SHAPE, random_stream


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    return sample_references(3, "train", 3000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refcoco")
    write_refcoco(root, seed=3, train=200, heldout=100)
    return root


def test_each_expression_means_its_target_alone(references: list[Reference]) -> None:
    known = set(vocabulary())
    for reference in references:
        for phrase, text in zip(reference.phrases, reference.sentences, strict=True):
            found = phrase.find(reference.scene)
            assert len(found) == 1
            assert found[0] is reference.scene.objects[reference.target]
            assert set(text.split()) <= known
            assert text.count(" ") < MAX_WORDS
        assert 1 <= len(set(reference.sentences)) == len(reference.sentences) <= 2


def test_the_number_of_sentences_is_the_one_asked_for(references: list[Reference]) -> None:
    assert sum(len(reference.sentences) for reference in references) == 3000


def test_without_the_words_or_by_shape_alone_the_target_is_a_guess(references: list[Reference]) -> None:
    sizes, alike, first = [], [], []
    for reference in references:
        objects = reference.scene.objects
        shape = objects[reference.target].values[SHAPE]
        sizes.append(1 / len(objects))
        alike.append(1 / sum(thing.values[SHAPE] == shape for thing in objects))
        first.append(reference.target == 0)
    assert np.mean(sizes) < 0.36
    assert max(alike) <= 0.5
    assert abs(np.mean(first) - np.mean(sizes)) < 0.04


def test_detected_boxes_have_a_ceiling_below_one(references: list[Reference]) -> None:
    regions = detect_all([reference.scene for reference in references], random_stream(3, "all", "test"))
    hits = []
    for index, reference in enumerate(references):
        true = box_in_pixels(reference.scene.objects[reference.target])
        rows = regions.boxes[regions.offsets[index] : regions.offsets[index + 1]] * PHOTO_SIDE
        hits.append(any(overlap(true, (x1, y1, x2 - x1, y2 - y1)) > 0.5 for x1, y1, x2, y2 in rows))
    assert 0.9 < np.mean(hits) < 0.995


def test_the_overlap_of_boxes_counts_whole_pixels() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1.0
    assert overlap((0, 0, 10, 10), (20, 0, 10, 10)) == 0.0
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(50 / 150)


def test_files_have_the_official_fields(folder: Path, tmp_path: Path) -> None:
    content = (folder / "refcoco/refs(unc).p").read_bytes()
    refs: list[dict[str, Any]] = pickle.loads(content)  # our own bytes, of a moment ago
    instances = json.loads((folder / "refcoco/instances.json").read_text())
    order = json.loads((folder / "refcoco/iid_to_ann_ids.json").read_text())
    annotations = {row["id"]: row for row in instances["annotations"]}
    images = {row["id"]: row for row in instances["images"]}
    assert len(annotations) == len(instances["annotations"]) == sum(map(len, order.values()))
    counts = {
        split: sum(len(r["sentences"]) for r in refs if r["split"] == split) for split in ("train", "val", "testA")
    }
    assert counts == {"train": 200, "val": 100, "testA": 100}
    assert len({identity for ref in refs for identity in ref["sent_ids"]}) == 400
    for ref in refs:
        row = annotations[ref["ann_id"]]
        assert row["image_id"] == ref["image_id"] in images
        assert row["category_id"] == ref["category_id"]
        assert ref["ann_id"] in order[str(ref["image_id"])]
        assert [s["sent_id"] for s in ref["sentences"]] == ref["sent_ids"]
        x, y, width, height = row["bbox"]
        assert x >= 0 < width
        assert x + width <= PHOTO_SIDE + 0.01
        assert y + height <= PHOTO_SIDE + 0.01
    by_split = {split: {r["image_id"] for r in refs if r["split"] == split} for split in counts}
    assert sum(map(len, by_split.values())) == len(images)
    write_refcoco(tmp_path, seed=3, train=200, heldout=100)
    assert (tmp_path / "refcoco/refs(unc).p").read_bytes() == content
