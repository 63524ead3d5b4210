"""BridgeTower: two towers whose layers lead into a third, in which words and patches look at each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BridgeTowerConfig, BridgeTowerModel

from vltickets.backbones.adapters.base import Adapter, Sizes, States, sight_of, stack_of, words_of
from vltickets.specs import HuggingFace


class BridgeTower(Adapter):
    """`BridgeTowerModel`. Officially heads read two pooled states side by side; here the mean of both.

    The width must be a multiple of 64: the library's vision tower has heads of that width, and an inner width of 4 d.
    """

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return BridgeTower's configuration; words take places from 1 on, so there is one more than positions."""
        dropped = {"hidden_dropout_prob": sizes.dropout, "attention_probs_dropout_prob": sizes.dropout}
        size: dict[str, Any] = {"hidden_size": spec.hidden, "num_hidden_layers": spec.layers}
        return BridgeTowerConfig(
            **size,
            num_attention_heads=spec.heads,
            text_config=stack_of(spec)
            | words_of(spec, sizes)
            | {"max_position_embeddings": spec.positions + 1}
            | dropped,
            vision_config=size | sight_of(spec),
        )

    def model(self, config: Any) -> nn.Module:
        """Return the library's model."""
        return BridgeTowerModel(config)

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return the states of the crossing layers."""
        both = network(**words, pixel_values=seen)
        pooled = both.pooler_output.unflatten(-1, (2, -1)).mean(1)
        return States(both.text_features, both.image_features[:, 1:], pooled)
