"""What a task is: data, a head with weights φ, a loss, and a metric. Knows no tickets.

Axes: b batch, t text, r regions, d hidden width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.backbones import Backbone
from vltickets.data import Groups, cut_batches

PLAIN_TYPES: tuple[int, ...] = (0, 1)  # words and regions


class Model(nn.Module):
    """f(x; θ, φ): a backbone with weights θ and a task's head with weights φ."""

    backbone: Backbone

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone  # type: ignore[assignment]
        self.head = head

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


@dataclass(frozen=True)
class Evaluation:
    """A model's score on a split. `items` [examples] is the headline metric item by item, its mean the headline.

    Keeping the items lets two models be compared pair by pair. `more_items` are those of further metrics, by name.
    `answers`: each item's id and what the model answered, as the task says it.
    """

    headline: str
    metrics: dict[str, float]
    items: np.ndarray
    split: str
    more_items: dict[str, np.ndarray] = field(default_factory=dict)
    answers: list[tuple[int | str, Any]] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The headline metric."""
        return self.metrics[self.headline]


class Task(Protocol):
    """One task over one source of data."""

    name: str
    type_rows: tuple[int, ...]  # the token types it uses, each by the row of θ₀'s table that it starts from

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return a new, uninitialised head φ."""

    def region_width(self) -> int:
        """Return how many numbers a region's feature has in this data."""

    def lengths(self) -> np.ndarray | Groups:
        """Return the tokens (words and regions) of each training example; several corpora are `Groups` of them."""

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Any:
        """Return the training batch of these examples; whatever is drawn for it comes from `rng`."""

    def loss(self, model: Model, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch."""

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Score the model, in evaluation mode and without gradients, on every item of a split."""

    def chance(self, split: str) -> float:
        """Return the score of the best constant answer, or of guessing."""

    def labels(self) -> dict[str, str]:
        """Return what a model needs beside its weights to be scored elsewhere, such as the answers' order."""

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Fill from the pre-training heads whatever this task's head officially takes from them."""


@runtime_checkable
class TakesAnswers(Protocol):
    """A task whose head may start from a head that was pre-trained on other answers."""

    def adopt_answers(self, head: nn.Module, pretrained: dict[str, torch.Tensor], known: list[str]) -> int:
        """Fill the rows of answers that are among the `known` ones; return how many these are."""


class LogitTask:
    """A task whose loss is a function of logits [..., classes]: one that can be trained adversarially."""

    def settled(self, model: Model, batch: Any) -> Any:
        """Return the batch with what the model itself chooses for it, without gradient: nothing in most tasks."""
        return batch

    def logits(self, model: Model, batch: Any) -> torch.Tensor:
        """Return the logits of a settled batch in float32, the classes on the last axis."""
        raise NotImplementedError

    def loss_of(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch whose logits these are."""
        raise NotImplementedError

    def loss(self, model: Model, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch."""
        batch = self.settled(model, batch)
        return self.loss_of(self.logits(model, batch), batch)

    def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return KL(p||q) + KL(q||p) of the soft-maxes of two batches' logits, mean over examples.

        A soft-max even where the loss is binary cross-entropy, as VILLA has it for VQA and VE (official-models 6).
        """
        return symmetric_kl(F.log_softmax(first, -1), F.log_softmax(second, -1)).mean()


def symmetric_kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return KL(p||q) + KL(q||p) [...] of log-probabilities [..., classes], summed over classes."""
    return ((first.exp() - second.exp()) * (first - second)).sum(-1)


_at_once: ContextVar[int | None] = ContextVar("examples at once", default=None)


@contextmanager
def examples_at_once(count: int | None) -> Iterator[None]:
    """Within this, evaluation takes so many examples at once; None: as many as fill a budget of tokens."""
    before = _at_once.set(count)
    try:
        yield
    finally:
        _at_once.reset(before)


def evaluation_batches(lengths: np.ndarray, tokens: int = 8192) -> Iterator[np.ndarray]:
    """Yield batches of all examples, sorted by length so that little is padded; every example exactly once."""
    order, count = np.argsort(lengths, kind="stable"), _at_once.get()
    if count is None:
        yield from cut_batches(order, lengths, tokens)
    else:
        yield from (order[start : start + count] for start in range(0, len(order), count))


def mean_by(items: np.ndarray, groups: Iterable[str], prefix: str) -> dict[str, float]:
    """Return the mean of `items` within each group, named `prefix/group`."""
    names = np.array(list(groups))
    return {f"{prefix}/{name}": float(items[names == name].mean()) for name in sorted(set(names.tolist()))}
