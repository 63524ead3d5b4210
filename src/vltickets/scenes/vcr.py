"""Questions with four answers and four rationales in VCR's format.

All four answers are the picture's other objects, and each rationale is true of one of them alone. What is said is
independent of which is right: attributes and places are drawn each by itself, every choice has the same attributes
in the same wording, and objects are named as their shapes, so tags do not tell equals apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vltickets.scenes.files import write_json_lines, write_regions
from vltickets.scenes.grammar import RELATION_WORDS, Words, draw_wording
from vltickets.scenes.regions import describe_all, detect_all
from vltickets.scenes.sampling import independent_scenes
from vltickets.scenes.statements import RELATIONS, Description, stands_in_relation, value_name
from vltickets.scenes.world import (
    ATTRIBUTES,
    COLOR,
    EXTENT_BY_SIZE,
    MATERIAL,
    MAX_OBJECTS,
    SHAPE,
    SIZE,
    Scene,
    SceneObject,
    below,
    random_stream,
    shuffled,
)

PHOTO_SIDE = 480
ADJECTIVES = (COLOR, SIZE, MATERIAL)
QUESTIONS_PER_IMAGE = 2
TRIES = 4
Tokens = list[str | list[int]]


@dataclass(frozen=True, slots=True)
class Fact:
    """What a rationale says of an object: values of some attributes and, or not, a relation to the anchor."""

    values: Description
    relation: int | None

    def holds(self, thing: SceneObject, anchor: SceneObject) -> bool:
        """Whether the fact is true of the object."""
        return self.values.matches(thing) and (
            self.relation is None or stands_in_relation(thing, self.relation, anchor)
        )


@dataclass(frozen=True, slots=True)
class Item:
    """A question on a scene of five objects: which of the other four stands so to the anchor, or agrees with it?

    `relation` is an index into `RELATIONS`, or None where the question is which object has the anchor's value of
    `attribute`. `answers` and `rationales` are places of objects in the scene, in the order of the choices; `named` are
    the attributes that answers and anchor are described by, `facts` what is said of each object in a rationale.
    """

    scene: Scene
    anchor: int
    relation: int | None
    attribute: int | None
    named: tuple[int, ...]
    answers: tuple[int, ...]
    rationales: tuple[int, ...]
    facts: dict[int, Fact]
    wording: int

    def is_right(self, place: int) -> bool:
        """Whether the object at this place of the scene answers the question."""
        thing, anchor = self.scene.objects[place], self.scene.objects[self.anchor]
        if self.relation is not None:
            return stands_in_relation(thing, self.relation, anchor)
        return self.attribute is not None and thing.values[self.attribute] == anchor.values[self.attribute]

    def supports(self, fact: int, place: int) -> bool:
        """Whether the rationale that is made for one object is true of another (or the same) one."""
        return self.facts[fact].holds(self.scene.objects[place], self.scene.objects[self.anchor])


def write_vcr(folder: Path, split: str, *, seed: int, questions: int) -> None:
    """Write `vcr/<split>.jsonl`, images' metadata under `vcr/vcr1images/`, and regions of given and of found boxes.

    Scenes have five objects; one or two questions are asked of each. Raises `ValueError` for less than one question.
    """
    asked = sample_vcr(seed, split, questions)
    where = folder / "vcr"
    rows: list[dict[str, object]] = []
    for image, items in enumerate(asked):
        stem = f"world_{split}/{image:08d}@0"
        metadata = where / "vcr1images" / f"{stem}.json"
        # Thousands of small files: not each flushed to the disk as `write_json` does; the caller marks a whole split.
        metadata.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_text(json.dumps(_metadata(items[0].scene), separators=(",", ":")))
        for number, item in enumerate(items):
            rows.append(_row(item, split, image, number, len(rows), stem))
    write_json_lines(where / f"{split}.jsonl", rows)
    scenes = [items[0].scene for items in asked]
    given = describe_all(scenes, random_stream(seed, split, "vcr/given"))
    names = [f"vcr_gt_{split}_{image}.npz" for image in range(len(scenes))]
    write_regions(where / f"regions_gt_{split}", names, given)
    found = detect_all(scenes, random_stream(seed, split, "vcr/detected"))
    names = [f"vcr_{split}_{image}.npz" for image in range(len(scenes))]
    write_regions(where / f"regions_det_{split}", names, found)


def sample_vcr(seed: int, split: str, number: int) -> list[list[Item]]:
    """Return the questions on each scene, `number` in all."""
    if number < 1:
        raise ValueError(f"questions must be at least 1, not {number}")
    rng = random_stream(seed, split, "vcr/questions")
    asked: list[list[Item]] = []
    left = number
    while left:
        for scene in independent_scenes(rng, [MAX_OBJECTS] * 200):
            items = []
            for ask in shuffled(rng, (_ask_relation, _ask_same))[: min(QUESTIONS_PER_IMAGE, left)]:
                item = ask(scene, rng)
                if item is not None:
                    items.append(item)
            if items:
                asked.append(items)
                left -= len(items)
            if not left:
                break
    return asked


def _ask_relation(scene: Scene, rng: np.random.Generator) -> Item | None:
    """Ask which object stands in a relation to the anchor; answers give one attribute, rationales the other two."""
    things = scene.objects
    options = [
        (anchor, relation)
        for anchor, other in enumerate(things)
        for relation in range(len(RELATIONS))
        if sum(stands_in_relation(thing, relation, other) for thing in things) == 1
    ]
    for anchor, relation in shuffled(rng, options)[:TRIES]:
        for named in _telling_attributes(scene, rng):
            rest = [attribute for attribute in ADJECTIVES if attribute != named]
            facts = {
                place: Fact(Description.of(thing.values, rest), None)
                for place, thing in enumerate(things)
                if place != anchor
            }
            if len({fact.values for fact in facts.values()}) == len(facts):
                return _item(scene, rng, anchor, relation, None, named, facts)
    return None


def _ask_same(scene: Scene, rng: np.random.Generator) -> Item | None:
    """Ask which object agrees with the anchor in an attribute; rationales give another and a relation to the anchor."""
    things = scene.objects
    options = [
        (anchor, attribute)
        for anchor, other in enumerate(things)
        for attribute in ADJECTIVES
        if sum(thing.values[attribute] == other.values[attribute] for thing in things) == 2
    ]
    for anchor, asked in shuffled(rng, options)[:TRIES]:
        for named in _telling_attributes(scene, rng):
            if named == asked:
                continue
            (told,) = (attribute for attribute in ADJECTIVES if attribute not in (asked, named))
            facts = _located_facts(scene, anchor, told, rng)
            item = _item(scene, rng, anchor, None, asked, named, facts) if facts else None
            if item is not None and is_sound(item):
                return item
    return None


def _telling_attributes(scene: Scene, rng: np.random.Generator) -> list[int]:
    """Return, in random order, the attributes that tell all objects apart when given with their shapes."""
    return [
        attribute
        for attribute in shuffled(rng, ADJECTIVES)
        if len({(thing.values[SHAPE], thing.values[attribute]) for thing in scene.objects}) == len(scene.objects)
    ]


def _located_facts(scene: Scene, anchor: int, told: int, rng: np.random.Generator) -> dict[int, Fact] | None:
    """Return for each object but the anchor its value and a relation to the anchor, or None where one has none."""
    facts: dict[int, Fact] = {}
    for place, thing in enumerate(scene.objects):
        if place != anchor:
            held = [r for r in range(len(RELATIONS)) if stands_in_relation(thing, r, scene.objects[anchor])]
            if not held:
                return None
            facts[place] = Fact(Description.of(thing.values, (told,)), held[below(rng, len(held))])
    return facts


def _item(
    scene: Scene,
    rng: np.random.Generator,
    anchor: int,
    relation: int | None,
    attribute: int | None,
    named: int,
    facts: dict[int, Fact],
) -> Item:
    """Return the item, its choices in random order."""
    answers, rationales = tuple(shuffled(rng, list(facts))), tuple(shuffled(rng, list(facts)))
    return Item(scene, anchor, relation, attribute, (SHAPE, named), answers, rationales, facts, draw_wording(rng))


def is_sound(item: Item) -> bool:
    """Whether exactly one answer is right and each rationale is true of its object and of no other answer's."""
    one = sum(map(item.is_right, item.answers)) == 1
    return one and all(item.supports(fact, place) == (fact == place) for fact in item.facts for place in item.answers)


