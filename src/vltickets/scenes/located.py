"""Noun phrases that single out one object, by what it is like or by where it stands to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vltickets.scenes.grammar import RELATION_WORDS, Words
from vltickets.scenes.sampling import ALL_ATTRIBUTES
from vltickets.scenes.statements import RELATIONS, Description, stands_in_relation
from vltickets.scenes.world import Scene, SceneObject, below, shuffled

ANYTHING = Description((None, None, None, None))


@dataclass(frozen=True, slots=True)
class Located:
    """An object as described that stands in a relation (an index into `RELATIONS`) to the one anchor object."""

    head: Description
    relation: int
    anchor: Description

    def find(self, scene: Scene) -> list[SceneObject]:
        """Return the objects that match; none where there is not exactly one anchor."""
        anchors = self.anchor.find(scene)
        if len(anchors) != 1:
            return []
        return [
            thing
            for thing in self.head.find(scene)
            if thing is not anchors[0] and stands_in_relation(thing, self.relation, anchors[0])
        ]


Phrase = Description | Located


def say_phrase(words: Words, phrase: Phrase) -> str:
    """Return the phrase in words, without an article before it."""
    if isinstance(phrase, Description):
        return words.noun(phrase)
    head, relation = words.noun(phrase.head), words.choose(RELATION_WORDS[phrase.relation])
    return f"{head} {relation} the {words.noun(phrase.anchor)}"


def single_description(
    rng: np.random.Generator, scene: Scene, thing: SceneObject, *, without: Sequence[int] = (), most: int = 2
) -> Description | None:
    """Return a description of up to `most` attributes that only this object matches, or None.

    It is silent on the attributes in `without`: it then tells nothing of them, neither of this object nor of another.
    """
    allowed = shuffled(rng, [attribute for attribute in ALL_ATTRIBUTES if attribute not in without])
    for size in range(1, min(most, len(allowed)) + 1):
        description = Description.of(thing.values, allowed[:size])
        if description.count(scene) == 1:
            return description
    return None


def single_location(
    rng: np.random.Generator, scene: Scene, thing: SceneObject, *, without: Sequence[int] = ()
) -> Located | None:
    """Return a phrase that only this object matches, and not without its relation, or None at the first failure."""
    others = [other for other in scene.objects if other is not thing]
    if not others:
        return None
    other = others[below(rng, len(others))]
    held = [relation for relation in range(len(RELATIONS)) if stands_in_relation(thing, relation, other)]
    anchor = single_description(rng, scene, other, without=without)
    if not held or anchor is None:
        return None
    allowed = [attribute for attribute in ALL_ATTRIBUTES if attribute not in without]
    head = Description.of(thing.values, shuffled(rng, allowed)[: below(rng, 2)])
    phrase = Located(head, held[below(rng, len(held))], anchor)
    return phrase if head.count(scene) > 1 and len(phrase.find(scene)) == 1 else None
