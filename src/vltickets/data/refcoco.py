"""RefCOCO+ in its official files: sentences that each refer to one object of a COCO photo.

`refs(unc).p` (a pickle of plain data), `instances.json` (COCO's format) and `iid_to_ann_ids.json`, in which order the
annotations of an image have their features.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.plain_pickle import read_plain_pickle
from vltickets.data.ragged import Ragged
from vltickets.data.records import field, number_field, read_json, shown, text_field
from vltickets.data.regions import Regions, find_regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError, unknown

SPLITS = {"train": "train", "dev": "val", "test": "testA", "testA": "testA", "testB": "testB"}
BOXES = {"true": ("gt_all", "visual_grounding_coco_gt"), "detected": ("det_all", "visual_grounding_det_coco")}
ORDER = "iid_to_ann_ids.json"


@dataclass(frozen=True)
class Expressions:
    """One split of referring expressions, in the order of the file.

    `ids`: the sentences' ids; `images` int64 [n]; `targets` int64 [n]: the referred box among the image's regions, -1
    where the regions are detected; `boxes` float32 [n, 4]: the referred box x, y, w, h in pixels; `sizes` float32
    [n, 2]: width and height of the image.
    """

    ids: list[int]
    texts: Ragged
    images: np.ndarray
    targets: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    regions: Regions


class ExpressionList:
    """Expressions as they are read, one by one; `pack` makes the arrays."""

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self.ids: list[int] = []
        self.images: list[int] = []
        self.targets: list[int] = []
        self.boxes: list[list[float]] = []
        self.sizes: list[tuple[int, int]] = []

    def add(self, identity: int, image: int, target: int, box: list[float], size: tuple[int, int]) -> None:
        """Take an expression; `image` is the row of its image."""
        self.ids.append(identity)
        self.images.append(image)
        self.targets.append(target)
        self.boxes.append(box)
        self.sizes.append(size)

    def pack(self, coded: Sequence[Sequence[int]]) -> Expressions:
        """Return the split, given its texts as numbers."""
        return Expressions(
            self.ids,
            Ragged.from_rows(coded),
            np.array(self.images, dtype=np.int64),
            np.array(self.targets, dtype=np.int64),
            np.array(self.boxes, dtype=np.float32).reshape(-1, 4),
            np.array(self.sizes, dtype=np.float32).reshape(-1, 2),
            self.regions,
        )


def read_refcoco(folder: Path, split: str, boxes: str, vocabulary: Vocabulary, longest: int) -> Expressions:
    """Read the expressions of a split (test is testA) with the true or the detected boxes of their images.

    Raises `UserError` naming file, record and field, also where the true boxes' features are not as many as the image
    has annotations, and where several annotations have no known order.
    """
    name, images = boxes_of(boxes)
    wanted = SPLITS.get(split)
    if wanted is None:
        raise unknown("split of RefCOCO+", split, SPLITS)
    path = folder / "refs(unc).p"
    refs = read_plain_pickle(path)
    if not isinstance(refs, list):
        raise UserError(f"{path}: expected a list of references, found {type(refs).__name__}")
    objects = _Objects(folder)
    found = ExpressionList(find_regions(folder, name))
    texts: list[str] = []
    for number, ref in enumerate(refs):
        where = f"{path}, reference {number}"
        if field(ref, "split", str, where) != wanted:
            continue
        image = number_field(ref, "image_id", where)
        row = found.regions.index(f"{images}_{image:012d}.npz", where)
        annotation = number_field(ref, "ann_id", where)
        target = objects.place(image, annotation, found.regions, row, where) if boxes == "true" else -1
        box, size = objects.box(annotation, image, where), objects.size(image, where)
        for rank, sentence in enumerate(field(ref, "sentences", list, where)):
            said = f"{where}, sentence {rank}"
            texts.append(text_field(sentence, "sent", said))
            found.add(number_field(sentence, "sent_id", said), row, target, box, size)
    if not texts:
        raise UserError(f"{path}: no reference whose split is {wanted}")
    return found.pack(vocabulary.encode(texts, longest))


def boxes_of(boxes: str) -> tuple[str, str]:
    """Return the names of the regions and of their images for true or detected boxes."""
    if boxes not in BOXES:
        raise unknown("kind of boxes", boxes, BOXES)
    return BOXES[boxes]


class _Objects:
    """The annotated objects of the photos, and the order of their features."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "instances.json"
        content = read_json(self.path)
        self.annotations = by_id(content, "annotations", self.path)
        self.images = by_id(content, "images", self.path)
        self.order_path = folder / ORDER
        self.order = read_json(self.order_path) if self.order_path.exists() else None
        self.of_image: dict[Any, list[int]] = defaultdict(list)
        for identity, (where, item) in self.annotations.items():
            self.of_image[field(item, "image_id", int, where)].append(identity)

    def box(self, annotation: int, image: int, where: str) -> list[float]:
        """Return an annotation's box x, y, w, h."""
        if annotation not in self.annotations:
            raise UserError(f"{self.path} has no annotation {annotation}, which {where} needs")
        noted, item = self.annotations[annotation]
        if item["image_id"] != image:
            raise UserError(f"{noted}: it is of image {item['image_id']}, but {where} has it of image {image}")
        return box_field(item, noted)

    def size(self, image: int, where: str) -> tuple[int, int]:
        """Return an image's width and height."""
        if image not in self.images:
            raise UserError(f"{self.path} has no image {image}, which {where} needs")
        return size_fields(self.images[image][1], self.images[image][0])

    def place(self, image: int, annotation: int, regions: Regions, row: int, where: str) -> int:
        """Return which of the image's regions is the annotation."""
        ordered = self._ordered(image)
        return place_of(annotation, ordered, int(regions.features.lengths[row]), f"{where}, image {image}")

    def _ordered(self, image: int) -> list[Any]:
        if self.order is None:
            if len(self.of_image[image]) > 1:
                raise UserError(
                    f"{self.order_path}: no such file; without it nobody knows in which order the "
                    f"{len(self.of_image[image])} annotations of image {image} have their features"
                )
            return self.of_image[image]
        listed: list[Any] = field(self.order, str(image), list, str(self.order_path))
        return listed


