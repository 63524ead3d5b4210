"""The batches of a training, part by part, made as they are needed or in the background while a step computes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch

from vltickets.data import batch_plan, stream
from vltickets.specs import Recipe
from vltickets.tasks import Task


@dataclass(frozen=True)
class Part:
    """One part of a step's batch: its place among the parts, its share of the examples, and whether it is the last."""

    batch: Any
    place: int
    share: float
    last: bool


def parts_of(task: Task, recipe: Recipe, seed: int, steps: range) -> Iterator[Part]:
    """Yield the parts of the steps' batches, one step's behind the other's: functions of (seed, step) alone.

    What is drawn for a step's batches is drawn part after part.
    """
    plan = batch_plan(
        task.lengths(), tokens=recipe.batch_tokens, examples=recipe.batch_examples, task=task.name, seed=seed
    )
    for step in steps:
        examples, rng = plan(step), stream(task.name, seed, "batch", step)
        parts = np.array_split(examples, min(recipe.accumulation, len(examples)))
        for place, part in enumerate(parts):
            yield Part(task.batch(part, rng), place, len(part) / len(examples), place == len(parts) - 1)


def of_one_step(parts: Iterator[Part]) -> Iterator[Part]:
    """Yield the next parts up to the last of their step."""
    for part in parts:
        yield part
        if part.last:
            return


def in_background(parts: Iterator[Part], threads: int) -> Iterator[Part]:
    """Yield the same parts, the next one always being made, in a thread of its own with `threads` of torch's.

    On a machine with a GPU their tensors are pinned, so that the copy to the GPU does not hold the step up. What goes
    wrong in the thread is raised here, at its part.
    """
    pool = ThreadPoolExecutor(1, "batches", initializer=torch.set_num_threads, initargs=(threads,))

    def take() -> Part | None:
        part = next(parts, None)
        return part if part is None or not torch.cuda.is_available() else replace(part, batch=pinned(part.batch))

    try:
        coming = pool.submit(take)
        while (part := coming.result()) is not None:
            coming = pool.submit(take)
            yield part
    finally:
        pool.shutdown()


def pinned(value: Any) -> Any:
    """Return a batch with its tensors in pinned memory: those in dataclasses, lists and tuples, however deep."""
    if isinstance(value, torch.Tensor):
        return value.pin_memory()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: pinned(getattr(value, item.name)) for item in fields(value) if item.init})
    if type(value) in (list, tuple):
        return type(value)(map(pinned, value))
    return value
