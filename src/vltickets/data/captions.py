"""Images with captions: COCO's caption files, and the Flickr8k packing with its region features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vltickets.data.parquet import check_column, packed_regions, read_parquet
from vltickets.data.patches import open_pictures
from vltickets.data.questions import split_regions
from vltickets.data.ragged import Ragged
from vltickets.data.records import check_text, field, number_field, read_json, text_field
from vltickets.data.regions import Regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

OFFICIAL = {"train": "train", "dev": "val"}


@dataclass(frozen=True)
class Captions:
    """One split. `images` int64 [captions] is each caption's image; `foils` a false wording of each, or None,
    and `foil_kinds` what is false in each, where that is known.

    `left_out`: captions that were dropped because they say nothing, or because their image can't be had any more.
    """

    texts: Ragged
    images: np.ndarray
    foils: Ragged | None
    regions: Regions
    left_out: int = 0
    foil_kinds: tuple[str, ...] = ()


def read_coco_captions(
    folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Captions:
    """Read `captions_SPLIT.json` in COCO's format (fields `foil`, `foil_kind`: ours, optional) and the split's regions.

    Where it is not there, the official split's file is read, of 2014 before 2017 (train, and val as dev).
    """
    names = [split, *(f"{OFFICIAL[split]}{year}" for year in ("2014", "2017") if split in OFFICIAL)]
    name = next((name for name in names if (folder / f"captions_{name}.json").exists()), split)
    path = folder / f"captions_{name}.json"
    regions = split_regions(folder, [split, name], pixels)
    texts, foils, kinds, images = [], [], [], []
    for number, item in enumerate(field(read_json(path), "annotations", list, str(path))):
        where = f"{path}, annotation {number}"
        texts.append(text_field(item, "caption", where))
        images.append(regions.index(f"coco_{name}_{number_field(item, 'image_id', where):012d}.npz", where))
        if "foil" in item:
            foils.append(text_field(item, "foil", where))
            kinds.append(text_field(item, "foil_kind", where) if "foil_kind" in item else "other")
    if foils and len(foils) != len(texts):
        raise UserError(f"{path}: {len(foils)} of {len(texts)} captions have a foil; expected all or none")
    return Captions(
        texts=Ragged.from_rows(vocabulary.encode(texts, longest)),
        images=np.array(images, dtype=np.int64),
        foils=Ragged.from_rows(vocabulary.encode(foils, longest)) if foils else None,
        regions=regions,
        foil_kinds=tuple(kinds),
    )


def read_flickr8k(
    folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Captions:
    """Read `flickr8k/SPLIT.parquet` and `features/flickr8k/SPLIT.parquet` (needs pyarrow: the extra `data`)."""
    photos, captions = flickr8k_captions(folder, split)
    regions = photo_regions(folder, "flickr8k", split, pixels)
    where = folder / "flickr8k" / f"{split}.parquet"
    images = [regions.index(photo, f"{where}, image_id {photo!r}") for photo in photos]
    coded = vocabulary.encode([text for texts in captions for text in texts], longest)
    counts = [len(texts) for texts in captions]
    return Captions(Ragged.from_rows(coded), np.repeat(np.array(images, dtype=np.int64), counts), None, regions)


def photo_regions(folder: Path, part: str, split: str, pixels: Pixels | None) -> Regions:
    """Return the packed region features of `flickr8k` or `daquar`; with `pixels`, the photos' patches instead."""
    if pixels is None:
        return packed_regions(folder / "features" / part / f"{split}.parquet")
    name = f"{split}_images.parquet" if part == "daquar" else f"{split}.parquet"
    return open_pictures(folder / part / name, pixels)


def flickr8k_captions(folder: Path, split: str) -> tuple[list[str], list[list[str]]]:
    """Return the photos' names and, for each, its captions."""
    path = folder / "flickr8k" / f"{split}.parquet"
    table = read_parquet(path, ["image_id", "captions"])
    names = check_column(table, "image_id", str, path)
    captions = check_column(table, "captions", list, path)
    for row, texts in enumerate(captions):
        for rank, text in enumerate(texts):
            check_text(text, f"{path}, row {row}: the field 'captions', caption {rank},")
    return names, captions
