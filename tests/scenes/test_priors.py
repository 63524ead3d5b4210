"""What a model that sees only words could learn must be next to nothing."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest


def blind_accuracy(examples: Sequence[tuple[str, str]], *, neighbours: bool = False) -> float:
    """Return naive Bayes' accuracy on the last third of (text, label) examples after training on the others."""
    cut = len(examples) * 2 // 3
    labels = sorted({label for _, label in examples})
    features = {text: features_of(text, neighbours) for text, _ in examples}
    row = {feature: index for index, feature in enumerate(sorted(set().union(*features.values())))}
    counts = np.ones((len(row), len(labels)))
    for text, label in examples[:cut]:
        counts[[row[feature] for feature in features[text]], labels.index(label)] += 1
    totals = Counter(label for _, label in examples[:cut])
    sizes = np.array([totals[label] + 2.0 for label in labels])
    scores = np.log(counts / sizes)
    guesses = [
        labels[int(np.argmax(np.log(sizes) + scores[[row[feature] for feature in features[text]]].sum(axis=0)))]
        for text, _ in examples[cut:]
    ]
    return float(np.mean([guess == label for guess, (_, label) in zip(guesses, examples[cut:], strict=True)]))


def features_of(text: str, neighbours: bool) -> set[str]:
    words = text.split()
    pairs = itertools.pairwise(words) if neighbours else ()
    return {*words, *(" ".join(pair) for pair in pairs)}


def test_the_blind_reader_does_learn_where_there_is_something_to_learn() -> None:
    leaky = [(f"a {'red' if index % 3 else 'blue'} cube", str(bool(index % 3))) for index in range(300)]
    assert blind_accuracy(leaky) == 1.0


@pytest.mark.parametrize("neighbours", [False, True])
def test_words_do_not_give_a_foil_away(captions: dict[str, Any], neighbours: bool) -> None:
    examples = [(annotation[field], field) for annotation in captions["annotations"] for field in ("caption", "foil")]
    assert blind_accuracy(examples, neighbours=neighbours) < 0.55


def test_numbers_are_as_common_in_captions_as_in_foils(captions: dict[str, Any]) -> None:
    common = {
        field: Counter(word for row in captions["annotations"] for word in row[field].split())
        for field in ("caption", "foil")
    }
    for number in ("one", "two", "three"):
        assert 0.75 < common["caption"][number] / common["foil"][number] < 1.33


def test_every_kind_of_foil_is_common_enough_to_report(captions: dict[str, Any]) -> None:
    kinds = Counter(annotation["foil_kind"] for annotation in captions["annotations"])
    assert set(kinds) == {"shape", "color", "size", "material", "count", "relation"}
    assert min(kinds.values()) > 0.05 * kinds.total()


def test_no_constant_answer_and_no_blind_reader_does_well_on_questions(
    questions: dict[str, Any], annotations: dict[str, Any]
) -> None:
    examples = [
        (question["question"], annotation["multiple_choice_answer"])
        for question, annotation in zip(questions["questions"], annotations["annotations"], strict=True)
    ]
    answers = Counter(answer for _, answer in examples)
    assert answers.most_common(1)[0][1] / len(examples) < 0.30
    assert abs(answers["yes"] - answers["no"]) <= 0.01 * len(examples)
    assert blind_accuracy(examples, neighbours=True) < 0.45


def test_each_answer_type_is_near_its_own_chance_for_a_blind_reader(
    questions: dict[str, Any], annotations: dict[str, Any]
) -> None:
    by_type = defaultdict(list)
    for question, annotation in zip(questions["questions"], annotations["annotations"], strict=True):
        by_type[annotation["answer_type"]].append((question["question"], annotation["multiple_choice_answer"]))
    # "other" is a choice among five or six, at times two, once the question says which attribute is meant.
    for answer_type, limit in {"yes/no": 0.57, "number": 0.37, "other": 0.37}.items():
        assert blind_accuracy(by_type[answer_type]) < limit, answer_type


@pytest.mark.parametrize("neighbours", [False, True])
def test_sentences_on_pairs_do_not_tell_their_label(pair_examples: list[dict[str, Any]], neighbours: bool) -> None:
    examples = [(example["sentence"], example["label"]) for example in pair_examples]
    assert abs(np.mean([label == "True" for _, label in examples]) - 0.5) < 0.03
    assert 0.45 < blind_accuracy(examples, neighbours=neighbours) < 0.55


def test_the_place_of_a_pair_in_its_set_does_not_tell_its_label(pair_examples: list[dict[str, Any]]) -> None:
    places = [(example["identifier"].split("-")[2], example["label"]) for example in pair_examples]
    assert 0.45 < blind_accuracy(places) < 0.55
