"""A mask of sparsity s has exactly round(s · d₁) zeros whatever the ties, and a later one is a subset of an earlier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vltickets.backbones import prunable_shapes
from vltickets.errors import UserError
from vltickets.specs import Uniter
from vltickets.tickets import (
    Mask,
    geometric,
    linear,
    prune,
    prune_by_magnitude,
    prune_like,
    random_scores,
    zeros_at,
)
from vltickets.tickets.pruning import SAMPLE

Weights = dict[str, torch.Tensor]
Pruner = Callable[[Weights, Mask, float], Mask]

few_values = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 2.0, -2.0])
any_values = st.floats(width=32, allow_nan=False)
tensors = st.one_of(
    arrays(np.float32, array_shapes(max_dims=2, max_side=9), elements=few_values, fill=st.nothing()),
    arrays(np.float32, array_shapes(max_dims=2, max_side=9), elements=any_values),
)
some_weights = st.dictionaries(st.sampled_from("abcd"), tensors, min_size=1).map(
    lambda found: {name: torch.from_numpy(array) for name, array in found.items()}
)
sparsities = st.floats(0, 0.999)


def dense(weights: Mapping[str, torch.Tensor]) -> Mask:
    return Mask.dense({name: tuple(tensor.shape) for name, tensor in weights.items()})


def by_full_sort(weights: Weights, mask: Mask, sparsity: float) -> Mask:
    """The reference: sort all kept weights by size, the later of equal ones first, and remove from the front."""
    flat = [
        (float(value.abs()), -place, name, index)
        for place, (name, index, value) in enumerate(
            (name, index, value) for name in sorted(weights) for index, value in enumerate(weights[name].flatten())
        )
        if bool(mask[name].flatten()[index])
    ]
    kept = {name: mask[name].clone() for name in mask}
    amount = round(sparsity * mask.total) - (mask.total - mask.kept)
    for _, _, name, index in sorted(flat)[:amount]:
        kept[name].view(-1)[index] = False
    return Mask(kept)


def check_counts_and_nesting(pruner: Pruner, weights: Weights, first: float, second: float) -> None:
    low, high = sorted((first, second))
    earlier = pruner(weights, dense(weights), low)
    later = pruner(weights, earlier, high)
    total = sum(tensor.numel() for tensor in weights.values())
    assert (earlier.total - earlier.kept, later.total - later.kept) == (round(low * total), round(high * total))
    assert later.is_subset_of(earlier)


@given(weights=some_weights, first=sparsities, second=sparsities)
def test_masks_have_exact_counts_whatever_the_ties_and_are_nested(
    weights: Weights, first: float, second: float
) -> None:
    before = {name: tensor.clone() for name, tensor in weights.items()}
    check_counts_and_nesting(prune_by_magnitude, weights, first, second)
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@given(shape=array_shapes(max_dims=3, max_side=9), value=any_values, first=sparsities, second=sparsities)
def test_equal_weights_are_pruned_to_the_exact_count_too(
    shape: tuple[int, ...], value: float, first: float, second: float
) -> None:
    weights = {"a": torch.full(shape, value), "b": torch.full((3, 2), value)}
    check_counts_and_nesting(prune_by_magnitude, weights, first, second)


def test_mutant_a_bare_threshold_miscounts_ties() -> None:
    def bare(weights: Weights, mask: Mask, sparsity: float) -> Mask:
        flat = torch.cat([weights[name].abs().flatten() for name in mask])
        threshold = flat.kthvalue(max(round(sparsity * len(flat)), 1)).values
        return Mask({name: mask[name] & (weights[name].abs() > threshold) for name in mask})

    distinct = {"a": torch.arange(1.0, 11.0)}
    check_counts_and_nesting(bare, distinct, 0.3, 0.5)
    with pytest.raises(AssertionError):
        check_counts_and_nesting(bare, {"a": torch.ones(10)}, 0.3, 0.5)


def test_mutant_a_pruner_that_forgets_the_mask_is_not_nested() -> None:
    moved = iter([torch.arange(1.0, 11.0), torch.arange(10.0, 0.0, -1)])

    def forgetful(weights: Weights, mask: Mask, sparsity: float) -> Mask:
        return prune_by_magnitude({"a": next(moved)}, dense(weights), sparsity)

    with pytest.raises(AssertionError):
        check_counts_and_nesting(forgetful, {"a": torch.zeros(10)}, 0.3, 0.5)


@given(weights=some_weights, first=sparsities, second=sparsities)
def test_the_mask_is_that_of_a_full_sort(weights: Weights, first: float, second: float) -> None:
    low, high = sorted((first, second))
    earlier = prune_by_magnitude(weights, dense(weights), low)
    assert earlier == by_full_sort(weights, dense(weights), low)
    assert prune_by_magnitude(weights, earlier, high) == by_full_sort(weights, earlier, high)


@pytest.mark.parametrize("sparsity", [0.0001, 0.2, 0.7, 0.9999])
@pytest.mark.parametrize("kind", ["spread", "rounded", "striped"])
def test_a_big_tensor_is_pruned_as_by_a_full_sort(kind: str, sparsity: float) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = {"a": torch.randn(500, 1000, generator=generator), "b": torch.randn(SAMPLE // 7, generator=generator)}
    if kind == "rounded":
        weights = {name: (tensor * 4).round() / 4 for name, tensor in weights.items()}
    if kind == "striped":  # every second weight is large, so an evenly spaced sample is misled
        weights["a"].view(-1)[::2] += 100
    flat = torch.cat([weights["a"].flatten(), weights["b"]]).abs().numpy()
    order = np.lexsort((-np.arange(len(flat)), flat))
    expected = np.ones(len(flat), dtype=bool)
    expected[order[: round(sparsity * len(flat))]] = False
    mask = prune_by_magnitude(weights, dense(weights), sparsity)
    assert np.array_equal(torch.cat([mask["a"].flatten(), mask["b"]]).numpy(), expected)


def test_scores_of_any_sign_and_precision_are_ranked() -> None:
    scores = {"a": torch.tensor([-5.0, -3.0, 2.0, float("-inf"), float("inf")])}
    assert prune(scores.__getitem__, dense(scores), 0.4)["a"].tolist() == [False, True, True, False, True]
    half = {"a": torch.tensor([1.0, 3.0, 2.0, 1.0], dtype=torch.bfloat16)}
    assert prune(half.__getitem__, dense(half), 0.25)["a"].tolist() == [True, True, True, False]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, 70, float("nan")])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity: float) -> None:
    with pytest.raises(UserError, match=r"outside \[0, 1\)"):
        prune_by_magnitude({"a": torch.ones(4)}, Mask.dense({"a": (4,)}), sparsity)
    with pytest.raises(UserError, match="for 70 % write"):
        zeros_at(sparsity, 10)


def test_a_sparsity_below_the_mask_s_own_is_refused() -> None:
    weights = {"a": torch.arange(10.0)}
    half = prune_by_magnitude(weights, dense(weights), 0.5)
    with pytest.raises(UserError, match=r"sparsity 0.4 is below the mask's own 0.5000: pruned weights do"):
        prune_by_magnitude(weights, half, 0.4)
    assert prune_by_magnitude(weights, half, 0.5) == half


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_weights_that_are_not_numbers_are_refused(place: int, sparsity: float) -> None:
    weights = {"a": torch.arange(1.0, 1001.0), "b": torch.ones(3)}
    weights["a"][place] = float("nan")
    with pytest.raises(UserError, match="not numbers"):
        prune_by_magnitude(weights, dense(weights), sparsity)


# Schedules


def test_linear_levels_are_tenths_of_the_original() -> None:
    assert linear() == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert linear(0.1, 0.7) == linear()[:7]
    assert linear(0.4, 0.9) == (0.4, 0.8, 0.9)


def test_geometric_levels_are_tenths_of_what_remains() -> None:
    levels = geometric(0.1, 0.9)
    assert levels[:3] == pytest.approx((0.1, 0.19, 0.271))
    assert (len(levels), levels[-1], levels[8]) == (22, 0.9, pytest.approx(1 - 0.9**9))


@given(rate=st.floats(0.01, 0.99), until=st.floats(0.01, 0.99))
def test_levels_rise_by_the_rate_at_most_and_end_where_they_should(rate: float, until: float) -> None:
    for levels, of in ((linear(rate, until), lambda level: 1.0), (geometric(rate, until), lambda level: 1 - level)):
        before = 0.0
        assert levels[-1] == until
        for level in levels:
            assert before < level < 1
            assert level - before <= rate * of(before) + 1e-9
            before = level


@pytest.mark.parametrize("schedule", [linear, geometric])
@pytest.mark.parametrize(("rate", "until"), [(0, 0.9), (1, 0.9), (0.1, 0), (0.1, 1), (10, 90)])
def test_a_schedule_outside_zero_to_one_is_refused(
    schedule: Callable[[float, float], tuple[float, ...]], rate: float, until: float
) -> None:
    with pytest.raises(UserError, match=r"inside \(0, 1\)"):
        schedule(rate, until)


# Random masks

SHAPES = {"a": (30, 40), "b": (50,), "c": (7, 9)}


def test_random_masks_of_a_seed_are_nested_and_of_another_seed_others() -> None:
    full = Mask.dense(SHAPES)
    masks = [prune(random_scores(1, SHAPES), full, level) for level in linear()]
    for earlier, later in pairwise(masks):
        assert later.is_subset_of(earlier)
    assert [mask.total - mask.kept for mask in masks] == [zeros_at(level, full.total) for level in linear()]
    assert prune(random_scores(1, SHAPES), full, 0.5) == masks[4] != prune(random_scores(2, SHAPES), full, 0.5)
    for name, shape in SHAPES.items():  # uniform over tensors, within five standard deviations
        assert abs(int(masks[4][name].count_nonzero()) / prod(shape) - 0.5) < 2.5 / prod(shape) ** 0.5


def test_a_layerwise_random_mask_keeps_as_many_in_each_tensor_as_its_model() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    weights["b"] *= 1e-3
    weights["c"] *= 1e3
    found = prune_by_magnitude(weights, dense(weights), 0.5)
    drawn = prune_like(random_scores(1, SHAPES), found)
    assert [int(drawn[name].count_nonzero()) for name in SHAPES] == [int(found[n].count_nonzero()) for n in SHAPES]
    assert (int(found["b"].count_nonzero()), bool(found["c"].all())) == (0, True)
    assert drawn != found
    assert drawn.kept == found.kept


# Masks


@given(data=st.dictionaries(st.text(min_size=1), arrays(bool, array_shapes(max_dims=3, max_side=7)), min_size=1))
def test_a_mask_comes_back_from_its_bits(data: dict[str, np.ndarray]) -> None:
    mask = Mask({name: torch.from_numpy(array) for name, array in data.items()})
    back = Mask.unpacked(mask.packed(), mask.shapes)
    assert back == mask
    assert back.digest == mask.digest
    assert all(bits.dtype == np.uint8 and len(bits) == -(-data[name].size // 8) for name, bits in mask.packed().items())


def test_the_digest_tells_masks_apart() -> None:
    first = Mask({"a": torch.tensor([True, False, True, True])})
    others = [
        Mask({"a": torch.tensor([True, True, False, True])}),
        Mask({"b": first["a"]}),
        Mask({"a": first["a"].view(2, 2)}),
        Mask({"a": torch.tensor([True, False, True, True, False])}),
    ]
    assert len({mask.digest for mask in (first, *others)}) == 5
    assert all(mask != first for mask in others)


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        ({"b": np.zeros(1, np.uint8)}, "it differs in a, b"),
        ({"a": np.zeros(3, np.uint8)}, r"a should have 12 weights of shape \(3, 4\)"),
        ({"a": np.zeros(2, np.int64)}, "a should have 12 weights"),
        ({}, "it differs in a"),
    ],
)
def test_bits_of_another_backbone_are_refused(bits: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(UserError, match=f"the mask is of another backbone: {says}"):
        Mask.unpacked(bits, {"a": (3, 4)})


def test_applying_a_mask_zeroes_pruned_weights_and_no_others() -> None:
    weights = {"a": torch.tensor([1.0, float("nan"), -3.0]), "other": torch.ones(2)}
    Mask({"a": torch.tensor([True, False, True])}).apply_(weights)
    assert weights["a"].tolist() == [1, 0, -3]
    assert weights["other"].tolist() == [1, 1]


def test_the_base_backbone_has_85_524_480_prunable_weights() -> None:
    shapes = prunable_shapes(Uniter())
    assert (sum(map(prod, shapes.values())), len(shapes)) == (85_524_480, 73)
    assert all(name.startswith(("encoder.layer.", "pooler.")) and name.endswith(".weight") for name in shapes)
    assert not any("LayerNorm" in name or "embeddings" in name for name in shapes)
