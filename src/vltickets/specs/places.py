"""Where a backbone's prunable weights lie: in which layer, in what kind of module. From the spec alone, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vltickets.errors import UserError
from vltickets.specs.backbones import BackboneSpec, HuggingFace, Lxmert, Uniter, Vilt
from vltickets.specs.coverage import Part

# Embeddings and projections are of a mask only where the backbone's `prunable` says so (docs/protocol.md).
Kind = Literal["query", "key", "value", "attention output", "FFN in", "FFN out", "embedding", "projection", "pooler"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Place:
    """Where a weight tensor lies. `layer` counts from 0 and is None outside the encoder; `shape` is (out, in).

    `modality` (language, vision or cross) is for backbones with a stream for each; UNITER has one for both. There the
    layers are counted on from language to vision to cross, so that no two have one number.
    """

    layer: int | None
    kind: Kind
    shape: tuple[int, ...]
    modality: str | None = None

    @property
    def size(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


def weight_places(spec: BackboneSpec) -> dict[str, Place]:
    """Return the place of each prunable weight by name, in the order of `backbones.prunable_shapes`.

    The places of a Hugging Face model's weights are not known from its spec: that is a `UserError`.

    >>> weight_places(Uniter())["encoder.layer.11.output.dense.weight"]
    Place(layer=11, kind='FFN out', shape=(768, 3072), modality=None)
    """
    if isinstance(spec, HuggingFace):
        raise UserError(
            f"where the weights of the Hugging Face model {spec.model} lie is not known from its shape, so its masks "
            f"can't be told by layer or kind; `vltickets backbone show` lists them by name"
        )
    parts: dict[Part, dict[str, Place]] = {
        "embeddings": {_words(spec): Place(None, "embedding", (spec.vocabulary or 0, spec.hidden))},
        "projection": {name: Place(None, "projection", (spec.hidden, *of)) for name, of in _picture(spec).items()},
        "encoder": _lxmert(spec) if isinstance(spec, Lxmert) else _one_stream(spec),
        "pooler": {"pooler.dense.weight": Place(None, "pooler", (spec.hidden, spec.hidden))},
    }
    return {name: place for part, places in parts.items() if part in spec.prunable for name, place in places.items()}


def _words(spec: Uniter | Lxmert | Vilt) -> str:
    return f"embeddings.{'text_embeddings.' if isinstance(spec, Vilt) else ''}word_embeddings.weight"


def _picture(spec: Uniter | Lxmert | Vilt) -> dict[str, tuple[int, ...]]:
    """Return what takes the picture in, by name: the numbers of a region's feature and of its box, or of a patch."""
    if isinstance(spec, Vilt):
        return {"embeddings.patch_embeddings.projection.weight": (3, spec.pixels.patch, spec.pixels.patch)}
    width = spec.region_width or 0
    if isinstance(spec, Lxmert):
        return {"encoder.visn_fc.visn_fc.weight": (width,), "encoder.visn_fc.box_fc.weight": (4,)}
    return {"img_embeddings.img_linear.weight": (width,), "img_embeddings.pos_linear.weight": (7,)}


def _one_stream(spec: Uniter | Vilt) -> dict[str, Place]:
    inner = "attention.attention" if isinstance(spec, Vilt) else "attention.self"
    modules = _attention(spec, inner, "attention.output") | _feed_forward(spec, "intermediate", "output")
    return {
        f"encoder.layer.{layer}.{module}.weight": Place(layer, kind, shape)
        for layer in range(spec.layers)
        for module, (kind, shape) in modules.items()
    }


def _lxmert(spec: Lxmert) -> dict[str, Place]:
    plain = _attention(spec, "attention.self", "attention.output") | _feed_forward(spec, "intermediate", "output")
    crossing = _attention(spec, "visual_attention.att", "visual_attention.output")
    for side in ("lang", "visn"):
        crossing |= _attention(spec, f"{side}_self_att.self", f"{side}_self_att.output")
    for side in ("lang", "visn"):
        crossing |= _feed_forward(spec, f"{side}_inter", f"{side}_output")
    first_cross = spec.language_layers + spec.object_layers
    stacks = (  # as the official class holds them: the crossing layers before those of objects
        ("layer", "language", 0, spec.language_layers, plain),
        ("x_layers", "cross", first_cross, spec.cross_layers, crossing),
        ("r_layers", "vision", spec.language_layers, spec.object_layers, plain),
    )
    return {
        f"encoder.{stack}.{number}.{module}.weight": Place(first + number, kind, shape, modality)
        for stack, modality, first, count, modules in stacks
        for number in range(count)
        for module, (kind, shape) in modules.items()
    }


def _attention(spec: Uniter | Lxmert | Vilt, inner: str, output: str) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    square = (spec.hidden, spec.hidden)
    return {
        f"{inner}.query": ("query", square),
        f"{inner}.key": ("key", square),
        f"{inner}.value": ("value", square),
        f"{output}.dense": ("attention output", square),
    }


def _feed_forward(spec: Uniter | Lxmert | Vilt, inner: str, output: str) -> dict[str, tuple[Kind, tuple[int, ...]]]:
    return {
        f"{inner}.dense": ("FFN in", (spec.intermediate, spec.hidden)),
        f"{output}.dense": ("FFN out", (spec.hidden, spec.intermediate)),
    }
