"""What the headers of ticket files and of packed files have in common: JSON, a format number, and whose mask it is."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from vltickets.backbones import prunable_shapes
from vltickets.errors import UserError
from vltickets.specs import BackboneSpec, HuggingFace, parse_backbone, weight_places
from vltickets.tickets.mask import Mask

MOST_LAYERS = 10_000  # of a backbone whose layers a ticket leaves alone
OBJECTS = ("provenance", "labels", "kept", "parts")  # JSON objects, in the headers that have them


def whose(backbone: BackboneSpec | None, mask: Mask) -> dict[str, Any]:
    """Return what a header says of the model a mask is for: format and backbone, or format and shapes."""
    if backbone:
        return {"format": 1, "backbone": backbone.described()}
    return {"format": 2, "shapes": {name: list(shape) for name, shape in mask.shapes.items()}}


def read_header(text: str, path: Path, kind: str, *, newest: int, fields: AbstractSet[str]) -> dict[str, Any]:
    """Return a header that has a format up to `newest`, whose mask it is, and these fields.

    `kind` is what the format is called. Raises `UserError` where the header is not like that.
    """
    try:
        header = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is damaged: its header is not JSON ({error})") from None
    if not isinstance(header, dict) or type(header.get("format")) is not int:
        raise UserError(f"{path} is damaged: its header has no format number")
    if not 1 <= header["format"] <= newest:
        raise UserError(f"{path} has {kind} format {header['format']}, this vltickets reads up to {newest}")
    if missing := (fields | {"backbone" if header["format"] == 1 else "shapes"}) - set(header):
        raise UserError(f"{path} is damaged: its header lacks {', '.join(sorted(missing))}")
    if odd := [key for key in OBJECTS if key in fields and not isinstance(header[key], dict)]:
        raise UserError(f"{path} is damaged: {odd[0]} in its header is no JSON object")
    return header


def masked_shapes(
    header: dict[str, Any], tensors: int, path: Path
) -> tuple[BackboneSpec | None, dict[str, tuple[int, ...]]]:
    """Return the backbone (None of a module of one's own) and the shapes of the mask, of `tensors`, a header speaks of.

    Raises `UserError` where the header can't mean such a mask.
    """
    if header["format"] != 1:
        return None, _shapes(header["shapes"], path)
    backbone = parse_backbone(header["backbone"], str(path))
    return backbone, _shapes_of(backbone, tensors, path)


def _shapes_of(backbone: BackboneSpec, tensors: int, path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a backbone's prunable weights, unless it has more layers than the file can mean."""
    sizes = backbone.model_dump() | dict(backbone.options if isinstance(backbone, HuggingFace) else ())
    layers = sum(count for name, count in sizes.items() if name.endswith("layers"))
    if layers > (tensors if "encoder" in backbone.prunable else MOST_LAYERS):  # before a place is made for each
        raise UserError(f"{path} is damaged: its header says {layers} layers, its mask has {tensors} tensors")
    if isinstance(backbone, HuggingFace):  # its adapter knows its shapes; that needs transformers
        return prunable_shapes(backbone)
    return {name: place.shape for name, place in weight_places(backbone).items()}


def _shapes(found: Any, path: Path) -> dict[str, tuple[int, ...]]:
    shapes = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape) for shape in shapes):
        raise UserError(f"{path} is damaged: the shapes in its header are not lists of whole numbers")
    return {name: tuple(shape) for name, shape in found.items()}
