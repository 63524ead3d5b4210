"""LayerNorm of feature-major tiles: each token's features lie 64 floats apart, and 64 tokens are done side by side.

torch normalises along the last axis; here the features are the middle one, for which its operations make five passes
and new tensors. The compiled code makes three passes over a tile that lies in the second cache.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from vltickets.deploy.jit import Target, host_target, machine_code
from vltickets.deploy.linear import TILE

NORM = "layer_norm"
_lock = threading.Lock()
_compiled: dict[Target, tuple[Callable[..., None], Any]] = {}  # with the engine, which owns the machine code


class TiledNorm:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the features of tiles [tiles, features, 64].

    Args:
        weight, bias: [features], float32. Copied.
        eps: added to the variance.
        target: for which processor to compile; None, or where nothing can be compiled: plain torch.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, eps: float, target: Target | Literal["host"] | None = "host"
    ) -> None:
        self.weight, self.bias = (one.detach().cpu().float().clone().contiguous() for one in (weight, bias))
        self.eps = eps
        target = host_target() if target == "host" else target
        self.call = None if target is None else _norm_for(target)

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias in memory."""
        return self.weight.nbytes + self.bias.nbytes

    def run(self, x: Tensor, out: Tensor) -> Tensor:
        """Normalise tiles `x` into `out`, which may be `x` itself; both contiguous float32 [tiles, features, 64]."""
        tiles, features, _ = x.shape
        if self.call is None:
            centred = x - x.mean(1, keepdim=True)
            scale = centred.square().mean(1, keepdim=True).add_(self.eps).rsqrt_()
            torch.addcmul(self.bias[:, None], centred.mul_(scale), self.weight[:, None], out=out)
        else:
            pointers = (one.data_ptr() for one in (x, out, self.weight, self.bias))
            self.call(*pointers, features, tiles, 1 / features, self.eps)
        return out


def _norm_for(target: Target) -> Callable[..., None]:
    with _lock:
        if target not in _compiled:
            engine, address = machine_code(norm_code(target.lanes), target, NORM)
            numbers = [ctypes.c_int64] * 2 + [ctypes.c_float] * 2
            _compiled[target] = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *numbers)(address), engine
        return _compiled[target][0]


def norm_code(lanes: int) -> str:
    """Return the LLVM module, as text, for vectors of `lanes` floats."""
    vector, count, bits = f"<{lanes} x float>", TILE // lanes, 32 * lanes
    lines: list[str] = []

    def spread(name: str, scalar: str) -> None:
        lines.append(f"  %{name}_one = insertelement {vector} poison, float {scalar}, i64 0")
        shuffle = f"shufflevector {vector} %{name}_one, {vector} poison, <{lanes} x i32> zeroinitializer"
        lines.append(f"  %{name} = {shuffle}")

    def each_feature(loop: str, before: str, sums: str, step: Callable[[int, str], list[str]], first: str = "") -> None:
        """Emit a loop over the features; `step` gives the lines for one vector of a feature, loaded as its name."""
        lines.extend([f"  br label %{loop}", f"{loop}:"])
        lines.append(f"  %{loop}_f = phi i64 [ 0, %{before} ], [ %{loop}_next, %{loop} ]")
        if sums:
            start = f"{vector} [ zeroinitializer, %{before} ], "
            lines.extend(f"  %{sums}{k} = phi {start}[ %{sums}{k}_next, %{loop} ]" for k in range(count))
        lines.append(f"  %{loop}_at = mul i64 %{loop}_f, {TILE * 4}")
        if first:
            lines.append(first)
            for name in ("weight", "bias"):
                lines.append(f"  %{name}_f = getelementptr float, ptr %{name}, i64 %{loop}_f")
                lines.append(f"  %{name}_v = load float, ptr %{name}_f, align 4")
                spread(f"{name}_s", f"%{name}_v")
        for k in range(count):
            lines.append(f"  %{loop}_o{k} = add i64 %{loop}_at, {4 * lanes * k}")
            lines.append(f"  %{loop}_p{k} = getelementptr i8, ptr %x_t, i64 %{loop}_o{k}")
            lines.append(f"  %{loop}_x{k} = load {vector}, ptr %{loop}_p{k}, align 4")
            lines.extend(step(k, f"%{loop}_x{k}"))
        lines.append(f"  %{loop}_next = add i64 %{loop}_f, 1")
        lines.append(f"  %{loop}_more = icmp slt i64 %{loop}_next, %features")
        lines.extend([f"  br i1 %{loop}_more, label %{loop}, label %{loop}_end", f"{loop}_end:"])

    def fused(a: str, b: str, c: str) -> str:
        return f"call {vector} @llvm.fma.v{lanes}f32({vector} {a}, {vector} {b}, {vector} {c})"

    spread("share", "%share_in")
    spread("eps", "%eps_in")
    spread("one", "1.0")
    lines.extend(["  %some = icmp sgt i64 %tiles, 0", "  br i1 %some, label %tile, label %exit", "tile:"])
    lines.append("  %t = phi i64 [ 0, %entry ], [ %t_next, %write_end ]")
    lines.extend(f"  %{p}_t = phi ptr [ %{p}, %entry ], [ %{p}_next, %write_end ]" for p in ("x", "y"))
    each_feature("sum", "tile", "s", lambda k, x: [f"  %s{k}_next = fadd {vector} %s{k}, {x}"])
    lines.extend(f"  %mean{k} = fmul {vector} %s{k}_next, %share" for k in range(count))
    each_feature(
        "square",
        "sum_end",
        "q",
        lambda k, x: [
            f"  %d{k} = fsub {vector} {x}, %mean{k}",
            f"  %q{k}_next = {fused(f'%d{k}', f'%d{k}', f'%q{k}')}",
        ],
    )
    for k in range(count):
        lines.append(f"  %var{k} = {fused(f'%q{k}_next', '%share', '%eps')}")
        lines.append(f"  %root{k} = call {vector} @llvm.sqrt.v{lanes}f32({vector} %var{k})")
        lines.append(f"  %scale{k} = fdiv {vector} %one, %root{k}")
    each_feature(
        "write",
        "square_end",
        "",
        lambda k, x: [
            f"  %c{k} = fsub {vector} {x}, %mean{k}",
            f"  %n{k} = fmul {vector} %c{k}, %scale{k}",
            f"  %r{k} = {fused(f'%n{k}', '%weight_s', '%bias_s')}",
            f"  %y{k} = getelementptr i8, ptr %y_t, i64 %write_o{k}",
            f"  store {vector} %r{k}, ptr %y{k}, align 4",
        ],
        first="  ; the feature's own weight and bias",
    )
    lines.extend(["  %t_next = add i64 %t, 1", f"  %bytes = mul i64 %features, {TILE * 4}"])
    lines.extend(f"  %{p}_next = getelementptr i8, ptr %{p}_t, i64 %bytes" for p in ("x", "y"))
    lines.extend(["  %more = icmp slt i64 %t_next, %tiles", "  br i1 %more, label %tile, label %exit"])
    return "\n".join(
        [
            f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
            f"declare {vector} @llvm.sqrt.v{lanes}f32({vector})",
            f"define void @{NORM}(ptr %x, ptr %y, ptr %weight, ptr %bias, i64 %features, i64 %tiles,"
            " float %share_in, float %eps_in) #0 {",
            "entry:",
            *lines,
            "exit:\n  ret void\n}",
            f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}',
            "",
        ]
    )
