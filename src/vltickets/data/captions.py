"""Images with captions: COCO's caption files, and the Flickr8k packing with its region features."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.ragged import Ragged
from vltickets.data.records import field, read_json
from vltickets.data.regions import Regions, find_regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError


@dataclass(frozen=True)
class Captions:
    """One split. `images` int64 [captions] is each caption's image; `foils` a false wording of each, or None."""

    texts: Ragged
    images: np.ndarray
    foils: Ragged | None
    regions: Regions


def read_coco_captions(folder: Path, split: str, vocabulary: Vocabulary, longest: int) -> Captions:
    """Read `captions_SPLIT.json` in COCO's format (field `foil`: ours, optional) and the split's regions."""
    path = folder / f"captions_{split}.json"
    regions = find_regions(folder, split)
    texts, foils, images = [], [], []
    for number, item in enumerate(field(read_json(path), "annotations", list, str(path))):
        where = f"{path}, annotation {number}"
        texts.append(field(item, "caption", str, where))
        images.append(regions.index(f"coco_{split}_{field(item, 'image_id', int, where):012d}.npz", where))
        if "foil" in item:
            foils.append(field(item, "foil", str, where))
    if foils and len(foils) != len(texts):
        raise UserError(f"{path}: {len(foils)} of {len(texts)} captions have a foil; expected all or none")
    return Captions(
        texts=Ragged.from_rows(vocabulary.encode(texts, longest)),
        images=np.array(images, dtype=np.int64),
        foils=Ragged.from_rows(vocabulary.encode(foils, longest)) if foils else None,
        regions=regions,
    )


def read_flickr8k(folder: Path, split: str, vocabulary: Vocabulary, longest: int) -> Captions:
    """Read `flickr8k/SPLIT.parquet` and `features/flickr8k/SPLIT.parquet` (needs pyarrow: the extra `data`)."""
    photos, captions = flickr8k_captions(folder, split)
    regions = _flickr8k_regions(folder / "features" / "flickr8k" / f"{split}.parquet")
    where = folder / "flickr8k" / f"{split}.parquet"
    images = [regions.index(photo, f"{where}, image_id {photo!r}") for photo in photos]
    coded = vocabulary.encode([text for texts in captions for text in texts], longest)
    counts = [len(texts) for texts in captions]
    return Captions(Ragged.from_rows(coded), np.repeat(np.array(images, dtype=np.int64), counts), None, regions)


def flickr8k_captions(folder: Path, split: str) -> tuple[list[str], list[list[str]]]:
    """Return the photos' names and, for each, its captions."""
    table = _read_parquet(folder / "flickr8k" / f"{split}.parquet", ["image_id", "captions"])
    return table["image_id"], table["captions"]


def _flickr8k_regions(path: Path) -> Regions:
    columns = _read_parquet(path, ["image_id", "num_boxes", "boxes", "features", "soft_labels"])
    counts = np.array(columns["num_boxes"], dtype=np.int64)
    total = int(counts.sum())
    try:
        boxes = np.array([box for item in columns["boxes"] for box in item], dtype=np.float32).reshape(total, 4)
        features = np.frombuffer(b"".join(columns["features"]), dtype="<f2").reshape(total, -1)
        labels = np.frombuffer(b"".join(columns["soft_labels"]), dtype=np.uint8).reshape(total, -1)
    except ValueError as error:
        raise UserError(f"{path}: the arrays do not fit num_boxes ({error})") from None
    # As UNITER: class 0 is the background; this file has it last.
    background_first = np.roll(labels, 1, axis=1).astype(np.float16) / np.float16(255)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Regions(columns["image_id"], offsets, features, boxes, background_first, where=str(path))


def _read_parquet(path: Path, columns: list[str]) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{path} needs pyarrow to be read: pip install 'vltickets[data]'") from None
    try:
        found = parquet.read_schema(path).names
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    missing = [name for name in columns if name not in found]
    if missing:
        raise UserError(f"{path}: the columns {', '.join(missing)} are missing (found: {', '.join(found)})")
    table: dict[str, Any] = parquet.read_table(path, columns=columns).to_pydict()
    return table
