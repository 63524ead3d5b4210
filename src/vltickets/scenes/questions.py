"""What can be asked of one scene, after VQA: structures that know their answer, built on the statements' executor."""

from __future__ import annotations

from dataclasses import dataclass

from vltickets.scenes.statements import MAX_NUMBER, Description, Statement, value_name
from vltickets.scenes.world import VALUE_NAMES, Scene

ANSWERS = tuple(
    sorted(["yes", "no", *map(str, range(MAX_NUMBER + 1)), *(name for names in VALUE_NAMES for name in names)])
)
"""Every canonical answer, sorted; the position is the answer's label."""


@dataclass(frozen=True, slots=True)
class AskWhether:
    """Is the statement true?"""

    statement: Statement

    def answer(self, scene: Scene) -> str | None:
        """Return "yes" or "no"."""
        return "yes" if self.statement.holds(scene) else "no"


@dataclass(frozen=True, slots=True)
class AskCount:
    """How many objects are as described?"""

    description: Description

    def answer(self, scene: Scene) -> str | None:
        """Return the number in digits, or None when it is larger than any answer."""
        count = self.description.count(scene)
        return str(count) if count <= MAX_NUMBER else None


@dataclass(frozen=True, slots=True)
class AskAttribute:
    """Which value of an attribute has the one object as described?"""

    description: Description
    attribute: int

    def answer(self, scene: Scene) -> str | None:
        """Return the value's canonical name, or None when there is not exactly one such object."""
        found = self.description.find(scene)
        return value_name(self.attribute, found[0].values[self.attribute]) if len(found) == 1 else None


Question = AskWhether | AskCount | AskAttribute


def answer_type(question: Question) -> str:
    """Return the official VQA answer type: "yes/no", "number" or "other"."""
    return {AskWhether: "yes/no", AskCount: "number", AskAttribute: "other"}[type(question)]
