"""Truth by a second road: an executor that knows only the words, written without a look at the first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vltickets.scenes import (
    CompareCounts,
    CountIs,
    Description,
    HasAttribute,
    Relation,
    SameAttribute,
    Scene,
    SceneObject,
)
from vltickets.scenes.captions import caption_and_foil
from vltickets.scenes.grammar import MAX_WORDS, VALUE_WORDS
from vltickets.scenes.nlvr2 import sample_set
from vltickets.scenes.statements import Exists, corrupted
from vltickets.scenes.vqa import sample_questions
from vltickets.scenes.world import sample_scene

NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4}
RELATIONS: dict[str, Callable[[SceneObject, SceneObject], bool]] = {
    "left": lambda a, b: b.x - a.x > 0.15,
    "right": lambda a, b: a.x - b.x > 0.15,
    "above": lambda a, b: b.y - a.y > 0.15,
    "over": lambda a, b: b.y - a.y > 0.15,
    "below": lambda a, b: a.y - b.y > 0.15,
    "under": lambda a, b: a.y - b.y > 0.15,
}
MEANINGS = {
    word: (attribute, value)
    for attribute, values in enumerate(VALUE_WORDS)
    for value, words in enumerate(values)
    for word in words
}
NAMES = ("shape", "color", "size", "material")
COMPARED = {"more": lambda a, b: a > b, "fewer": lambda a, b: a < b, "many": lambda a, b: a == b}

seeds = st.integers(0, 2**32)


def matching(phrase: str, scene: Scene) -> list[SceneObject]:
    """Return the objects that a noun phrase's words fit."""
    singular = {"crosses": "cross"}
    words = [singular.get(word, word if word in MEANINGS else word.removesuffix("s")) for word in phrase.split()]
    wanted = [MEANINGS[word] for word in words if word not in ("object", "thing")]
    return [thing for thing in scene.objects if all(thing.values[attribute] == value for attribute, value in wanted)]


def without(text: str, *starts: str) -> str:
    """Return the text without whichever of the starts it has."""
    return next((text.removeprefix(start) for start in starts if text.startswith(start)), text)


def is_true_caption(text: str, scene: Scene) -> bool:
    return all(is_true_part(part, scene) for part in text.split(" and "))


def is_true_part(text: str, scene: Scene) -> bool:
    if text.startswith("the ") and " is " in text:
        subject, said = text.split(" is ")
        found = matching(without(subject, "the shape of the ", "the color of the ", "the size of the ", "the "), scene)
        attribute, value = MEANINGS[said.split()[-1]]
        return len(found) == 1 and found[0].values[attribute] == value
    said = without(text, "there is ", "there are ", "the picture shows ", "the picture has ", "you can see ")
    return is_shown(said, scene)


def is_shown(said: str, scene: Scene) -> bool:
    """Whether a noun phrase, a list of them, a counted one or a related pair of them is true of the scene."""
    words = said.removeprefix("exactly ").split()
    if words[0] in NUMBERS:
        return len(matching(" ".join(words[1:]), scene)) == NUMBERS[words[0]]
    relation = next((word for word in words if word in RELATIONS), None)
    if relation is None:
        return all(matching(phrase, scene) for phrase in f" {' '.join(words)}".split(" a ")[1:])
    first, second = said.replace(" is ", " ").replace(" to the ", " ").split(f" {relation} ")
    firsts, seconds = matching(without(first, "a "), scene), matching(without(second, "of a ", "a "), scene)
    return any(a is not b and RELATIONS[relation](a, b) for a in firsts for b in seconds)


def yes_or_no(truth: bool) -> str:
    return "yes" if truth else "no"


def answer(text: str, scene: Scene) -> str:
    """Return the answer to a question in words."""
    words = text.split()
    if words[:2] == ["how", "many"]:
        return str(
            len(matching(without(text, "how many ").replace(" are there", "").replace(" can you see", ""), scene))
        )
    if words[0] in ("what", "how"):
        return asked_attribute(text, scene)
    said = without(text, "is there ", "are there ", "does the picture show ", "can you see ")
    kind = next((word for word in said.split() if word in COMPARED), None)
    if kind:
        first, second = said.removeprefix("as ").removeprefix(f"{kind} ").split(" than " if kind != "many" else " as ")
        return yes_or_no(COMPARED[kind](len(matching(first, scene)), len(matching(second, scene))))
    if " the same " in text:
        first, rest = without(text, "is the ", "does the ").replace(" have ", " ").split(" the same ")
        name, second = rest.split(" as the ")
        (a,), (b,) = matching(first, scene), matching(second, scene)
        return yes_or_no(a.values[NAMES.index(name)] == b.values[NAMES.index(name)])
    return yes_or_no(is_shown(without(said, "is ").removesuffix(" in the picture"), scene))


