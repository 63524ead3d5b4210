"""Patterns prune to exact counts, keep what belongs together together, and refuse shapes they can't cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vltickets as vlt
from vltickets.errors import UserError
from vltickets.tickets import Mask, Pattern, geometric, prune, random_scores, schedule_levels
from vltickets.tickets.patterns import Within

SCORES = torch.tensor([[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]])
sides = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3)
sparsities = st.floats(0, 0.999)


def tied(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Scores of which many are equal."""
    return {name: (random_scores(seed, shapes)(name) * 4).round() for name in shapes}


def one(pattern: Pattern, scores: torch.Tensor, sparsity: float, within: Within = "all") -> list[list[bool]]:
    mask = Mask.dense({"w": tuple(scores.shape)})
    return pattern.prune({"w": scores}.__getitem__, mask, sparsity, within)["w"].tolist()


def test_two_of_four_keeps_the_two_highest_of_each_group_and_of_equal_ones_the_first() -> None:
    assert one(vlt.NofM(2, 4), SCORES, 0.5) == [[False, False, True, True], [True, True, False, False]]
    assert one(vlt.NofM(1, 2), torch.ones(1, 4), 0.5) == [[True, False, True, False]]


def test_a_block_goes_as_a_whole_by_the_sum_of_its_scores() -> None:
    scores = torch.tensor([[9.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 3.0]])  # sums 9 and 12
    assert one(vlt.Block(2, 2), scores, 0.5) == [[False, False, True, True]] * 2


def test_blocks_of_a_layer_wise_criterion_are_compared_within_each_tensor() -> None:
    scores = {"a": torch.tensor([[1.0, 2.0]]).repeat_interleave(2, 1).repeat(2, 1), "b": torch.ones(2, 4)}
    mask = Mask.dense({"a": (2, 4), "b": (2, 4)})
    found = vlt.Block(2, 2).prune(scores.__getitem__, mask, 0.5, "tensor")
    assert found["a"].tolist() == [[False, False, True, True]] * 2
    assert found["b"].tolist() == [[True, True, False, False]] * 2


@given(sides=sides, n=st.integers(1, 4), more=st.integers(1, 3), seed=st.integers(0, 5))
def test_each_group_keeps_exactly_n(sides: list[tuple[int, int]], n: int, more: int, seed: int) -> None:
    pattern = vlt.NofM(n, n + more)
    shapes = {f"w{place}": (rows, groups * pattern.m) for place, (rows, groups) in enumerate(sides)}
    scores = tied(shapes, seed)
    mask = pattern.prune(scores.__getitem__, Mask.dense(shapes), pattern.sparsity)
    for name in mask:
        groups, values = mask[name].view(-1, pattern.m), scores[name].view(-1, pattern.m)
        assert groups.sum(1).tolist() == [n] * len(groups)
        for kept, value in zip(groups, values, strict=True):
            assert value[kept].min() >= value[~kept].max()
    assert pattern.prune(random_scores(9, shapes), mask, pattern.sparsity) == mask  # laid over itself: nothing changes


@given(sides=sides, size=st.tuples(st.integers(1, 4), st.integers(1, 3)), first=sparsities, second=sparsities)
@pytest.mark.parametrize("within", ["all", "tensor", "row"])
def test_blocks_are_whole_counted_exactly_and_nested(
    within: Within, sides: list[tuple[int, int]], size: tuple[int, int], first: float, second: float
) -> None:
    pattern, (low, high), seed = vlt.Block(*size), sorted((first, second)), len(sides)
    shapes = {f"w{place}": (rows * size[0], columns * size[1]) for place, (rows, columns) in enumerate(sides)}
    earlier = pattern.prune(tied(shapes, seed).__getitem__, Mask.dense(shapes), low, within)
    later = pattern.prune(tied(shapes, seed + 1).__getitem__, earlier, high, within)
    blocks = sum(rows * columns for rows, columns in sides)
    assert later.is_subset_of(earlier)
    for mask, level in ((earlier, low), (later, high)):
        assert mask.total - mask.kept == size[0] * size[1] * round(level * blocks)
        for name in mask:
            cells = mask[name].unfold(0, size[0], size[0]).unfold(1, size[1], size[1]).flatten(2)
            assert torch.equal(cells.all(2), cells.any(2))


@given(sides=sides, first=sparsities, second=sparsities, seed=st.integers(0, 5))
@pytest.mark.parametrize("within", ["all", "tensor", "row"])
def test_unstructured_masks_are_counted_exactly_and_nested_whatever_is_compared(
    within: Within, sides: list[tuple[int, int]], first: float, second: float, seed: int
) -> None:
    pattern, (low, high) = vlt.Unstructured(), sorted((first, second))
    shapes = {f"w{place}": side for place, side in enumerate(sides)}
    earlier = pattern.prune(tied(shapes, seed).__getitem__, Mask.dense(shapes), low, within)
    later = pattern.prune(tied(shapes, seed + 1).__getitem__, earlier, high, within)
    assert later.is_subset_of(earlier)
    assert [mask.total - mask.kept for mask in (earlier, later)] == [round(s * earlier.total) for s in (low, high)]


