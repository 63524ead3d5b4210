"""A step's batch is a function of (seed, step), and rows of different lengths become a padded tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vltickets.data import BatchPlan, Ragged, stream, stream_seed
from vltickets.data.batches import BUCKET
from vltickets.data.ragged import WIDE
from vltickets.errors import UserError

LENGTHS = stream("test", "lengths").integers(5, 40, size=300)


def plan(lengths: np.ndarray = LENGTHS, *, tokens: int = 200, task: str = "vqa", seed: int = 0) -> BatchPlan:
    return BatchPlan(lengths, tokens=tokens, task=task, seed=seed)


def epochs(batches: BatchPlan, count: int) -> list[list[np.ndarray]]:
    """Return the batches of the first epochs, cut where an example comes again."""
    found: list[list[np.ndarray]] = [[]]
    seen: set[int] = set()
    step = 0
    while len(found) <= count:
        batch = batches(step)
        if seen & set(batch.tolist()):
            found.append([])
            seen = set()
        seen |= set(batch.tolist())
        found[-1].append(batch)
        step += 1
    return found[:count]


@given(order=st.permutations(range(60)))
def test_a_batch_is_the_same_in_whatever_order_steps_are_asked(order: list[int]) -> None:
    straight = plan()
    expected = [straight(step) for step in range(60)]
    asked = plan()
    for step in order:
        assert np.array_equal(asked(step), expected[step])


def test_mutant_a_plan_with_a_running_stream_depends_on_the_order() -> None:
    class Running:
        def __init__(self) -> None:
            self.rng = stream("vqa", 0, "batches")

        def __call__(self, step: int) -> np.ndarray:
            return self.rng.permutation(300)[:8]

    forth, back = Running(), Running()
    first = [forth(step) for step in range(4)]
    last = [back(step) for step in reversed(range(4))][::-1]
    assert not all(np.array_equal(a, b) for a, b in zip(first, last, strict=True))


def test_another_seed_or_task_is_another_order_but_a_second_plan_is_not() -> None:
    same, seed, task = plan(), plan(seed=1), plan(task="nlvr2")
    assert all(np.array_equal(plan()(step), same(step)) for step in range(9))
    assert not all(np.array_equal(seed(step), same(step)) for step in range(9))
    assert not all(np.array_equal(task(step), same(step)) for step in range(9))


@given(
    lengths=st.lists(st.integers(1, 50), min_size=2, max_size=200),
    tokens=st.integers(50, 400),
    seed=st.integers(0, 99),
)
def test_each_epoch_has_an_example_once_at_most_and_leaves_out_less_than_a_batch(
    lengths: list[int], tokens: int, seed: int
) -> None:
    sizes = np.array(lengths)
    batches = plan(sizes, tokens=tokens, seed=seed)
    first = batches._epoch(0)
    used = np.concatenate(first)
    assert len(set(used.tolist())) == len(used)
    left = sorted(set(range(len(sizes))) - set(used.tolist()))
    assert not left or sizes[left].max() * len(left) <= tokens
    assert all(sizes[batch].max() * len(batch) <= tokens for batch in first)


def test_epochs_follow_one_another_in_new_orders() -> None:
    first, second, third = epochs(plan(), 3)
    assert [np.concatenate(epoch).tolist() for epoch in (first, second)] != [
        np.concatenate(epoch).tolist() for epoch in (second, third)
    ]
    assert all(len(np.concatenate(epoch)) > 0.9 * len(LENGTHS) for epoch in (first, second, third))


def test_a_bucket_loses_less_than_a_batch() -> None:
    sizes = stream("test", "many").integers(5, 40, size=2 * BUCKET + 100)
    first = plan(sizes, tokens=400)._epoch(0)
    used = np.concatenate(first)
    assert len(used) == len(set(used.tolist()))
    assert len(sizes) - len(used) <= 3 * (400 // 5)
    padded = sum(sizes[batch].max() * len(batch) for batch in first)
    assert padded <= 1.05 * sizes[used].sum()


def test_an_example_longer_than_the_budget_stands_alone() -> None:
    batches = plan(np.array([500, 3, 3, 3, 3, 3]), tokens=10)._epoch(0)
    assert sorted(map(len, batches))[-1] == 3
    with_long = plan(np.array([500, 500, 3]), tokens=10)._epoch(0)
    assert all(len(batch) == 1 for batch in with_long)


def test_no_examples_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(UserError, match="vqa has no training examples"):
        plan(np.array([], dtype=np.int64))


def test_streams_of_other_names_are_other_streams() -> None:
    names = [("vqa", 0, "batch", 1), ("vqa", 0, "batch", 11), ("vqa", 0, "batch1", 1), ("nlvr2", 0, "batch", 1)]
    assert len({stream_seed(*parts) for parts in names}) == 4
    assert stream_seed("a", 1) == stream_seed("a", "1") == stream_seed("a", 1)
    assert 0 <= stream_seed("a") < 2**63
    assert stream(*names[0]).integers(1 << 40) == stream(*names[0]).integers(1 << 40)


rows_of_numbers = st.lists(st.lists(st.integers(-(2**40), 2**40), max_size=7), min_size=1, max_size=8)


@given(rows=rows_of_numbers, data=st.data())
def test_padded_rows_are_those_of_a_plain_loop(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    ragged = Ragged.from_rows(rows)
    values, mask = ragged.padded(np.array(chosen))
    width = max([len(rows[index]) for index in chosen] + [1])
    assert len(ragged) == len(rows)
    assert values.tolist() == [rows[index] + [0] * (width - len(rows[index])) for index in chosen]
    assert mask.tolist() == [[place < len(rows[index]) for place in range(width)] for index in chosen]
    assert ragged.row(chosen[0]).tolist() == rows[chosen[0]]


@pytest.mark.parametrize("numbers", [3, WIDE, WIDE + 1])  # gathered, gathered, copied row by row
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_rows_with_a_further_axis_are_padded_alike(numbers: int, counts: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    features = np.arange(offsets[-1] * numbers, dtype=np.float16).reshape(-1, numbers) % 2048 + 1
    values, mask = Ragged(features, offsets).padded(np.arange(len(counts)))
    assert values.shape == (len(counts), max(*counts, 1), numbers)
    assert values.dtype == torch.float16
    for index, count in enumerate(counts):
        assert np.array_equal(values[index, :count].numpy(), features[offsets[index] : offsets[index + 1]])
        assert not values[index, count:].any()
        assert mask[index].sum() == count


def test_batches_of_a_number_of_examples_hold_that_many_and_miss_none() -> None:
    lengths = LENGTHS[:96]
    batches = BatchPlan(lengths, tokens=1, task="vqa", seed=0, examples=16)
    seen = [batches(step) for step in range(6)]
    assert [len(batch) for batch in seen] == [16] * 6
    assert sorted(np.concatenate(seen).tolist()) == list(range(96))
