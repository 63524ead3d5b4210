"""VQA: UNITER's answer head, binary cross-entropy on soft scores, soft accuracy (official-models 1.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.data import Inputs, Questions, Source, assemble
from vltickets.specs import Vqa
from vltickets.tasks.protocol import Evaluation, Model, evaluation_batches, mean_by


class VqaHead(nn.Module):
    """Linear(d, 2d), GELU, LN, Linear(2d, answers) on the pooled [CLS]; official key `vqa_output`."""

    def __init__(self, hidden: int, answers: int) -> None:
        super().__init__()
        self.vqa_output = nn.Sequential(
            nn.Linear(hidden, 2 * hidden),
            nn.GELU(),
            nn.LayerNorm(2 * hidden, eps=1e-12),
            nn.Linear(2 * hidden, answers),
        )

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits [b, answers]."""
        logits: torch.Tensor = self.vqa_output(pooled)
        return logits


@dataclass(frozen=True)
class VqaBatch:
    """Inputs and soft targets [b, answers]."""

    inputs: Inputs
    targets: torch.Tensor


class VqaTask:
    """Visual question answering over a fixed answer vocabulary."""

    name = "vqa"
    type_count = 2

    def __init__(self, spec: Vqa, source: Source, answers: list[str] | None = None) -> None:
        self.spec = spec
        self.source = source
        self.answers = answers if answers is not None else source.answers()
        self.questions = lru_cache(maxsize=2)(lambda split: source.vqa(split, self.answers))

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the answer head."""
        return VqaHead(hidden, len(self.answers))

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.questions(self.spec.split).regions.width

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training question."""
        return _lengths(self.questions("train"))

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> VqaBatch:
        """Return the batch of these training questions."""
        return self._batch(self.questions("train"), examples)

    def _batch(self, data: Questions, examples: np.ndarray) -> VqaBatch:
        inputs = assemble(data.texts, examples, data.regions, data.images[examples])
        return VqaBatch(inputs.without_sight() if self.spec.blind else inputs, torch.from_numpy(data.scores[examples]))

    def loss(self, model: Model, batch: VqaBatch) -> torch.Tensor:
        """Return binary cross-entropy summed over answers, mean over questions (the official scaling)."""
        logits = model.head(model.backbone(batch.inputs.to(model.device)).pooled).float()
        return vqa_loss(logits, batch.targets.to(logits.device)).sum(-1).mean()

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return the soft accuracy: the score of the arg-max answer; also by answer type."""
        data = self.questions(split)
        items = np.zeros(len(data.ids), dtype=np.float32)
        for examples in evaluation_batches(_lengths(data)):
            inputs = self._batch(data, examples).inputs.to(model.device)
            best = model.head(model.backbone(inputs).pooled).argmax(-1).cpu().numpy()
            items[examples] = data.scores[examples, best]
        metrics = {"accuracy": float(items.mean()), **mean_by(items, data.kinds, "accuracy")}
        return Evaluation("accuracy", metrics, items, split)

    def chance(self, split: str) -> float:
        """Return the score of the best constant answer."""
        return float(self.questions(split).scores.mean(0).max())

    def labels(self) -> dict[str, str]:
        """Return the answers in label order, one a line."""
        return {"answers": "\n".join(self.answers)}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Take nothing: VQA's head is fresh."""


def vqa_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the element-wise binary cross-entropy [b, answers] with soft targets."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _lengths(data: Questions) -> np.ndarray:
    lengths: np.ndarray = data.texts.lengths + data.regions.features.lengths[data.images]
    return lengths