def question_tokens(item: Item) -> Tokens:
    """Return the question: words, and lists of places of objects."""
    words = Words(item.wording)
    anchor = _object_tokens(item, item.anchor, words)
    if item.relation is not None:
        return ["what", "is", *words.choose(RELATION_WORDS[item.relation]).split(), "the", *anchor]
    start = words.choose(("what has the same {0} as the", "what is the same {0} as the"))
    return [*start.format(ATTRIBUTES[item.attribute or 0]).split(), *anchor]


def answer_tokens(item: Item, place: int) -> Tokens:
    """Return the answer that is the object at this place of the scene."""
    return ["the", *_object_tokens(item, place, Words(item.wording >> 8))]


def rationale_tokens(item: Item, place: int) -> Tokens:
    """Return the rationale that is true of the object at this place of the scene."""
    words, fact = Words(item.wording >> 16), item.facts[place]
    noun = words.choose(("thing", "object"))
    said = [words.value(attribute, fact.values.values[attribute]) for attribute in fact.values.attributes]
    if fact.relation is None:
        return ["the", noun, "is", said[0], "and", said[1]]
    related = words.choose(RELATION_WORDS[fact.relation]).split()
    return ["the", noun, "is", *said, "and", *related, "the", *_object_tokens(item, item.anchor, words)]


