"""Photos with five captions each in Karpathy's JSON file, as retrieval uses them: Flickr30k and COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.captions import Captions
from vltickets.data.questions import split_regions
from vltickets.data.ragged import Ragged
from vltickets.data.records import field, number_field, read_json, text_field
from vltickets.data.snli_ve import flickr30k_image, flickr30k_number
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

SPLITS = {"train": ("train", "restval"), "dev": ("val",), "test": ("test",)}


def read_karpathy(
    path: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Captions:
    """Read a split of `dataset_flickr30k.json` (or `dataset_coco.json`) and its regions, `regions_all`.

    COCO's `restval` is trained on, as officially. Raises `UserError` naming file, image and field.
    """
    wanted = SPLITS.get(split, (split,))
    regions = split_regions(path.parent, ["all", split], pixels)
    texts: list[str] = []
    images: list[int] = []
    for number, item in enumerate(field(read_json(path), "images", list, str(path))):
        where = f"{path}, image {number}"
        if field(item, "split", str, where) not in wanted:
            continue
        row = regions.index(_image(item, where), where)
        for rank, sentence in enumerate(field(item, "sentences", list, where)):
            texts.append(text_field(sentence, "raw", f"{where}, sentence {rank}"))
            images.append(row)
    if not texts:
        raise UserError(f"{path}: no caption of an image whose split is {' or '.join(wanted)}")
    return Captions(
        Ragged.from_rows(vocabulary.encode(texts, longest)), np.array(images, dtype=np.int64), None, regions
    )


def _image(item: Any, where: str) -> str:
    """Return the name of an image's regions."""
    if "cocoid" in item:
        return f"coco_{text_field(item, 'filepath', where)}_{number_field(item, 'cocoid', where):012d}.npz"
    return flickr30k_image(flickr30k_number(text_field(item, "filename", where), where))
