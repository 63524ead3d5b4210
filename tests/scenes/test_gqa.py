"""GQA in the world: every answer is true, takes several hops, and is not told by the words."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.scenes import write_captions, write_gqa, write_nlvr2, write_vocabulary, write_vqa
from vltickets.scenes.gqa import MAX_GQA_WORDS, AskedScene, sample_gqa
from vltickets.scenes.gqa_questions import GQA_ANSWERS, Query, Verify, types
from vltickets.scenes.grammar import vocabulary
from vltickets.scenes.located import Located

# Of what world version 1 has always written (seed 1, split dev, 20 scenes, 30 questions, 20 examples).
WORLD_ONE = {
    "captions/captions_dev.json": "90fcb38d9b23fd175f03f18d85dc2b017dbb5f32f5a80a70347beec4dbed0e35",
    "nlvr2/dev.json": "36568128bb0ce1a7946abca31bd9180fd7f8ce143d038822874efc9b4054dc1c",
    "vocab.txt": "f3c7c92dd53fabda7313c3949a1cd975c6068c832eb4324bb57e4a23c8e38222",
    "vqa/ans2label.json": "f704efd73f552db2bea9554c92d369bf06be1fe3416c0e621693b917595954a2",
    "vqa/v2_OpenEnded_mscoco_dev_questions.json": "167e913b6c5cf47ac00b65b046b72ca13bb62ecc95442ee838c024cedde4cf0e",
    "vqa/v2_mscoco_dev_annotations.json": "06eeca5579abe6b289d107b6e76aa8012289bd5a83e0f827a6da1c616b9de2e3",
}
WORLD_ONE_REGIONS = {  # of the arrays one after another, whatever file they lie in
    "captions/regions_dev": "dfac7a47b2782948f59165504691e15916d76813d1c45c207d1e33e8a68e65d0",
    "nlvr2/regions_dev": "44c49032eeadda8418d20301473ad60bc3090fe816b0c7b37561b1b1fe17a31e",
    "vqa/regions_dev": "a006ffcf5238ca386370a888173a182ae757af2bca3411a463fd190a429d660b",
}
ARRAYS = ("features", "boxes", "soft_labels", "scores", "offsets")


@pytest.fixture(scope="module")
def asked() -> list[AskedScene]:
    return sample_gqa(3, "train", 4000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gqa")
    write_gqa(root, "train", seed=3, questions=300)
    write_gqa(root, "dev", seed=3, questions=300)
    return root


def read(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    return json.loads((folder / f"gqa/{split}_balanced_questions.json").read_text())


def test_what_the_first_world_wrote_is_the_same_to_the_byte(tmp_path: Path) -> None:
    write_captions(tmp_path, "dev", seed=1, scenes=20)
    write_vqa(tmp_path, "dev", seed=1, questions=30)
    write_nlvr2(tmp_path, "dev", seed=1, examples=20)
    write_vocabulary(tmp_path)
    assert {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in WORLD_ONE} == WORLD_ONE
    stores = {
        name: b"".join(np.load(tmp_path / name / f"{array}.npy").tobytes() for array in ARRAYS)
        for name in WORLD_ONE_REGIONS
    }
    assert {name: hashlib.sha256(content).hexdigest() for name, content in stores.items()} == WORLD_ONE_REGIONS


def test_every_answer_is_the_executors_and_every_word_known(asked: list[AskedScene]) -> None:
    known = set(vocabulary())
    for scene, batch in asked:
        for question, text in batch:
            assert question.answer(scene) in GQA_ANSWERS
            assert set(text.split()) <= known
            assert text.count(" ") < MAX_GQA_WORDS


def test_a_located_object_is_meant_by_its_relation_and_not_by_its_own_description(asked: list[AskedScene]) -> None:
    for scene, batch in asked:
        for question, _ in batch:
            if isinstance(question, Query | Verify):
                phrase = question.phrase
                assert isinstance(phrase, Located)
                assert phrase.head.count(scene) > 1
                assert len(phrase.find(scene)) == 1


def test_kinds_and_answers_are_balanced(asked: list[AskedScene]) -> None:
    answers: dict[str, Counter[str | None]] = defaultdict(Counter)
    for scene, batch in asked:
        for question, _ in batch:
            answers[types(question)[2]][question.answer(scene)] += 1
    assert {kind: sorted(count) for kind, count in answers.items()}["chooseRel"] == ["above", "below", "left", "right"]
    assert {count.total() > 60 for count in answers.values()} == {True}
    for kind, count in answers.items():
        assert max(count.values()) - min(count.values()) <= 6, kind
    total = sum(answers.values(), Counter())
    assert total.most_common(1)[0][1] / total.total() < 0.22


def test_a_reader_of_words_alone_learns_the_kinds_answers_and_no_more(
    asked: list[AskedScene], blind_share: Callable[[Any], float]
) -> None:
    kinds: dict[str, list[Any]] = defaultdict(list)
    for scene, batch in asked:
        for question, text in batch:
            words = text.split()
            features = [*words, *(" ".join(pair) for pair in itertools.pairwise(words)), ""]
            options = kinds[types(question)[2]]
            options.append((features, question.answer(scene)))
    for kind, examples in kinds.items():
        answers = sorted({answer for _, answer in examples})
        items = [
            ([{f"{answer}|{feature}" for feature in features} for answer in answers], answers.index(right))
            for features, right in examples
        ]
        margin = 2.6 * (len(items) / 3) ** -0.5 * 0.5  # of that many coin tosses, fewer than one run in 200
        assert blind_share(items) < 1 / len(answers) + margin, kind


def test_records_have_the_official_fields_and_splits_share_no_image(folder: Path) -> None:
    train, dev = read(folder, "train"), read(folder, "dev")
    assert len(train) == len(dev) == 300
    assert not {row["imageId"] for row in train.values()} & {row["imageId"] for row in dev.values()}
    labels = json.loads((folder / "gqa/trainval_label2ans.json").read_text())
    assert len(set(labels)) == len(labels)
    for identity, row in train.items():
        assert {"semantic", "entailed", "equivalent", "question", "imageId", "isBalanced", "groups", "answer"} <= set(
            row
        )
        assert set(row["types"]) == {"structural", "semantic", "detailed"}
        assert row["answer"] in labels
        assert row["equivalent"] == [identity]
        for place, step in enumerate(row["semantic"]):
            assert all(before < place for before in step["dependencies"])
    assert {"left", "right", "above", "below", "yes", "no"} < set(labels)


def test_the_same_call_gives_the_same_questions(folder: Path, tmp_path: Path) -> None:
    write_gqa(tmp_path, "dev", seed=3, questions=300)
    for path in (tmp_path / "gqa").iterdir():
        if path.is_file():
            assert path.read_bytes() == (folder / "gqa" / path.name).read_bytes()


def test_a_number_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_gqa(tmp_path, "dev", seed=3, questions=0)
