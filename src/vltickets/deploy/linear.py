"""A linear layer with a sparse weight, on feature-major tiles of activations: what a sparse encoder is built from.

Activations lie in *tiles* [tiles, features, 64], float32: a tile holds 64 tokens, and a feature's 64 tokens lie side
by side. Between layers they stay so; `to_tiles` and `from_tiles` convert at the two ends. Tokens of a batch may be
packed into tiles one behind the other: a linear layer treats each token alone, so unused places matter to no other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vltickets.deploy.ir import EDGE, Code, Epilogue, sets_for
from vltickets.deploy.jit import Compiled, Target, compile_kernel, host_target
from vltickets.deploy.packing import Layout, Values, pack, row_ranges
from vltickets.errors import UserError, unknown

TILE = Layout().tile
PANEL = 1024  # rows of a weight that the kernel goes through at a time
Part = tuple[int, tuple[int, int, int, int]]  # the first row, and where the packed arrays begin


class SparseLinear:
    """y = epilogue(weight @ x + bias), where only the weight's non-zeros are kept and computed with.

    A pruned weight touches nothing: an infinite activation makes NaN or infinity of the outputs it has weights to, and
    of no others. Beside that it equals `torch.nn.functional.linear` to float32's rounding. With a compiled kernel, the
    bits of a token's result do not depend on `threads`, nor on its tile.

    Args:
        weight: [outputs, inputs], float32 or bfloat16, with exact zeros where pruned. Copied.
        bias: [outputs] or None.
        epilogue: "linear"; "gelu", exact (erf) GELU; "residual", adding a tensor of the output's shape.
        values: "bfloat16" rounds the weights to it and halves their memory; it computes in float32 all the same.
        threads: how many a call may use; keep torch's own threads low meanwhile. 1 starts none.
        target: for which processor to compile; "host" is the best for this one. None, or where nothing can be compiled:
            plain torch, with the same results to 1e-5 of the largest.

    Raises:
        UserError: where a tensor has another type or shape, or there is no such epilogue or type of values.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        epilogue: Epilogue = "linear",
        values: Values = "float32",
        threads: int = 1,
        target: Target | Literal["host"] | None = "host",
    ) -> None:
        if weight.ndim != 2 or 0 in weight.shape or weight.dtype not in (torch.float32, torch.bfloat16):
            raise UserError(
                f"a sparse linear layer needs a weight [outputs, inputs] in float32 or bfloat16, got {_told(weight)}"
            )
        if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype not in (torch.float32, torch.bfloat16)):
            raise UserError(f"expected a bias [{len(weight)}] in float32 or bfloat16, got {_told(bias)}")
        if epilogue not in get_args(Epilogue):
            raise unknown("epilogue", epilogue, get_args(Epilogue))
        if threads < 1:
            raise UserError(f"a sparse linear layer needs 1 thread or more, got {threads}")
        self.outputs, self.inputs = weight.shape
        self.epilogue, self.threads = epilogue, threads
        layout, target = Layout(values), host_target() if target == "host" else target
        weight = weight.detach().cpu()
        kept = (weight.to(torch.bfloat16) if values == "bfloat16" else weight).float()
        bias = torch.zeros(self.outputs) if bias is None else bias.detach().cpu().float().clone()
        self.nonzeros = int(kept.count_nonzero())
        self._work: _Kernel | _Plain
        if target is None:
            self._work = _Plain(kept.clone(), bias, epilogue)
        else:
            sets = sets_for(target.lanes, self.nonzeros, self.outputs * layout.blocks(self.inputs))
            code = Code(layout, epilogue, target.lanes, sets)
            self._work = _Kernel(kept.contiguous().numpy(), bias, compile_kernel(code, target), threads)

    @property
    def compiled(self) -> Compiled | None:
        """The kernel it runs; None for plain torch."""
        return self._work.kernel if isinstance(self._work, _Kernel) else None

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and bias in memory."""
        return self._work.nbytes

    def run(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute tiles `x` [tiles, inputs, 64] into `out` [tiles, outputs, 64], and return `out`.

        Both are contiguous float32 on the CPU, as is `residual`, of `out`'s shape, for that epilogue. `out` may hold
        anything before and must not share memory with the others. Nothing is allocated, no gradient recorded. Several
        threads may call at once, with tiles of their own: slices of the first dimension.

        Raises:
            UserError: where a tensor is not as said.
        """
        if (residual is None) == (self.epilogue == "residual"):
            given = "none" if residual is None else "one"
            raise UserError(f"a layer with the epilogue {self.epilogue!r} was given {given} as residual")
        tiles = len(x) if x.ndim else 0
        _check("x", x, (tiles, self.inputs, TILE))
        _check("out", out, (tiles, self.outputs, TILE))
        if residual is not None:
            _check("residual", residual, (tiles, self.outputs, TILE))
        for name, other in (("x", x), ("residual", residual)):
            if other is not None and _overlap(out, other):
                raise UserError(f"out shares memory with {name}; the kernel needs an out of its own")
        if tiles:
            self._work.run(x, out, residual)
        return out


