"""Image-caption matching: which of 20 fixed captions is this photo's? Trained as a soft-max over 1 right, a few wrong.

The head is officially started from the pre-training's "match" output, as the retrieval head is (official-models 1.4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.data import Captions, Inputs, Source, assemble, stream
from vltickets.errors import UserError
from vltickets.specs import Matching
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, LogitTask, Model, evaluation_batches


class MatchingHead(nn.Module):
    """One score for a pair, from the pooled [CLS]; official key `rank_output`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.rank_output = nn.Linear(hidden, 1)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return scores [b]."""
        scores: torch.Tensor = self.rank_output(pooled).squeeze(-1)
        return scores

    def adopt(self, pretrained: dict[str, torch.Tensor]) -> None:
        """Start from row 1, "match", of the pre-training's `itm_output`, where there is one."""
        if "itm_output.weight" in pretrained:
            with torch.no_grad():
                self.rank_output.weight.copy_(pretrained["itm_output.weight"][1:2])
                self.rank_output.bias.copy_(pretrained["itm_output.bias"][1:2])


@dataclass(frozen=True)
class MatchingBatch:
    """Inputs of `photos` x (1 + negatives) rows; the first row of each photo has its right caption."""

    inputs: Inputs
    photos: int


class PairTask(LogitTask):
    """A task that scores pairs of a caption and an image: what matching and retrieval share."""

    type_rows = PLAIN_TYPES

    def __init__(self, split: str, read: Callable[[str], Captions]) -> None:
        self.split = split
        self.captions = lru_cache(maxsize=2)(read)

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the ranking head, `rank_output`."""
        return MatchingHead(hidden)

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.captions(self.split).regions.width

    def labels(self) -> dict[str, str]:
        """Return nothing: there are no labels."""
        return {}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Start the score from the pre-training's match output, row 1 of `itm_output`, as officially."""
        if isinstance(head, MatchingHead):
            head.adopt(pretrained)


class MatchingTask(PairTask):
    """Find the right caption of a photo. An example is a photo."""

    name = "matching"

    def __init__(self, spec: Matching, source: Source) -> None:
        super().__init__(spec.split, source.captions)
        self.spec = spec

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training photo: all its pairs, counted with its longest caption."""
        data = self.captions("train")
        photos, caption_photo = _photos(data)
        longest = np.zeros(len(photos), dtype=np.int64)
        np.maximum.at(longest, caption_photo, data.texts.lengths)
        lengths: np.ndarray = (longest + data.regions.features.lengths[photos]) * (1 + self.spec.negatives)
        return lengths

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> MatchingBatch:
        """Return a batch of photos: one of each photo's captions, and captions of other photos."""
        data = self.captions("train")
        photos, caption_photo = _photos(data)
        counts = np.bincount(caption_photo, minlength=len(photos))
        by_photo = np.argsort(caption_photo, kind="stable")  # COCO's files do not keep a photo's captions together
        right = by_photo[(np.cumsum(counts) - counts)[examples] + rng.integers(0, counts[examples])]
        wrong = draw_others(rng, caption_photo, examples, self.spec.negatives)
        rows = np.concatenate([right[:, None], wrong], axis=1)
        inputs = assemble(data.texts, rows.ravel(), data.regions, np.repeat(photos[examples], rows.shape[1]))
        return MatchingBatch(inputs.without_sight() if self.spec.blind else inputs, len(examples))

    def logits(self, model: Model, batch: MatchingBatch) -> torch.Tensor:
        """Return the scores [photos, 1 + negatives] of each photo's captions."""
        scores: torch.Tensor = model.head(model.backbone(batch.inputs.to(model.device)).pooled).float()
        return scores.view(batch.photos, -1)

    def loss_of(self, logits: torch.Tensor, batch: MatchingBatch) -> torch.Tensor:
        """Return the cross-entropy of the right caption among a photo's rows, mean over photos."""
        return F.cross_entropy(logits, torch.zeros(batch.photos, dtype=torch.int64, device=logits.device))

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return accuracy (the right caption scores highest) and mean reciprocal rank over all photos of the split.

        An answer is the number of the caption that scores highest, in the order of the file; its id is the photo's.
        """
        data = self.captions(split)
        photos, rows = candidates(data, split, self.spec.candidates)
        flat, images = rows.ravel(), np.repeat(photos, rows.shape[1])
        scores = np.zeros(len(flat), dtype=np.float32)
        for places in evaluation_batches(data.texts.lengths[flat] + data.regions.features.lengths[images]):
            inputs = assemble(data.texts, flat[places], data.regions, images[places])
            inputs = (inputs.without_sight() if self.spec.blind else inputs).to(model.device)
            scores[places] = model.head(model.backbone(inputs).pooled).float().cpu().numpy()
        table = scores.reshape(rows.shape)
        # Ties count against the model: a constant score must not look right.
        rank = 1 + (table[:, 1:] >= table[:, :1]).sum(-1)
        items = (rank == 1).astype(np.float32)
        metrics = {"accuracy": float(items.mean()), "mrr": float((1 / rank).mean())}
        best = rows[np.arange(len(rows)), table.argmax(1)]
        answers: list[tuple[int | str, int]] = list(zip(photos.tolist(), best.tolist(), strict=True))
        return Evaluation("accuracy", metrics, items, split, answers=answers)

    def chance(self, split: str) -> float:
        """Return the score of guessing."""
        return 1 / self.spec.candidates


def candidates(data: Captions, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the photos and, for each, the caption rows to choose from [photos, count]: first its own first caption.

    The others are captions of other photos of the split, drawn once and for all for a split of this name and size.
    """
    photos, caption_photo = _photos(data)
    _, firsts = np.unique(caption_photo, return_index=True)
    rng = stream("matching", split, "candidates", len(photos), count)
    wrong = draw_others(rng, caption_photo, np.arange(len(photos)), count - 1)
    return photos, np.concatenate([firsts[:, None], wrong], axis=1)


def _photos(data: Captions) -> tuple[np.ndarray, np.ndarray]:
    """Return the photos that have captions, and for each caption the place of its photo among them."""
    photos, caption_photo = np.unique(data.images, return_inverse=True)
    return photos, caption_photo


def draw_others(rng: np.random.Generator, images: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """Draw places [len(own), count] in `images`, each where another image stands than the row's own."""
    if (images == images[0]).all():
        raise UserError("wrong pairs are made of other images and their captions: two images at least are needed")
    drawn = rng.integers(0, len(images), size=(len(own), count))
    while (same := images[drawn] == own[:, None]).any():
        drawn[same] = rng.integers(0, len(images), size=int(same.sum()))
    return drawn
