"""BLIP: a picture's encoder, and a text encoder that looks at it in every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import BlipConfig, BlipForImageTextRetrieval

from vltickets.backbones.adapters.base import Adapter, Sizes, States, sight_of, stack_of, words_of
from vltickets.specs import HuggingFace


class Blip(Adapter):
    """The trunk of `BlipForImageTextRetrieval`, which is that of its question answering too; pooled is [CLS] as it is.

    Officially questions are answered by a decoder that writes; here a head chooses, as with every backbone.
    """

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return BLIP's configuration."""
        marks = {"sep_token_id": 0}
        dropped = {"hidden_dropout_prob": sizes.dropout, "attention_probs_dropout_prob": sizes.dropout}
        return BlipConfig(
            text_config=stack_of(spec) | words_of(spec, sizes) | marks | dropped,
            vision_config=stack_of(spec) | sight_of(spec) | {"attention_dropout": sizes.dropout},
            image_text_hidden_size=spec.hidden,
        )

    def model(self, config: Any) -> nn.Module:
        """Return the library's model."""
        return BlipForImageTextRetrieval(config)

    def words(self) -> nn.Module:
        """Return the table of word embeddings."""
        table: nn.Module = self.network.text_encoder.embeddings.word_embeddings  # type: ignore[union-attr,assignment]
        return table

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return the words' states, which have seen the picture, and the picture's, which have not seen the words."""
        picture = network.vision_model(pixel_values=seen).last_hidden_state
        text = network.text_encoder(**words, encoder_hidden_states=picture).last_hidden_state
        return States(text, picture[:, 1:], text[:, 0])
