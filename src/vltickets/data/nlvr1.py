"""NLVR v1 as packed (Cornell NLVR, Suhr et al. 2017): a sentence about one picture of three boxes, true or false.

No detector is at hand for these drawings, so a region's feature is a fixed description of what lies in its box.
Regions: the three boxes, left to right, then their objects in the file's order. A feature has `WIDTH` numbers:
which type it is (box, square, circle, triangle; one-hot), mean red, green and blue of its pixels, its width and height
(÷ 100 pixels, a box's side), its corners x1, y1, x2, y2 in the picture (0 to 1), and its pixels shrunk to 6 by 6
(area means of red, green, blue; row by row). Soft labels are one-hot over background and the four types.
A backbone that takes patches sees the picture itself.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vltickets.data.parquet import check_column, read_parquet
from vltickets.data.patches import open_pictures
from vltickets.data.questions import QuestionList, Questions
from vltickets.data.records import check_text, field, shown
from vltickets.data.regions import Regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

TYPES = ("box", "square", "circle", "triangle")
ANSWERS = ("false", "true")
SIDE = 6  # pixels of the shrunken picture
WIDTH = len(TYPES) + 3 + 2 + 4 + 3 * SIDE * SIDE
BOX_LEFTS = (0, 150, 300)
BOX_SIDE = 100
SIZE = (400, 100)  # of every picture, in pixels


def nlvr1_sentences(path: Path) -> list[str]:
    """Return the sentence of each example."""
    sentences = check_column(read_parquet(path, ["sentence"]), "sentence", str, path)
    return [check_text(text, f"{path}, row {row}: the field 'sentence'") for row, text in enumerate(sentences)]


def read_nlvr1(
    folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Questions:
    """Read `nlvr1/SPLIT.parquet` as questions answered false or true; ids are the examples', kinds the answers."""
    path = folder / "nlvr1" / f"{split}.parquet"
    table = read_parquet(path, ["example_id", "sentence", "label"])
    names = [check_text(name, f"{path}, row {row}: 'example_id'") for row, name in enumerate(table["example_id"])]
    labels = check_column(table, "label", bool, path)
    sentences = nlvr1_sentences(path)
    if not names:
        raise UserError(f"{path}: it holds no example")
    regions = _described(names, path) if pixels is None else open_pictures(path, pixels, identity="example_id")
    found = QuestionList(regions, training=False)
    for row, name in enumerate(names):
        label = int(labels[row])
        found.add(name, sentences[row], name, {label: 1.0}, ANSWERS[label], f"{path}, row {row}")
    return found.pack(len(ANSWERS), vocabulary, longest, path)


def _described(names: list[str], path: Path) -> Regions:
    table = read_parquet(path, ["objects", "image_png"])
    objects = check_column(table, "objects", list, path)
    pictures = check_column(table, "image_png", bytes, path)
    rows = [
        _describe(picture, things, f"{path}, row {row}")
        for row, (picture, things) in enumerate(zip(pictures, objects, strict=True))
    ]
    kinds = [kind for _, _, found in rows for kind in found]
    return Regions.from_arrays(
        names,
        np.concatenate([[0], np.cumsum([len(found) for _, _, found in rows])]),
        np.concatenate([features for features, _, _ in rows]),
        np.concatenate([boxes for _, boxes, _ in rows]),
        np.eye(1 + len(TYPES), dtype=np.float16)[1 + np.array(kinds)],
        where=str(path),
    )


def _describe(picture: bytes, objects: list[Any], where: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return features float16 [n, WIDTH], corners float32 [n, 4] and types of a picture's regions."""
    image = _picture(picture, where)
    corners = [(left, 0, left + BOX_SIDE, BOX_SIDE) for left in BOX_LEFTS]
    kinds = [0] * len(corners)
    for number, item in enumerate(objects):
        what = f"{where}, object {number}"
        kind = field(item, "type", str, what)
        if kind not in TYPES[1:]:
            raise UserError(f"{what}: the field 'type' is {shown(kind)}, expected {', '.join(TYPES[1:])}")
        x1, y1, x2, y2 = (field(item, name, int, what) for name in ("x1", "y1", "x2", "y2"))
        if not (0 <= x1 < x2 <= SIZE[0] and 0 <= y1 < y2 <= SIZE[1]):
            raise UserError(f"{what}: the box {(x1, y1, x2, y2)} does not lie in the picture of {SIZE} pixels")
        corners.append((x1, y1, x2, y2))
        kinds.append(TYPES.index(kind))
    shares = np.array(corners, dtype=np.float32) / np.array([*SIZE, *SIZE], dtype=np.float32)
    sides = np.array([(x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners], dtype=np.float32) / BOX_SIDE
    pixels = np.stack([_shrunk(image, box) for box in corners])
    one_hot = np.eye(len(TYPES), dtype=np.float32)[kinds]
    features = np.concatenate([one_hot, pixels.mean((1, 2)), sides, shares, pixels.reshape(len(pixels), -1)], axis=1)
    return features.astype(np.float16), shares, kinds


def _shrunk(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """Return the area means [SIDE, SIDE, 3] of a box's pixels, 0 to 1."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _picture(content: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.size != SIZE:
            raise UserError(f"{where}: the picture has {image.size} pixels, expected {SIZE}")
        return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # a broken picture raises errors of many kinds
        raise UserError(f"{where}: the field 'image_png' is no picture ({error})") from None
