"""Packing: a weight matrix with zeros becomes blocks of columns, each in compressed rows, for the sparse kernel.

The layout is that of sparse matrix times tall matrix after Elsen et al., "Fast Sparse ConvNets" (2020), with blocks of
columns, so that the activations of a block (128 columns x 64 tokens x 4 bytes = 32 KiB) stay in the first cache.

A block holds its *visits*: each row with a non-zero in the block and, in the first and the last block, every row,
because there the kernel begins a row's sum with the bias and ends it with the epilogue. Rows are visited in `unroll`
*sections*, by the remainder of their count of non-zeros on division by `unroll`, and sorted by count within one. So a
row's remainder is done by code of its own, nothing is padded (a padding weight of 0 would make NaN of an infinite
activation), and the number of turns of the inner loop changes seldom, which the processor can predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vltickets.errors import UserError

Values = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Layout:
    """What packed weights and the kernel's code must agree on.

    Args:
        values: the type in which non-zeros are kept; both are computed with as float32.
        block: columns in a block, at most 256.
        tile: tokens in a tile of activations.
        unroll: non-zeros in one turn of the kernel's inner loop, 2 or 4.

    Raises:
        UserError: where a field is out of range, or a place in a block would not fit 16 bits.
    """

    values: Values = "float32"
    block: int = 128
    tile: int = 64
    unroll: int = 4

    def __post_init__(self) -> None:
        if self.values not in get_args(Values):
            raise UserError(f"values of type {self.values!r} can't be packed (allowed: {', '.join(get_args(Values))})")
        if self.unroll not in (2, 4) or not 1 <= self.block <= 256 or self.tile < 1:
            raise UserError(
                f"a layout needs unroll 2 or 4, 1 to 256 columns in a block and a tile of 1 token or more, got {self}"
            )
        if (self.block - 1) * self.column_bytes >= 1 << 16:
            raise UserError(f"{self.block} columns of {self.tile} tokens exceed the kernel's 16-bit places; take fewer")

    @property
    def column_bytes(self) -> int:
        """Bytes of one column's activations in a tile, the unit of the packed places."""
        return self.tile * 4

    def blocks(self, columns: int) -> int:
        """Return into how many blocks that many columns are cut; the last may be narrower."""
        return -(-columns // self.block)


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [rows, columns] of non-zeros in the kernel's layout. Arrays run in the order in which they are read.

    values: the non-zeros, float32 or the upper half of a float32 (bfloat16) as uint16.
    places: of each, the column within its block, times `layout.column_bytes`, uint16.
    visits: int32 [visits, 2], the row, and its count of non-zeros in the block // `layout.unroll`.
    sections: int32 [blocks, unroll], how many visits each section has; section r holds counts with remainder r.
    """

    shape: tuple[int, int]
    layout: Layout
    values: NDArray[np.float32] | NDArray[np.uint16]
    places: NDArray[np.uint16]
    visits: NDArray[np.int32]
    sections: NDArray[np.int32]

    @property
    def nonzeros(self) -> int:
        """How many weights are kept."""
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes + self.places.nbytes + self.visits.nbytes + self.sections.nbytes

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """Where values, places, visits and sections begin in memory, as the kernel takes them."""
        return self.values.ctypes.data, self.places.ctypes.data, self.visits.ctypes.data, self.sections.ctypes.data


def pack(weight: NDArray[np.float32], layout: Layout) -> PackedMatrix:
    """Return the non-zeros of `weight` [rows, columns], float32, in the kernel's layout.

    Zeros of either sign are left out, everything else is kept, infinities and NaN too. Bfloat16 values must have been
    rounded before: `unpack` is exact.

    Raises:
        UserError: where `weight` is no non-empty float32 matrix, or would lose digits.
    """
    if weight.dtype != np.float32 or weight.ndim != 2 or 0 in weight.shape:
        raise UserError(
            f"expected a non-empty float32 matrix to pack, got {weight.dtype} of shape {list(weight.shape)}"
        )
    rows, columns = weight.shape
    blocks = layout.blocks(columns)
    packed = [
        _pack_block(weight[:, b * layout.block : (b + 1) * layout.block], layout, whole=b in (0, blocks - 1))
        for b in range(blocks)
    ]
    values = np.concatenate([block[0] for block in packed])
    return PackedMatrix(
        (rows, columns),
        layout,
        _upper_halves(values) if layout.values == "bfloat16" else values,
        np.concatenate([block[1] for block in packed]),
        np.concatenate([block[2] for block in packed]),
        np.stack([block[3] for block in packed]),
    )


def _pack_block(
    weight: NDArray[np.float32], layout: Layout, *, whole: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint16], NDArray[np.int32], NDArray[np.int32]]:
    """Return values, places, visits and sections of one block; `whole` visits rows without non-zeros too."""
    counts = (weight != 0).sum(1, dtype=np.int16)
    turns, section = np.divmod(counts, np.int16(layout.unroll))
    order = np.argsort(section * np.int16(512) + counts, kind="stable")  # of 16 bits, numpy sorts by radix
    if not whole:
        order = order[counts[order] > 0]
    ordered = weight[order].ravel()
    at = np.flatnonzero(ordered != 0)  # of booleans, many times faster than of floats
    scaled = (np.arange(weight.shape[1]) * layout.column_bytes).astype(np.uint16)
    places = np.tile(scaled, len(order))[at]
    visits = np.stack([order, turns[order]], axis=1).astype(np.int32)
    sections = np.bincount(section[order], minlength=layout.unroll).astype(np.int32)
    return ordered[at], places, visits, sections


def _upper_halves(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise UserError("the weights have more digits than bfloat16 holds; round them before packing")
    return (bits >> 16).astype(np.uint16)


def unpack(packed: PackedMatrix) -> NDArray[np.float32]:
    """Return the matrix [rows, columns] that was packed, every value exactly; zeros are +0."""
    layout = packed.layout
    block, section = np.divmod(np.arange(packed.sections.size), layout.unroll)
    visits = packed.sections.ravel()
    counts = packed.visits[:, 1] * layout.unroll + np.repeat(section, visits)
    rows = np.repeat(packed.visits[:, 0], counts)
    first_column = np.repeat(np.repeat(block, visits), counts) * layout.block
    dense = np.zeros(packed.shape, np.float32)
    dense[rows, first_column + packed.places // layout.column_bytes] = widened(packed)
    return dense


def widened(packed: PackedMatrix) -> NDArray[np.float32]:
    """Return the packed values as float32, in their order."""
    if packed.values.dtype == np.float32:
        return packed.values.view(np.float32)
    return (packed.values.astype(np.uint32) << 16).view(np.float32)


def row_ranges(weight: NDArray[np.float32], parts: int) -> list[range]:
    """Cut the rows into at most `parts` ranges, none of them empty, of about the same work for the kernel."""
    rows = len(weight)
    work = np.cumsum((weight != 0).sum(1) + 8)  # a row costs about as much as 8 non-zeros beside its own
    cuts = np.searchsorted(work, work[-1] * np.arange(1, parts) / parts)
    edges = sorted({0, rows, *(int(cut) for cut in cuts)})
    return [range(first, last) for first, last in pairwise(edges)]
