"""VCR in the world: one right answer, one right rationale, and neither told by the words."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vltickets.scenes import write_vcr
from vltickets.scenes.grammar import vocabulary
from vltickets.scenes.vcr import (
    Item,
    answer_tokens,
    choice_words,
    is_sound,
    question_tokens,
    rationale_tokens,
    sample_vcr,
)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return [item for batch in sample_vcr(3, "train", 3000) for item in batch]


def right(item: Item) -> int:
    return next(place for place in item.answers if item.is_right(place))


def words(item: Item) -> tuple[str, list[str], list[str]]:
    return (
        choice_words(item, question_tokens(item)),
        [choice_words(item, answer_tokens(item, place)) for place in item.answers],
        [choice_words(item, rationale_tokens(item, place)) for place in item.rationales],
    )


def features(context: str, choice: str) -> set[str]:
    said, known = choice.split(), set(context.split())
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(said)]
    crossed = [f"{a}|{b}" for a in known for b in set(said)]
    return {*said, *pairs, *crossed, *(f"again {word}" for word in said if word in known), f"length {len(said)}"}


def test_one_answer_is_right_and_one_rationale_is_true_of_it(items: list[Item]) -> None:
    for item in items:
        assert is_sound(item)
        assert sum(item.supports(fact, right(item)) for fact in item.rationales) == 1


def test_choices_differ_in_words_though_objects_are_named_as_their_shapes(items: list[Item]) -> None:
    for item in items:
        question, answers, rationales = words(item)
        assert len(set(answers)) == len(set(rationales)) == 4
        assert set(" ".join((question, *answers, *rationales)).split()) <= set(vocabulary())


def test_the_right_one_is_equally_often_in_each_place(items: list[Item]) -> None:
    for places in (
        Counter(item.answers.index(right(item)) for item in items),
        Counter(item.rationales.index(right(item)) for item in items),
    ):
        assert all(abs(places[place] / len(items) - 0.25) < 0.03 for place in range(4))


def test_both_kinds_of_question_are_common(items: list[Item]) -> None:
    by_relation = sum(item.relation is not None for item in items) / len(items)
    assert 0.3 < by_relation < 0.7


def test_a_reader_of_words_alone_is_at_chance(items: list[Item], blind_share: Callable[[Sequence[Any]], float]) -> None:
    answers, rationales = [], []
    for item in items:
        question, choices, reasons = words(item)
        label = item.answers.index(right(item))
        answers.append(([features(question, choice) for choice in choices], label))
        context = f"{question} {choices[label]}"
        rationales.append(([features(context, reason) for reason in reasons], item.rationales.index(right(item))))
    assert blind_share(answers) < 0.29
    assert blind_share(rationales) < 0.29


def test_the_choice_that_repeats_most_or_least_of_what_was_said_is_no_better(items: list[Item]) -> None:
    for sign in (1, -1):
        hits = 0.0
        for item in items:
            question, choices, reasons = words(item)
            label = item.answers.index(right(item))
            context = set(f"{question} {choices[label]}".split())
            repeats = [sign * len(context & set(reason.split())) for reason in reasons]
            best = [place for place, number in enumerate(repeats) if number == max(repeats)]
            hits += (item.rationales.index(right(item)) in best) / len(best)
        assert hits / len(items) < 0.28


def test_files_have_the_official_fields(tmp_path: Path) -> None:
    write_vcr(tmp_path, "train", seed=3, questions=60)
    write_vcr(tmp_path, "dev", seed=3, questions=60)
    rows = [json.loads(line) for line in (tmp_path / "vcr/train.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["annot_id"] for row in rows}) == 60
    for row in rows:
        metadata = json.loads((tmp_path / "vcr/vcr1images" / row["metadata_fn"]).read_text())
        assert metadata["names"] == row["objects"]
        assert len(metadata["boxes"]) == len(metadata["segms"]) == len(row["objects"]) == 5
        assert all(0 <= x1 < x2 <= metadata["width"] for x1, _, x2, _, _ in metadata["boxes"])
        assert len(row["answer_choices"]) == len(row["rationale_choices"]) == 4
        texts = [row["question"], *row["answer_choices"], *row["rationale_choices"]]
        references = [token for text in texts for token in text if not isinstance(token, str)]
        assert references
        assert all(0 <= place < 5 for token in references for place in token)
        assert row["img_id"].startswith("train-")
    other = [json.loads(line) for line in (tmp_path / "vcr/dev.jsonl").read_text().splitlines()]
    assert not {row["img_fn"] for row in rows} & {row["img_fn"] for row in other}
    again = tmp_path / "again"
    write_vcr(again, "dev", seed=3, questions=60)
    assert (again / "vcr/dev.jsonl").read_bytes() == (tmp_path / "vcr/dev.jsonl").read_bytes()
