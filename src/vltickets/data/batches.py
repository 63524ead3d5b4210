"""Which examples make up a step's batch: a pure function of (seed, step), so that a run can go on from any step.

As in the official UNITER code: a batch is a budget of tokens, counted as longest × examples; lengths are sorted within
buckets of 8,192 shuffled examples, so that little is padded; a bucket's last batch, its longest examples, is left out
(officially the incomplete one).

Examples may come in groups, such as corpora: then each step's batch is of one group, drawn by the groups' shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vltickets.data.streams import stream
from vltickets.errors import UserError

BUCKET = 8192
DRAWN = 4096  # steps whose groups are drawn at once


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


@dataclass(frozen=True)
class Groups:
    """Training examples in groups, numbered one group behind the other: what stands in the place of their lengths.

    `lengths`: of each group, its examples' tokens; `shares`: how often a step is of the group, as ratios.
    """

    names: Sequence[str]
    lengths: Sequence[np.ndarray]
    shares: Sequence[float]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.lengths) == len(self.shares):
            raise ValueError("each group needs a name, lengths and a share")
        if not min(self.shares, default=0.0) > 0:
            raise ValueError(f"the shares are {list(self.shares)}, expected numbers above 0")

    @property
    def starts(self) -> np.ndarray:
        """Each group's first example number, and behind the last group the number of all examples."""
        starts: np.ndarray = np.cumsum([0, *map(len, self.lengths)])
        return starts

    def place(self, examples: np.ndarray) -> tuple[str, np.ndarray]:
        """Return the group that a batch's examples [b] are of, and their numbers within it, from 0."""
        group = int(np.searchsorted(self.starts, examples[0], side="right")) - 1
        rows = examples - self.starts[group]
        if rows.min() < 0 or rows.max() >= len(self.lengths[group]):
            raise ValueError(f"the examples {examples.tolist()} are not all of the group {self.names[group]}")
        return self.names[group], rows


class MixedPlan:
    """The batches of a training on several groups of examples. Each group has a plan, and epochs, of its own.

    A step's group is drawn by its share; when a group is drawn for the k-th time, it gives its k-th batch.
    """

    def __init__(self, groups: Groups, *, tokens: int, task: str, seed: int, examples: int | None = None) -> None:
        self.plans = [
            BatchPlan(lengths, tokens=tokens, task=f"{task}/{name}", seed=seed, examples=examples)
            for name, lengths in zip(groups.names, groups.lengths, strict=True)
        ]
        self._starts = groups.starts
        self._shares = np.array(groups.shares) / sum(groups.shares)
        self._name = (task, seed)
        self._drawn = np.zeros(0, dtype=np.int64)  # the group of each step known so far
        self._steps: list[np.ndarray] = []  # of each group, the steps among them that are its own

    def __call__(self, step: int) -> np.ndarray:
        """Return the indices of the examples of a step (counted from 0)."""
        group, turn = self.turn(step)
        batch: np.ndarray = self.plans[group](turn) + self._starts[group]
        return batch

    def turn(self, step: int) -> tuple[int, int]:
        """Return a step's group, and how often that group was drawn before."""
        while len(self._drawn) <= step:
            rng = stream(*self._name, "groups", len(self._drawn) // DRAWN)
            self._drawn = np.append(self._drawn, rng.choice(len(self.plans), size=DRAWN, p=self._shares))
            self._steps = [np.flatnonzero(self._drawn == group) for group in range(len(self.plans))]
        group = int(self._drawn[step])
        return group, int(np.searchsorted(self._steps[group], step))


def batch_plan(
    lengths: np.ndarray | Groups, *, tokens: int, task: str, seed: int, examples: int | None = None
) -> BatchPlan | MixedPlan:
    """Return the plan of a task's examples, in groups or not."""
    if isinstance(lengths, Groups):
        return MixedPlan(lengths, tokens=tokens, task=task, seed=seed, examples=examples)
    return BatchPlan(lengths, tokens=tokens, task=task, seed=seed, examples=examples)


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
