"""The world itself: objects with four attributes, placed in the unit square. Knows nothing of words or detectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WORLD_VERSION = 1
"""Raised by one whenever any output of this room changes, so that results made from older worlds are not mixed in."""

Values = tuple[int, int, int, int]
"""One value index per attribute, in the order of `ATTRIBUTES`."""

ATTRIBUTES = ("shape", "color", "size", "material")
SHAPE, COLOR, SIZE, MATERIAL = range(4)
VALUE_NAMES: tuple[tuple[str, ...], ...] = (
    ("cube", "ball", "ring", "cone", "cross"),
    ("red", "green", "blue", "yellow", "purple", "cyan"),
    ("big", "small"),
    ("wood", "metal"),
)
VALUE_COUNTS = tuple(len(names) for names in VALUE_NAMES)

MAX_OBJECTS = 5
COPY_SHARE = 0.4
GRID = 3
JITTER = 0.03
EXTENT_BY_SIZE = (0.30, 0.19)
"""Width and height of big and small objects, as a part of the picture's side."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: value indices by attribute, and its centre (x to the right, y downwards, both in 0..1)."""

    values: Values
    x: float
    y: float

    @property
    def extent(self) -> float:
        """Width and height of the object, as a part of the picture's side."""
        return EXTENT_BY_SIZE[self.values[SIZE]]


@dataclass(frozen=True, slots=True)
class Scene:
    """The objects of one picture, in no meaningful order."""

    objects: tuple[SceneObject, ...]


def random_stream(seed: int, split: str, part: str) -> np.random.Generator:
    """Return the random generator of one part of one split.

    Streams of different (seed, split, part) are independent, and the same on every machine and in every process.
    """
    digest = hashlib.sha256(f"{seed}\n{split}\n{part}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def sample_scene(rng: np.random.Generator, objects: int) -> Scene:
    """Return a random scene of `objects` objects (1 to `MAX_OBJECTS`)."""
    return sample_scenes(rng, [objects])[0]


def sample_scenes(rng: np.random.Generator, sizes: Sequence[int]) -> list[Scene]:
    """Return one random scene for each number of objects in `sizes`.

    Four in ten of the objects after the first copy an earlier one with one attribute redrawn, so that counts above one
    and near misses are common. Objects stand in different cells of a loose 3x3 grid: none hides another when drawn, and
    a relation between two of them is never a matter of a hair.
    """
    if any(not 1 <= size <= MAX_OBJECTS for size in sizes):
        raise ValueError(f"a scene has 1 to {MAX_OBJECTS} objects, but sizes are {min(sizes)} to {max(sizes)}")
    shape = (len(sizes), MAX_OBJECTS)
    fresh = np.floor(rng.random((*shape, 4)) * VALUE_COUNTS).astype(np.int64).tolist()
    copied = (rng.random(shape) < COPY_SHARE).tolist()
    origins = np.floor(rng.random(shape) * np.arange(MAX_OBJECTS)).astype(np.int64).tolist()
    redrawn = rng.integers(0, 4, shape).tolist()
    cells = rng.permuted(np.tile(np.arange(GRID * GRID), (len(sizes), 1)), axis=1)[:, :MAX_OBJECTS]
    centres = np.stack((cells % GRID, cells // GRID), axis=-1) / GRID + 0.5 / GRID
    centres = (centres + rng.uniform(-JITTER, JITTER, (*shape, 2))).tolist()

    scenes = []
    for scene, size in enumerate(sizes):
        values: list[Values] = []
        for index in range(size):
            new = fresh[scene][index]
            if index and copied[scene][index]:
                changed = redrawn[scene][index]
                old = list(values[origins[scene][index]])
                old[changed] = new[changed]
                new = old
            values.append((new[0], new[1], new[2], new[3]))
        scenes.append(Scene(tuple(SceneObject(v, x, y) for v, (x, y) in zip(values, centres[scene], strict=False))))
    return scenes


def edited_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return `scene` with one thing changed: an attribute, an object taken away, or two objects' places swapped."""
    objects = list(scene.objects)
    index = below(rng, len(objects))
    chance = rng.random()
    if chance < 0.2 and len(objects) > 2:
        del objects[index]
    elif chance < 0.4 and len(objects) > 1:
        other = (index + 1 + below(rng, len(objects) - 1)) % len(objects)
        first, second = objects[index], objects[other]
        objects[index] = replace(first, x=second.x, y=second.y)
        objects[other] = replace(second, x=first.x, y=first.y)
    else:
        attribute = below(rng, 4)
        old = objects[index].values
        objects[index] = replace(objects[index], values=with_value(old, attribute, other_value(rng, old, attribute)))
    return Scene(tuple(objects))


def with_value(values: Values, attribute: int, value: int) -> Values:
    """Return `values` with the given attribute set to `value`."""
    changed = list(values)
    changed[attribute] = value
    return (changed[0], changed[1], changed[2], changed[3])


def other_value(rng: np.random.Generator, values: Sequence[int | None], attribute: int) -> int:
    """Return a random value of `attribute` other than the one in `values`."""
    current = values[attribute]
    if current is None:
        raise ValueError(f"no {ATTRIBUTES[attribute]} to change")
    return (current + 1 + below(rng, VALUE_COUNTS[attribute] - 1)) % VALUE_COUNTS[attribute]


def below(rng: np.random.Generator, limit: int) -> int:
    """Return a random integer in 0..limit-1; several times faster than `Generator.integers` for a single one."""
    return int(rng.random() * limit)


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    """Return the items in random order."""
    return [items[index] for _, index in sorted(zip(rng.random(len(items)).tolist(), range(len(items)), strict=True))]