def test_within_rows_every_row_loses_the_same() -> None:
    assert one(vlt.Unstructured(), SCORES, 0.5, "row") == [[False, False, True, True], [True, True, False, False]]
    assert one(vlt.Unstructured(), SCORES, 0.5, "tensor") == [[False] * 4, [True] * 4]


def test_a_tensor_that_has_lost_its_share_already_loses_no_more() -> None:
    so_far = Mask({"a": torch.tensor([[True, True, False, False]]), "b": torch.ones(1, 4, dtype=torch.bool)})
    scores = {"a": SCORES[:1], "b": SCORES[:1]}
    found = vlt.Unstructured().prune(scores.__getitem__, so_far, 0.5, "tensor")
    assert found["a"].tolist() == [[True, True, False, False]]
    assert found["b"].tolist() == [[False, False, True, True]]


def model(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 4))


def test_a_pattern_is_reached_through_the_public_names() -> None:
    half = vlt.prune(model(), pattern=vlt.NofM(2, 4))
    assert half.sparsity == 0.5
    assert half.mask["0.weight"].view(-1, 4).sum(1).tolist() == [2] * 16
    rounds: list[int] = []
    found = vlt.find_ticket(model(), lambda model, hold: rounds.append(1), pattern=vlt.NofM(2, 4))
    assert (len(rounds), found.mask == half.mask) == (1, True)  # in one round
    blocks = vlt.find_ticket(
        model(), lambda model, hold: None, sparsity=0.5, schedule="geometric", pattern=vlt.Block(4, 4)
    )
    assert blocks.mask.total - blocks.mask.kept == 16 * 3  # of 6 blocks
    assert blocks.provenance["levels"] == list(geometric(0.1, 0.5))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pattern": vlt.NofM(2, 4), "sparsity": 0.7}, "2:4 prunes 0.5 in one step, not 0.7"),
        ({"pattern": vlt.NofM(2, 4), "schedule": "linear"}, "2:4 prunes 0.5 in one step, not 0.1"),
        ({"pattern": vlt.NofM(1, 5)}, r"0\.weight of shape \(8, 6\) can't be pruned 1:5"),
        ({"pattern": vlt.Block(4, 4), "sparsity": 0.5}, r"0\.weight of shape \(8, 6\) can't be pruned in blocks of 4"),
        ({"schedule": "cubic"}, "unknown schedule 'cubic'"),
        ({"schedule": "linear", "levels": [0.5]}, "not both"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(arguments: dict[str, Any], says: str) -> None:
    made = model(6 if "shape" in says else 8)
    with pytest.raises(UserError, match=says):
        vlt.find_ticket(made, lambda model, hold: pytest.fail("trained"), **arguments)


def test_a_mask_that_the_pattern_cannot_be_laid_over_is_refused() -> None:
    odd = Mask({"w": torch.tensor([[True, False, False, False], [True, True, True, True]])})
    with pytest.raises(UserError, match="keep fewer than 2"):
        vlt.NofM(2, 4).prune({"w": SCORES}.__getitem__, odd, 0.5)
    with pytest.raises(UserError, match="cuts through blocks of 2 × 2 in w"):
        vlt.Block(2, 2).prune({"w": SCORES}.__getitem__, odd, 0.9)


@pytest.mark.parametrize("make", [lambda: vlt.NofM(4, 4), lambda: vlt.NofM(0, 4), lambda: vlt.Block(0, 4)])
def test_patterns_that_mean_nothing_are_refused(make: Any) -> None:
    with pytest.raises(UserError):
        make()


def test_schedules_by_name() -> None:
    assert schedule_levels("one-shot", 0.7) == (0.7,)
    assert schedule_levels("linear", 0.25) == (0.1, 0.2, 0.25)
    assert schedule_levels("geometric", 0.2) == pytest.approx((0.1, 0.19, 0.2))


def test_double_scores_are_told_apart_beyond_single_precision() -> None:
    close = torch.tensor([1.0 + 1e-12, 1.0], dtype=torch.float64)
    assert prune({"w": close}.__getitem__, Mask.dense({"w": (2,)}), 0.5)["w"].tolist() == [True, False]
    assert prune({"w": close.flip(0)}.__getitem__, Mask.dense({"w": (2,)}), 0.5)["w"].tolist() == [False, True]
