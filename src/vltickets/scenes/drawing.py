"""Pictures of scenes, drawn so that a linear patch embedding can read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from vltickets.scenes.world import COLOR, MATERIAL, SHAPE, VALUE_NAMES, Scene, SceneObject

PICTURE_SIDE = 36
"""Width and height in pixels: a 3x3 grid of 12-pixel patches, about one object each."""

# Bright on black: with the ground at exactly zero a silhouette has the same sign in every color, so shape and color can
# be read apart by a linear map. On grey ground the same model did not learn shapes.
PALETTE = ((255, 40, 40), (40, 235, 40), (70, 90, 255), (240, 225, 0), (205, 60, 255), (0, 225, 235))
GLINT = (255, 255, 255)
COVERED = (110, 110, 110)  # a corner that something hides, be there a glint or not; black would be a ball's own corner
COLORLESS = (190, 190, 190)

Box = tuple[float, float, float, float]


def draw(scene: Scene, *, side: int = PICTURE_SIDE, hidden: Sequence[int] = ()) -> Image.Image:
    """Return an RGB picture of the scene, `side` pixels wide and high, on black ground.

    `hidden` names for each object the attribute (`COLOR` or `MATERIAL`) that can't be seen, or -1.
    """
    picture = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(picture)
    for place, thing in enumerate(scene.objects):
        _draw_object(pen, thing, side, hidden[place] if hidden else -1)
    return picture


def _draw_object(pen: ImageDraw.ImageDraw, thing: SceneObject, side: int, hidden: int) -> None:
    width = max(round(thing.extent * side), 5)
    left = min(max(round(thing.x * side - width / 2), 0), side - width)
    top = min(max(round(thing.y * side - width / 2), 0), side - width)
    color = COLORLESS if hidden == COLOR else PALETTE[thing.values[COLOR]]
    _draw_shape(pen, VALUE_NAMES[SHAPE][thing.values[SHAPE]], color, (left, top, width))
    if hidden == MATERIAL or VALUE_NAMES[MATERIAL][thing.values[MATERIAL]] == "metal":
        # A white corner, a few pixels wide, rather than a fine texture: a shift by one pixel does not turn it over.
        glint = max(math.floor(side / 12), 2)
        fill = COVERED if hidden == MATERIAL else GLINT
        pen.rectangle((left, top, left + glint - 1, top + glint - 1), fill=fill)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, color: tuple[int, int, int], square: tuple[int, int, int]
) -> None:
    left, top, width = square
    right, bottom, third = left + width - 1, top + width - 1, width / 3
    if shape == "cube":
        pen.rectangle((left, top, right, bottom), fill=color)
    elif shape == "ball":
        pen.ellipse((left, top, right, bottom), fill=color)
    elif shape == "ring":
        pen.ellipse((left, top, right, bottom), fill=color)
        hole = width / 4
        pen.ellipse((left + hole, top + hole, right - hole, bottom - hole), fill=(0, 0, 0))
    elif shape == "cone":
        pen.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=color)
    else:
        pen.rectangle((left, round(top + third), right, round(bottom - third)), fill=color)
        pen.rectangle((round(left + third), top, round(right - third), bottom), fill=color)
