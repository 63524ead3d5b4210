"""Attention without padding: the valid tokens of a batch one behind the other, each row seeing itself alone.

Axes: b batch, j the padded sequence, n all valid tokens of the batch, h heads, e width of a head, d hidden width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Packing:
    """Where the valid tokens of a padded batch [b, j] stand, and where each row begins once they are packed.

    `places` int64 [n] are the valid places of the flattened batch in their order; row i has `lengths[i]` of them, from
    `offsets[i]` on (int64 [b + 1]). A row may be empty.
    """

    padded: tuple[int, int]
    places: Tensor
    offsets: Tensor
    lengths: list[int]

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """Return the packing of a batch whose valid places `mask` [b, j] marks."""
        lengths = mask.sum(1)
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        return cls((mask.shape[0], mask.shape[1]), mask.flatten().nonzero()[:, 0], offsets, lengths.tolist())

    def pack(self, states: Tensor) -> Tensor:
        """Return the valid states [n, d] of padded ones [b, j, d]."""
        return states.flatten(0, 1)[self.places]

    def unpack(self, states: Tensor) -> Tensor:
        """Return packed states [n, d] in their places [b, j, d], zeros at padding."""
        padded = states.new_zeros(math.prod(self.padded), states.shape[-1])
        return padded.index_copy(0, self.places, states).view(*self.padded, -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Return what each token [n, h, e] takes from its own row's tokens [n, h, e].

        On a GPU that is one kernel of variable lengths, by torch's nested tensors; on a CPU, where these are padded
        inside torch, one call a row.
        """
        attend = attend_nested if query.is_cuda else attend_by_row
        return attend(self, query, key, value, dropout)


def attend_nested(packing: Packing, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Return `Packing.attend`'s states [n, h, e] from one call for all rows."""
    nested = partial(
        torch.nested.nested_tensor_from_jagged,
        offsets=packing.offsets,
        min_seqlen=min(packing.lengths),
        max_seqlen=max(packing.lengths),
    )
    q, k, v = (nested(states).transpose(1, 2) for states in (query, key, value))
    attended: Tensor = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).values()
    return attended


def attend_by_row(packing: Packing, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Return `Packing.attend`'s states [n, h, e] from a call for each row."""
    rows = [states.transpose(0, 1)[None].split(packing.lengths, 2) for states in (query, key, value)]
    attended = [  # each [1, h, row, e]
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout) for q, k, v in zip(*rows, strict=True)
    ]
    return torch.cat(attended, 2)[0].transpose(0, 1)
