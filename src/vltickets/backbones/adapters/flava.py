"""FLAVA: an encoder of words, one of pictures, and a third over both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import FlavaConfig, FlavaModel

from vltickets.backbones.adapters.base import Adapter, Sizes, States, sight_of, stack_of, words_of
from vltickets.specs import HuggingFace


class Flava(Adapter):
    """`FlavaModel`; its third encoder's states are [CLS] of its own, the picture's (its [CLS] first), the words'."""

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return FLAVA's configuration."""
        dropped = {"hidden_dropout_prob": sizes.dropout, "attention_probs_dropout_prob": sizes.dropout}
        stack = stack_of(spec) | dropped
        return FlavaConfig(
            text_config=stack | words_of(spec, sizes),
            image_config=stack | sight_of(spec),
            multimodal_config=stack,
            hidden_size=spec.hidden,
            projection_dim=spec.hidden,
        )

    def model(self, config: Any) -> nn.Module:
        """Return the library's model."""
        return FlavaModel(config)

    def words(self) -> nn.Module:
        """Return the table of word embeddings."""
        table: nn.Module = self.network.text_model.embeddings.word_embeddings  # type: ignore[union-attr,assignment]
        return table

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return the states of the encoder over both."""
        both = network(**words, pixel_values=seen).multimodal_output
        text = words["input_ids"].shape[1]
        return States(both.last_hidden_state[:, -text:], both.last_hidden_state[:, 2:-text], both.pooler_output)
