"""Choosing what to say of a scene: descriptions and statements that hold, and false versions of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from vltickets.scenes.statements import (
    RELATIONS,
    Description,
    Exists,
    HasAttribute,
    Relation,
    Statement,
    corrupted,
    stands_in_relation,
)
from vltickets.scenes.world import (
    ATTRIBUTES,
    VALUE_COUNTS,
    Scene,
    SceneObject,
    below,
    other_value,
    sample_scenes,
    shuffled,
)

MAX_TRIES = 16

ALL_ATTRIBUTES = tuple(range(len(ATTRIBUTES)))
COUNTED_ATTRIBUTES = ((0,), (1,), (2,), (3,), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""Attribute sets used in counts. The set is chosen before the number, so that it says nothing about the number; shape
with color is left out because three objects too rarely share both."""

_SUBSETS = {
    without: [s for size in (1, 2, 3) for s in combinations([a for a in ALL_ATTRIBUTES if a != without], size)]
    for without in ALL_ATTRIBUTES
}


def any_object(rng: np.random.Generator, scene: Scene) -> SceneObject:
    """Return a random object of the scene."""
    return scene.objects[below(rng, len(scene.objects))]


def describe(rng: np.random.Generator, thing: SceneObject, attributes: int) -> Description:
    """Return a description that gives this many attributes of the object, chosen at random."""
    return Description.of(thing.values, shuffled(rng, ALL_ATTRIBUTES)[:attributes])


def unique_description(
    rng: np.random.Generator, scene: Scene, thing: SceneObject, *, without: int
) -> Description | None:
    """Return a random description that only this object matches and that does not give the attribute `without`."""
    for attributes in shuffled(rng, _SUBSETS[without]):
        description = Description.of(thing.values, attributes)
        if description.count(scene) == 1:
            return description
    return None


def counted_description(
    rng: np.random.Generator, scene: Scene, number: int, attributes: Sequence[int]
) -> Description | None:
    """Return a description in these attributes that exactly `number` objects match, or None if there is none at hand.

    Where the number is zero, it is a near miss: one attribute away from an object of the scene.
    """
    for thing in shuffled(rng, scene.objects):
        description = Description.of(thing.values, attributes)
        if number == 0:
            attribute = attributes[below(rng, len(attributes))]
            description = description.changed(attribute, other_value(rng, thing.values, attribute))
        if description.count(scene) == number:
            return description
    return None


def true_relation(rng: np.random.Generator, scene: Scene) -> Relation | None:
    """Return a relation between two random objects, or None where they stand in none."""
    if len(scene.objects) < 2:
        return None
    first, second = shuffled(rng, scene.objects)[:2]
    held = [relation for relation in range(len(RELATIONS)) if stands_in_relation(first, relation, second)]
    if not held:
        return None
    sizes = [1 + below(rng, 2) for _ in range(2)]
    return Relation(describe(rng, first, sizes[0]), held[below(rng, len(held))], describe(rng, second, sizes[1]))


def true_attribute(rng: np.random.Generator, scene: Scene) -> HasAttribute | None:
    """Return a statement on one attribute of a random object, or None where no description singles it out."""
    thing = any_object(rng, scene)
    attribute = below(rng, len(ATTRIBUTES))
    description = unique_description(rng, scene, thing, without=attribute)
    return HasAttribute(description, attribute, thing.values[attribute]) if description else None


def true_exists(rng: np.random.Generator, scene: Scene, attributes: int) -> Exists:
    """Return that an object like a random one of the scene exists, described by this many attributes."""
    return Exists(describe(rng, any_object(rng, scene), attributes))


def false_version(rng: np.random.Generator, statement: Statement, scene: Scene) -> tuple[Statement, str] | None:
    """Return a corruption of the statement that is false of the scene, and its kind; None if none was found."""
    for _ in range(MAX_TRIES):
        changed, kind = corrupted(statement, rng)
        if not changed.holds(scene):
            return changed, kind
    return None


def independent_scenes(rng: np.random.Generator, sizes: Sequence[int]) -> list[Scene]:
    """Return one scene for each number of objects, in which every attribute of every object is drawn by itself.

    No object copies another here, so what is said of a scene tells nothing of an attribute that is not spoken of.
    """
    scenes = sample_scenes(rng, sizes)
    drawn = iter(np.floor(rng.random((sum(sizes), 4)) * VALUE_COUNTS).astype(np.int64).tolist())
    fresh = ((thing, next(drawn)) for scene in scenes for thing in scene.objects)
    objects = iter([replace(thing, values=(new[0], new[1], new[2], new[3])) for thing, new in fresh])
    return [Scene(tuple(next(objects) for _ in scene.objects)) for scene in scenes]
