"""Rows of different lengths in one flat array, and the gather that turns some of them into a padded tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Ragged:
    """`values[offsets[i]:offsets[i + 1]]` is row i. Values may have further axes, such as a feature's width."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values = torch.from_numpy(np.array(values))
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

    def row(self, index: int) -> torch.Tensor:
        """Return one row, without padding."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows as [rows, longest, …], zeros behind their ends, and the mask [rows, longest] of values."""
        lengths = self.lengths[rows]
        width = max(int(lengths.max(initial=0)), 1)
        span = np.arange(width)
        mask = span < lengths[:, None]
        places = np.where(mask, self.offsets[rows][:, None] + span, 0)
        inside = torch.from_numpy(mask)
        if not len(self.values):
            return self.values.new_zeros((len(rows), width, *self.values.shape[1:])), inside
        gathered = self.values[torch.from_numpy(places.ravel())].view(len(rows), width, *self.values.shape[1:])
        shape = (*inside.shape, *([1] * (gathered.dim() - 2)))
        return gathered.masked_fill(~inside.view(shape), 0), inside
