"""What a transformer's layer is made of, told the same way for UNITER, ViLT and Hugging Face's BERT encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vltickets.errors import UserError

MATRICES = ("query", "key", "value", "mixed", "up", "down")


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


def parts_of(layer: Any) -> LayerParts:
    """Return the parts of a layer of UNITER's, ViLT's or BERT's names; anything else is a `UserError`."""
    try:
        norm_first = hasattr(layer, "layernorm_before")
        attention = layer.attention.attention if norm_first else layer.attention.self
        heads = getattr(attention, "heads", None) or attention.num_attention_heads
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
            heads,
            norm_first,
        )
    except AttributeError as error:
        raise UserError(f"a layer {type(layer).__name__} can't be compiled: {error}") from None
    _check(layer, found)
    return found


def _check(layer: Any, found: LayerParts) -> None:
    """Refuse what would be computed otherwise than the layer does."""
    activation = getattr(layer.intermediate, "intermediate_act_fn", None)
    if activation is not None and not (
        type(activation).__name__ == "GELUActivation" or getattr(activation, "approximate", "") == "none"
    ):
        name = type(activation).__name__
        raise UserError(f"the layers' activation is {name}; only exact GELU can be compiled")
    if getattr(getattr(layer.attention, "self", None), "position_embedding_type", "absolute") != "absolute":
        raise UserError(f"a layer {type(layer).__name__} with relative places can't be compiled")
    for name in MATRICES:
        if type(getattr(found, name)) is not nn.Linear:
            raise UserError(f"{name} of a layer {type(layer).__name__} is no nn.Linear; only those can be compiled")
    hidden = found.query.out_features
    shapes = {
        "query": (hidden, hidden),
        "key": (hidden, hidden),
        "value": (hidden, hidden),
        "mixed": (hidden, hidden),
        "up": (found.up.out_features, hidden),
        "down": (hidden, found.up.out_features),
    }
    for name, shape in shapes.items():
        given = tuple(getattr(found, name).weight.shape)
        if given != shape:
            raise UserError(f"{name} of a layer {type(layer).__name__} has shape {given}, expected {shape}")
    if getattr(layer, "is_decoder", False) or getattr(layer, "add_cross_attention", False):
        raise UserError(f"a layer {type(layer).__name__} of a decoder can't be compiled; only encoders' can")
