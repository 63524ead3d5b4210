"""RandAugment as ViLT has it: a few operations drawn for each training picture, all of one strength. Pillow only.

The list is RandAugment's without the inversion of colors and without cutout, for texts speak of colors and of small
objects (ViLT, section 4). Officially N = 2 and M = 9, and a picture is changed before it is scaled; here afterwards,
because scaled pictures are what is kept in memory. So shifts are told in pixels of a picture whose shorter side is 384;
what turning, shearing and shifting uncover is black in both orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from vltickets.data.inputs import Inputs
from vltickets.data.patches import cut, joined_pictures, scaled, unscaled
from vltickets.specs import Pixels

STRONGEST = 30  # M counts up to this
OFFICIAL_SIDE = 384  # of which shifts are told in pixels

Operation = Callable[[Image.Image, float], Image.Image]


def randaugment(picture: Image.Image, count: int, magnitude: int, rng: np.random.Generator) -> Image.Image:
    """Return an RGB picture after `count` operations drawn with replacement; its size stays."""
    for place in rng.integers(len(OPERATIONS), size=count):
        operation, weakest, strongest, signed = OPERATIONS[place]
        value = magnitude / STRONGEST * (strongest - weakest) + weakest
        picture = operation(picture, -value if signed and rng.random() > 0.5 else value)
    return picture


def augmented(inputs: Inputs, pixels: Pixels, count: int, magnitude: int, rng: np.random.Generator) -> Inputs:
    """Return a batch of patches with each row's picture changed by itself; grids, boxes and masks stay.

    A row that sees no picture, as a blind model's, stays as it is.
    """
    features = inputs.features.clone()
    for row, sides in enumerate(inputs.boxes[:, :1, 4:6].flatten(1).tolist()):
        if not any(sides):
            continue
        across, down = (round(1 / side) for side in sides)
        patches = unscaled(features[row, : across * down], pixels)
        whole = joined_pictures(patches[None], (down, across), pixels.patch)[0].permute(1, 2, 0)
        picture = randaugment(Image.fromarray(whole.contiguous().numpy()), count, magnitude, rng)
        features[row, : across * down] = scaled(cut(torch.from_numpy(np.array(picture)), pixels.patch), pixels)
    return replace(inputs, features=features)


def _moved(picture: Image.Image, *coefficients: float) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, coefficients)


def _shift(picture: Image.Image, value: float) -> float:
    return value * min(picture.size) / OFFICIAL_SIDE


def _solarized_sum(picture: Image.Image, value: float) -> Image.Image:
    brighter = np.minimum(np.asarray(picture).astype(np.int64) + int(value), 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), 128)


# Operation, its value at M = 0 and at M = 30, and whether its direction is drawn.
OPERATIONS: tuple[tuple[Operation, float, float, bool], ...] = (
    (lambda picture, _: ImageOps.autocontrast(picture), 0, 1, False),
    (lambda picture, _: ImageOps.equalize(picture), 0, 1, False),
    (lambda picture, value: picture.rotate(value), 0, 30, True),
    (lambda picture, value: ImageOps.posterize(picture, max(int(value), 1)), 0, 4, False),
    (lambda picture, value: ImageOps.solarize(picture, int(value)), 0, 256, False),
    (_solarized_sum, 0, 110, False),
    (lambda picture, value: ImageEnhance.Color(picture).enhance(value), 0.1, 1.9, False),
    (lambda picture, value: ImageEnhance.Contrast(picture).enhance(value), 0.1, 1.9, False),
    (lambda picture, value: ImageEnhance.Brightness(picture).enhance(value), 0.1, 1.9, False),
    (lambda picture, value: ImageEnhance.Sharpness(picture).enhance(value), 0.1, 1.9, False),
    (lambda picture, value: _moved(picture, 1, value, 0, 0, 1, 0), 0.0, 0.3, True),
    (lambda picture, value: _moved(picture, 1, 0, 0, value, 1, 0), 0.0, 0.3, True),
    (lambda picture, value: _moved(picture, 1, 0, _shift(picture, value), 0, 1, 0), 0, 100, True),
    (lambda picture, value: _moved(picture, 1, 0, 0, 0, 1, _shift(picture, value)), 0, 100, True),
)
