"""NLVR2: a text and two images, in two passes or in one sequence; UNITER's three heads and LXMERT's (1.4, 4)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.backbones import Outputs
from vltickets.data import Inputs, Pairs, Source, assemble, joined
from vltickets.specs import Nlvr2
from vltickets.tasks.heads import norm_first, two_layers
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, LogitTask, Model, evaluation_batches

LEFT_TYPE, RIGHT_TYPE = 1, 2


class PairedHead(nn.Module):
    """The pooled [CLS] of both passes side by side, one linear layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.nlvr2_output = nn.Linear(2 * hidden, 2)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """Return logits [pairs, 2]; rows 2k and 2k + 1 of the outputs are one pair."""
        pooled = outputs.pooled
        logits: torch.Tensor = self.nlvr2_output(pooled.view(-1, 2 * pooled.shape[1]))
        return logits


class LxmertPairedHead(nn.Module):
    """The pooled [CLS] of both passes side by side, then two layers; LXMERT's key `logit_fc` (official-models 4)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.logit_fc = two_layers(2 * hidden, 2 * hidden, 2)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """Return logits [pairs, 2]; rows 2k and 2k + 1 of the outputs are one pair."""
        pooled = outputs.pooled
        logits: torch.Tensor = self.logit_fc(pooled.view(-1, 2 * pooled.shape[1]))
        return logits


class TripletHead(nn.Module):
    """Both images in one sequence with the text: one linear layer on the pooled [CLS]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.nlvr2_output = nn.Linear(hidden, 2)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """Return logits [pairs, 2]; a row of the outputs is one pair."""
        logits: torch.Tensor = self.nlvr2_output(outputs.pooled)
        return logits


class PairedAttentionHead(nn.Module):
    """Each side attends to the other, is joined with itself, pooled by attention; official keys throughout."""

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn1 = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.attn2 = nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True)
        self.fc = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.attn_pool = AttentionPool(hidden, dropout)
        self.nlvr2_output = nn.Linear(2 * hidden, 2)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """Return logits [pairs, 2]; rows 2k and 2k + 1 of the outputs are one pair."""
        left, right = outputs.sequence[0::2], outputs.sequence[1::2]
        left_padding, right_padding = ~outputs.mask[0::2], ~outputs.mask[1::2]
        to_right, _ = self.attn1(left, right, right, key_padding_mask=right_padding, need_weights=False)
        to_left, _ = self.attn2(right, left, left, key_padding_mask=left_padding, need_weights=False)
        left_pooled = self.attn_pool(self.fc(torch.cat([to_right, left], -1)), left_padding)
        right_pooled = self.attn_pool(self.fc(torch.cat([to_left, right], -1)), right_padding)
        logits: torch.Tensor = self.nlvr2_output(torch.cat([left_pooled, right_pooled], -1))
        return logits


class AttentionPool(nn.Module):
    """A weighted mean of states; the weights come from a linear layer with ReLU, -1e4 at padding, soft-max."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(hidden, 1), nn.ReLU())
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Return [b, d]."""
        scores = self.fc(states).squeeze(-1) + padding.to(states.dtype) * -1e4
        weights = self.dropout(F.softmax(scores, dim=1))
        pooled: torch.Tensor = (weights[:, None] @ states).squeeze(1)
        return pooled


@dataclass(frozen=True)
class Nlvr2Batch:
    """Inputs of 2b rows, left and right in turn (triplet: of b rows, with both images), and labels [b]."""

    inputs: Inputs
    labels: torch.Tensor


