"""Visual entailment in SNLI-VE's format: what follows from a picture, what it rules out, and what it leaves open.

Of some objects one attribute cannot be seen. A hypothesis is judged on every way in which the unseen could be: true of
all is entailment, of none contradiction, of some neutral. Each hypothesis is put to three pictures, one of each class,
so a reader without the picture stays at a third.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import draw
from vltickets.scenes.files import write_json_lines, write_pictures, write_regions
from vltickets.scenes.grammar import MAX_WORDS, draw_wording, say
from vltickets.scenes.names import first_image_id
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import (
    any_object,
    counted_description,
    describe,
    false_version,
    true_attribute,
    true_relation,
)
from vltickets.scenes.statements import Caption, CountIs, Exists, HasAttribute, Statement
from vltickets.scenes.world import (
    COLOR,
    MATERIAL,
    MAX_OBJECTS,
    VALUE_COUNTS,
    Scene,
    below,
    edited_scene,
    random_stream,
    sample_scenes,
    shuffled,
    with_value,
)

CLASSES = ("contradiction", "entailment", "neutral")
HIDEABLE = (COLOR, MATERIAL)
TWO_HIDDEN_SHARE = 0.3
POOL = 14
STATEMENT_TRIES = 6
# Kinds of hypothesis: attribute, existence, relation, count.
KIND_STEPS = (0.5, 0.75, 0.9)


@dataclass(frozen=True, slots=True)
class PartlySeen:
    """A scene and, for each of its objects, the attribute that cannot be seen, or -1."""

    scene: Scene
    hidden: tuple[int, ...]

    def completions(self) -> Iterator[Scene]:
        """Yield every scene that looks like this one: the hidden attributes with all their values."""
        options = [
            [thing]
            if attribute < 0
            else [
                replace(thing, values=with_value(thing.values, attribute, value))
                for value in range(VALUE_COUNTS[attribute])
            ]
            for thing, attribute in zip(self.scene.objects, self.hidden, strict=True)
        ]
        for objects in product(*options):
            yield Scene(objects)


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture, a true caption of what can be seen in it, a hypothesis in structure and in words, and its class."""

    picture: PartlySeen
    premise: str
    hypothesis: Statement
    text: str
    label: str


def judge(picture: PartlySeen, hypothesis: Statement) -> str | None:
    """Return the class of a hypothesis, or None where it speaks of "the" object and may not mean exactly one."""
    truths = set()
    for scene in picture.completions():
        if isinstance(hypothesis, HasAttribute) and hypothesis.description.count(scene) != 1:
            return None
        truths.add(hypothesis.holds(scene))
    return "neutral" if len(truths) == 2 else "entailment" if True in truths else "contradiction"


def write_entailment(folder: Path, split: str, *, seed: int, pairs: int, pictures: bool = False) -> None:
    """Write `snli_ve/snli_ve_<split>.jsonl` and the split's regions under `folder`.

    Scenes have 2 to 5 objects, one or two of them with a hidden color or material. The classes are a third each (the
    last three may be cut short). Raises `ValueError` for less than one pair.
    """
    drawn = sample_pairs(seed, split, pairs)
    first = first_image_id("snli_ve", split)
    rows: list[dict[str, object]] = []
    for index, pair in enumerate(drawn):
        image = str(first + index)
        rows.append(
            {
                "Flickr30K_ID": image,
                "Flikr30kID": f"{image}.jpg",
                "annotator_labels": [pair.label],
                "captionID": f"{image}.jpg#0",
                "gold_label": pair.label,
                "pairID": f"{image}.jpg#0r1{pair.label[0]}",
                "sentence1": pair.premise,
                "sentence2": pair.text,
            }
        )
    where = folder / "snli_ve"
    write_json_lines(where / f"snli_ve_{split}.jsonl", rows)
    names = [f"flickr30k_{first + index:012d}.npz" for index in range(len(drawn))]
    hidden = [attribute for pair in drawn for attribute in pair.picture.hidden]
    stream = random_stream(seed, split, "snli_ve/regions")
    regions = detect_all([pair.picture.scene for pair in drawn], stream, hidden)
    write_regions(where / f"regions_{split}", names, regions)
    if pictures:
        drawings = [draw(pair.picture.scene, hidden=pair.picture.hidden) for pair in drawn]
        write_pictures(where / f"pictures_{split}", names, drawings)