def place_of(annotation: int, ordered: list[Any], count: int, where: str) -> int:
    """Return the annotation's place in its image's order, which must be as long as the image has regions."""
    if len(ordered) != count:
        raise UserError(f"{where}: {len(ordered)} annotations, but {count} regions; expected one each, in one order")
    if annotation not in ordered:
        raise UserError(f"{where}: the annotation {annotation} is not among the image's: {shown(ordered)}")
    return ordered.index(annotation)


def by_id(content: Any, name: str, path: Path) -> Mapping[int, tuple[str, Any]]:
    """Return id -> (where, record) of a list in COCO's format."""
    places = ((f"{path}, {name} {number}", item) for number, item in enumerate(field(content, name, list, str(path))))
    return {field(item, "id", int, where): (where, item) for where, item in places}


def box_field(item: Any, where: str, name: str = "bbox") -> list[float]:
    """Return a box's four finite numbers, whose sides are not negative."""
    box = field(item, name, list, where)
    if len(box) != 4 or not all(type(number) in (int, float) and _small(number) for number in box):
        raise UserError(f"{where}: the field {name!r} is {shown(box)}, expected x, y, width, height in pixels")
    if box[2] < 0 or box[3] < 0:
        raise UserError(f"{where}: the field {name!r} is {shown(box)}, its width or height is negative")
    return [float(number) for number in box]


def size_fields(item: Any, where: str) -> tuple[int, int]:
    """Return an image's width and height in pixels, both above 0."""
    width, height = number_field(item, "width", where), number_field(item, "height", where)
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise UserError(f"{where}: an image of {width} by {height} pixels")
    return width, height


def _small(number: float) -> bool:
    return math.isfinite(number) and abs(number) < 2**31
