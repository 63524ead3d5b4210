"""Choosing one answer of a fixed vocabulary for a text and an image: what VQA, GQA and visual entailment share.

UNITER's answer head, binary cross-entropy on soft scores, the soft score of the arg-max answer (official-models 1.4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.data import Inputs, Questions, assemble
from vltickets.tasks.answer_transfer import fill_answers
from vltickets.tasks.heads import norm_first, two_layers
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, LogitTask, Model, evaluation_batches, mean_by


class AnswerHead(nn.Module):
    """Linear(d, 2d), GELU, LN, Linear(2d, answers) on the pooled [CLS]; official key `vqa_output`."""

    def __init__(self, hidden: int, answers: int) -> None:
        super().__init__()
        self.vqa_output = two_layers(hidden, 2 * hidden, answers)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits [b, answers]."""
        logits: torch.Tensor = self.vqa_output(pooled)
        return logits


class LxmertAnswerHead(nn.Module):
    """The same shape under LXMERT's official key `logit_fc` (official-models 4)."""

    def __init__(self, hidden: int, answers: int) -> None:
        super().__init__()
        self.logit_fc = two_layers(hidden, 2 * hidden, answers)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits [b, answers]."""
        logits: torch.Tensor = self.logit_fc(pooled)
        return logits


class ViltAnswerHead(nn.Module):
    """Linear(d, 2d), LN, GELU, Linear(2d, answers) under ViLT's official key `vqa_classifier` (official-models 5)."""

    def __init__(self, hidden: int, answers: int) -> None:
        super().__init__()
        self.vqa_classifier = norm_first(hidden, 2 * hidden, answers)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits [b, answers]."""
        logits: torch.Tensor = self.vqa_classifier(pooled)
        return logits


AnswerHeads = Callable[[int, int], nn.Module]  # from the backbone's width and the number of answers to a head


@dataclass(frozen=True)
class AnswerBatch:
    """Inputs and soft targets [b, answers]."""

    inputs: Inputs
    targets: torch.Tensor


class AnsweringTask(LogitTask):
    """A text, an image, one answer. `kinds` of questions are scored apart as well."""

    type_rows = PLAIN_TYPES

    def __init__(
        self,
        name: str,
        split: str,
        blind: bool,
        answers: list[str],
        read: Callable[[str], Questions],
        make_head: AnswerHeads = AnswerHead,
    ) -> None:
        self.name = name
        self.split = split
        self.blind = blind
        self.answers = answers
        self.make_head = make_head
        self.questions = lru_cache(maxsize=2)(read)

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the answer head."""
        return self.make_head(hidden, len(self.answers))

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.questions(self.split).regions.width

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training question."""
        return _lengths(self.questions("train"))

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> AnswerBatch:
        """Return the batch of these training questions."""
        return self._batch(self.questions("train"), examples)

    def _batch(self, data: Questions, examples: np.ndarray) -> AnswerBatch:
        inputs = assemble(data.texts, examples, data.regions, data.images[examples])
        return AnswerBatch(inputs.without_sight() if self.blind else inputs, torch.from_numpy(data.scores[examples]))

    def logits(self, model: Model, batch: AnswerBatch) -> torch.Tensor:
        """Return [b, answers]."""
        logits: torch.Tensor = model.head(model.backbone(batch.inputs.to(model.device)).pooled).float()
        return logits

    def loss_of(self, logits: torch.Tensor, batch: AnswerBatch) -> torch.Tensor:
        """Return binary cross-entropy summed over answers, mean over questions (the official scaling)."""
        return answer_loss(logits, batch.targets.to(logits.device)).sum(-1).mean()

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return the accuracy, the soft score of the arg-max answer; also by kind of question; answers in words."""
        data = self.questions(split)
        given = np.zeros(len(data.ids), dtype=np.int64)
        for examples in evaluation_batches(_lengths(data)):
            inputs = self._batch(data, examples).inputs.to(model.device)
            given[examples] = model.head(model.backbone(inputs).pooled).argmax(-1).cpu().numpy()
        items = data.scores[np.arange(len(given)), given]
        metrics = {"accuracy": float(items.mean()), **mean_by(items, data.kinds, "accuracy")}
        answers = [(question, self.answers[label]) for question, label in zip(data.ids, given.tolist(), strict=True)]
        return Evaluation("accuracy", metrics, items, split, answers=answers)

    def chance(self, split: str) -> float:
        """Return the score of the best constant answer."""
        return float(self.questions(split).scores.mean(0).max())

    def labels(self) -> dict[str, str]:
        """Return the answers in label order, one a line."""
        return {"answers": "\n".join(self.answers)}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Take nothing: the answer head is fresh, but for what `adopt_answers` knows."""

    def adopt_answers(self, head: nn.Module, pretrained: dict[str, torch.Tensor], known: list[str]) -> int:
        """Fill LXMERT's head from its pre-trained one by the answers' texts; return how many were known.

        As officially (`--loadLXMERTQA`), the rows of unknown answers are 0. Another backbone's head stays fresh.
        """
        return fill_answers(head, pretrained, known, self.answers) if isinstance(head, LxmertAnswerHead) else 0


def answer_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the element-wise binary cross-entropy [b, answers] with soft targets."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _lengths(data: Questions) -> np.ndarray:
    lengths: np.ndarray = data.texts.lengths + data.regions.features.lengths[data.images]
    return lengths
