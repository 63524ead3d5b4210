"""A mask: which prunable weights a ticket keeps. Packed, one bit a weight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from vltickets.errors import UserError

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


class Mask:
    """One boolean tensor per prunable weight, by name; true is kept. Treated as a value: nothing changes it."""

    def __init__(self, kept: Mapping[str, torch.Tensor]) -> None:
        self._kept = dict(kept)

    @classmethod
    def dense(cls, shapes: Mapping[str, tuple[int, ...]]) -> Mask:
        """Return the mask that keeps everything."""
        return cls({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask) or self.shapes != other.shapes:
            return False
        return all(torch.equal(self[name], other[name]) for name in self)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights it covers."""
        return {name: tuple(tensor.shape) for name, tensor in self._kept.items()}

    @property
    def total(self) -> int:
        """d₁: how many weights it covers."""
        return sum(tensor.numel() for tensor in self._kept.values())

    @property
    def kept(self) -> int:
        """How many weights it keeps."""
        return sum(int(np.count_nonzero(tensor.cpu().numpy())) for tensor in self._kept.values())

    @property
    def sparsity(self) -> float:
        """The share of d₁ that is pruned."""
        return 1 - self.kept / self.total

    @property
    def digest(self) -> str:
        """A hash of names, shapes and bits."""
        return packed_digest(self.packed(), self.shapes)

    def is_subset_of(self, other: Mask) -> bool:
        """Does it keep only weights that `other` keeps too?"""
        return self.shapes == other.shapes and not any(bool((self[name] & ~other[name]).any()) for name in self)

    def packed(self) -> dict[str, np.ndarray]:
        """Return the bits of each tensor, eight to a byte, first weight in the highest bit."""
        return {name: np.packbits(tensor.cpu().numpy().ravel()) for name, tensor in self._kept.items()}

    @classmethod
    def unpacked(cls, bits: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Mask:
        """Return the mask of packed bits; names or sizes that do not fit the shapes are a `UserError`."""
        if set(bits) != set(shapes):
            odd = ", ".join(sorted(set(bits) ^ set(shapes))[:3])
            raise UserError(f"the mask is of another backbone: it differs in {odd}")
        kept = {}
        for name, shape in shapes.items():
            count = math.prod(shape)  # Python's own numbers: a file that lies about sizes can't wrap around
            if bits[name].dtype != np.uint8 or bits[name].shape != ((count + 7) // 8,):
                raise UserError(f"the mask is of another backbone: {name} should have {count} weights of shape {shape}")
            if count % 8 and bits[name][-1] & (0xFF >> count % 8):
                raise UserError(f"the mask is damaged: {name} has bits beyond its {count} weights")
            kept[name] = torch.from_numpy(np.unpackbits(bits[name], count=count).view(np.bool_)).view(shape)
        return cls(kept)

    def apply_(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set pruned weights to exactly 0, in place. Weights that the mask does not cover are left alone."""
        with torch.no_grad():
            for name, tensor in self._kept.items():
                _zero(weights[name], tensor.to(weights[name].device))


def _zero(weight: torch.Tensor, keep: torch.Tensor) -> None:
    """Set what is not kept to +0, whatever it was (NaN too), in a third of the time of `masked_fill_` on the CPU."""
    integers = INTEGERS.get(weight.element_size()) if weight.is_floating_point() else None
    if integers is None:
        weight.masked_fill_(~keep, 0)
    else:
        weight.view(integers).bitwise_and_(keep.view(torch.int8).neg())  # kept: −1, all bits; pruned: 0, none


def packed_digest(bits: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the hash of the mask of packed bits, which is the mask's `digest`, without unpacking them."""
    total = hashlib.sha256()
    for name in sorted(bits):
        total.update(f"{name}{shapes[name]}".encode())
        total.update(np.ascontiguousarray(bits[name]).data)
    return total.hexdigest()[:20]
