"""Which examples make up a step's batch: a pure function of (seed, step), so that a run can go on from any step.

As in the official UNITER code: a batch is a budget of tokens, counted as longest × examples; lengths are sorted within
buckets of 8,192 shuffled examples, so that little is padded; a bucket's last batch, its longest examples, is left out
(officially the incomplete one).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vltickets.data.streams import stream
from vltickets.errors import UserError

BUCKET = 8192


class BatchPlan:
    """The batches of a training. `lengths` counts each example's tokens, words and regions together.

    A batch is `tokens` at most, or exactly `examples` examples (the last of a bucket has what is left) where given.
    """

    def __init__(self, lengths: np.ndarray, *, tokens: int, task: str, seed: int, examples: int | None = None) -> None:
        self.lengths = np.asarray(lengths)
        if not len(self.lengths):
            raise UserError(f"the task {task} has no training examples")
        self.tokens = tokens
        self.examples = examples
        self._name = (task, seed)
        self._epochs: list[int] = [0]  # the first step of each epoch known so far
        self._current: tuple[int, list[np.ndarray]] = (-1, [])

    def __call__(self, step: int) -> np.ndarray:
        """Return the indices of the examples of a step (counted from 0)."""
        while self._epochs[-1] <= step:
            self._epochs.append(self._epochs[-1] + len(self._epoch(len(self._epochs) - 1)))
        epoch = int(np.searchsorted(self._epochs, step, side="right")) - 1
        return self._epoch(epoch)[step - self._epochs[epoch]]

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        if self._current[0] != epoch:
            self._current = (epoch, self._plan(epoch))
        return self._current[1]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        rng = stream(*self._name, "batches", epoch)
        order = rng.permutation(len(self.lengths))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), BUCKET):
            bucket = order[start : start + BUCKET]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            if self.examples is not None:
                batches += np.split(bucket, range(self.examples, len(bucket), self.examples))
                continue
            cut = list(cut_batches(bucket, self.lengths, self.tokens))
            batches += cut[:-1] or cut
        return [batches[place] for place in rng.permutation(len(batches))]


def cut_batches(order: np.ndarray, lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Cut a sequence of examples into batches whose longest example times their number stays within `tokens`.

    An example longer than the budget stands alone.
    """
    start, longest = 0, 0
    for place, example in enumerate(order):
        longest = max(longest, int(lengths[example]))
        if place > start and longest * (place - start + 1) > tokens:
            yield order[start:place]
            start, longest = place, int(lengths[example])
    if start < len(order):
        yield order[start:]