def sample_pairs(seed: int, split: str, number: int) -> list[Pair]:
    """Return `number` pairs; each three in a row have the same hypothesis and the three classes in random order."""
    if number < 1:
        raise ValueError(f"pairs must be at least 1, not {number}")
    rng = random_stream(seed, split, "snli_ve/pairs")
    drawn: list[Pair] = []
    while len(drawn) < number:
        for base in sample_scenes(rng, rng.integers(2, MAX_OBJECTS + 1, 200).tolist()):
            drawn += _three(base, rng)
            if len(drawn) >= number:
                break
    return drawn[:number]


def _three(base: Scene, rng: np.random.Generator) -> list[Pair]:
    """Return a hypothesis with a picture of each class, or nothing where the scene and its edits do not give them."""
    # As much is hidden in all of them: how much is unseen tells nothing of the class.
    number = 2 if len(base.objects) > 2 and rng.random() < TWO_HIDDEN_SHARE else 1
    pool = [_partly_seen(edited_scene(base, rng), number, rng) for _ in range(POOL)]
    for _ in range(STATEMENT_TRIES):
        hypothesis = _hypothesis(base, rng)
        text = say(Caption((hypothesis,)), draw_wording(rng)) if hypothesis else ""
        if hypothesis is None or text.count(" ") >= MAX_WORDS:
            continue
        found: dict[str, PartlySeen] = {}
        for picture in pool:
            label = judge(picture, hypothesis)
            if label is not None:
                found.setdefault(label, picture)
            if len(found) == len(CLASSES):
                return [
                    Pair(found[label], _premise(found[label], rng), hypothesis, text, label)
                    for label in shuffled(rng, CLASSES)
                ]
    return []


def _partly_seen(scene: Scene, number: int, rng: np.random.Generator) -> PartlySeen:
    """Return the scene with the color or the material of `number` of its objects hidden."""
    hidden = [-1] * len(scene.objects)
    for place in shuffled(rng, range(len(hidden)))[:number]:
        hidden[place] = HIDEABLE[below(rng, len(HIDEABLE))]
    return PartlySeen(scene, tuple(hidden))


def _hypothesis(scene: Scene, rng: np.random.Generator) -> Statement | None:
    """Return something that one may say of the scene and its edits, true of the scene or not."""
    kind = int(np.searchsorted(KIND_STEPS, rng.random()))
    statement: Statement | None
    if kind == 0:
        statement = true_attribute(rng, scene)
    elif kind == 1:
        statement = Exists(describe(rng, any_object(rng, scene), 2 + below(rng, 3)))
    elif kind == 2:
        statement = true_relation(rng, scene)
    else:
        number = 1 + below(rng, 3)
        description = counted_description(rng, scene, number, ((COLOR,), (MATERIAL,))[below(rng, 2)])
        statement = CountIs(description, number) if description else None
    if statement is None or rng.random() < 0.5:
        return statement
    changed = false_version(rng, statement, scene)
    return changed[0] if changed else None


def _premise(picture: PartlySeen, rng: np.random.Generator) -> str:
    """Return a caption that is true however the unseen may be."""
    while True:
        things = shuffled(rng, picture.scene.objects)[:2]
        caption = Caption(tuple(Exists(describe(rng, thing, 2)) for thing in things), listed=True)
        if all(caption.holds(scene) for scene in picture.completions()):
            return say(caption, draw_wording(rng))
