"""From a mask's bits and the values it keeps to a dense weight: compiled where llvmlite is, else by plain torch.

The compiled loop has no branch for each weight. AVX-512 loads the next values straight to the places of 16 bits
(`vexpandps`); elsewhere, and at the end of a weight, each place takes the value next in line, times its bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from vltickets.deploy.jit import Target, machine_code

PIECE = 1 << 16  # weights that plain torch spreads at a time: they stay in the processor's cache
NAME = "vltickets_spread"
Spread = Callable[[np.ndarray, torch.Tensor, torch.Tensor], torch.Tensor]
WORDS = {torch.float32: "i32", torch.bfloat16: "i16"}

# i64 arguments: how many weights, the place of the last value. The values are moved as whole numbers of their size.
CODE = """
declare <16 x {word}> @llvm.masked.expandload.v16{word}(ptr, <16 x i1>, <16 x {word}>)
declare i16 @llvm.ctpop.i16(i16)
declare i16 @llvm.bitreverse.i16(i16)
declare i16 @llvm.bswap.i16(i16)
declare i64 @llvm.umin.i64(i64, i64)

define void @{name}(ptr %bits, ptr %values, ptr %out, i64 %weights, i64 %last) {{
entry:
  %groups = {groups}
  br label %vectors
vectors:
  %g = phi i64 [ 0, %entry ], [ %g.next, %vector ]
  %v = phi i64 [ 0, %entry ], [ %v.next, %vector ]
  %more = icmp ult i64 %g, %groups
  br i1 %more, label %vector, label %rest
vector:
  %at = getelementptr i16, ptr %bits, i64 %g
  %word = load i16, ptr %at, align 1
  %reversed = call i16 @llvm.bitreverse.i16(i16 %word)
  %ordered = call i16 @llvm.bswap.i16(i16 %reversed)
  %mask = bitcast i16 %ordered to <16 x i1>
  %next = getelementptr {word}, ptr %values, i64 %v
  %found = call <16 x {word}> @llvm.masked.expandload.v16{word}(
    ptr %next, <16 x i1> %mask, <16 x {word}> zeroinitializer)
  {widen}
  %place = shl i64 %g, 4
  %to = getelementptr i32, ptr %out, i64 %place
  store <16 x i32> %wide, ptr %to, align 4
  %count = call i16 @llvm.ctpop.i16(i16 %word)
  %count.wide = zext i16 %count to i64
  %v.next = add i64 %v, %count.wide
  %g.next = add i64 %g, 1
  br label %vectors
rest:
  %first = shl i64 %groups, 4
  br label %singles
singles:
  %i = phi i64 [ %first, %rest ], [ %i.next, %single ]
  %s = phi i64 [ %v, %rest ], [ %s.next, %single ]
  %left = icmp ult i64 %i, %weights
  br i1 %left, label %single, label %done
single:
  %byte = lshr i64 %i, 3
  %byte.at = getelementptr i8, ptr %bits, i64 %byte
  %eight = load i8, ptr %byte.at, align 1
  %low = trunc i64 %i to i8
  %from.left = and i8 %low, 7
  %shifted = shl i8 %eight, %from.left
  %bit = lshr i8 %shifted, 7
  %inside = call i64 @llvm.umin.i64(i64 %s, i64 %last)
  %one.at = getelementptr {word}, ptr %values, i64 %inside
  %one = load {word}, ptr %one.at, align 1
  {widen_one}
  %bit.wide = zext i8 %bit to i32
  %all.or.none = sub i32 0, %bit.wide
  %kept = and i32 %one.wide, %all.or.none
  %one.to = getelementptr i32, ptr %out, i64 %i
  store i32 %kept, ptr %one.to, align 4
  %bit.count = zext i8 %bit to i64
  %s.next = add i64 %s, %bit.count
  %i.next = add i64 %i, 1
  br label %singles
done:
  ret void
}}
"""


def spreader(values: torch.dtype, target: Target | None) -> Spread:
    """Return the function that makes a dense weight, by code for a processor, or by plain torch where there is none.

    Args:
        values: the type of the kept values, float32 or bfloat16.
        target: what to compile for, as `jit.host_target()` says it; each is compiled once in a process.

    The function takes the mask packed (uint8, first weight in the highest bit, no bits beyond the weight's own), the
    values, [kept], exactly as many as there are bits (the caller has counted them), and the mask as bool, [*shape]. It
    returns the weight, float32, [*shape], in memory of its own: the values in order where the mask keeps, else +0.
    """
    if target is None:
        return lambda bits, kept, keep: _plain(kept, keep)
    engine, call = _compiled(values, target)

    def spread(bits: np.ndarray, kept: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        assert engine  # it owns the code
        if not len(kept):
            return torch.zeros(keep.shape)
        weight, bits, kept = torch.empty(keep.shape), np.ascontiguousarray(bits), kept.contiguous()
        call(bits.ctypes.data, kept.data_ptr(), weight.data_ptr(), weight.numel(), len(kept) - 1)
        return weight

    return spread


def _plain(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Spread by torch, a piece at a time, places first.

    `flatnonzero` of booleans has no branch for each weight, which no processor could foresee: it takes a third of the
    time of `masked_scatter_` or of boolean assignment.
    """
    weight = torch.zeros(keep.shape)  # not numpy's, which asks for huge pages: twice the time where memory is full
    kept, done = keep.view(-1).numpy(), 0
    flat = weight.view(-1)
    for start in range(0, len(kept), PIECE):
        places = torch.from_numpy(np.flatnonzero(kept[start : start + PIECE]))
        piece = values[done : done + len(places)]
        flat[start : start + PIECE].scatter_(0, places, piece.float())
        done += len(places)
    return weight


@cache
def _compiled(values: torch.dtype, target: Target) -> tuple[Any, Callable[..., None]]:
    """Return the engine, which must be kept, and the function, which frees Python's lock while it runs.

    Where a processor has no such load for numbers of this size (bfloat16 needs AVX512_VBMI2), all go one by one.
    """
    word = WORDS[values]
    at_once = target.lanes == 16 and (word == "i32" or "+avx512vbmi2" in target.features.split(","))
    text = CODE.format(
        name=NAME,
        word=word,
        groups="lshr i64 %weights, 4" if at_once else "add i64 0, 0",
        widen=_widen("%wide", f"<16 x {word}> %found", "<16 x i32>", f"<{', '.join(['i32 16'] * 16)}>"),
        widen_one=_widen("%one.wide", f"{word} %one", "i32", "16"),
    )
    engine, address = machine_code(text, target, NAME)
    return engine, ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)(address)


def _widen(result: str, value: str, to: str, sixteen: str) -> str:
    """Return the code that makes float32 of a value: bfloat16 is its upper half."""
    if "i32" in value:
        return f"{result} = bitcast {value} to {to}"
    return f"{result}.low = zext {value} to {to}\n  {result} = shl {to} {result}.low, {sixteen}"
