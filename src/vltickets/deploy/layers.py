"""What a transformer layer is made of, told the same way for UNITER, ViLT, LXMERT and Hugging Face BERTs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vltickets.errors import UserError

MATRICES = ("query", "key", "value", "mixed", "up", "down")


@dataclass(frozen=True)
class AttentionParts:
    """Four matrices and a norm: the projections of queries, keys and values, and `mixed`, that of the output.

    `norm_first`: the norm stands before it (ViLT), or behind it and its residual (BERT, UNITER, LXMERT).
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    mixed: nn.Linear
    norm: nn.LayerNorm
    heads: int
    norm_first: bool = False


@dataclass(frozen=True)
class LayerParts:
    """The six matrices and two norms of a layer of self-attention and feed-forward with exact GELU.

    `query`, `key`, `value`: the attention's projections; `mixed`: its output; `up`, `down`: the feed-forward part.
    `norms`: of the two halves, behind each with its residual (`norm_first` false: BERT, UNITER), or before (ViLT).
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    mixed: nn.Linear
    up: nn.Linear
    down: nn.Linear
    norms: tuple[nn.LayerNorm, nn.LayerNorm]
    heads: int
    norm_first: bool

    @property
    def attention(self) -> AttentionParts:
        """The first half."""
        return AttentionParts(
            self.query, self.key, self.value, self.mixed, self.norms[0], self.heads, norm_first=self.norm_first
        )


@dataclass(frozen=True)
class CrossParts:
    """A layer where LXMERT's two streams cross: each attends to the other, by the same weights, then goes on alone."""

    cross: AttentionParts
    words: LayerParts
    objects: LayerParts


def parts_of(layer: Any) -> LayerParts:
    """Return the parts of a layer of UNITER's, ViLT's or BERT's names; anything else is a `UserError`."""
    try:
        norm_first = hasattr(layer, "layernorm_before")
        attention = layer.attention.attention if norm_first else layer.attention.self
        norms = (
            (layer.layernorm_before, layer.layernorm_after)
            if norm_first
            else (layer.attention.output.LayerNorm, layer.output.LayerNorm)
        )
        found = LayerParts(
            attention.query,
            attention.key,
            attention.value,
            layer.attention.output.dense,
            layer.intermediate.dense,
            layer.output.dense,
            norms,
            _heads(attention),
            norm_first,
        )
    except AttributeError as error:
        raise _unknown(layer, error) from None
    _check(layer, found, layer.intermediate)
    if getattr(getattr(layer.attention, "self", None), "position_embedding_type", "absolute") != "absolute":
        raise UserError(f"a layer {type(layer).__name__} with relative places can't be compiled")
    if getattr(layer, "is_decoder", False) or getattr(layer, "add_cross_attention", False):
        raise UserError(f"a layer {type(layer).__name__} of a decoder can't be compiled; only encoders' can")
    return found


def cross_parts_of(layer: Any) -> CrossParts:
    """Return the parts of LXMERT's crossing layer; anything else is a `UserError`."""
    try:
        cross = _attention_of(layer.visual_attention, layer.visual_attention.att)
        streams = [
            (_attention_of(own, own.self), inner, output)
            for own, inner, output in (
                (layer.lang_self_att, layer.lang_inter, layer.lang_output),
                (layer.visn_self_att, layer.visn_inter, layer.visn_output),
            )
        ]
        words, objects = (
            LayerParts(
                own.query,
                own.key,
                own.value,
                own.mixed,
                inner.dense,
                output.dense,
                (own.norm, output.LayerNorm),
                own.heads,
                norm_first=False,
            )
            for own, inner, output in streams
        )
    except AttributeError as error:
        raise _unknown(layer, error) from None
    for found, (_, inner, _) in zip((words, objects), streams, strict=True):
        _check(layer, found, inner)
    _check_matrices(layer, cross, dict.fromkeys(MATRICES[:4], (cross.query.out_features,) * 2))
    return CrossParts(cross, words, objects)


def _attention_of(whole: Any, projections: Any) -> AttentionParts:
    return AttentionParts(
        projections.query,
        projections.key,
        projections.value,
        whole.output.dense,
        whole.output.LayerNorm,
        _heads(projections),
    )


def _heads(attention: Any) -> int:
    return int(getattr(attention, "heads", None) or attention.num_attention_heads)


def _unknown(layer: Any, error: AttributeError) -> UserError:
    return UserError(f"a layer {type(layer).__name__} can't be compiled: {error}")


def _check(layer: Any, found: LayerParts, intermediate: Any) -> None:
    """Refuse what would be computed otherwise than the layer does."""
    activation = getattr(intermediate, "intermediate_act_fn", None)
    if activation is not None and not (
        type(activation).__name__ == "GELUActivation" or getattr(activation, "approximate", "") == "none"
    ):
        name = type(activation).__name__
        raise UserError(f"the layers' activation is {name}; only exact GELU can be compiled")
    hidden, wide = (getattr(getattr(found, name), "out_features", 0) for name in ("query", "up"))
    square = dict.fromkeys(MATRICES[:4], (hidden, hidden))
    _check_matrices(layer, found, square | {"up": (wide, hidden), "down": (hidden, wide)})


def _check_matrices(layer: Any, found: LayerParts | AttentionParts, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        matrix = getattr(found, name)
        if type(matrix) is not nn.Linear:
            raise UserError(f"{name} of a layer {type(layer).__name__} is no nn.Linear; only those can be compiled")
        given = tuple(matrix.weight.shape)
        if given != shape:
            raise UserError(f"{name} of a layer {type(layer).__name__} has shape {given}, expected {shape}")
