"""Overlap, chance and densities, by hand on small masks, by simulation, and as laws on any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vltickets.backbones import prunable_shapes, weight_places
from vltickets.errors import UserError
from vltickets.specs import Uniter
from vltickets.tickets import Mask, prune, random_scores
from vltickets.tickets.anatomy import chance_overlap, compare, densities, overlap

TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
SHAPES = {"a": (3, 5), "b": (11,), "c": (2, 8)}  # 15, 11 and 16 weights: bytes that are full, and that are not
FIRST = Mask({"a": torch.tensor([1, 1, 0, 0]).bool(), "b": torch.tensor([[1, 0, 1], [0, 0, 1]]).bool()})
SECOND = Mask({"a": torch.tensor([1, 0, 1, 0]).bool(), "b": torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()})


def none_kept(shapes: dict[str, tuple[int, ...]]) -> Mask:
    return Mask({name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()})


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    return Mask({name: torch.from_numpy(draw(arrays(np.bool_, shape))) for name, shape in SHAPES.items()})


def test_overlap_by_hand() -> None:
    assert overlap(FIRST, SECOND) == 3 / 7  # 1 + 2 in both, 3 + 4 in either


def test_chance_by_hand() -> None:
    both = 2 * 2 / 4 + 3 * 3 / 6
    assert chance_overlap(FIRST, SECOND) == both / (2 + 3 + 2 + 3 - both)


def test_chance_is_of_each_tensor_s_counts_and_not_of_the_total() -> None:
    ends = Mask({"a": torch.tensor([True, True]), "b": torch.tensor([False, False])})
    other = Mask({"a": torch.tensor([False, False]), "b": torch.tensor([True, True])})
    assert chance_overlap(ends, ends) == 1
    assert chance_overlap(ends, other) == 0


@given(masks(), masks())
def test_laws_of_any_two_masks(first: Mask, second: Mask) -> None:
    for of in (overlap, chance_overlap):
        assert 0 <= of(first, second) <= 1
        assert of(first, second) == of(second, first)
    assert overlap(first, first) == 1
    assert (overlap(first, second) == 1) == (first == second)


@given(masks(), masks())
def test_packed_counts_are_those_of_the_booleans(first: Mask, second: Mask) -> None:
    both = sum(int((first[name] & second[name]).sum()) for name in SHAPES)
    either = sum(int((first[name] | second[name]).sum()) for name in SHAPES)
    assert overlap(first, second) == (both / either if either else 1)


def test_masks_that_keep_nothing() -> None:
    empty = none_kept(SHAPES)
    assert overlap(empty, empty) == chance_overlap(empty, empty) == 1
    assert overlap(empty, Mask.dense(SHAPES)) == chance_overlap(empty, Mask.dense(SHAPES)) == 0


def test_chance_is_what_simulation_gives() -> None:
    sizes = {"a": 400, "b": 90, "c": 1000}
    kept = ({"a": 300, "b": 9, "c": 100}, {"a": 40, "b": 80, "c": 500})
    rng = np.random.default_rng(0)

    def drawn(counts: dict[str, int]) -> Mask:
        return Mask({name: torch.from_numpy(rng.permutation(sizes[name]) < counts[name]) for name in sizes})

    pairs = [(drawn(kept[0]), drawn(kept[1])) for _ in range(2000)]
    values = np.array([overlap(*pair) for pair in pairs])
    expected = chance_overlap(*pairs[0])
    assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5 + 1e-4
    both = np.mean([sum(int((one[name] & other[name]).sum()) for name in sizes) for one, other in pairs])
    assert both == pytest.approx(300 * 40 / 400 + 9 * 80 / 90 + 100 * 500 / 1000, rel=0.01)


def test_a_random_mask_overlaps_as_chance_says() -> None:
    shapes = prunable_shapes(Uniter(layers=2, hidden=64, heads=4, intermediate=256))
    one, other = (prune(random_scores(seed, shapes), Mask.dense(shapes), 0.7) for seed in (0, 1))
    assert overlap(one, other) == pytest.approx(chance_overlap(one, other), abs=0.01)
    assert chance_overlap(one, other) == pytest.approx(0.3 / 1.7, abs=0.001)


def test_compare_gives_all_pairs_in_the_order_of_the_names() -> None:
    found = compare({"x": FIRST, "y": SECOND, "z": none_kept(FIRST.shapes)})
    assert found.names == ("x", "y", "z")
    assert found.overlap == ((1.0, 3 / 7, 0.0), (3 / 7, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert found.chance[0][1] == chance_overlap(FIRST, SECOND)
    assert found.chance[1][1] == chance_overlap(SECOND, SECOND)


def test_masks_of_other_shapes_are_refused_by_name() -> None:
    other = Mask({"a": FIRST["a"], "b": FIRST["b"].T})  # as many weights, and so as many bytes
    with pytest.raises(UserError, match=r"vqa and nlvr2 .* b is of shape \(2, 3\) in the one and \(3, 2\)"):
        compare({"vqa": FIRST, "nlvr2": other})
    with pytest.raises(UserError, match=r"the first mask and the second mask .* none in the other"):
        overlap(FIRST, Mask({"a": FIRST["a"]}))


def test_densities_count_layers_and_kinds() -> None:
    places = weight_places(TOY)
    kept = {name: torch.zeros(place.shape, dtype=torch.bool) for name, place in places.items()}
    kept["encoder.layer.0.attention.self.query.weight"][:] = True  # 256
    kept["encoder.layer.1.attention.self.query.weight"][:8] = True  # 128
    kept["encoder.layer.1.output.dense.weight"][0, :4] = True  # 4
    kept["pooler.dense.weight"][:1] = True  # 16
    found = densities(Mask(kept), places)
    in_layer = 4 * 256 + 2 * 512
    assert found.total == (256 + 128 + 4 + 16) / (2 * in_layer + 256)
    assert found.layers == {0: 256 / in_layer, 1: 132 / in_layer}
    assert found.kinds == {
        "query": 384 / 512,
        "key": 0,
        "value": 0,
        "attention output": 0,
        "FFN in": 0,
        "FFN out": 4 / 1024,
        "pooler": 16 / 256,
    }


def test_densities_of_another_backbone_are_refused() -> None:
    with pytest.raises(UserError, match="another backbone"):
        densities(FIRST, weight_places(TOY))
