"""What a task and a ticket may ask of any backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from vltickets.data import Inputs


@dataclass(frozen=True)
class Outputs:
    """A backbone's states. `sequence` [b, t + r, d], `mask` its valid places, `pooled` [b, d]; `text` is t."""

    sequence: torch.Tensor
    pooled: torch.Tensor
    mask: torch.Tensor
    text: int

    @property
    def words(self) -> torch.Tensor:
        """States of the words [b, t, d]."""
        return self.sequence[:, : self.text]

    @property
    def regions(self) -> torch.Tensor:
        """States of the regions [b, r, d]."""
        return self.sequence[:, self.text :]


class Backbone(Protocol):
    """A vision-language transformer f₁ with weights θ."""

    @property
    def hidden(self) -> int:
        """Width of the states."""

    def __call__(self, inputs: Inputs) -> Outputs:
        """Return the states of a batch."""

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the weights that count as d₁, by name: what a mask covers."""

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fill the weights at random."""
