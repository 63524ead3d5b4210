"""The anatomy of masks: how much two overlap, how much they would by chance, and where a mask keeps its weights.

The counting itself is `store.masks`, on packed bits, which a report uses too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vltickets.errors import UserError
from vltickets.specs import Place
from vltickets.store import masks as counting
from vltickets.store.masks import Densities
from vltickets.tickets.mask import Mask

NAMES = ("the first mask", "the second mask")


@dataclass(frozen=True)
class Comparison:
    """Overlaps of masks with each other, [k, k] in the order of `names`, and the values expected by chance.

    The diagonal of `overlap` is 1. That of `chance` is of two random masks with the counts of the one.
    """

    names: tuple[str, ...]
    overlap: tuple[tuple[float, ...], ...]
    chance: tuple[tuple[float, ...], ...]


def overlap(first: Mask, second: Mask) -> float:
    """Return |A∩B|/|A∪B| of the weights that two masks keep; 1 for equal masks, also where both keep nothing.

    Raises `UserError` where the masks are of different shapes.

    >>> import torch
    >>> a, b = ({"w": torch.tensor(kept)} for kept in ([True, True, False], [False, True, True]))
    >>> round(overlap(Mask(a), Mask(b)), 3)
    0.333
    """
    return compare(dict(zip(NAMES, (first, second), strict=True))).overlap[0][1]


def chance_overlap(first: Mask, second: Mask) -> float:
    """Return the overlap of random masks that keep as many weights of each tensor: E|A∩B|/E|A∪B|.

    E|A∩B| = Σ a_l·b_l/n_l over the tensors, E|A∪B| = Σ a_l + Σ b_l − E|A∩B|; see `store.masks.chance_overlap`.
    Raises `UserError` where the masks are of different shapes.
    """
    return compare(dict(zip(NAMES, (first, second), strict=True))).chance[0][1]


def compare(masks: Mapping[str, Mask]) -> Comparison:
    """Return all overlaps of named masks. Different shapes are a `UserError` that names both masks."""
    _check_alike(masks)
    packed = {name: mask.packed() for name, mask in masks.items()}
    counts = {name: counting.kept_counts(bits) for name, bits in packed.items()}
    sizes = {name: mask[name].numel() for mask in list(masks.values())[:1] for name in mask}
    return Comparison(
        names=tuple(masks),
        overlap=tuple(tuple(counting.overlap(packed[a], packed[b]) for b in masks) for a in masks),
        chance=tuple(tuple(counting.chance_overlap(counts[a], counts[b], sizes) for b in masks) for a in masks),
    )


def densities(mask: Mask, places: Mapping[str, Place]) -> Densities:
    """Return the shares of weights that a mask keeps: of all, by layer and by kind of module.

    `places` are the backbone's (`backbones.weight_places`); a mask of another backbone is a `UserError`.
    """
    if mask.shapes != {name: place.shape for name, place in places.items()}:
        raise UserError("the mask is of another backbone: its tensors are not those whose places are given")
    return counting.densities({name: int(mask[name].count_nonzero()) for name in mask}, places)


def _check_alike(masks: Mapping[str, Mask]) -> None:
    (first_name, first), *others = masks.items()
    for name, mask in others:
        ours, theirs = first.shapes, mask.shapes
        odd = sorted(one for one in ours.keys() | theirs.keys() if ours.get(one) != theirs.get(one))
        if odd:
            raise UserError(
                f"{first_name} and {name} are of different backbones: {odd[0]} is of shape "
                f"{ours.get(odd[0], 'none')} in the one and {theirs.get(odd[0], 'none')} in the other"
            )