class Nlvr2Task(LogitTask):
    """Is the sentence true of the pair of images?"""

    name = "nlvr2"
    type_rows: tuple[int, ...] = (0, 1, 1)  # the right image's type starts as a copy of the left's, officially

    def __init__(self, spec: Nlvr2, source: Source, heads: int) -> None:
        self.spec = spec
        self.heads = heads
        self.pairs = lru_cache(maxsize=2)(source.nlvr2)

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the head that the spec names."""
        if self.spec.head == "triplet":
            return TripletHead(hidden)
        if self.spec.head == "paired":
            return PairedHead(hidden)
        return PairedAttentionHead(hidden, self.heads, dropout)

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.pairs(self.spec.split).regions.width

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training example, both passes together."""
        return _lengths(self.pairs("train"))

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Nlvr2Batch:
        """Return the batch of these training examples."""
        return self._batch(self.pairs("train"), examples)

    def _batch(self, data: Pairs, examples: np.ndarray) -> Nlvr2Batch:
        inputs = _both_in_one(data, examples) if self.spec.head == "triplet" else _two_passes(data, examples)
        labels = torch.from_numpy(data.labels[examples])
        return Nlvr2Batch(inputs.without_sight() if self.spec.blind else inputs, labels)

    def logits(self, model: Model, batch: Nlvr2Batch) -> torch.Tensor:
        """Return [b, 2] of false and true."""
        logits: torch.Tensor = model.head(model.backbone(batch.inputs.to(model.device))).float()
        return logits

    def loss_of(self, logits: torch.Tensor, batch: Nlvr2Batch) -> torch.Tensor:
        """Return the two-way cross-entropy, mean over examples."""
        return F.cross_entropy(logits, batch.labels.to(logits.device))

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return accuracy, and consistency: the share of sentences that are judged rightly on all their pairs.

        An answer is true or false.
        """
        data = self.pairs(split)
        given = np.zeros(len(data.labels), dtype=np.int64)
        for examples in evaluation_batches(_lengths(data)):
            batch = self._batch(data, examples)
            given[examples] = model.head(model.backbone(batch.inputs.to(model.device))).argmax(-1).cpu().numpy()
        items = (given == data.labels).astype(np.float32)
        metrics = {"accuracy": float(items.mean()), "consistency": consistency(data.identifiers, items)}
        answers: list[tuple[int | str, bool]] = list(zip(data.identifiers, (given == 1).tolist(), strict=True))
        return Evaluation("accuracy", metrics, items, split, answers=answers)

    def chance(self, split: str) -> float:
        """Return the score of the best constant answer."""
        share = float(self.pairs(split).labels.mean())
        return max(share, 1 - share)

    def labels(self) -> dict[str, str]:
        """Return nothing: the labels are False and True."""
        return {}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Take nothing: NLVR2's head is fresh."""


class LxmertNlvr2Task(Nlvr2Task):
    """The same with LXMERT's one head: two passes, whatever UNITER's head is called; its regions have no types."""

    type_rows = PLAIN_TYPES

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return LXMERT's head."""
        return LxmertPairedHead(hidden)


class ViltPairedHead(nn.Module):
    """The pooled [CLS] of both passes side by side, then two layers: ViLT's `nlvr2_classifier` (official-models 5)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.nlvr2_classifier = norm_first(2 * hidden, 2 * hidden, 2)

    def forward(self, outputs: Outputs) -> torch.Tensor:
        """Return logits [pairs, 2]; rows 2k and 2k + 1 of the outputs are one pair."""
        pooled = outputs.pooled
        logits: torch.Tensor = self.nlvr2_classifier(pooled.view(-1, 2 * pooled.shape[1]))
        return logits


class ViltNlvr2Task(Nlvr2Task):
    """The same with ViLT's one head: two passes, whose patches have types of their own."""

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return ViLT's head."""
        return ViltPairedHead(hidden)


def _two_passes(data: Pairs, examples: np.ndarray) -> Inputs:
    inputs = assemble(data.texts, np.repeat(examples, 2), data.regions, data.images[examples].ravel())
    types = torch.tensor([LEFT_TYPE, RIGHT_TYPE]).repeat(len(examples))[:, None].expand_as(inputs.region_types)
    return replace(inputs, region_types=types)


def _both_in_one(data: Pairs, examples: np.ndarray) -> Inputs:
    left, right = (assemble(data.texts, examples, data.regions, data.images[examples, side]) for side in (0, 1))
    return joined(left, replace(right, region_types=torch.full_like(right.region_types, RIGHT_TYPE)))


def consistency(identifiers: list[str], right: np.ndarray) -> float:
    """Return the share of sentences (split, set, sentence) for which every pair is judged rightly (official script)."""
    by_sentence: dict[tuple[str, str, str], bool] = defaultdict(lambda: True)
    for identifier, good in zip(identifiers, right, strict=True):
        split, group, _, sentence = identifier.split("-")
        by_sentence[split, group, sentence] &= bool(good)
    return sum(by_sentence.values()) / max(len(by_sentence), 1)


def _lengths(data: Pairs) -> np.ndarray:
    lengths: np.ndarray = 2 * data.texts.lengths + data.regions.features.lengths[data.images].sum(-1)
    return lengths
