"""A sparse linear layer answers as torch's dense one, whatever the shape, the density, the threads and the width."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from vltickets.deploy import SparseLinear, Target, from_tiles, host_target, processor, to_tiles
from vltickets.deploy.jit import AVX2
from vltickets.errors import UserError

TARGETS: dict[str, Target | None] = {"torch": None}
if host_target() is not None:
    TARGETS |= {"host": host_target()} | ({"avx2": AVX2} if processor().avx2 else {})
each_way = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
ODD = torch.tensor([float("inf"), float("-inf"), float("nan")])


def pruned(outputs: int, inputs: int, density: float, random: torch.Generator) -> Tensor:
    weight = torch.randn(outputs, inputs, generator=random)
    return weight * (torch.rand(outputs, inputs, generator=random) < density)


def results(layer: SparseLinear, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Run tokens [count, inputs] through tiles whose memory held NaN."""
    tiles = to_tiles(x)
    out = torch.full((len(tiles), layer.outputs, 64), float("nan"))
    layer.run(tiles, out, None if residual is None else to_tiles(residual))
    assert bool(out.isfinite().all()) or not bool(x.isfinite().all()), "the places without a token are finite too"
    return from_tiles(out, len(x))


@each_way
@pytest.mark.parametrize("epilogue", ["linear", "gelu", "residual"])
@settings(max_examples=25)
@given(
    outputs=st.integers(1, 70), inputs=st.integers(1, 400), density=st.floats(0, 1), tokens=st.integers(1, 150),
    with_bias=st.booleans(), threads=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
@example(outputs=1, inputs=1, density=1, tokens=1, with_bias=True, threads=3, seed=0)
@example(outputs=64, inputs=256, density=0, tokens=64, with_bias=True, threads=1, seed=0)
@example(outputs=65, inputs=129, density=1, tokens=65, with_bias=False, threads=2, seed=0)
@example(outputs=3000, inputs=130, density=0.1, tokens=65, with_bias=True, threads=1, seed=0)
@example(outputs=3000, inputs=130, density=0.1, tokens=64, with_bias=True, threads=2, seed=0)
def test_it_answers_as_the_dense_layer(
    target: Target | None, epilogue: str,
    outputs: int, inputs: int, density: float, tokens: int, with_bias: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    weight = pruned(outputs, inputs, density, random)
    bias = torch.randn(outputs, generator=random) if with_bias else None
    x = torch.randn(tokens, inputs, generator=random)
    residual = torch.randn(tokens, outputs, generator=random) if epilogue == "residual" else None
    layer = SparseLinear(weight, bias, epilogue=epilogue, threads=threads, target=target)
    dense = functional.linear(x, weight, bias)
    scale = functional.linear(x.abs(), weight.abs(), None if bias is None else bias.abs()).max().item()
    if epilogue == "gelu":
        dense = functional.gelu(dense)
    if residual is not None:
        dense = dense + residual
    torch.testing.assert_close(results(layer, x, residual), dense, rtol=1e-5, atol=1e-5 * scale + 1e-6)


@each_way
@settings(max_examples=25)
@given(density=st.floats(0, 1), seed=st.integers(0, 99), epilogue=st.sampled_from(["linear", "gelu", "residual"]))
def test_what_is_not_finite_reaches_the_outputs_with_a_weight_to_it_and_no_others(
    target: Target | None, density: float, seed: int, epilogue: str
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight, x = pruned(30, 200, density, random), torch.randn(70, 200, generator=random)
    odd = torch.rand(x.shape, generator=random) < 0.01
    x[odd] = ODD[torch.randint(3, x.shape, generator=random)][odd]
    residual = torch.randn(70, 30, generator=random) if epilogue == "residual" else None
    found = results(SparseLinear(weight, epilogue=epilogue, target=target), x, residual)
    y = torch.zeros(70, 30)
    for output in range(30):
        kept = weight[output] != 0
        y[:, output] = x[:, kept] @ weight[output, kept]
    if epilogue == "gelu":
        y = functional.gelu(y.double()).float()  # in float32, torch makes NaN of infinity
    torch.testing.assert_close(found, y if residual is None else y + residual, rtol=1e-5, atol=1e-4, equal_nan=True)


@each_way
@pytest.mark.parametrize("epilogue", ["linear", "gelu", "residual"])
def test_bfloat16_values_are_the_rounded_weights(target: Target | None, epilogue: str) -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = pruned(50, 333, 0.4, random), torch.randn(70, 333, generator=random)
    residual = torch.randn(70, 50, generator=random) if epilogue == "residual" else None
    rounded = weight.bfloat16().float()
    layer = SparseLinear(weight, epilogue=epilogue, values="bfloat16", target=target)
    same = SparseLinear(rounded, epilogue=epilogue, target=target)
    torch.testing.assert_close(results(layer, x, residual), results(same, x, residual), rtol=0, atol=0)
    assert bool((results(layer, x, residual) != results(SparseLinear(weight, epilogue=epilogue), x, residual)).any())
    torch.testing.assert_close(results(SparseLinear(weight.bfloat16(), epilogue=epilogue), x, residual).shape, (70, 50))


@each_way
@settings(max_examples=15)
@given(tiles=st.integers(1, 5), outputs=st.integers(1, 40), density=st.floats(0, 1), seed=st.integers(0, 99))
def test_threads_change_no_bit(target: Target | None, tiles: int, outputs: int, density: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weight, bias = pruned(outputs, 300, density, random), torch.randn(outputs, generator=random)
    x, residual = torch.randn(tiles, 300, 64, generator=random), torch.randn(tiles, outputs, 64, generator=random)
    one, *others = (
        SparseLinear(weight, bias, epilogue="residual", threads=threads, target=target).run(
            x, torch.empty(tiles, outputs, 64), residual
        )
        for threads in (1, 2, 3)
    )
    assert all(torch.equal(one, other) for other in others)


@each_way
def test_callers_may_share_out_the_tiles_themselves(target: Target | None) -> None:
    random = torch.Generator().manual_seed(0)
    layer = SparseLinear(pruned(40, 300, 0.5, random), target=target, threads=2)
    x, out = torch.randn(6, 300, 64, generator=random), torch.empty(6, 40, 64)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda k: layer.run(x[k : k + 1], out[k : k + 1]), range(6)))
    torch.testing.assert_close(out, layer.run(x, torch.empty_like(out)))


@each_way
def test_memory_at_any_address_will_do(target: Target | None) -> None:
    random = torch.Generator().manual_seed(0)
    layer = SparseLinear(pruned(10, 30, 0.5, random), target=target)
    x = torch.randn(2, 30, 64, generator=random)
    shifted = torch.cat([torch.zeros(1), x.flatten()])[1:].view_as(x)
    out = torch.zeros(2 * 10 * 64 + 3)[3:].view(2, 10, 64)
    assert shifted.data_ptr() % 64
    torch.testing.assert_close(layer.run(shifted, out), layer.run(x, torch.empty(2, 10, 64)), rtol=0, atol=0)


def test_the_layer_keeps_its_own_weight() -> None:
    for target in TARGETS.values():
        weight, bias, x = torch.ones(3, 4), torch.ones(3), torch.ones(1, 4, 64)
        layer = SparseLinear(torch.nn.Parameter(weight), bias, target=target)
        weight.zero_(), bias.zero_()
        assert bool((layer.run(x, torch.empty(1, 3, 64)) == 5).all())
        assert (layer.nonzeros, layer.inputs, layer.outputs) == (12, 4, 3)


@pytest.mark.skipif(host_target() is None, reason="no kernel can be compiled here")
def test_bfloat16_takes_two_thirds_of_the_memory() -> None:
    weight = pruned(768, 768, 0.3, torch.Generator().manual_seed(0))
    assert SparseLinear(weight, values="bfloat16").nbytes < 0.7 * SparseLinear(weight).nbytes


@given(tokens=st.integers(0, 200), features=st.integers(1, 9))
def test_tokens_come_back_from_tiles(tokens: int, features: int) -> None:
    x = torch.arange(1.0, tokens * features + 1).view(tokens, features)
    tiles = to_tiles(x)
    assert tiles.shape == (-(-tokens // 64), features, 64)
    assert tiles.count_nonzero() == x.numel()
    assert torch.equal(from_tiles(tiles, tokens), x)
    held = torch.full((len(tiles) + 1, features, 64), float("nan"))
    filled = to_tiles(x, held)
    assert torch.equal(filled, tiles)
    assert filled.data_ptr() == held.data_ptr() or not tokens


@each_way
@pytest.mark.parametrize(
    ("x", "out", "says"),
    [
        (torch.zeros(1, 7, 64), torch.zeros(1, 5, 64), r"x .*\[1, 8, 64\].*\[1, 7, 64\]"),
        (torch.zeros(1, 8, 32), torch.zeros(1, 5, 64), r"x .*\[1, 8, 64\].*\[1, 8, 32\]"),
        (torch.zeros(8, 64), torch.zeros(1, 5, 64), r"x .*\[8, 64\]"),
        (torch.zeros(1, 8, 64).double(), torch.zeros(1, 5, 64), "x .*float64"),
        (torch.zeros(1, 8, 64).bfloat16(), torch.zeros(1, 5, 64), "x .*bfloat16"),
        (torch.zeros(1, 64, 8).mT, torch.zeros(1, 5, 64), "x .*not contiguous"),
        (torch.zeros(1, 8, 64), torch.zeros(2, 5, 64), r"out .*\[1, 5, 64\].*\[2, 5, 64\]"),
        (torch.zeros(1, 8, 64), torch.zeros(1, 5, 64).half(), "out .*float16"),
    ],
)
def test_a_shape_or_type_it_was_not_compiled_for_is_refused(
    target: Target | None, x: Tensor, out: Tensor, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        SparseLinear(torch.ones(5, 8), target=target).run(x, out)


@each_way
def test_results_in_the_place_of_what_is_read_are_refused(target: Target | None) -> None:
    x, memory = torch.zeros(1, 8, 64), torch.zeros(2, 8, 64)
    with pytest.raises(UserError, match="shares memory with x"):
        SparseLinear(torch.ones(8, 8), target=target).run(x, x)
    with pytest.raises(UserError, match="shares memory with residual"):
        SparseLinear(torch.ones(8, 8), epilogue="residual", target=target).run(x, memory[:1], memory[:1])
    SparseLinear(torch.ones(8, 8), target=target).run(memory[:1], memory[1:])


@each_way
def test_a_residual_is_given_where_it_is_added_and_only_there(target: Target | None) -> None:
    x, out = torch.zeros(1, 8, 64), torch.zeros(1, 8, 64)
    with pytest.raises(UserError, match="residual"):
        SparseLinear(torch.ones(8, 8), target=target).run(x, out, torch.zeros(1, 8, 64))
    with pytest.raises(UserError, match="residual"):
        SparseLinear(torch.ones(8, 8), epilogue="residual", target=target).run(x, out)
    with pytest.raises(UserError, match=r"residual .*\[1, 7, 64\]"):
        SparseLinear(torch.ones(8, 8), epilogue="residual", target=target).run(x, out, torch.zeros(1, 7, 64))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"weight": torch.zeros(3)}, r"weight .*\[3\]"),
        ({"weight": torch.zeros(0, 3)}, r"weight .*\[0, 3\]"),
        ({"weight": torch.zeros(2, 3).double()}, "float64"),
        ({"weight": torch.zeros(2, 3, dtype=torch.int8)}, "int8"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, r"bias \[2\].*\[3\]"),
        ({"weight": torch.zeros(2, 3), "threads": 0}, "1 thread"),
        ({"weight": torch.zeros(2, 3), "epilogue": "gleu"}, "did you mean 'gelu'"),
        ({"weight": torch.zeros(2, 3), "values": "int8"}, "int8"),
    ],
)
def test_a_layer_that_can_t_be_is_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        SparseLinear(**arguments)


def test_tiles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="65 tokens need 2 tiles"):
        to_tiles(torch.zeros(65, 3), torch.zeros(1, 3, 64))
    with pytest.raises(UserError, match="float64"):
        to_tiles(torch.zeros(65, 3).double())
    with pytest.raises(UserError, match="65 tokens"):
        from_tiles(torch.zeros(1, 3, 64), 65)
