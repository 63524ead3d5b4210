"""Self-attention over examples that lie one behind the other in feature-major tiles, without padding between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vltickets.deploy.linear import TILE


@dataclass(frozen=True)
class Piece:
    """Tokens of one example that lie in one tile: `count` of them from `first` on, the example's own from `at` on."""

    tile: int
    first: int
    count: int
    at: int


def pieces(lengths: Sequence[int]) -> list[list[Piece]]:
    """Return where the tokens of each example lie, for examples packed one behind the other; none for no tokens."""
    found, start = [], 0
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


def attend(qkv: Sequence[Tensor], context: Tensor, examples: Sequence[Sequence[Piece]], heads: int) -> None:
    """Compute softmax(q^T k / sqrt(width)) v of each head and example into `context`.

    `qkv` are three tensors of tiles [tiles, features, 64], as is `context`; head h has the features from
    h x features / heads on. Tokens attend to those of their own example only.
    """
    tiles, features, _ = context.shape
    width = features // heads
    split = [one.view(tiles, heads, width, TILE) for one in qkv]
    out = context.view(tiles, heads, width, TILE)
    for mine in examples:
        if not mine:
            continue
        q, k, v = (_gathered(one, mine) for one in split)
        tokens = q.shape[2]
        scores = q.new_empty(heads, tokens, tokens)
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
