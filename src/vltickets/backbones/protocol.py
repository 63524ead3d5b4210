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


@dataclass(frozen=True)
class Places:
    """Where perturbations enter: words [b, t, d] at the *output* of a module, regions [b, r, f] at a module's *input*.

    Both modules run once in each pass of the backbone (or not at all, where a batch has no regions).
    """

    words: nn.Module
    regions: nn.Module


class Backbone(Protocol):
    """A vision-language transformer f₁ with weights θ."""

    @property
    def hidden(self) -> int:
        """Width of the states."""

    def __call__(self, inputs: Inputs) -> Outputs:
        """Return the states of a batch."""

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the weights that count as d₁, by name: what a mask covers."""

    def perturbed_places(self) -> Places:
        """Return where adversarial training adds its perturbations."""

    def word_table(self) -> torch.Tensor:
        """Return the word embeddings [words, d], to which the decoder of masked words is tied."""

    def feature_projection(self) -> torch.Tensor | None:
        """Return the projection of region features [d, f] that feature regression is tied to; None where it is not."""

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fill the weights at random."""