class _Kernel:
    """The weight packed for the compiled kernel, in ranges of rows, as many for each thread.

    Ranges hold at most about `PANEL` rows even for one thread: the kernel comes back to a row's sums in every block of
    columns, and more rows than that would have left the second cache meanwhile (3072 x 768 at 896 tokens: 15 to 25 %).
    """

    def __init__(self, weight: NDArray[np.float32], bias: Tensor, kernel: Compiled, threads: int) -> None:
        self.kernel, self.bias, self.threads = kernel, bias, threads
        self.outputs, self.inputs = weight.shape
        layout = kernel.code.layout
        each = -(-self.outputs // (PANEL * threads))
        ranges = row_ranges(weight, each * threads)
        self.packed = [pack(weight[rows.start : rows.stop], layout) for rows in ranges]
        self.parts: list[Part] = [
            (rows.start, packed.addresses) for rows, packed in zip(ranges, self.packed, strict=True)
        ]
        self.shares = [self.parts[first : first + each] for first in range(0, len(self.parts), each)]
        self.nbytes = sum(packed.nbytes for packed in self.packed) + bias.nbytes
        self.blocks = layout.blocks(self.inputs)

    def run(self, x: Tensor, out: Tensor, residual: Tensor | None) -> None:
        """Share the work out by rows or, where all threads get as many tiles, by tiles."""
        tiles = len(x)
        if self.threads == 1:
            self._tiles(x, out, residual, self.parts, 0, tiles)
            return
        if tiles % self.threads == 0:
            each = tiles // self.threads
            jobs = [(self.parts, first, each) for first in range(0, tiles, each)]
        else:
            jobs = [(share, 0, tiles) for share in self.shares]
        waiting = [pool(self.threads - 1).submit(self._tiles, x, out, residual, *job) for job in jobs[1:]]
        self._tiles(x, out, residual, *jobs[0])
        for one in waiting:
            one.result()

    def _tiles(
        self,
        x: Tensor,
        out: Tensor,
        residual: Tensor | None,
        parts: Sequence[Part],
        first: int,
        count: int,
    ) -> None:
        """Call the kernel for some tiles and some of the rows."""
        column = TILE * 4
        x_step, y_step = self.inputs * column, self.outputs * column
        for row, weight in parts:
            at = first * y_step + row * column
            self.kernel.call(
                x.data_ptr() + first * x_step,
                out.data_ptr() + at,
                None if residual is None else residual.data_ptr() + at,
                self.bias.data_ptr() + row * 4,
                *weight,
                self.blocks,
                count,
                x_step,
                y_step,
            )


class _Plain:
    """The same by plain torch, where no kernel can be compiled. A weight of 0 counts as absent here too."""

    def __init__(self, weight: Tensor, bias: Tensor, epilogue: Epilogue) -> None:
        self.weight, self.bias, self.epilogue = weight, bias[:, None], epilogue
        self.nbytes = weight.nbytes + bias.nbytes

    def run(self, x: Tensor, out: Tensor, residual: Tensor | None) -> None:
        """Multiply densely where everything is finite; otherwise 0 x infinity would make NaN, so weight by weight."""
        with torch.no_grad():
            if bool(x.isfinite().all()):
                torch.matmul(self.weight, x, out=out)
            else:
                self._weight_by_weight(x, out)
            out += self.bias
            if self.epilogue == "gelu":
                # Above EDGE it is x; torch's vectors, but not its scalars, make NaN of infinity there.
                out.copy_(torch.where(out > EDGE, out, functional.gelu(out)))
            elif residual is not None:
                out += residual

    def _weight_by_weight(self, x: Tensor, out: Tensor, chunk: int = 1 << 16) -> None:
        rows, columns = self.weight.nonzero(as_tuple=True)
        values = self.weight[rows, columns][:, None]
        out.zero_()
        for tile, result in zip(x, out, strict=True):
            for part in range(0, len(rows), chunk):
                some = slice(part, part + chunk)
                result.index_add_(0, rows[some], values[some] * tile[columns[some]])


def to_tiles(tokens: Tensor, out: Tensor | None = None) -> Tensor:
    """Return tokens [count, features] as tiles [ceil(count / 64), features, 64], the rest of the last one zeros.

    With `out`, contiguous float32 of at least as many tiles, those are filled and returned; nothing is allocated.

    Raises:
        UserError: where `tokens` is no float32 matrix, or `out` does not fit.
    """
    if tokens.ndim != 2 or tokens.dtype != torch.float32:
        raise UserError(f"expected tokens [count, features] in float32, got {_told(tokens)}")
    count, features = tokens.shape
    tiles = -(-count // TILE)
    if out is None:
        out = torch.empty(tiles, features, TILE)
    if len(out) < tiles:
        raise UserError(f"{count} tokens need {tiles} tiles of {TILE}, got {len(out)}")
    out = out[:tiles]
    _check("out", out, (tiles, features, TILE))
    whole = count // TILE
    out[:whole].copy_(tokens[: whole * TILE].view(whole, TILE, features).transpose(1, 2))
    if whole < tiles:
        rest = count - whole * TILE
        out[whole, :, :rest].copy_(tokens[whole * TILE :].T)
        out[whole, :, rest:].zero_()
    return out


def from_tiles(tiles: Tensor, count: int) -> Tensor:
    """Return the first `count` tokens of tiles [tiles, features, 64] as a new tensor [count, features].

    Raises:
        UserError: where `tiles` are none, or hold fewer tokens.
    """
    if tiles.ndim != 3 or tiles.shape[2] != TILE or not 0 <= count <= len(tiles) * TILE:
        raise UserError(f"expected tiles [tiles, features, {TILE}] of {count} tokens or more, got {_told(tiles)}")
    return tiles.transpose(1, 2).reshape(-1, tiles.shape[1])[:count].contiguous()


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    fits = tuple(tensor.shape) == shape and tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    if not fits or not tensor.is_contiguous():
        raise UserError(f"expected {name} contiguous in float32 on the CPU of shape {list(shape)}, got {_told(tensor)}")


def _told(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    strided = "" if tensor.is_contiguous() else ", not contiguous"
    where = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"{kind}{where} of shape {list(tensor.shape)}{strided}"


def _overlap(one: Tensor, other: Tensor) -> bool:
    starts = one.data_ptr(), other.data_ptr()
    return starts[0] < starts[1] + other.nbytes and starts[1] < starts[0] + one.nbytes


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that all layers share; ctypes frees Python's lock while they compute."""
    return ThreadPoolExecutor(threads, thread_name_prefix="vltickets-sparse")


if hasattr(os, "register_at_fork"):  # threads don't survive a fork, and a pool without them would wait for ever
    os.register_at_fork(after_in_child=pool.cache_clear)
