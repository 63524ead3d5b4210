"""Where examples come from: the embedded world, which a seed makes anew anywhere, or a user's folder by fingerprint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vltickets.specs.spec import Spec


class World(Spec):
    """A data set of the embedded world: the same numbers make the same files on every machine.

    `generator` is the version of the world's generator (`scenes.WORLD_VERSION`): another world is other data.
    """

    kind: Literal["world"] = "world"
    generator: int
    seed: int = 0
    scenes: int = Field(15000, ge=1, description="caption scenes to pre-train on")
    examples: int = Field(6000, ge=1, description="training examples of each task")
    heldout: int = Field(4000, ge=1, description="examples in each of dev and test")


class Folder(Spec):
    """Files on the user's disk. The fingerprint of their bytes is part of every result; where they lie is not."""

    kind: Literal["folder"] = "folder"
    layout: Literal["official", "flickr8k", "photos"]
    fingerprint: str = Field(min_length=8)
    vocabulary: str | None = Field(None, description="hash of the vocabulary, where it is not the folder's own")


DataSpec = Annotated[World | Folder, Field(discriminator="kind")]
