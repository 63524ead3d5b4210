"""VisualBERT: one stream of words and region features, as UNITER, but without boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import VisualBertConfig, VisualBertModel

from vltickets.backbones.adapters.base import Adapter, Sizes, States, stack_of, words_of
from vltickets.specs import HuggingFace


class VisualBert(Adapter):
    """`VisualBertModel`. Where a region lies it is not told, but for what the feature tells."""

    pixels = False

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return VisualBERT's configuration."""
        return VisualBertConfig(
            **stack_of(spec),
            **words_of(spec, sizes),
            visual_embedding_dim=sizes.region_width,
            hidden_dropout_prob=sizes.dropout,
            attention_probs_dropout_prob=sizes.dropout,
        )

    def model(self, config: Any) -> nn.Module:
        """Return the library's model."""
        return VisualBertModel(config)

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return the stream's states; officially every region is of type 1."""
        both = network(
            **words, visual_embeds=seen, visual_attention_mask=mask, visual_token_type_ids=torch.ones_like(mask)
        )
        text = words["input_ids"].shape[1]
        return States(both.last_hidden_state[:, :text], both.last_hidden_state[:, text:], both.pooler_output)
