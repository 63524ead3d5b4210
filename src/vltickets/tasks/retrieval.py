"""Image-text retrieval: every caption against every image, Recall@1, 5, 10 both ways (official-models 1.7).

Trained by a margin on the sigmoids of right and wrong pairs. The paper's setting draws the wrong ones at random; with
`hard_negatives` the hardest of a pool are found first, without gradient, as in the UNITER paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from vltickets.backbones import UniterBackbone
from vltickets.data import Captions, Inputs, Ragged, Source, assemble
from vltickets.specs import Retrieval
from vltickets.tasks.matching import PairTask, draw_others
from vltickets.tasks.protocol import Evaluation, Model, symmetric_kl
from vltickets.tasks.ranking import recalls, score_all_pairs, score_in_official_batches

DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Pairs:
    """Caption rows and images [groups, 1 + wrong] of one step; the first of each group belongs together.

    `changed` is what is done to their inputs before they are trained on, if anything (`tasks/augmentation.py`).
    """

    captions: np.ndarray
    images: np.ndarray
    changed: Callable[[Inputs], Inputs] | None = None


class RetrievalTask(PairTask):
    """Find the image of a caption (IR) and a caption of an image (TR). An example is a caption."""

    name = "retrieval"

    def __init__(self, spec: Retrieval, source: Source) -> None:
        super().__init__(spec.split, source.retrieval)
        self.spec = spec

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training caption: all its pairs."""
        data = self.captions("train")
        pairs = 2 * (1 + self.spec.hard_negatives) if self.spec.hard_negatives else 2 + self.spec.negatives
        lengths: np.ndarray = pairs * (data.texts.lengths + data.regions.features.lengths[data.images])
        return lengths

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> list[Pairs]:
        """Draw wrong partners: `negatives` images and one caption, or two pools where the hardest are looked for."""
        data = self.captions("train")
        if self.spec.hard_negatives:
            return [
                _with_wrong(data, examples, _wrong_images(data, rng, examples, self.spec.pool), None),
                _with_wrong(data, examples, None, _wrong_captions(data, rng, examples, self.spec.pool)),
            ]
        images = _wrong_images(data, rng, examples, self.spec.negatives)
        return [_with_wrong(data, examples, images, _wrong_captions(data, rng, examples, 1))]

    def settled(self, model: Model, batch: list[Pairs]) -> list[Pairs]:
        """Return the pairs that count: with `hard_negatives` the hardest of each pool, as the model sees them now."""
        return [self._hardest(model, pairs) for pairs in batch] if self.spec.hard_negatives else batch

    def logits(self, model: Model, batch: list[Pairs]) -> torch.Tensor:
        """Return scores [1 or 2 pools, groups, 1 + wrong]; each pool goes through the model by itself."""
        return torch.stack([self._scores(model, pairs) for pairs in batch])

    def loss_of(self, logits: torch.Tensor, batch: list[Pairs]) -> torch.Tensor:
        """Return the mean over wrong pairs of max(0, margin + sigmoid(wrong) - sigmoid(right))."""
        return torch.stack([rank_loss(scores, self.spec.margin).mean() for scores in logits]).mean()

    def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the symmetric KL of each pair being right or not, by the sigmoid of its score; mean over pairs."""
        return symmetric_kl(*(F.logsigmoid(torch.stack([-scores, scores], -1)) for scores in (first, second))).mean()

    def _hardest(self, model: Model, pairs: Pairs) -> Pairs:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            scores = self._scores(model, replace(pairs, changed=None)).cpu().numpy()
        model.train(was_training)
        hardest = np.argsort(-scores[:, 1:], axis=1, kind="stable")[:, : self.spec.hard_negatives] + 1
        kept = np.concatenate([np.zeros((len(hardest), 1), dtype=np.int64), hardest], axis=1)
        rows = np.arange(len(kept))[:, None]
        return replace(pairs, captions=pairs.captions[rows, kept], images=pairs.images[rows, kept])

    def _scores(self, model: Model, pairs: Pairs) -> torch.Tensor:
        data = self.captions("train")
        inputs = assemble(data.texts, pairs.captions.ravel(), data.regions, pairs.images.ravel())
        inputs = self._seen(inputs)
        inputs = (pairs.changed(inputs) if pairs.changed else inputs).to(model.device)
        scores: torch.Tensor = model.head(model.backbone(inputs).pooled).float()
        return scores.view(pairs.captions.shape)

    def _seen(self, inputs: Inputs) -> Inputs:
        return inputs.without_sight() if self.spec.blind else inputs

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return R@1, 5 and 10 of image (`ir`) and text retrieval (`tr`); the headline is ir@1, an item a caption.

        An answer is the number of the image that scores highest for a caption.
        """
        data = self.scored(split)
        images = np.unique(data.images)
        fast = isinstance(model.backbone, UniterBackbone)
        score = score_all_pairs if fast else score_in_official_batches
        table = score(model, data, images, self._seen)
        found = recalls(table, np.searchsorted(images, data.images), DEPTHS)
        metrics = {name: float(items.mean()) for name, items in found.items()}
        answers: list[tuple[int | str, int]] = list(enumerate(images[table.argmax(1)].tolist()))
        return Evaluation("ir@1", metrics, found["ir@1"], split, {"tr@1": found["tr@1"]}, answers)

    def chance(self, split: str) -> float:
        """Return the R@1 of guessing an image."""
        return 1 / len(np.unique(self.scored(split).images))

    def scored(self, split: str) -> Captions:
        """Return the split's captions, or those of its first images where the spec names a number."""
        data = self.captions(split)
        kept = np.unique(data.images)[: self.spec.images]
        rows = np.flatnonzero(np.isin(data.images, kept))
        if len(rows) == len(data.images):
            return data
        return replace(
            data,
            texts=Ragged.from_rows([data.texts.row(int(row)).tolist() for row in rows]),
            images=data.images[rows],
            foils=None,
        )


def rank_loss(scores: torch.Tensor, margin: float) -> torch.Tensor:
    """Return max(0, margin + sigmoid(wrong) - sigmoid(right)) [groups, wrong] of scores [groups, 1 + wrong]."""
    shares = torch.sigmoid(scores)
    return (margin + shares[:, 1:] - shares[:, :1]).clamp(min=0)


def _with_wrong(data: Captions, examples: np.ndarray, images: np.ndarray | None, captions: np.ndarray | None) -> Pairs:
    """Return the right pairs, then the same captions with wrong images, then wrong captions with the same images."""
    right = data.images[examples][:, None]
    caption_columns, image_columns = [examples[:, None]], [right]
    if images is not None:
        caption_columns.append(np.repeat(examples[:, None], images.shape[1], axis=1))
        image_columns.append(images)
    if captions is not None:
        caption_columns.append(captions)
        image_columns.append(np.repeat(right, captions.shape[1], axis=1))
    return Pairs(np.concatenate(caption_columns, axis=1), np.concatenate(image_columns, axis=1))


def _wrong_images(data: Captions, rng: np.random.Generator, examples: np.ndarray, count: int) -> np.ndarray:
    pool = np.unique(data.images)
    images: np.ndarray = pool[draw_others(rng, pool, data.images[examples], count)]
    return images


def _wrong_captions(data: Captions, rng: np.random.Generator, examples: np.ndarray, count: int) -> np.ndarray:
    """Draw caption rows, none of them of the example's own image."""
    return draw_others(rng, data.images, data.images[examples], count)
