"""What can be said of one scene: structures with an executor, so that truth, foils and answers have one source.

Nothing here knows how a statement is worded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vltickets.scenes.world import (
    ATTRIBUTES,
    VALUE_COUNTS,
    VALUE_NAMES,
    Scene,
    SceneObject,
    Values,
    below,
    other_value,
)

RELATIONS = ("left", "right", "above", "below")
RELATION_MARGIN = 0.15
"""Objects whose centres are closer than this along an axis stand in no relation along it."""
MAX_NUMBER = 3
"""Numbers in counts go up to this, so that each is common enough to be as likely as the others."""
ATTRIBUTE_SHARE = 0.3
"""How often a count or a relation is corrupted in an attribute instead of its number or its relation word."""
COMPARISONS = ("more", "fewer", "same")

Pattern = tuple[int | None, int | None, int | None, int | None]


@dataclass(frozen=True, slots=True)
class Description:
    """A noun phrase's meaning: a value index for each attribute it speaks of, None for the others."""

    values: Pattern

    @staticmethod
    def of(values: Values, attributes: Sequence[int]) -> Description:
        """Return the description that gives only these attributes of an object with these values."""
        chosen: list[int | None] = [value if index in attributes else None for index, value in enumerate(values)]
        return Description((chosen[0], chosen[1], chosen[2], chosen[3]))

    @property
    def attributes(self) -> tuple[int, ...]:
        """The attributes that the description speaks of."""
        return tuple(index for index, value in enumerate(self.values) if value is not None)

    def matches(self, thing: SceneObject) -> bool:
        """Whether the object is as described."""
        shape, color, size, material = self.values
        values = thing.values
        return (
            (shape is None or shape == values[0])
            and (color is None or color == values[1])
            and (size is None or size == values[2])
            and (material is None or material == values[3])
        )

    def find(self, scene: Scene) -> list[SceneObject]:
        """Return the objects that match."""
        return [thing for thing in scene.objects if self.matches(thing)]

    def count(self, scene: Scene) -> int:
        """Return how many objects match."""
        return len(self.find(scene))

    def changed(self, attribute: int, value: int) -> Description:
        """Return the description with one attribute set to another value."""
        values = list(self.values)
        values[attribute] = value
        return Description((values[0], values[1], values[2], values[3]))


@dataclass(frozen=True, slots=True)
class Exists:
    """At least one object is as described."""

    description: Description

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of the scene."""
        return any(self.description.matches(thing) for thing in scene.objects)


@dataclass(frozen=True, slots=True)
class CountIs:
    """Exactly `number` objects are as described."""

    description: Description
    number: int

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of the scene."""
        return self.description.count(scene) == self.number


@dataclass(frozen=True, slots=True)
class Relation:
    """Some object as described first stands in the relation (an index into `RELATIONS`) to some other, second one."""

    first: Description
    relation: int
    second: Description

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of the scene."""
        seconds = self.second.find(scene)
        return any(
            a is not b and stands_in_relation(a, self.relation, b) for a in self.first.find(scene) for b in seconds
        )


@dataclass(frozen=True, slots=True)
class HasAttribute:
    """The one object as described has this value; false when there is not exactly one such object."""

    description: Description
    attribute: int
    value: int

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of the scene."""
        found = self.description.find(scene)
        return len(found) == 1 and found[0].values[self.attribute] == self.value


@dataclass(frozen=True, slots=True)
class CompareCounts:
    """There are more, fewer, or as many ("same") objects as described first than as described second."""

    first: Description
    comparison: str
    second: Description

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of the scene."""
        return compare(self.first.count(scene), self.comparison, self.second.count(scene))


@dataclass(frozen=True, slots=True)
class SameAttribute:
    """The one object as described first and the one as described second are two, and agree in an attribute."""

    first: Description
    second: Description
    attribute: int

    def holds(self, scene: Scene) -> bool:
        """Whether the statement is true of the scene."""
        first, second = self.first.find(scene), self.second.find(scene)
        if len(first) != 1 or len(second) != 1 or first[0] is second[0]:
            return False
        return first[0].values[self.attribute] == second[0].values[self.attribute]


@dataclass(frozen=True, slots=True)
class Caption:
    """Statements that all hold; `listed` says that they are existence statements to be worded as a noun-phrase list."""

    statements: tuple[Statement, ...]
    listed: bool = False

    def holds(self, scene: Scene) -> bool:
        """Whether every statement is true of the scene."""
        return all(statement.holds(scene) for statement in self.statements)


Statement = Exists | CountIs | Relation | HasAttribute | CompareCounts | SameAttribute


def stands_in_relation(first: SceneObject, relation: int, second: SceneObject) -> bool:
    """Whether the first object is left of, right of, above or below the second, by at least the margin."""
    distance = (second.x - first.x, first.x - second.x, second.y - first.y, first.y - second.y)[relation]
    return distance > RELATION_MARGIN


def opposite(relation: int) -> int:
    """Return right for left, left for right, below for above, above for below."""
    return relation ^ 1


def compare(first: int, comparison: str, second: int) -> bool:
    """Whether the first number is more than, fewer than, or the same as the second."""
    return {"more": first > second, "fewer": first < second, "same": first == second}[comparison]


def corrupted(statement: Statement, rng: np.random.Generator) -> tuple[Statement, str]:
    """Return the statement with one thing changed, and what: an attribute's name, "count" or "relation".

    The result need not be false. It always has the same structure, so it can be worded in exactly the same way.
    """
    attribute_only = rng.random() < ATTRIBUTE_SHARE
    match statement:
        case CountIs(number=number) if not attribute_only:
            return replace(statement, number=other_number(rng, number)), "count"
        case Relation(relation=relation) if not attribute_only:
            return replace(statement, relation=opposite(relation)), "relation"
        case Exists(description=description) | CountIs(description=description):
            changed, kind = _corrupted_description(description, rng)
            return replace(statement, description=changed), kind
        case Relation(first=first, second=second):
            if rng.random() < 0.5:
                changed, kind = _corrupted_description(first, rng)
                return replace(statement, first=changed), kind
            changed, kind = _corrupted_description(second, rng)
            return replace(statement, second=changed), kind
        case HasAttribute(attribute=attribute, value=value):
            # The description is left alone: with another one the question of which object is meant would arise.
            other = (value + 1 + below(rng, VALUE_COUNTS[attribute] - 1)) % VALUE_COUNTS[attribute]
            return replace(statement, value=other), attribute_kind(attribute)
    raise TypeError(f"{type(statement).__name__} has no corruption: it is only asked, never told")


def other_number(rng: np.random.Generator, number: int) -> int:
    """Return a random number in 1..MAX_NUMBER other than the given one."""
    choices = [other for other in range(1, MAX_NUMBER + 1) if other != number]
    return choices[below(rng, len(choices))]


def attribute_kind(attribute: int) -> str:
    """Return the attribute's name, as it stands in a foil's kind."""
    return ATTRIBUTES[attribute]


def value_name(attribute: int, value: int) -> str:
    """Return the canonical name of an attribute's value, which is also its VQA answer."""
    return VALUE_NAMES[attribute][value]


def _corrupted_description(description: Description, rng: np.random.Generator) -> tuple[Description, str]:
    attributes = description.attributes
    attribute = attributes[below(rng, len(attributes))]
    return description.changed(attribute, other_value(rng, description.values, attribute)), attribute_kind(attribute)
