"""Compositional questions in GQA's format: several hops, one answer, and words that tell nothing of it.

Attributes of different objects are independent in these scenes, and a question is silent on the attribute it asks for;
answers are wished for in even numbers. So a reader without the picture can learn each kind's answers and no more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import draw
from vltickets.scenes.files import write_json, write_pictures, write_regions
from vltickets.scenes.gqa_questions import (
    GQA_ANSWERS,
    Choose,
    Compare,
    ExistBoth,
    GqaQuestion,
    Query,
    Verify,
    VerifyBoth,
    ask_gqa,
    record,
)
from vltickets.scenes.grammar import draw_wording
from vltickets.scenes.located import Phrase, single_description, single_location
from vltickets.scenes.names import first_image_id
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import any_object, independent_scenes
from vltickets.scenes.statements import RELATIONS, Description, stands_in_relation, value_name
from vltickets.scenes.world import (
    COLOR,
    MATERIAL,
    MAX_OBJECTS,
    SHAPE,
    SIZE,
    VALUE_NAMES,
    Scene,
    SceneObject,
    below,
    other_value,
    random_stream,
    shuffled,
)

MAX_GQA_WORDS = 16
QUESTIONS_PER_IMAGE = 3
LOOK_AHEAD = 24
# Shares in percent of kinds, by asked attribute where there is one.
KIND_SHARES: dict[tuple[str, int], int] = {
    ("query", SHAPE): 14,
    ("query", COLOR): 20,
    ("query", SIZE): 6,
    ("query", MATERIAL): 6,
    ("verify", SHAPE): 3,
    ("verify", COLOR): 6,
    ("verify", SIZE): 3,
    ("verify", MATERIAL): 3,
    ("both", -1): 8,
    ("exist", -1): 7,
    ("compare", COLOR): 4,
    ("compare", SIZE): 3,
    ("compare", MATERIAL): 3,
    ("choose", -1): 14,
}

DESCRIBED = tuple(combinations(range(4), 2))
"""Attributes by which "is there a ... and a ..." describes both objects."""


@dataclass(frozen=True, slots=True)
class GqaWish:
    """A question wanted: its kind, the attribute asked for (-1: any; "exist": place in `DESCRIBED`), its answer."""

    kind: str
    attribute: int
    answer: str


AskedScene = tuple[Scene, list[tuple[GqaQuestion, str]]]


def write_gqa(folder: Path, split: str, *, seed: int, questions: int, pictures: bool = False) -> None:
    """Write a split's questions and regions and `trainval_label2ans.json` to `gqa/` under `folder`.

    Scenes have 3 to 5 objects; up to three questions are asked of each. Raises `ValueError` for less than one question.
    """
    asked = sample_gqa(seed, split, questions)
    first = first_image_id("gqa", split)
    rows: dict[str, dict[str, object]] = {}
    for index, (scene, batch) in enumerate(asked):
        for number, (question, text) in enumerate(batch):
            identity = f"{first + index}{number:02d}"
            rows[identity] = record(question, text, scene, identity, str(first + index))
    where = folder / "gqa"
    write_json(where / f"{split}_balanced_questions.json", rows)
    write_json(where / "trainval_label2ans.json", list(GQA_ANSWERS))
    names = [f"vg_{first + index}.npz" for index in range(len(asked))]
    regions = detect_all([scene for scene, _ in asked], random_stream(seed, split, "gqa/regions"))
    write_regions(where / f"regions_{split}", names, regions)
    if pictures:
        write_pictures(where / f"pictures_{split}", names, [draw(scene) for scene, _ in asked])


def sample_gqa(seed: int, split: str, number: int) -> list[AskedScene]:
    """Return scenes with the questions asked of each, in structure and in words, `number` questions in all."""
    if number < 1:
        raise ValueError(f"questions must be at least 1, not {number}")
    rng = random_stream(seed, split, "gqa/questions")
    wishes = deque(_wishes(rng, number))
    asked: list[AskedScene] = []
    while wishes:
        for scene in independent_scenes(rng, rng.integers(3, MAX_OBJECTS + 1, 500).tolist()):
            batch = _ask_wishes(rng, scene, wishes)
            if batch:
                asked.append((scene, batch))
            if not wishes:
                break
    return asked


def _ask_wishes(rng: np.random.Generator, scene: Scene, wishes: deque[GqaWish]) -> list[tuple[GqaQuestion, str]]:
    """Take the wishes that the scene meets from the queue and return their questions; the others stay first in it."""
    batch: list[tuple[GqaQuestion, str]] = []
    put_off: list[GqaWish] = []
    while wishes and len(batch) < QUESTIONS_PER_IMAGE and len(put_off) < LOOK_AHEAD:
        wish = wishes.popleft()
        question = _meet(wish, scene, rng)
        text = ask_gqa(question, draw_wording(rng)) if question else ""
        if question is None or text.count(" ") >= MAX_GQA_WORDS or any(question == old for old, _ in batch):
            put_off.append(wish)
        else:
            batch.append((question, text))
    wishes.extendleft(reversed(put_off))
    return batch


def _wishes(rng: np.random.Generator, number: int) -> list[GqaWish]:
    wishes: list[GqaWish] = []
    total, reached = sum(KIND_SHARES.values()), 0
    for (kind, attribute), share in KIND_SHARES.items():
        reached += share
        wanted = number * reached // total - len(wishes)
        answers = {"query": VALUE_NAMES[attribute], "choose": RELATIONS}.get(kind, ("yes", "no"))
        # The two descriptions' attributes are fixed together with the answer, so they give no hint of it.
        details = range(len(DESCRIBED)) if kind == "exist" else (attribute,)
        options = shuffled(rng, [GqaWish(kind, detail, answer) for detail in details for answer in answers])
        wishes += [options[index % len(options)] for index in range(wanted)]
    return shuffled(rng, wishes)


def _meet(wish: GqaWish, scene: Scene, rng: np.random.Generator) -> GqaQuestion | None:
    """Return a question of the scene as wished for, or None when it offers none at the first try."""
    question: GqaQuestion | None
    thing = any_object(rng, scene)
    yes = wish.answer == "yes"
    if wish.kind == "query":
        if value_name(wish.attribute, thing.values[wish.attribute]) != wish.answer:
            return None
        phrase = single_location(rng, scene, thing, without=(wish.attribute,))
        question = Query(phrase, wish.attribute) if phrase else None
    elif wish.kind == "verify":
        phrase = single_location(rng, scene, thing, without=(wish.attribute,))
        said = thing.values[wish.attribute] if yes else other_value(rng, thing.values, wish.attribute)
        question = Verify(phrase, wish.attribute, said) if phrase else None
    elif wish.kind == "both":
        question = _verify_both(scene, thing, yes, rng)
    elif wish.kind == "exist":
        question = _exist_both(scene, DESCRIBED[wish.attribute], yes, rng)
    elif wish.kind == "compare":
        question = _compare(scene, wish.attribute, rng)
    else:
        question = _choose(scene, rng)
    return question if question and question.answer(scene) == wish.answer else None


def _verify_both(scene: Scene, thing: SceneObject, yes: bool, rng: np.random.Generator) -> VerifyBoth | None:
    attributes = shuffled(rng, (COLOR, SIZE, MATERIAL))[:2]
    phrase: Phrase | None = single_description(rng, scene, thing, without=attributes)
    # Of the three ways in which "both" is false, none is rarer than the others.
    false = (False, False) if yes else ((True, False), (False, True), (True, True))[below(rng, 3)]
    said = [
        other_value(rng, thing.values, attribute) if wrong else thing.values[attribute]
        for attribute, wrong in zip(attributes, false, strict=True)
    ]
    return VerifyBoth(phrase, (attributes[0], attributes[1]), (said[0], said[1])) if phrase else None


def _exist_both(scene: Scene, attributes: tuple[int, int], yes: bool, rng: np.random.Generator) -> ExistBoth | None:
    things = list(islice(shuffled(rng, scene.objects), 2))
    sides = [Description.of(thing.values, attributes) for thing in things]
    if not yes:
        wrong = below(rng, 2)
        attribute = attributes[below(rng, 2)]
        sides[wrong] = sides[wrong].changed(attribute, other_value(rng, sides[wrong].values, attribute))
    return ExistBoth(sides[0], sides[1]) if sides[0] != sides[1] else None


def _compare(scene: Scene, attribute: int, rng: np.random.Generator) -> Compare | None:
    first, second = shuffled(rng, scene.objects)[:2]
    located = single_location(rng, scene, first, without=(attribute,))
    other = single_description(rng, scene, second, without=(attribute,))
    return Compare(located, other, attribute) if located and other else None


def _choose(scene: Scene, rng: np.random.Generator) -> Choose | None:
    first, second = shuffled(rng, scene.objects)[:2]
    if sum(stands_in_relation(first, relation, second) for relation in range(len(RELATIONS))) != 1:
        return None
    sides = [single_description(rng, scene, thing) for thing in (first, second)]
    return Choose(sides[0], sides[1]) if sides[0] and sides[1] else None
