"""A trained model on a whole split: what it answers, how fast, and how that differs from another model's answers."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vltickets.tasks import Evaluation, Model, Task, examples_at_once
from vltickets.tasks.refcoco import PADDING_SCORE
from vltickets.training import evaluate


@dataclass(frozen=True)
class Answered:
    """A model's evaluation. `first`: seconds of the first batch, `seconds`: of all; `logits`: all the head said."""

    evaluation: Evaluation
    first: float
    seconds: float
    logits: list[Tensor]

    @property
    def per_second(self) -> float:
        """Items a second, the assembly of batches included."""
        return len(self.evaluation.items) / self.seconds


@dataclass(frozen=True)
class Difference:
    """How two models differ on the same items.

    `answers`, `scores`: how many items are answered, and scored, otherwise. `logit`: the largest difference of two
    logits; `largest`: the largest logit, in size, of the second model, padding apart.
    """

    answers: int
    scores: int
    logit: float
    largest: float


def answer(model: Model, task: Task, split: str, *, threads: int = 1, batch: int | None = None) -> Answered:
    """Answer every item of a split with a model that has a head of its own for the task.

    Args:
        batch: examples at once; None: as many as fill a budget of tokens. Retrieval, where every text meets every
            image, goes its own way.
        threads: of torch; a compiled model has its own besides.
    """
    first: list[float] = []  # when the first batch went in, and when its answers came out
    logits: list[Tensor] = []

    def entered(*_: Any) -> None:
        first.append(time.perf_counter())
        for hook in waiting:
            hook.remove()

    def left(_: Any, __: Any, said: Tensor) -> None:
        if not logits:
            first.append(time.perf_counter())
        logits.append(said.detach().float().flatten())

    task.chance(split)  # reads the data, so that no model's time has it
    waiting = [part.register_forward_pre_hook(entered) for part in model.modules()]
    watching = model.head.register_forward_hook(left)
    try:
        with examples_at_once(batch):
            begun = time.perf_counter()
            evaluation = evaluate(model, task, split, threads=threads)
            seconds = time.perf_counter() - begun
    finally:
        watching.remove()
    return Answered(evaluation, first[1] - first[0], seconds, logits)


def differ(one: Answered, other: Answered) -> Difference:
    """Return how two models' answers to the same batches differ."""
    pairs = list(zip(one.evaluation.answers, other.evaluation.answers, strict=True))
    logit, largest = 0.0, 0.0
    for said, expected in zip(one.logits, other.logits, strict=True):
        alike = torch.equal(said.isfinite(), expected.isfinite())  # a maximum would pass over what is no number
        logit = max(logit, float((said - expected).abs().nan_to_num(0.0).max())) if alike else math.inf
        largest = max(largest, float(expected[expected > PADDING_SCORE].abs().max()))
    return Difference(
        answers=sum(mine != theirs for mine, theirs in pairs),
        scores=int((one.evaluation.items != other.evaluation.items).sum()),
        logit=logit,
        largest=largest,
    )
