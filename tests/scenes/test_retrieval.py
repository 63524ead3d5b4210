"""Flickr30k retrieval in the world: near copies, and captions that tell them apart."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vltickets.scenes import write_retrieval
from vltickets.scenes.grammar import vocabulary
from vltickets.scenes.retrieval import COPIES, MAX_RETRIEVAL_WORDS, Captioned, recall_at_one, sample_captioned


@pytest.fixture(scope="module")
def captioned() -> list[Captioned]:
    return sample_captioned(3, "test", 300)


def test_captions_are_true_short_and_of_known_words(captioned: list[Captioned]) -> None:
    known = set(vocabulary())
    for item in captioned:
        assert len(set(item.texts)) == len(item.captions) == 5
        assert all(caption.holds(item.scene) for caption in item.captions)
        for text in item.texts:
            assert set(text.split()) <= known
            assert text.count(" ") < MAX_RETRIEVAL_WORDS


def test_a_reader_of_structures_finds_nearly_every_picture(captioned: list[Captioned]) -> None:
    images, texts = recall_at_one(captioned)
    assert images > 0.85
    assert texts > 0.95


def test_a_reader_of_kinds_of_object_alone_cannot_tell_near_copies_apart(captioned: list[Captioned]) -> None:
    # A picture as a bag of attribute words: which of a group of near copies has most of the caption's values?
    hits = []
    for start in range(0, len(captioned) - COPIES + 1, COPIES):
        group = captioned[start : start + COPIES]
        bags = [Counter((a, v) for thing in item.scene.objects for a, v in enumerate(thing.values)) for item in group]
        for place, item in enumerate(group):
            for caption in item.captions:
                scores = [bag_score(caption, bag) for bag in bags]
                best = [index for index, score in enumerate(scores) if score == max(scores)]
                hits.append((place in best) / len(best))
    assert np.mean(hits) < 0.9


def bag_score(caption: object, bag: Counter[tuple[int, int]]) -> int:
    descriptions = [
        side
        for statement in caption.statements  # type: ignore[attr-defined]
        for side in (
            [statement.description] if hasattr(statement, "description") else [statement.first, statement.second]
        )
    ]
    said = Counter((a, v) for description in descriptions for a, v in enumerate(description.values) if v is not None)
    return (said & bag).total()


def test_files_have_the_official_fields(tmp_path: Path) -> None:
    write_retrieval(tmp_path, seed=3, train=40, heldout=20)
    data = json.loads((tmp_path / "flickr30k/dataset_flickr30k.json").read_text())
    assert data["dataset"] == "flickr30k"
    assert Counter(row["split"] for row in data["images"]) == {"train": 40, "val": 20, "test": 20}
    assert len({row["filename"] for row in data["images"]}) == 80
    sentences = [sentence for row in data["images"] for sentence in row["sentences"]]
    assert len({sentence["sentid"] for sentence in sentences}) == 400
    for row in data["images"]:
        assert [sentence["sentid"] for sentence in row["sentences"]] == row["sentids"]
        assert all(sentence["imgid"] == row["imgid"] for sentence in row["sentences"])
        assert all(sentence["tokens"] == sentence["raw"].split() for sentence in row["sentences"])
    write_retrieval(tmp_path / "again", seed=3, train=40, heldout=20)
    name = "flickr30k/dataset_flickr30k.json"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
