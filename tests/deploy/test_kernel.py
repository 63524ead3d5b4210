"""The generated code, for each width of vectors that this processor can run, computes what torch computes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from vltickets.deploy import Code, Layout, SparseLinear, Target, compile_kernel, host_target, pack, processor
from vltickets.deploy.ir import sets_for
from vltickets.deploy.jit import AVX2, NEON, assembly
from vltickets.errors import UserError

HOST = host_target()
# On x86, the code for ARM's vectors of 4 runs in vectors of 4 too: the same text, another code generator.
NARROW = Target("haswell", "", lanes=4)
TARGETS = {"host": HOST} | ({"avx2": AVX2, "narrow": NARROW} if processor().avx2 else {})
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
needs_a_kernel = pytest.mark.skipif(HOST is None, reason="no llvmlite, or no fused multiply-add on this processor")
each_width = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def random_layer(outputs: int, inputs: int, density: float, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """A weight that bfloat16 holds and a bias."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=random).bfloat16().float()
    weight[torch.rand(outputs, inputs, generator=random) >= density] = 0
    return weight, torch.randn(outputs, generator=random), random


def call(code: Code, target: Target, weight: Tensor, bias: Tensor, x: Tensor, residual: Tensor) -> Tensor:
    """Call a kernel as `ir.generate` says; y is NaN before."""
    packed = pack(weight.numpy(), code.layout)
    y = torch.full_like(residual, float("nan"))
    addresses = (one.data_ptr() for one in (x, y, residual, bias))
    steps = (x[0].nbytes, y[0].nbytes)
    kernel = compile_kernel(code, target)
    kernel.call(*addresses, *packed.addresses, code.layout.blocks(weight.shape[1]), len(x), *steps)
    return y


def expected(epilogue: str, weight: Tensor, bias: Tensor, x: Tensor, residual: Tensor) -> Tensor:
    """The same by torch, in float64, on tiles."""
    y = weight.double() @ x.double() + bias.double()[:, None]
    return functional.gelu(y) if epilogue == "gelu" else y + residual.double() if epilogue == "residual" else y


@needs_a_kernel
@each_width
@pytest.mark.parametrize("values", ["float32", "bfloat16"])
@pytest.mark.parametrize("epilogue", ["linear", "gelu", "residual"])
@pytest.mark.parametrize(("block", "unroll", "sets"), [(128, 4, 1), (128, 4, 2), (8, 2, 1), (3, 4, 2), (16, 2, 2)])
@settings(max_examples=12)
@given(
    outputs=st.integers(1, 40), inputs=st.integers(1, 300), density=st.floats(0, 1), tiles=st.integers(1, 3),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_kernel_computes_what_torch_does(
    target: Target, values: str, epilogue: str, block: int, unroll: int, sets: int,
    outputs: int, inputs: int, density: float, tiles: int, seed: int,
) -> None:  # fmt: skip
    weight, bias, random = random_layer(outputs, inputs, density, seed)
    code = Code(Layout(values, block=block, unroll=unroll), epilogue, target.lanes, sets)
    x, residual = (torch.randn(tiles, size, 64, generator=random) for size in (inputs, outputs))
    y = call(code, target, weight, bias, x, residual)
    scale = weight.abs() @ x.abs() + bias.abs()[:, None] + 1
    assert bool(((y - expected(epilogue, weight, bias, x, residual)).abs() <= 1e-6 * scale).all())


@needs_a_kernel
@each_width
def test_gelu_is_exact_to_a_millionth(target: Target) -> None:
    near = torch.linspace(-8, 8, 1 << 20)
    far = torch.cat([sign * torch.logspace(0.9, 38, 1 << 12) for sign in (1, -1)])
    tiny = torch.cat([sign * torch.logspace(-37, 0, 1 << 12) for sign in (1, -1)])
    x = torch.cat([near, far, tiny]).view(-1, 1, 64)
    layer = SparseLinear(torch.ones(1, 1), epilogue="gelu", target=target)
    y = layer.run(x, torch.empty_like(x))
    bound = 1e-6 * x.abs().clamp(min=1)
    assert bool(((y - functional.gelu(x)).abs() <= bound).all())
    exact = functional.gelu(x.double())
    assert bool(((y - exact).abs() <= bound).all())
    assert bool(((y - exact).abs()[x < 8] <= 1e-6).all()), "below 0 far ones too"
    assert bool((y[x < -5.6] == 0).all())
    assert bool((y[x > 5.6] == x[x > 5.6]).all())


@needs_a_kernel
@each_width
def test_gelu_of_what_is_not_finite_is_torch_s_in_float64(target: Target) -> None:
    x = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0]).repeat(16).view(1, 1, 64)
    y = SparseLinear(torch.ones(1, 1), epilogue="gelu", target=target).run(x, torch.empty_like(x))
    assert torch.equal(y.isnan(), functional.gelu(x.double()).isnan())  # in float32, torch makes NaN of infinity
    assert bool((y[x == float("inf")] == float("inf")).all())


