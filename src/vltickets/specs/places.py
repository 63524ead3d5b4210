"""Where a backbone's prunable weights lie: in which layer, in what kind of module. From the spec alone, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from vltickets.specs.backbones import Uniter

# Embeddings are not prunable by default (docs/protocol.md), so no weight is of that kind so far.
Kind = Literal["query", "key", "value", "attention output", "FFN in", "FFN out", "embedding", "pooler"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Place:
    """Where a weight tensor lies. `layer` counts from 0 and is None outside the encoder; `shape` is (out, in).

    `modality` is for backbones with a stream for each; UNITER has one for both.
    """

    layer: int | None
    kind: Kind
    shape: tuple[int, ...]
    modality: str | None = None

    @property
    def size(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


def weight_places(spec: Uniter) -> dict[str, Place]:
    """Return the place of each prunable weight by name, in the order of `backbones.prunable_shapes`.

    >>> weight_places(Uniter())["encoder.layer.11.output.dense.weight"]
    Place(layer=11, kind='FFN out', shape=(768, 3072), modality=None)
    """
    square = (spec.hidden, spec.hidden)
    modules: dict[str, tuple[Kind, tuple[int, ...]]] = {
        "attention.self.query": ("query", square),
        "attention.self.key": ("key", square),
        "attention.self.value": ("value", square),
        "attention.output.dense": ("attention output", square),
        "intermediate.dense": ("FFN in", (spec.intermediate, spec.hidden)),
        "output.dense": ("FFN out", (spec.hidden, spec.intermediate)),
    }
    places = {
        f"encoder.layer.{layer}.{module}.weight": Place(layer, kind, shape)
        for layer in range(spec.layers)
        for module, (kind, shape) in modules.items()
    }
    return places | {"pooler.dense.weight": Place(None, "pooler", square)}
