"""Attention over examples that lie one behind the other in feature-major tiles, without padding between them.

The keys are an example's own tokens (self-attention), or its tokens of another stream (LXMERT's crossing layers).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vltickets.deploy.attention_code import KEYS, NAME, attention_code
from vltickets.deploy.jit import Target, host_target, machine_code
from vltickets.deploy.linear import TILE, pool


@dataclass(frozen=True)
class Piece:
    """Tokens of one example that lie in one tile: `count` of them from `first` on, the example's own from `at` on."""

    tile: int
    first: int
    count: int
    at: int


Places = Sequence[Sequence[Piece]]  # of each example


def pieces(lengths: Sequence[int], tile: int = 0) -> list[list[Piece]]:
    """Return where the tokens of each example lie, for examples packed one behind the other from a tile on.

    An example without tokens has no pieces.
    """
    found, start = [], tile * TILE
    for length in lengths:
        mine, at = [], 0
        while at < length:
            tile, first = divmod(start + at, TILE)
            count = min(TILE - first, length - at)
            mine.append(Piece(tile, first, count, at))
            at += count
        found.append(mine)
        start += length
    return found


@dataclass(frozen=True)
class Plan:
    """What attention has to do for a batch, the same in each layer.

    `jobs`: the arguments of the compiled code's calls, a vector of queries each: in bytes where the queries and the
    keys lie, the first key's place in its tile, the keys, the first lane to store and the one behind the last.
    `others`: of examples for plain torch, where the queries and the keys lie.
    """

    jobs: list[tuple[int, int, int, int, int, int]]
    others: list[tuple[Sequence[Piece], Sequence[Piece]]]


class Attention:
    """softmax(q^T k / sqrt(width)) v of each head, over the tokens of each example, on tiles.

    Head h has the features from h x width on, `hidden` in all. Compiled, it takes half the time of torch's batched
    products, for examples of 15 to 100 tokens (12 heads of 64, AVX-512). On vectors of 8 floats and fewer, torch is
    faster for long examples, and computes those.
    """

    def __init__(self, hidden: int, heads: int, threads: int, target: Target | Literal["host"] | None) -> None:
        target = host_target() if target == "host" else target
        self.hidden, self.heads, self.threads, self.width = hidden, heads, threads, hidden // heads
        self.tile_bytes = hidden * TILE * 4
        self.lanes = 0 if target is None else target.lanes
        self.call = None if target is None else _attention_for(target)
        self.scratch = kept_zeros(threads, 0, max(self.lanes, 1))

    def plan(self, places: Places, keys_of: Places | None = None) -> Plan:
        """Return what there is to do for examples at these places.

        `keys_of`: where the keys of each lie, at least one wherever there are queries; unless given, those are its own
        tokens.
        """
        jobs, others, longest = [], [], 0
        for mine, theirs in zip(places, places if keys_of is None else keys_of, strict=True):
            tokens = sum(piece.count for piece in theirs)
            if self.call is None or (self.lanes < 16 and tokens > TILE):
                others.append((mine, theirs))
                continue
            longest = max(longest, tokens)
            for piece in mine:
                for vector in range(piece.first // self.lanes, (piece.first + piece.count - 1) // self.lanes + 1):
                    low = piece.first - vector * self.lanes
                    query = piece.tile * self.tile_bytes + vector * self.lanes * 4
                    keys = theirs[0].tile * self.tile_bytes
                    jobs.append((query, keys, theirs[0].first, tokens, low, low + piece.count))
        if longest + KEYS > self.scratch.shape[1]:
            self.scratch = kept_zeros(self.threads, longest + KEYS, max(self.lanes, 1))
        return Plan(jobs, others)

    def run(self, qkv: Sequence[Tensor], context: Tensor, plan: Plan) -> None:
        """Compute `context` of `qkv`, all tiles [tiles, hidden, 64]; one call at a time."""
        attend(qkv, context, plan.others, self.heads)
        if self.threads == 1 or len(plan.jobs) == 1:
            self._work(qkv, context, plan.jobs, 0)
            return
        waiting = [
            pool(self.threads - 1).submit(self._work, qkv, context, plan.jobs[k :: self.threads], k)
            for k in range(1, self.threads)
        ]
        self._work(qkv, context, plan.jobs[:: self.threads], 0)
        for one in waiting:
            one.result()

    def _work(self, qkv: Sequence[Tensor], context: Tensor, jobs: Sequence[tuple[int, ...]], thread: int) -> None:
        assert self.call is not None or not jobs
        q, k, v = (one.data_ptr() for one in qkv)
        out, scratch, scale = context.data_ptr(), self.scratch[thread].data_ptr(), self.width**-0.5
        for query, keys, first, count, low, high in jobs:
            self.call(  # type: ignore[misc]
                q + query,
                out + query,
                k + keys,
                v + keys,
                scratch,
                self.width,
                self.heads,
                first,
                count,
                self.tile_bytes,
                scale,
                low,
                high,
            )


def kept_zeros(*shape: int) -> Tensor:
    """Return zeros that may be written to later in any mode: those made in inference mode could not be outside it."""
    with torch.inference_mode(False):
        return torch.zeros(shape)


_lock = threading.Lock()
_compiled: dict[Target, tuple[Callable[..., None], Any]] = {}  # with the engine, which owns the machine code


def _attention_for(target: Target) -> Callable[..., None]:
    with _lock:
        if target not in _compiled:
            engine, address = machine_code(attention_code(target.lanes), target, NAME)
            kinds = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 5 + [ctypes.c_float] + [ctypes.c_int32] * 2
            _compiled[target] = ctypes.CFUNCTYPE(None, *kinds)(address), engine
        return _compiled[target][0]


def attend(
    qkv: Sequence[Tensor],
    context: Tensor,
    examples: Sequence[tuple[Sequence[Piece], Sequence[Piece]]],
    heads: int,
) -> None:
    """Compute softmax(q^T k / sqrt(width)) v of each head and example into `context`, by torch.

    `qkv` are three tensors of tiles [tiles, features, 64], as is `context`; head h has the features from
    h x features / heads on. `examples`: where the queries of each and its keys lie.
    """
    tiles, features, _ = context.shape
    width = features // heads
    split = [one.view(tiles, heads, width, TILE) for one in qkv]
    out = context.view(tiles, heads, width, TILE)
    for mine, theirs in examples:
        if not mine:
            continue
        q, k, v = (_gathered(one, where) for one, where in zip(split, (mine, theirs, theirs), strict=True))
        scores = q.new_empty(heads, q.shape[2], k.shape[2])
        torch.baddbmm(scores, q.transpose(1, 2), k, beta=0, alpha=width**-0.5, out=scores)
        torch.softmax(scores, 2, out=scores)
        attended = torch.bmm(v, scores.transpose(1, 2))
        for piece in mine:
            place = out[piece.tile, :, :, piece.first : piece.first + piece.count]
            place.copy_(attended[:, :, piece.at : piece.at + piece.count])


def _gathered(split: Tensor, mine: Sequence[Piece]) -> Tensor:
    """Return an example's [heads, width, tokens]: a view where it lies in one tile."""
    views = [split[piece.tile, :, :, piece.first : piece.first + piece.count] for piece in mine]
    return views[0] if len(views) == 1 else torch.cat(views, 2)
