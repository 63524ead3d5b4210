"""Questions with scored answers: what the readers of VQA, GQA, SNLI-VE and NLVR v1 make of their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vltickets.data.patches import find_patches
from vltickets.data.ragged import Ragged
from vltickets.data.regions import Regions, find_regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels


@dataclass(frozen=True)
class Questions:
    """One split. `scores` [questions, answers] float32: soft scores; `images` int64 [questions].

    `kinds`: the data set's own types of question or answer. `left_out`: training questions that were dropped because
    none of their answers is in the vocabulary.
    """

    ids: Sequence[int | str]
    texts: Ragged
    images: np.ndarray
    scores: np.ndarray
    kinds: list[str]
    regions: Regions
    left_out: int = 0


@dataclass
class QuestionList:
    """Questions of one split as they are read, one by one; `pack` makes the arrays."""

    regions: Regions
    training: bool
    ids: list[int | str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    scores: list[Mapping[int, float]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    left_out: int = 0

    def add(
        self, identity: int | str, text: str, image: str, scores: Mapping[int, float], kind: str, where: str
    ) -> None:
        """Take a question about the image of this name; `scores` is label -> score.

        In training, one without any score is left out and counted, as officially.
        """
        if self.training and not scores:
            self.left_out += 1
            return
        self.ids.append(identity)
        self.texts.append(text)
        self.images.append(self.regions.index(image, where))
        self.scores.append(scores)
        self.kinds.append(kind)

    def pack(self, answers: int, vocabulary: Vocabulary, longest: int, where: Path) -> Questions:
        """Return the split with its texts as numbers; where no question is left, a `UserError` that names the file."""
        coded = vocabulary.encode(self.texts, longest)
        return self.pack_coded(answers, coded, where)

    def pack_coded(self, answers: int, coded: Sequence[Sequence[int]], where: Path) -> Questions:
        """Return the split where the texts are numbers already, [CLS] and [SEP] among them."""
        if not self.ids:
            reason = f" ({self.left_out} have no answer of the vocabulary)" if self.left_out else ""
            raise UserError(f"{where}: it holds no question that can be used{reason}")
        # Only the few scores are written: the system gives memory to no other page of a table that may be 8 GB large.
        scores = np.zeros((len(self.ids), answers), dtype=np.float32)
        for row, given in enumerate(self.scores):
            for label, score in given.items():
                scores[row, label] = score
        images = np.array(self.images, dtype=np.int64)
        return Questions(
            self.ids, Ragged.from_rows(coded), images, scores, self.kinds, self.regions, left_out=self.left_out
        )


def split_regions(folder: Path, names: Sequence[str], pixels: Pixels | None = None) -> Regions:
    """Return the regions of the first of these names that the folder has; else what `find_regions` knows of the first.

    A split is called by our word or by the official one, so there are two names for its regions. With `pixels`, its
    pictures as patches instead.
    """
    if pixels is not None:
        return find_patches(folder, names, pixels)
    for name in names:
        if (folder / f"regions_{name}").exists():
            return find_regions(folder, name)
    return find_regions(folder, names[0])
