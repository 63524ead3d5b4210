"""VCR: which of four answers, and why: which of four rationales. Q→A, QA→R and, both right, Q→AR (official-models 1.5).

Training mixes both questions, as officially: each item once as Q→A and once as QA→R under its right answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.data import Choices, Inputs, Ragged, Source, Vocabulary, assemble, joined
from vltickets.specs import Vcr
from vltickets.tasks.heads import two_layers
from vltickets.tasks.protocol import Evaluation, LogitTask, Model, evaluation_batches

CANDIDATES = 4
QUESTION_TYPE, ANSWER_TYPE, RATIONALE_TYPE = 0, 2, 3


class VcrHead(nn.Module):
    """Linear(d, 2d), ReLU, LN, Linear(2d, 2) on the pooled [CLS] of one candidate; official key `vcr_output`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.vcr_output = two_layers(hidden, 2 * hidden, 2, nn.ReLU)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits [candidates, 2] of wrong and right."""
        logits: torch.Tensor = self.vcr_output(pooled)
        return logits


@dataclass(frozen=True)
class VcrBatch:
    """Inputs of 4 rows an example, candidate by candidate, and labels [4b]: 1 for the right one."""

    inputs: Inputs
    labels: torch.Tensor


class VcrTask(LogitTask):
    """Visual commonsense reasoning. Training example 2i is item i as Q→A, example 2i + 1 the same as QA→R."""

    name = "vcr"
    type_rows: tuple[int, ...] = (0, 1, 0, 0)  # officially answers' and rationales' types start as the text's

    def __init__(self, spec: Vcr, source: Source) -> None:
        self.spec = spec
        self.choices = lru_cache(maxsize=2)(source.vcr)
        self.sequences = lru_cache(maxsize=2)(lambda split: candidate_texts(self.choices(split), source.vocabulary))

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the candidate head."""
        return VcrHead(hidden)

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.choices(self.spec.split).objects.width

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training example, its four candidates together."""
        return self._lengths("train")

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> VcrBatch:
        """Return the batch of these training examples."""
        return self._batch("train", examples)

    def _batch(self, split: str, examples: np.ndarray) -> VcrBatch:
        data, (texts, types) = self.choices(split), self.sequences(split)
        rows = (examples[:, None] * CANDIDATES + np.arange(CANDIDATES)).ravel()
        items = np.repeat(examples // 2, CANDIDATES)
        seen = assemble(texts, rows, data.objects, data.object_images[items])
        detected = assemble(texts, rows, data.detected, data.detected_images[items])
        inputs = replace(joined(seen, detected), token_types=types.padded(rows)[0])
        right = _right_places(data, examples)
        labels = torch.from_numpy((np.arange(CANDIDATES) == right[:, None]).astype(np.int64).ravel())
        return VcrBatch(inputs.without_sight() if self.spec.blind else inputs, labels)

    def logits(self, model: Model, batch: VcrBatch) -> torch.Tensor:
        """Return [candidates, 2] of wrong and right."""
        logits: torch.Tensor = model.head(model.backbone(batch.inputs.to(model.device)).pooled).float()
        return logits

    def loss_of(self, logits: torch.Tensor, batch: VcrBatch) -> torch.Tensor:
        """Return the two-way cross-entropy of each candidate, mean over candidates."""
        return F.cross_entropy(logits, batch.labels.to(logits.device))

    def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the symmetric KL, mean over candidates *and* the two classes: half of the sum, as VILLA has it."""
        return super().divergence(first, second) / first.shape[-1]

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return Q→A, QA→R under the right answer, and Q→AR, the headline: both right.

        An answer is two places, of the answer and of the rationale, from 0; -1 where the best score stands twice.
        """
        data = self.choices(split)
        given = np.zeros(2 * len(data.ids), dtype=np.int64)
        for examples in evaluation_batches(self._lengths(split)):
            inputs = self._batch(split, examples).inputs.to(model.device)
            scores = model.head(model.backbone(inputs).pooled)[:, 1].float().view(-1, CANDIDATES)
            given[examples] = chosen(scores.cpu().numpy())
        right = (given == _right_places(data, np.arange(len(given)))).astype(np.float32)
        answer, rationale = right[0::2], right[1::2]
        both = answer * rationale
        metrics = {"q_ar": float(both.mean()), "q_a": float(answer.mean()), "qa_r": float(rationale.mean())}
        answers: list[tuple[int | str, list[int]]] = list(zip(data.ids, given.reshape(-1, 2).tolist(), strict=True))
        return Evaluation("q_ar", metrics, both, split, answers=answers)

    def _lengths(self, split: str) -> np.ndarray:
        data, (texts, _) = self.choices(split), self.sequences(split)
        regions = data.objects.features.lengths[data.object_images]
        regions = regions + data.detected.features.lengths[data.detected_images]
        longest = texts.lengths.reshape(-1, CANDIDATES).max(1)
        lengths: np.ndarray = CANDIDATES * (longest + np.repeat(regions, 2))
        return lengths

    def chance(self, split: str) -> float:
        """Return the score of the best constant choice of places."""
        data = self.choices(split)
        places = np.zeros((CANDIDATES, CANDIDATES))
        np.add.at(places, (data.answer_labels, data.rationale_labels), 1)
        return float(places.max() / max(len(data.ids), 1))

    def labels(self) -> dict[str, str]:
        """Return nothing: candidates bring their own words."""
        return {}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Take nothing: the candidate head is fresh."""


def _right_places(data: Choices, examples: np.ndarray) -> np.ndarray:
    items = examples // 2
    places: np.ndarray = np.where(examples % 2 == 0, data.answer_labels[items], data.rationale_labels[items])
    return places


def chosen(scores: np.ndarray) -> np.ndarray:
    """Return the place of the best candidate [b] of scores [b, 4]; -1 where the best score stands twice.

    A model that scores all alike must not be right by the order in which the candidates stand.
    """
    best = scores.max(1, keepdims=True)
    places: np.ndarray = np.where((scores == best).sum(1) == 1, scores.argmax(1), -1)
    return places


def candidate_texts(data: Choices, vocabulary: Vocabulary) -> tuple[Ragged, Ragged]:
    """Return the candidates' tokens and token types: rows 8i to 8i + 3 item i's answers, the next four its rationales.

    [CLS] q [SEP] a [SEP] with types 0…, 2…; [CLS] q [SEP] a [SEP] r [SEP] with types 0…, 2…, 3… (official-models 1.5).
    """
    cls, sep = [vocabulary.cls], [vocabulary.sep]
    texts, types = [], []
    for item in range(len(data.ids)):
        question = data.questions.row(item).tolist()
        answers = [data.answers.row(CANDIDATES * item + place).tolist() for place in range(CANDIDATES)]
        asked = [QUESTION_TYPE] * (1 + len(question))
        for answer in answers:
            texts.append(cls + question + sep + answer + sep)
            types.append(asked + [ANSWER_TYPE] * (len(answer) + 2))
        right = answers[data.answer_labels[item]]
        for place in range(CANDIDATES):
            rationale = data.rationales.row(CANDIDATES * item + place).tolist()
            texts.append(cls + question + sep + right + sep + rationale + sep)
            types.append(asked + [ANSWER_TYPE] * (len(right) + 1) + [RATIONALE_TYPE] * (len(rationale) + 2))
    return Ragged.from_rows(texts), Ragged.from_rows(types)
