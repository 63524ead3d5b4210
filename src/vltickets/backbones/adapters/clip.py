"""CLIP: two encoders side by side, whose embeddings are multiplied number by number."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

from vltickets.backbones.adapters.base import Adapter, Sizes, States, last_valid, product, sight_of, stack_of, words_of
from vltickets.specs import HuggingFace


class Clip(Adapter):
    """`CLIPModel`. The text's embedding is its last word's ([SEP] has seen all others), as officially [EOT]'s."""

    fused = False

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return CLIP's configuration; its embeddings are as wide as its states."""
        stack = stack_of(spec) | {"attention_dropout": sizes.dropout}
        return CLIPConfig(
            text_config=stack | words_of(spec, sizes), vision_config=stack | sight_of(spec), projection_dim=spec.hidden
        )

    def model(self, config: Any) -> nn.Module:
        """Return the library's model."""
        return CLIPModel(config)

    def words(self) -> nn.Module:
        """Return the table of word embeddings."""
        table: nn.Module = self.network.text_model.embeddings.token_embedding  # type: ignore[union-attr,assignment]
        return table

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return both encoders' states, and the product of both embeddings."""
        text = network.text_model(**words).last_hidden_state
        picture = network.vision_model(pixel_values=seen)
        said = network.text_projection(last_valid(text, words["attention_mask"]))
        shown = network.visual_projection(picture.pooler_output)
        return States(text, picture.last_hidden_state[:, 1:], product(said, shown))
