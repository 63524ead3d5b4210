"""Rows of different lengths in one flat array, and the gather that turns some of them into a padded tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

WIDE = 128  # numbers in a value, from where on copying row by row is faster than gathering (about 33 rows of 6 values)


class RaggedRows(Protocol):
    """Rows of different lengths, of one array or of several."""

    @property
    def lengths(self) -> np.ndarray:
        """Values in each row."""

    def __len__(self) -> int: ...

    @property
    def width(self) -> int:
        """Numbers in one value, such as a feature's."""

    def row(self, index: int) -> torch.Tensor:
        """Return one row, without padding."""

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows as [rows, longest, …], zeros behind their ends, and the mask [rows, longest] of values.

        The values are of the type they are stored in, unless another is asked for.
        """


class Ragged:
    """`values[offsets[i]:offsets[i + 1]]` is row i. Values may have further axes, such as a feature's width.

    A memory-mapped array stays on the disk until its rows are asked for.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values = torch.from_numpy(values if isinstance(values, np.memmap) else np.array(values))
        self.offsets = offsets.astype(np.int64)
        self.lengths = np.diff(self.offsets)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """Pack rows of whole numbers."""
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        flat = np.fromiter((item for row in rows for item in row), dtype=np.int64, count=int(offsets[-1]))
        return cls(flat, offsets)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Numbers in one value."""
        return int(self.values.shape[1])

    def row(self, index: int) -> torch.Tensor:
        """Return one row, without padding."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows as [rows, longest, …], zeros behind their ends, and the mask [rows, longest] of values.

        The values are of the type they are stored in, unless another is asked for.
        """
        lengths = self.lengths[rows]
        width = max(int(lengths.max(initial=0)), 1)
        inside = torch.from_numpy(np.arange(width) < lengths[:, None])
        shape, kind = (len(rows), width, *self.values.shape[1:]), dtype or self.values.dtype
        if math.prod(shape[2:]) > WIDE:  # one copy a row is the fastest, and touches no more of the file than that
            out = torch.empty(shape, dtype=kind)
            for place, row in enumerate(rows):
                out[place, : lengths[place]] = self.values[self.offsets[row] : self.offsets[row + 1]]
                if lengths[place] < width:
                    out[place, lengths[place] :] = 0
            return out, inside
        out = torch.zeros(shape, dtype=kind)
        if len(self.values):
            places = torch.from_numpy(self.offsets[rows][:, None] + np.arange(width))[inside]
            out[inside] = self.values[places].to(kind)
        return out, inside


class JoinedRagged:
    """Several ragged arrays, one behind the other, as one."""

    def __init__(self, parts: Sequence[RaggedRows]) -> None:
        self.parts = list(parts)
        self.lengths = np.concatenate([part.lengths for part in self.parts])
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Numbers in one value."""
        return self.parts[0].width

    def row(self, index: int) -> torch.Tensor:
        """Return one row, without padding."""
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[part].row(index - int(self._starts[part]))

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows as [rows, longest, …], zeros behind their ends, and the mask [rows, longest] of values.

        The values are of the type they are stored in, unless another is asked for.
        """
        lengths = self.lengths[rows]
        width = max(int(lengths.max(initial=0)), 1)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        out: torch.Tensor | None = None
        for part in np.unique(owner):
            places = np.flatnonzero(owner == part)
            values, _ = self.parts[part].padded(rows[places] - self._starts[part], dtype)
            if out is None:
                out = values.new_zeros((len(rows), width, *values.shape[2:]))
            out[torch.from_numpy(places), : values.shape[1]] = values
        if out is None:
            return self.parts[0].padded(rows, dtype)
        return out, torch.from_numpy(np.arange(width) < lengths[:, None])
