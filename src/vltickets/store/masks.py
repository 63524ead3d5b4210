"""Counting on masks as the store keeps them, eight weights to a byte: overlap, its chance value, densities.

Knows no models: which tensors there are, how large, and where they lie is given (`specs.weight_places`). Knows no torch
either, so a report counts without it; `tickets.anatomy` is the same for a `Mask`. Every count is an exact integer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vltickets.errors import UserError
from vltickets.specs import KINDS, BackboneSpec, Place, differences

MODALITIES = ("language", "vision", "cross")
Packed = Mapping[str, np.ndarray]  # the bits of each tensor, uint8; what is left of the last byte is 0


@dataclass(frozen=True)
class Densities:
    """Shares of weights that a mask keeps, in [0, 1]: of all, of each layer, of each kind of module, of each modality.

    Weights outside the layers (pooler, embeddings, projections) are in `total` and `kinds` only; a backbone of one
    stream has no modalities.
    """

    total: float
    layers: dict[int, float]
    kinds: dict[str, float]
    modalities: dict[str, float] = field(default_factory=dict)


def kept_counts(mask: Packed) -> dict[str, int]:
    """Return how many weights are kept in each tensor."""
    return {name: _ones(bits) for name, bits in mask.items()}


def overlap(first: Packed, second: Packed) -> float:
    """Return |A∩B|/|A∪B| of the kept weights of two masks of one backbone; two that keep nothing are alike: 1."""
    both = sum(_ones(first[name] & second[name]) for name in first)
    either = sum(_ones(first[name] | second[name]) for name in first)
    return both / either if either else 1.0


def chance_overlap(first: Mapping[str, int], second: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Return the overlap expected of independent, uniformly random masks with these kept counts in each tensor.

    With a_l and b_l of the n_l weights of tensor l kept, E|A∩B| = Σ a_l·b_l/n_l exactly, and
    E|A∪B| = Σ a_l + Σ b_l − E|A∩B|. The value is the ratio of these two expectations. The expectation of the ratio
    differs from it by the order of 1/Σ n_l, which is nothing at the size of a backbone.
    """
    both = math.fsum(first[name] * second[name] / sizes[name] for name in sizes)
    either = sum(first.values()) + sum(second.values()) - both
    return both / either if either else 1.0


def densities(kept: Mapping[str, int], places: Mapping[str, Place]) -> Densities:
    """Return the shares kept, from the kept counts and the places of the tensors."""
    layers = _shares(kept, places, lambda place: place.layer)
    kinds = _shares(kept, places, lambda place: KINDS.index(place.kind))
    streams = _shares(kept, places, lambda place: MODALITIES.index(place.modality) if place.modality else None)
    return Densities(
        total=sum(kept.values()) / sum(place.size for place in places.values()),
        layers=layers,
        kinds={KINDS[kind]: share for kind, share in kinds.items()},
        modalities={MODALITIES[stream]: share for stream, share in streams.items()},
    )


def check_same_backbone(backbones: Mapping[str, BackboneSpec]) -> None:
    """Refuse masks, by their names, of different backbones: `UserError` names the first two and how they differ."""
    named = list(backbones.items())
    for name, backbone in named[1:]:
        first_name, first = named[0]
        if unlike := differences(first, backbone):
            ours = _told({field: value for field, (value, _) in unlike.items()})
            theirs = _told({field: value for field, (_, value) in unlike.items()})
            raise UserError(
                f"{first_name} and {name} are masks of different backbones ({ours} against {theirs}); "
                f"only masks of one backbone can be compared"
            )


def _told(fields: Mapping[str, Any]) -> str:
    """Return fields in words; what a backbone has no value for is left out."""
    values = {name: "+".join(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def check_packed(mask: Packed, places: Mapping[str, Place], name: str) -> None:
    """Refuse a mask whose tensors are not those of the places, with `UserError`."""
    odd = sorted(set(mask) ^ set(places))
    odd += [one for one in places if one in mask and not _fits(mask[one], places[one].size)]
    if odd:
        raise UserError(f"the mask {name} does not fit the backbone it is for: it differs in {', '.join(odd[:3])}")


def _fits(bits: np.ndarray, size: int) -> bool:
    return bits.dtype == np.uint8 and bits.shape == ((size + 7) // 8,)


def _ones(bits: np.ndarray) -> int:
    return int(np.bitwise_count(bits).sum(dtype=np.int64))


def _shares(
    kept: Mapping[str, int], places: Mapping[str, Place], group: Callable[[Place], int | None]
) -> dict[int, float]:
    """Return the share kept in each group of tensors, in order; a tensor whose group is None is left out."""
    ones: defaultdict[int, int] = defaultdict(int)
    sizes: defaultdict[int, int] = defaultdict(int)
    for name, place in places.items():
        key = group(place)
        if key is not None:
            ones[key] += kept[name]
            sizes[key] += place.size
    return {key: ones[key] / sizes[key] for key in sorted(sizes)}
