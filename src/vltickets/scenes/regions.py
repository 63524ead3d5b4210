"""A detector for the world: region features, boxes, soft labels and scores, with a real detector's kinds of error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vltickets.scenes.world import COLOR, EXTENT_BY_SIZE, SIZE, VALUE_COUNTS, Scene

REGION_WIDTH = 48
"""Numbers in one region's feature vector."""
CLASSES_BY_VALUES = np.arange(int(np.prod(VALUE_COUNTS))).reshape(VALUE_COUNTS) + 1
"""Class of each combination of (shape, color, size, material); class 0 is the background."""
REGION_CLASSES = CLASSES_BY_VALUES.size + 1
CLASS_COLORS: tuple[int, ...] = (-1, *np.indices(VALUE_COUNTS)[COLOR].ravel().tolist())
"""The color of each class's objects, by its place among the color names; -1 for the background."""
MAX_REGIONS = 6

FEATURE_SEED = 20220222
FIRST_GAIN = 1.0
SECOND_GAIN = 1.5
NOISE = 0.15
FLIP_SHARE = 0.02
MISSING_SHARE = 0.02
DUPLICATE_SHARE = 0.10
DUPLICATE_SCALE = 0.7
CENTRE_JITTER = 0.01
SCALE_JITTER = 0.15

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Regions of one or more scenes, one scene's after another's.

    `features` [n, 48] float16; `boxes` [n, 4] float32, x1 y1 x2 y2 in 0..1; `soft_labels` [n, 121] float16, rows that
    sum to one; `scores` [n] float16; `offsets` [scenes + 1] int64: scene i's rows go from `offsets[i]` up to the next.
    """

    features: Halves
    boxes: Floats
    soft_labels: Halves
    scores: Halves
    offsets: Integers


def detect(scene: Scene, rng: np.random.Generator) -> Regions:
    """Return what the detector finds in one scene: 1 to 6 regions, in random order."""
    return detect_all([scene], rng)


def detect_all(scenes: Sequence[Scene], rng: np.random.Generator, hidden: Sequence[int] | None = None) -> Regions:
    """Return what the detector finds in each scene; much faster than one scene at a time.

    `hidden` gives for each object, one scene's after another's, the index of an attribute that cannot be seen, or -1:
    the region's features and soft labels are then means over that attribute's values.
    """
    true, centres, owner = _objects(scenes)
    detected = _flipped(true, rng)

    found = _without_missing(owner, rng)
    repeated = found[rng.random(len(found)) < DUPLICATE_SHARE]
    rows = np.concatenate((found, repeated))
    is_duplicate = np.arange(len(rows)) >= len(found)
    kept = _capped(owner[rows], is_duplicate, rng)
    rows, is_duplicate = rows[kept], is_duplicate[kept]

    is_right = (detected[rows] == true[rows]).all(axis=1)
    scores = np.where(is_right, rng.uniform(0.8, 0.99, len(rows)), rng.uniform(0.6, 0.85, len(rows)))
    extents = np.asarray(EXTENT_BY_SIZE)[true[rows, SIZE]] * np.where(is_duplicate, DUPLICATE_SCALE, 1.0)
    unseen = np.full(len(rows), -1) if hidden is None else np.asarray(hidden, dtype=np.int64)[rows]
    return Regions(
        features=_features(detected[rows], unseen, rng),
        boxes=_boxes(centres[rows], extents, rng),
        soft_labels=_without_hidden(_soft_labels(detected[rows], scores, rng), unseen).astype(np.float16),
        scores=scores.astype(np.float16),
        offsets=np.concatenate(([0], np.cumsum(np.bincount(owner[rows], minlength=len(scenes))))).astype(np.int64),
    )


def describe_all(scenes: Sequence[Scene], rng: np.random.Generator) -> Regions:
    """Return the regions of given objects: one for each, in the scene's order, with its exact box and a score of one.

    Features and soft labels are the detector's, errors in reading an attribute included; none is missed or repeated.
    """
    true, centres, owner = _objects(scenes)
    detected = _flipped(true, rng)
    is_right = (detected == true).all(axis=1)
    certainty = np.where(is_right, rng.uniform(0.8, 0.99, len(true)), rng.uniform(0.6, 0.85, len(true)))
    half = np.asarray(EXTENT_BY_SIZE)[true[:, SIZE]][:, None] / 2
    boxes = np.clip(np.concatenate((centres - half, centres + half), axis=1), 0.0, 1.0)
    return Regions(
        features=_features(detected, np.full(len(true), -1), rng),
        boxes=boxes.astype(np.float32),
        soft_labels=_soft_labels(detected, certainty, rng).astype(np.float16),
        scores=np.ones(len(true), dtype=np.float16),
        offsets=np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(scenes))))).astype(np.int64),
    )


def _objects(scenes: Sequence[Scene]) -> tuple[Integers, NDArray[np.float64], Integers]:
    """Return all objects' values [n, 4], centres [n, 2] and the index of the scene that each belongs to [n]."""
    true = np.array([thing.values for scene in scenes for thing in scene.objects], dtype=np.int64)
    centres = np.array([(thing.x, thing.y) for scene in scenes for thing in scene.objects])
    return true, centres, np.repeat(np.arange(len(scenes)), [len(scene.objects) for scene in scenes])


def _flipped(values: Integers, rng: np.random.Generator) -> Integers:
    """Return the values with some attributes read as another value of theirs."""
    counts = np.asarray(VALUE_COUNTS)
    shifts = 1 + np.floor(rng.random(values.shape) * (counts - 1)).astype(np.int64)
    return np.where(rng.random(values.shape) < FLIP_SHARE, (values + shifts) % counts, values)


