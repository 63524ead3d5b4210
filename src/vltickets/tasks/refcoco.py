"""RefCOCO+: which region does the expression mean? A score for each region (official-models 1.6).

Trained on ground-truth boxes; scored on them (`val`) and on detected ones (`val^d`), where the chosen box must overlap
the true one by more than half. The official code never shuffles its training examples; here they are, like any task's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.data import Expressions, Inputs, Source, assemble
from vltickets.specs import Refcoco
from vltickets.tasks.heads import two_layers
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, LogitTask, Model, evaluation_batches, symmetric_kl

PADDING_SCORE = -1e4
OVERLAP = 0.5


class RegionHead(nn.Module):
    """A score for each region's state: one linear layer, or Linear, GELU, LN, Linear; official key `re_output`."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.re_output: nn.Module = nn.Linear(hidden, 1) if layers == 1 else two_layers(hidden, hidden, 1)

    def forward(self, regions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return scores [b, r] of states [b, r, d]; padding has -10,000."""
        scores: torch.Tensor = self.re_output(regions).squeeze(-1)
        return scores.masked_fill(~mask, PADDING_SCORE)


@dataclass(frozen=True)
class RefcocoBatch:
    """Inputs and the referred region's place [b]."""

    inputs: Inputs
    targets: torch.Tensor


class RefcocoTask(LogitTask):
    """Referring expressions. Blind models keep the boxes and lose the features (protocol)."""

    name = "refcoco"
    type_rows = PLAIN_TYPES

    def __init__(self, spec: Refcoco, source: Source) -> None:
        self.spec = spec
        self.expressions = lru_cache(maxsize=3)(source.expressions)

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the region head."""
        return RegionHead(hidden, self.spec.head_layers)

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.expressions(self.spec.split, "true").regions.width

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training expression with its regions."""
        return _lengths(self.expressions("train", "true"))

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> RefcocoBatch:
        """Return the batch of these training expressions, with ground-truth boxes."""
        data = self.expressions("train", "true")
        return RefcocoBatch(self._inputs(data, examples), torch.from_numpy(data.targets[examples]))

    def _inputs(self, data: Expressions, examples: np.ndarray) -> Inputs:
        inputs = assemble(data.texts, examples, data.regions, data.images[examples])
        return inputs.without_sight(keep_boxes=True) if self.spec.blind else inputs

    def logits(self, model: Model, batch: RefcocoBatch) -> torch.Tensor:
        """Return the scores [b, r] of an image's regions; padding has -10,000, and so probability 0."""
        inputs = batch.inputs.to(model.device)
        scores: torch.Tensor = model.head(model.backbone(inputs).regions, inputs.region_mask).float()
        return scores

    def loss_of(self, logits: torch.Tensor, batch: RefcocoBatch) -> torch.Tensor:
        """Return the cross-entropy over an image's regions, summed over the batch as officially."""
        return F.cross_entropy(logits, batch.targets.to(logits.device), reduction="sum")

    def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the symmetric KL over an image's regions, summed over the batch as the loss is."""
        return symmetric_kl(F.log_softmax(first, -1), F.log_softmax(second, -1)).sum()

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return accuracy on ground-truth boxes and, unless the spec asks for those, on detected ones, the headline.

        An answer is the place of a region among the headline's.
        """
        kinds = ("true", "detected") if self.spec.boxes == "detected" else ("true",)
        found = {kind: self._right(model, self.expressions(split, kind)) for kind in kinds}
        items = {kind: right for kind, (right, _) in found.items()}
        metrics = {f"accuracy/{kind}": float(right.mean()) for kind, right in items.items()}
        given = found[self.spec.boxes][1]
        answers: list[tuple[int | str, int]] = list(
            zip(self.expressions(split, self.spec.boxes).ids, given.tolist(), strict=True)
        )
        return Evaluation(f"accuracy/{self.spec.boxes}", metrics, items[self.spec.boxes], split, answers=answers)

    def _right(self, model: Model, data: Expressions) -> tuple[np.ndarray, np.ndarray]:
        """Return which expressions were found, and the places of the regions that were chosen."""
        given = np.zeros(len(data.ids), dtype=np.int64)
        boxes = np.zeros((len(data.ids), 4), dtype=np.float64)
        for examples in evaluation_batches(_lengths(data)):
            inputs = self._inputs(data, examples).to(model.device)
            scores = model.head(model.backbone(inputs).regions, inputs.region_mask)
            best = scores.argmax(-1).cpu()
            corners = inputs.boxes.cpu()[torch.arange(len(best)), best].double().numpy()
            given[examples] = best.numpy()
            boxes[examples] = corners[:, [0, 1, 4, 5]] * np.tile(data.sizes[examples], 2)
        return (overlap(boxes, data.boxes.astype(np.float64)) > OVERLAP).astype(np.float32), given

    def chance(self, split: str) -> float:
        """Return the score of guessing a region: the mean share of regions that would count as right."""
        return float(np.mean([fits.mean() for fits in self.fitting(split)]))

    def fitting(self, split: str) -> list[np.ndarray]:
        """Return for each expression which regions of its image [r] would count as right."""
        data = self.expressions(split, self.spec.boxes)
        found = []
        for image, size, true in zip(data.images, data.sizes, data.boxes, strict=True):
            corners = data.regions.boxes.row(int(image)).double().numpy()[:, [0, 1, 4, 5]] * np.tile(size, 2)
            found.append(overlap(corners, np.broadcast_to(true, corners.shape)) > OVERLAP)
        return found

    def labels(self) -> dict[str, str]:
        """Return nothing: regions are the answers."""
        return {}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Take nothing: the region head is fresh."""


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union [n] of boxes [n, 4] as x, y, w, h in pixels, counted as officially.

    The last pixel is inside (x2 = x + w - 1, one more in the intersection's sides), the areas are plain w·h.
    """
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:]) - 1
    sides = np.clip(high - low + 1, 0, None)
    inside = sides.prod(1)
    shares: np.ndarray = inside / (first[:, 2:].prod(1) + second[:, 2:].prod(1) - inside)
    return shares


def _lengths(data: Expressions) -> np.ndarray:
    lengths: np.ndarray = data.texts.lengths + data.regions.features.lengths[data.images]
    return lengths
