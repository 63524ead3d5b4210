"""Ids and names of pictures, after COCO's."""

from __future__ import annotations

import hashlib


def first_image_id(part: str, split: str) -> int:
    """Return the lowest image id of a split of one part.

    Splits start millions apart, so that files of several can be read together and no two pictures share an id.
    """
    digest = hashlib.sha256(f"{part}\n{split}".encode()).digest()
    return 1_000_000 * (1 + int.from_bytes(digest[:4], "big") % 99_999) + 1


def image_stem(split: str, image_id: int) -> str:
    """Return a picture's name without its ending."""
    return f"coco_{split}_{image_id:012d}"
