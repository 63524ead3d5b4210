"""SigLIP: two encoders side by side; the picture is pooled by attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import SiglipConfig, SiglipModel

from vltickets.backbones.adapters.base import Adapter, Sizes, States, last_valid, product, sight_of, stack_of, words_of
from vltickets.specs import HuggingFace


class Siglip(Adapter):
    """`SiglipModel`. Officially texts are padded to one length and padding is read; here it takes no part."""

    fused = False

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return SigLIP's configuration."""
        stack = stack_of(spec) | {"attention_dropout": sizes.dropout}
        return SiglipConfig(text_config=stack | words_of(spec, sizes), vision_config=stack | sight_of(spec))

    def model(self, config: Any) -> nn.Module:
        """Return the library's model."""
        return SiglipModel(config)

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return both encoders' states, and the product of both embeddings."""
        text = network.text_model(**words).last_hidden_state
        picture = network.vision_model(pixel_values=seen)
        said = network.text_model.head(last_valid(text, words["attention_mask"]))
        return States(text, picture.last_hidden_state, product(said, picture.pooler_output))