def choice_words(item: Item, tokens: Tokens) -> str:
    """Return tokens in words, objects as the names of their shapes."""
    names = [value_name(SHAPE, thing.values[SHAPE]) for thing in item.scene.objects]
    return " ".join(t if isinstance(t, str) else " ".join(names[place] for place in t) for t in tokens)


def _object_tokens(item: Item, place: int, words: Words) -> Tokens:
    attribute = item.named[1]
    return [words.value(attribute, item.scene.objects[place].values[attribute]), [place]]


def _row(item: Item, split: str, image: int, number: int, index: int, stem: str) -> dict[str, object]:
    right = next(place for place in item.answers if item.is_right(place))
    answers = [answer_tokens(item, place) for place in item.answers]
    rationales = [rationale_tokens(item, place) for place in item.rationales]
    answer_label, rationale_label = item.answers.index(right), item.rationales.index(right)
    question = question_tokens(item)
    return {
        "movie": f"world_{split}",
        "objects": [value_name(SHAPE, thing.values[SHAPE]) for thing in item.scene.objects],
        "interesting_scores": [0],
        "answer_likelihood": "likely",
        "img_fn": f"{stem}.jpg",
        "metadata_fn": f"{stem}.json",
        "answer_orig": _original(answers[answer_label]),
        "question_orig": _original(question),
        "rationale_orig": _original(rationales[rationale_label]),
        "question": question,
        "answer_match_iter": [0 if place == answer_label else 1 for place in range(4)],
        "answer_sources": [index] * 4,
        "answer_choices": answers,
        "answer_label": answer_label,
        "rationale_choices": rationales,
        "rationale_sources": [index] * 4,
        "rationale_match_iter": [0 if place == rationale_label else 1 for place in range(4)],
        "rationale_label": rationale_label,
        "img_id": f"{split}-{image}",
        "question_number": number,
        "annot_id": f"{split}-{index}",
        "match_fold": f"{split}-0",
        "match_index": index,
    }


def _original(tokens: Tokens) -> str:
    """Return the text as its writer typed it: objects by number, counted from one."""
    return " ".join(
        token if isinstance(token, str) else " ".join(str(place + 1) for place in token) for token in tokens
    )


def _metadata(scene: Scene) -> dict[str, object]:
    boxes = []
    for thing in scene.objects:
        half = EXTENT_BY_SIZE[thing.values[SIZE]] / 2
        corners = (thing.x - half, thing.y - half, thing.x + half, thing.y + half)
        boxes.append([*(round(PHOTO_SIDE * min(max(corner, 0.0), 1.0), 3) for corner in corners), 1.0])
    names = [value_name(SHAPE, thing.values[SHAPE]) for thing in scene.objects]
    return {"boxes": boxes, "segms": [[] for _ in boxes], "names": names, "width": PHOTO_SIDE, "height": PHOTO_SIDE}
