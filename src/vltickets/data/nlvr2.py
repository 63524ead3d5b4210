"""NLVR2 in its official JSON-lines files: a sentence, a pair of images, True or False."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vltickets.data.questions import split_regions
from vltickets.data.ragged import Ragged
from vltickets.data.records import field, first_file, read_json_lines, text_field
from vltickets.data.regions import Regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels


@dataclass(frozen=True)
class Pairs:
    """One split. `images` int64 [examples, 2] left and right; `labels` int64, 1 is True."""

    identifiers: list[str]
    texts: Ragged
    images: np.ndarray
    labels: np.ndarray
    regions: Regions


def read_nlvr2(folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None) -> Pairs:
    """Read `SPLIT.json` (where it is not there, test is the official `test1.json`) and the split's regions.

    An identifier is split-set-pair-sentence; its images' regions are named `nlvr2_split-set-pair-img0.npz` and `-img1`.
    Raises `UserError` naming file, line and field.
    """
    names = [split, "test1"] if split == "test" else [split]
    path = first_file(folder, [f"{name}.json" for name in names])
    regions = split_regions(folder, names, pixels)
    identifiers, texts, images, labels = [], [], [], []
    for where, record in read_json_lines(path):
        identifier = field(record, "identifier", str, where)
        if identifier.count("-") != 3:
            raise UserError(f"{where}: the identifier {identifier!r} is not of the form split-set-pair-sentence")
        label = field(record, "label", str, where)
        if label not in ("True", "False"):
            raise UserError(f"{where}: the field 'label' is {label!r}, expected 'True' or 'False'")
        stem = identifier.rpartition("-")[0]
        identifiers.append(identifier)
        texts.append(text_field(record, "sentence", where))
        images.append([regions.index(f"nlvr2_{stem}-img{side}.npz", where) for side in (0, 1)])
        labels.append(int(label == "True"))
    coded = Ragged.from_rows(vocabulary.encode(texts, longest))
    pairs = np.array(images, dtype=np.int64).reshape(-1, 2)
    return Pairs(identifiers, coded, pairs, np.array(labels, dtype=np.int64), regions)
