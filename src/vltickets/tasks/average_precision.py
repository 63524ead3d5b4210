"""Average precision of detected boxes, in COCO's way: AP is the mean over classes and over the overlaps .50:.05:.95.

As in COCO's own evaluation: detections are taken by falling score and each meets the free true box of its class that it
overlaps most, if by enough; precision is made monotone and read at 101 recalls. What COCO's files have besides, crowds
and ranges of area, is not here. Source: Lin et al. 2014 and the evaluation that came with its data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OVERLAPS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # detections of one class in one picture that count


@dataclass(frozen=True)
class Boxes:
    """Boxes of one picture: `corners` [n, 4] as x1, y1, x2, y2 in any one unit, `classes` int [n], and `scores` [n] of
    detections (true boxes have none)."""

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.corners.shape != (len(self.classes), 4) or (
            self.scores is not None and len(self.scores) != len(self.classes)
        ):
            raise ValueError(
                f"{len(self.classes)} boxes need corners [{len(self.classes)}, 4], not {self.corners.shape}, and as "
                f"many scores, if any"
            )


def average_precision(found: Sequence[Boxes], true: Sequence[Boxes]) -> dict[str, float]:
    """Return `AP`, `AP50` and `AP75` in [0, 1] of detections, picture by picture, against the true boxes.

    Classes without any true box are left out, as COCO does. Raises `ValueError` where there is no true box at all, or
    not one set of detections with scores for each picture.

    >>> box, score = np.array([[0.0, 0, 2, 2]]), np.array([0.9])
    >>> average_precision([Boxes(box, np.array([1]), score)], [Boxes(box, np.array([1]))])["AP"]
    1.0
    """
    if len(found) != len(true) or any(picture.scores is None for picture in found):
        raise ValueError(f"{len(true)} pictures need as many sets of detections with scores, not {len(found)}")
    classes = np.unique(np.concatenate([picture.classes for picture in true])) if true else np.array([])
    if not len(classes):
        raise ValueError("there is no true box to find")
    table = np.array([_class_precisions(found, true, int(one)) for one in classes])  # [classes, overlaps]
    mean = table.mean(0)
    return {"AP": float(mean.mean()), "AP50": float(mean[0]), "AP75": float(mean[OVERLAPS.index(0.75)])}


def _class_precisions(found: Sequence[Boxes], true: Sequence[Boxes], one: int) -> list[float]:
    """Return one class's average precision at each overlap."""
    scores, right, total = [], [], 0
    for guesses, truth in zip(found, true, strict=True):
        assert guesses.scores is not None
        mine = np.flatnonzero(guesses.classes == one)
        mine = mine[np.argsort(-guesses.scores[mine], kind="stable")][:MOST]
        boxes = truth.corners[truth.classes == one]
        total += len(boxes)
        scores.append(guesses.scores[mine])
        right.append(_met(overlaps(guesses.corners[mine], boxes)))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.concatenate(right, axis=1)[:, order]
    return [_area(row, total) for row in hits]


def _met(shared: np.ndarray) -> np.ndarray:
    """Return whether each detection [n], by falling score, meets a true box at each overlap: bool [overlaps, n].

    `shared` [n, true] are their overlaps. Of several free boxes a detection takes the one it overlaps most.
    """
    out = np.zeros((len(OVERLAPS), len(shared)), dtype=bool)
    if not shared.shape[1]:
        return out
    for level, least in enumerate(OVERLAPS):
        free = np.ones(shared.shape[1], dtype=bool)
        for place, row in enumerate(shared):
            left = np.where(free, row, -1.0)
            best = int(left.argmax())
            if left[best] >= least - 1e-10:
                out[level, place], free[best] = True, False
    return out


def _area(hits: np.ndarray, total: int) -> float:
    """Return the mean precision at 101 recalls of detections that hit or not, by falling score."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    places = np.searchsorted(right / total, RECALLS, side="left")
    return float(np.append(precision, 0.0)[places].mean())


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union [n, m] of boxes [n, 4] and [m, 4] given by corners; 0 for empty boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1) for boxes in (first, second)]
    either = areas[0][:, None] + areas[1][None] - shared
    found: np.ndarray = shared / np.where(either > 0, either, 1.0)
    return found
