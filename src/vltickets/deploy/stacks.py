"""Layers on the sparse kernel, from tiles to tiles: a stack of them, and LXMERT's two streams that cross.

States are feature-major tiles [tiles, features, 64], with the valid tokens of a batch packed one behind the other:
padding costs nothing. Buffers are kept and grow with the largest batch; the feed-forward part goes through the tiles a
few at a time, so that its wide states stay in the second cache.

A half of a layer takes the states from the first of five buffers, and leaves the new ones there: the buffers change
their places in the list.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vltickets.deploy.attention import Attention, Plan, kept_zeros, pieces
from vltickets.deploy.choice import Linear, Settings, linear
from vltickets.deploy.ir import Epilogue
from vltickets.deploy.layers import AttentionParts, CrossParts, LayerParts
from vltickets.deploy.linear import TILE, SparseLinear, from_tiles, to_tiles
from vltickets.deploy.norm import TiledNorm
from vltickets.errors import UserError


def _linear(matrix: torch.nn.Linear, epilogue: Epilogue, settings: Settings) -> Linear:
    return linear(matrix.weight, matrix.bias, epilogue, settings)


class SparseAttention:
    """One attention with its output's projection, residual and norm."""

    def __init__(self, parts: AttentionParts, settings: Settings) -> None:
        self.norm_first = parts.norm_first
        self.query, self.key, self.value = (
            _linear(one, "linear", settings) for one in (parts.query, parts.key, parts.value)
        )
        self.mixed = _linear(parts.mixed, "residual", settings)
        self.norm = TiledNorm(parts.norm.weight, parts.norm.bias, parts.norm.eps, settings.target)
        self.linears = [self.query, self.key, self.value, self.mixed]

    def run(self, tiles: list[Tensor], attention: Attention, plan: Plan) -> None:
        """Replace the states, the first of five buffers."""
        states, q, k, v, context = tiles
        source = self.norm.run(states, context) if self.norm_first else states
        for one, out in ((self.query, q), (self.key, k), (self.value, v)):
            one.run(source, out)
        attention.run((q, k, v), context, plan)
        attended = self.mixed.run(context, q, states)
        if not self.norm_first:
            self.norm.run(attended, attended)
        tiles[:2] = attended, states


class SparseFeedForward:
    """A layer's second half: up, exact GELU, down, residual and norm."""

    def __init__(self, parts: LayerParts, settings: Settings) -> None:
        norm = parts.norms[1]
        self.norm_first, self.threads = parts.norm_first, settings.threads
        self.up, self.down = _linear(parts.up, "gelu", settings), _linear(parts.down, "residual", settings)
        self.norm = TiledNorm(norm.weight, norm.bias, norm.eps, settings.target)
        self.linears = [self.up, self.down]

    def run(self, tiles: list[Tensor], wide: Tensor) -> None:
        """Replace the states, the first of five buffers; `wide` is a buffer of as many tiles as there are threads."""
        states, out, spare = tiles[:3]
        for first in range(0, len(states), self.threads):
            some = slice(first, first + self.threads)
            part = states[some]
            source = self.norm.run(part, spare[some]) if self.norm_first else part
            self.down.run(self.up.run(source, wide[: len(part)]), out[some], part)
            if not self.norm_first:
                self.norm.run(out[some], out[some])
        tiles[:2] = out, states


class SparseLayer:
    """Self-attention and feed-forward."""

    def __init__(self, parts: LayerParts, settings: Settings) -> None:
        self.attention, self.forward = SparseAttention(parts.attention, settings), SparseFeedForward(parts, settings)

    def run(self, tiles: list[Tensor], wide: Tensor, attention: Attention, plan: Plan) -> None:
        """Replace the states, the first of five buffers."""
        self.attention.run(tiles, attention, plan)
        self.forward.run(tiles, wide)


class Buffers:
    """The memory of a stack of layers, for at least as many tiles as a batch has.

    All of it begins as zeros: what lies in places without a token must be finite.
    """

    def __init__(self, hidden: int, wide: int, threads: int) -> None:
        self.hidden = hidden
        self.wide = kept_zeros(threads, wide, TILE)
        self.room = kept_zeros(5, 0, hidden, TILE)

    def take(self, tiles: int) -> list[Tensor]:
        """Make room for so many tiles; return five buffers, the first for the states."""
        if tiles > self.room.shape[1]:
            self.room = kept_zeros(5, tiles, self.hidden, TILE)
        return [one[:tiles] for one in self.room]


class Stack:
    """What stacks share: the weights in their halves, buffers, and attention. Threads of Python's take turns in it."""

    def __init__(
        self, halves: Sequence[SparseAttention | SparseFeedForward], layers: Sequence[LayerParts], settings: Settings
    ) -> None:
        self.halves = halves
        self.hidden = layers[0].query.out_features
        self.attention = Attention(self.hidden, layers[0].heads, settings.threads, settings.target)
        self.buffers = Buffers(self.hidden, max(layer.up.out_features for layer in layers), settings.threads)
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise UserError("a compiled model can't be copied or saved; compile the model it was made from once more")

    @property
    def linears(self) -> list[Linear]:
        """All matrices."""
        return [one for half in self.halves for one in half.linears]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in memory."""
        return sum(one.nbytes for one in self.linears) + sum(half.norm.nbytes for half in self.halves)

    @property
    def chosen(self) -> dict[str, int]:
        """How many matrices are kept "sparse" and how many "dense"."""
        sparse = sum(isinstance(one, SparseLinear) for one in self.linears)
        return {"sparse": sparse, "dense": len(self.linears) - sparse}


class SparseStack(Stack):
    """The layers of an encoder of one stream, without what is its model's own."""

    def __init__(self, layers: Sequence[LayerParts], settings: Settings) -> None:
        _check_alike(layers)
        self.layers = [SparseLayer(layer, settings) for layer in layers]
        halves = [half for layer in self.layers for half in (layer.attention, layer.forward)]
        super().__init__(halves, layers, settings)

    def run(self, states: Tensor, valid: Tensor) -> Tensor:
        """Return the last layer's states [b, j, d] of states [b, j, d]; zeros where `valid` [b, j] is false."""
        tokens, lengths = _packed(states, valid)
        with self.lock, torch.no_grad():
            tiles = self.buffers.take(_tiles(tokens))
            to_tiles(tokens, tiles[0])
            plan = self.attention.plan(pieces(lengths))
            for layer in self.layers:
                layer.run(tiles, self.buffers.wide, self.attention, plan)
            result = from_tiles(tiles[0], len(tokens))
        return _unpacked(result, valid)