def _without_missing(owner: Integers, rng: np.random.Generator) -> Integers:
    """Return the indices of the objects that are found: all but a few, and at least one a scene."""
    # The object with the highest draw of its scene is found whatever the draw, so no scene goes empty.
    draws = rng.random(len(owner))
    best = np.zeros(owner.max() + 1)
    np.maximum.at(best, owner, draws)
    return np.flatnonzero((draws >= MISSING_SHARE) | (draws == best[owner]))


def _capped(owner: Integers, is_duplicate: NDArray[np.bool_], rng: np.random.Generator) -> Integers:
    """Return row indices grouped by scene, shuffled within it, with duplicates dropped above `MAX_REGIONS`."""
    by_worth = np.lexsort((rng.random(len(owner)), is_duplicate, owner))
    kept = by_worth[_rank_within(owner[by_worth]) < MAX_REGIONS]
    return kept[np.lexsort((rng.random(len(kept)), owner[kept]))]


def _rank_within(sorted_owner: Integers) -> Integers:
    """Return each row's place among the rows of its owner."""
    starts = np.searchsorted(sorted_owner, sorted_owner)
    return np.arange(len(sorted_owner)) - starts


def _features(values: Integers, hidden: Integers, rng: np.random.Generator) -> Halves:
    exact = _SEEN_FEATURES[hidden, CLASSES_BY_VALUES[tuple(values.T)]]
    features: Halves = (exact + rng.normal(0.0, NOISE, exact.shape)).astype(np.float16)
    return features


def _boxes(centres: NDArray[np.float64], extents: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    middle = np.clip(centres + rng.normal(0.0, CENTRE_JITTER, centres.shape), 0.0, 1.0)
    half = extents[:, None] / 2 * rng.uniform(1 - SCALE_JITTER, 1 + SCALE_JITTER, centres.shape)
    return np.clip(np.concatenate((middle - half, middle + half), axis=1), 0.0, 1.0).astype(np.float32)


def _soft_labels(values: Integers, scores: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Return class probabilities: the score on the detected class, the rest on near misses and the background."""
    classes = CLASSES_BY_VALUES[tuple(values.T)]
    near = _NEAR_CLASSES[classes]
    shares = rng.exponential(size=near.shape)
    shares *= 0.75 / shares.sum(axis=1, keepdims=True)
    labels = np.zeros((len(values), REGION_CLASSES), dtype=np.float32)
    rows = np.arange(len(values))
    labels[rows, classes] = scores
    labels[rows[:, None], near] = (1 - scores)[:, None] * shares
    labels[:, 0] = (1 - scores) * 0.25
    return labels


def _without_hidden(labels: Floats, hidden: Integers) -> Floats:
    """Return class probabilities with each row's hidden attribute, if any, spread evenly over its values."""
    for attribute in range(len(VALUE_COUNTS)):
        rows = np.flatnonzero(hidden == attribute)
        labels[rows, 1:] = _mean_over(labels[rows, 1:], attribute)
    return labels


def _mean_over(classes: NDArray[Any], attribute: int) -> NDArray[Any]:
    """Return [n, 120] numbers of the classes, each replaced by the mean over the attribute's values."""
    grid = classes.reshape(-1, *VALUE_COUNTS)
    mean: NDArray[Any] = np.broadcast_to(grid.mean(axis=attribute + 1, keepdims=True), grid.shape)
    return mean.reshape(classes.shape)


def _class_features() -> NDArray[np.float64]:
    """Return the noiseless feature vector of each class [121, 48]: a fixed random two-layer network of the values.

    The attributes are mixed without linearity, so a model has to learn to tell them apart, as with a real detector.
    """
    rng = np.random.Generator(np.random.PCG64(FEATURE_SEED))
    first = FIRST_GAIN * rng.normal(size=(sum(VALUE_COUNTS), REGION_WIDTH))
    bias = 0.5 * rng.normal(size=REGION_WIDTH)
    second = SECOND_GAIN / np.sqrt(REGION_WIDTH) * rng.normal(size=(REGION_WIDTH, REGION_WIDTH))
    starts = np.concatenate(([0], np.cumsum(VALUE_COUNTS)[:-1]))
    one_hot = np.zeros((REGION_CLASSES, sum(VALUE_COUNTS)))
    for values, index in np.ndenumerate(CLASSES_BY_VALUES):
        one_hot[index, starts + values] = 1.0
    features: NDArray[np.float64] = np.tanh(np.tanh(one_hot @ first + bias) @ second)
    return features


def _near_classes() -> Integers:
    """Return for each class the classes of the combinations that differ in one attribute [121, 11]; class 0 unused."""
    near = np.zeros((REGION_CLASSES, sum(count - 1 for count in VALUE_COUNTS)), dtype=np.int64)
    for values, index in np.ndenumerate(CLASSES_BY_VALUES):
        lines = (np.moveaxis(CLASSES_BY_VALUES, axis, 0)[(slice(None), *np.delete(values, axis))] for axis in range(4))
        near[index] = [other for line in lines for other in line if other != index]
    return near


def _seen_features() -> NDArray[np.float64]:
    """Return each class's features [5, 121, 48] with one attribute hidden (rows 0 to 3), and with none (row 4, -1)."""
    exact = _class_features()
    seen = np.repeat(exact[None], len(VALUE_COUNTS) + 1, axis=0)
    for attribute in range(len(VALUE_COUNTS)):
        seen[attribute, 1:] = _mean_over(exact[1:].T, attribute).T
    return seen


_SEEN_FEATURES = _seen_features()
_NEAR_CLASSES = _near_classes()
