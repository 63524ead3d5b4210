"""Changed training pictures (RandAugment) for any task that reads patches; evaluation stays as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vltickets.data import Inputs, stream
from vltickets.data.augmentation import augmented
from vltickets.specs import Pixels, TaskSpec
from vltickets.tasks.protocol import Task


def augment_training(task: Task, spec: TaskSpec, pixels: Pixels) -> None:
    """Make a task change the pictures of its training batches, as its spec says.

    What is drawn comes from the batch's own generator, after all else: a function of seed and step, the same for a
    dense model and a masked one, and what the batch is made of does not move.
    """
    plain = task.batch

    def changed(seed: int, inputs: Inputs) -> Inputs:
        return augmented(inputs, pixels, spec.augment, spec.magnitude, stream("augmentation", seed))

    def batch(examples: np.ndarray, rng: np.random.Generator) -> Any:
        found = plain(examples, rng)
        if isinstance(found, list):  # retrieval's pairs, which become inputs when the model is known
            return [replace(pairs, changed=partial(changed, _drawn(rng))) for pairs in found]
        return replace(found, inputs=changed(_drawn(rng), found.inputs))

    task.batch = batch  # type: ignore[method-assign]


def _drawn(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))
