"""Packing keeps every non-zero exactly, in the order and with the counts that the kernel's code reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vltickets.deploy import Layout, pack, unpack
from vltickets.deploy.packing import row_ranges
from vltickets.errors import UserError

layouts = st.builds(
    Layout, values=st.sampled_from(["float32", "bfloat16"]), block=st.integers(1, 200), unroll=st.sampled_from([2, 4])
)


def sparse(rows: int, columns: int, density: float, seed: int) -> NDArray[np.float32]:
    """Weights of few digits, so that bfloat16 holds them."""
    random = np.random.default_rng(seed)
    weight = random.integers(1, 9, (rows, columns)) * random.choice([-1.0, 1.0], (rows, columns))
    return np.where(random.random((rows, columns)) < density, weight, 0).astype(np.float32)


weights = st.builds(sparse, st.integers(1, 40), st.integers(1, 300), st.floats(0, 1), st.integers(0, 9))


@given(weight=weights, layout=layouts)
@example(weight=np.zeros((3, 5), np.float32), layout=Layout())
@example(weight=np.ones((1, 1), np.float32), layout=Layout(block=1))
def test_what_was_packed_comes_back_exactly(weight: NDArray[np.float32], layout: Layout) -> None:
    packed = pack(weight, layout)
    assert packed.nonzeros == np.count_nonzero(weight)
    np.testing.assert_array_equal(unpack(packed), weight)


@given(weight=weights, layout=layouts)
def test_every_row_is_visited_in_the_first_block_and_in_the_last(weight: NDArray[np.float32], layout: Layout) -> None:
    packed = pack(weight, layout)
    visits = np.split(packed.visits[:, 0], np.cumsum(packed.sections.sum(1))[:-1])
    assert len(visits) == layout.blocks(weight.shape[1])
    for rows in (visits[0], visits[-1]):
        assert sorted(rows) == list(range(len(weight)))
    assert all(len(set(rows)) == len(rows) for rows in visits)


@given(weight=weights)
def test_rows_follow_one_another_by_their_count_within_a_section(weight: NDArray[np.float32]) -> None:
    packed = pack(weight, Layout())
    turns = np.split(packed.visits[:, 1], np.cumsum(packed.sections.ravel())[:-1])
    assert all((np.diff(some) >= 0).all() for some in turns)


def test_infinities_and_nan_are_kept_and_both_zeros_left_out() -> None:
    weight = np.array([[np.inf, -0.0, np.nan], [0.0, -np.inf, 1e-45]], np.float32)
    packed = pack(weight, Layout())
    assert packed.nonzeros == 4
    np.testing.assert_array_equal(unpack(packed), weight)


def test_a_base_model_s_matrix_takes_six_bytes_a_weight_and_little_more() -> None:
    weight = sparse(3072, 768, 0.3, 0)
    assert pack(weight, Layout()).nbytes <= 6.3 * np.count_nonzero(weight)
    assert pack(weight, Layout("bfloat16")).nbytes <= 4.3 * np.count_nonzero(weight)


@given(weight=weights, parts=st.integers(1, 5))
def test_rows_are_shared_out_whole(weight: NDArray[np.float32], parts: int) -> None:
    ranges = row_ranges(weight, parts)
    assert len(ranges) <= parts
    assert all(ranges)
    assert [row for some in ranges for row in some] == list(range(len(weight)))


def test_the_work_of_the_ranges_is_even_where_the_rows_are_not() -> None:
    weight = np.triu(np.ones((400, 400), np.float32))
    work = [np.count_nonzero(weight[some.start : some.stop]) for some in row_ranges(weight, 2)]
    assert 0.9 < work[0] / work[1] < 1.1


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 0), np.float32), r"\[2, 0\]"),
        (np.zeros(4, np.float32), r"\[4\]"),
    ],
)
def test_what_is_no_matrix_is_refused(weight: NDArray[np.float32], says: str) -> None:
    with pytest.raises(UserError, match=says):
        pack(weight, Layout())


def test_digits_are_not_lost_in_silence() -> None:
    with pytest.raises(UserError, match="bfloat16"):
        pack(np.full((1, 1), 1.001, np.float32), Layout("bfloat16"))


@pytest.mark.parametrize(
    "fields",
    [{"unroll": 3}, {"block": 0}, {"block": 257}, {"values": "int8"}, {"tile": 0}, {"block": 256, "tile": 128}],
)
def test_a_layout_the_code_can_t_read_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Layout(**fields)