def asked_attribute(text: str, scene: Scene) -> str:
    start, phrase = text.split(" the ", maxsplit=1)
    name = next((name for name in NAMES if name in text.split()), "size" if start == "how big is" else "material")
    (thing,) = matching(phrase.split("the ")[-1].removesuffix(" made of"), scene)
    return VALUE_WORDS[NAMES.index(name)][thing.values[NAMES.index(name)]][0]


def is_true_of_pair(text: str, left: Scene, right: Scene) -> bool:
    words = text.replace("image", "picture").split()
    text = " ".join(words)
    if text.endswith(" in total"):
        number, phrase = without(text, "there is ", "there are ", "the pictures show ", "the pictures contain ").split(
            " ", maxsplit=1
        )
        phrase = phrase.removesuffix(" in total")
        return len(matching(phrase, left)) + len(matching(phrase, right)) == NUMBERS[number]
    if " same number of " in text:
        phrase = text.split(" same number of ")[1]
        return len(matching(phrase, left)) == len(matching(phrase, right))
    if " than the right" in text:
        kind = "more" if "more" in words else "fewer"
        phrase = text.split(f" {kind} ")[1].split(" than ")[0].removesuffix(" in the left picture")
        return COMPARED[kind](len(matching(phrase, left)), len(matching(phrase, right)))
    place = next(index for index, word in enumerate(words) if word in ("shows", "contains", "show", "contain"))
    shown = [is_shown(" ".join(words[place + 1 :]), scene) for scene in (left, right)]
    return {
        "the left picture": shown[0],
        "the right picture": shown[1],
        "both pictures": all(shown),
        "only one picture": shown[0] != shown[1],
        "neither picture": not any(shown),
    }[" ".join(words[:place])]


@given(seed=seeds, objects=st.integers(1, 5))
def test_captions_are_true_and_their_foils_false_by_their_words(seed: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, objects)
    for _ in range(5):
        caption, foil, _ = caption_and_foil(scene, rng)
        assert is_true_caption(caption, scene), caption
        assert not is_true_caption(foil, scene), foil


@given(seed=seeds, objects=st.integers(1, 5))
def test_a_foil_keeps_the_wording_of_its_caption(seed: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    caption, foil, kind = caption_and_foil(sample_scene(rng, objects), rng)
    changed = [pair for pair in zip(caption.split(), foil.split(), strict=True) if pair[0] != pair[1]]
    # A new number may turn "is one cube" into "are two cubes"; anything else is one word.
    assert 1 <= len(changed) <= (3 if kind == "count" else 1)
    assert len(caption.split()) <= MAX_WORDS


@settings(max_examples=20)
@given(seed=seeds)
def test_answers_agree_with_the_questions_words(seed: int) -> None:
    for scene, batch in sample_questions(np.random.default_rng(seed), 60):
        for question, text in batch:
            assert question.answer(scene) == answer(text, scene), text


@settings(max_examples=20)
@given(seed=seeds)
def test_labels_of_pairs_agree_with_the_sentences_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(5):
        drawn = sample_set(rng)
        for text, truths in zip(drawn.sentences, drawn.truths, strict=True):
            assert sum(truths) == 2
            assert [is_true_of_pair(text, left, right) for left, right in drawn.pairs] == list(truths), text


def things(*rows: tuple[int, int, int, int, float, float]) -> Scene:
    return Scene(tuple(SceneObject(row[:4], row[4], row[5]) for row in rows))


BIG_RED_CUBE, SMALL_RED_BALL = (0, 0, 0, 0, 0.2, 0.5), (1, 0, 1, 0, 0.8, 0.5)
RED, CUBE, BALL = (
    Description(values) for values in ((None, 0, None, None), (0, None, None, None), (1, None, None, None))
)


@pytest.mark.parametrize(
    ("statement", "truth"),
    [
        (Exists(CUBE), True),
        (CountIs(RED, 2), True),
        (CountIs(RED, 1), False),
        (Relation(CUBE, 0, BALL), True),
        (Relation(CUBE, 1, BALL), False),
        (Relation(CUBE, 2, BALL), False),
        (Relation(CUBE, 0, CUBE), False),
        (HasAttribute(CUBE, 1, 0), True),
        (HasAttribute(RED, 2, 0), False),
        (CompareCounts(RED, "more", CUBE), True),
        (CompareCounts(BALL, "same", CUBE), True),
        (SameAttribute(CUBE, BALL, 1), True),
        (SameAttribute(CUBE, BALL, 2), False),
        (SameAttribute(CUBE, CUBE, 1), False),
    ],
)
def test_statements_of_a_scene_that_can_be_checked_by_eye(statement: Exists, truth: bool) -> None:
    assert statement.holds(things(BIG_RED_CUBE, SMALL_RED_BALL)) is truth


def test_what_is_only_asked_cannot_be_corrupted() -> None:
    with pytest.raises(TypeError, match="CompareCounts"):
        corrupted(CompareCounts(RED, "more", CUBE), np.random.default_rng(0))
