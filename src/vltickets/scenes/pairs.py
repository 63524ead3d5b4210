"""What can be said of a pair of scenes, after NLVR2: structures with an executor, as in `statements`."""

from __future__ import annotations

from dataclasses import dataclass

from vltickets.scenes.statements import CountIs, Description, Exists, Relation, compare
from vltickets.scenes.world import Scene

PICTURES = ("left", "right", "both", "one", "neither")


@dataclass(frozen=True, slots=True)
class InPictures:
    """The statement holds in the left or right picture, in both, in exactly one of the two, or in neither."""

    pictures: str
    statement: Exists | CountIs | Relation

    def holds(self, left: Scene, right: Scene) -> bool:
        """Whether the sentence is true of the pair."""
        if self.pictures == "left":
            return self.statement.holds(left)
        if self.pictures == "right":
            return self.statement.holds(right)
        number = self.statement.holds(left) + self.statement.holds(right)
        return number == {"both": 2, "one": 1, "neither": 0}[self.pictures]


@dataclass(frozen=True, slots=True)
class ComparePictures:
    """The left picture has more, fewer, or as many ("same") objects as described than the right one."""

    description: Description
    comparison: str

    def holds(self, left: Scene, right: Scene) -> bool:
        """Whether the sentence is true of the pair."""
        return compare(self.description.count(left), self.comparison, self.description.count(right))


@dataclass(frozen=True, slots=True)
class TotalIs:
    """The two pictures have exactly `number` objects as described between them."""

    description: Description
    number: int

    def holds(self, left: Scene, right: Scene) -> bool:
        """Whether the sentence is true of the pair."""
        return self.description.count(left) + self.description.count(right) == self.number


PairStatement = InPictures | ComparePictures | TotalIs