@needs_a_kernel
def test_a_kernel_is_compiled_once() -> None:
    assert HOST is not None
    code = Code(Layout(), "linear", HOST.lanes)
    assert compile_kernel(code, HOST) is compile_kernel(Code(Layout(), "linear", HOST.lanes), HOST)
    assert compile_kernel(code, HOST).seconds > 0


@needs_a_kernel
@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin"])
@pytest.mark.parametrize("values", ["float32", "bfloat16"])
@pytest.mark.parametrize("epilogue", ["linear", "gelu", "residual"])
def test_code_for_arm_multiplies_and_adds_in_one_and_keeps_its_sums_in_registers(
    triple: str, values: str, epilogue: str
) -> None:
    text = assembly(Code(Layout(values), epilogue, NEON.lanes, sets_for(NEON.lanes, 1000, 1)), NEON, triple)
    assert text.count("fmla") >= 16 * (4 + 4 + 4 + 4 + 1 + 2 + 3)  # 16 vectors a row; 4 sections of 4, and remainders
    assert "fmaf" not in text, "no call of the C library's, which stands in where the instruction is missing"


@pytest.mark.skipif(not processor().avx2, reason="x86 only")
@needs_a_kernel
def test_code_for_avx2_has_no_wider_vector() -> None:
    text = assembly(Code(Layout(), "gelu", 8), AVX2, "x86_64-unknown-linux-gnu")
    assert "vfmadd231ps" in text
    assert "ymm" in text
    assert "zmm" not in text


@pytest.mark.skipif(not processor().avx512, reason="this processor has no AVX-512")
@needs_a_kernel
def test_code_for_avx_512_uses_whole_registers() -> None:
    assert HOST is not None
    assert "zmm" in assembly(Code(Layout(), "linear", 16), HOST, "x86_64-unknown-linux-gnu")


@needs_a_kernel
def test_vectors_this_processor_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="can't run"):
        compile_kernel(Code(Layout(), "linear", 32), Target("generic", "", lanes=32))


@pytest.mark.parametrize("fields", [{"epilogue": "relu"}, {"lanes": 48}, {"sets": 3}, {"lanes": 0}])
def test_code_that_can_t_be_generated_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError):
        Code(**fields)


def test_llvmlite_is_loaded_only_where_a_kernel_is_asked_for() -> None:
    loaded = "import sys, vltickets.deploy; raise SystemExit('llvmlite' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True, env=HERE)


def test_without_llvmlite_the_same_comes_from_torch() -> None:
    program = """
import sys
sys.modules["llvmlite"] = None
import torch
from vltickets.deploy import SparseLinear, compile_kernel, Code, Target, host_target
from vltickets.errors import UserError
weight, x = torch.eye(5)[:3], torch.randn(2, 5, 64)
layer = SparseLinear(weight, torch.ones(3))
assert host_target() is None and layer.compiled is None
assert torch.equal(layer.run(x, torch.empty(2, 3, 64)), x[:, :3] + 1)
try:
    compile_kernel(Code(), Target("generic", "", 16))
except UserError as error:
    assert "vltickets[deploy]" in str(error)
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=HERE)