class CrossStack(Stack):
    """LXMERT's layers: of words, of objects, and those where they cross.

    The tiles of both streams lie one behind the other in one buffer. So the weights that the two directions of a
    crossing share go over all tiles at once, and a token's keys are those of its example at the other end.
    """

    def __init__(
        self,
        words: Sequence[LayerParts],
        objects: Sequence[LayerParts],
        crossing: Sequence[CrossParts],
        settings: Settings,
    ) -> None:
        layers = [*words, *objects, *(part for layer in crossing for part in (layer.words, layer.objects))]
        _check_alike([*layers, *(layer.cross for layer in crossing)])
        self.words, self.objects = ([SparseLayer(layer, settings) for layer in stream] for stream in (words, objects))
        self.crossing = [
            (
                SparseAttention(layer.cross, settings),
                SparseLayer(layer.words, settings),
                SparseLayer(layer.objects, settings),
            )
            for layer in crossing
        ]
        alone = [*self.words, *self.objects, *(one for _, *both in self.crossing for one in both)]
        halves = [half for layer in alone for half in (layer.attention, layer.forward)]
        super().__init__([*halves, *(cross for cross, *_ in self.crossing)], layers, settings)

    def run(self, words: Tensor, valid: Tensor, objects: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last layer's states of words [b, t, d] and of objects [b, r, d].

        Zeros where `valid` [b, t] and `present` [b, r] are false. Each example has a word and an object.
        """
        (texts, text_lengths), (things, thing_lengths) = _packed(words, valid), _packed(objects, present)
        split = _tiles(texts)
        with self.lock, torch.no_grad():
            tiles = self.buffers.take(split + _tiles(things))
            to_tiles(texts, tiles[0])
            to_tiles(things, tiles[0][split:])
            self._layers(tiles, split, text_lengths, thing_lengths)
            left, right = from_tiles(tiles[0][:split], len(texts)), from_tiles(tiles[0][split:], len(things))
        return _unpacked(left, valid), _unpacked(right, present)

    def run_words(self, states: Tensor, valid: Tensor) -> Tensor:
        """Return the states [b, t, d] of words alone, after their own layers."""
        tokens, lengths = _packed(states, valid)
        with self.lock, torch.no_grad():
            tiles = self.buffers.take(_tiles(tokens))
            to_tiles(tokens, tiles[0])
            self._stream(self.words, tiles, self.attention.plan(pieces(lengths)))
            result = from_tiles(tiles[0], len(tokens))
        return _unpacked(result, valid)

    def _layers(self, tiles: list[Tensor], split: int, texts: Sequence[int], things: Sequence[int]) -> None:
        """Go through all layers; the first `split` tiles hold words, the others objects."""
        # Within a stream places count from its own first tile, over both from that of the words.
        places = pieces(texts), pieces(things, split)
        plans = [self.attention.plan(pieces(lengths)) for lengths in (texts, things)]
        there, back = places[0] + places[1], places[1] + places[0]
        crossed = self.attention.plan(there, back)
        for layers, part, plan in zip((self.words, self.objects), _halves(tiles, split), plans, strict=True):
            self._stream(layers, part, plan)
        for cross, *alone in self.crossing:
            cross.run(tiles, self.attention, crossed)
            for layer, part, plan in zip(alone, _halves(tiles, split), plans, strict=True):
                layer.run(part, self.buffers.wide, self.attention, plan)

    def _stream(self, layers: Sequence[SparseLayer], tiles: list[Tensor], plan: Plan) -> None:
        for layer in layers:
            layer.run(tiles, self.buffers.wide, self.attention, plan)


def _halves(tiles: Sequence[Tensor], split: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return each stream's own part of five buffers. A whole layer exchanges two of them twice: `tiles` stays true."""
    return [one[:split] for one in tiles], [one[split:] for one in tiles]


def _check_alike(layers: Sequence[LayerParts | AttentionParts]) -> None:
    if not layers or len({(layer.heads, layer.query.out_features) for layer in layers}) > 1:
        raise UserError("an encoder can be compiled where it has layers, all of one width and number of heads")


def _tiles(tokens: Tensor) -> int:
    return -(-len(tokens) // TILE)


def _packed(states: Tensor, valid: Tensor) -> tuple[Tensor, list[int]]:
    """Return the valid tokens [tokens, d] of states [b, j, d], one example behind the other, and how many each has."""
    if bool(valid.all()):
        return states.reshape(-1, states.shape[2]), [valid.shape[1]] * len(valid)
    return states[valid], valid.sum(1).tolist()


def _unpacked(tokens: Tensor, valid: Tensor) -> Tensor:
    """Return states [b, j, d], zeros where nothing is valid."""
    if len(tokens) == valid.numel():
        return tokens.view(*valid.shape, tokens.shape[1])
    out = tokens.new_zeros(*valid.shape, tokens.shape[1])
    out[valid] = tokens
    return out
