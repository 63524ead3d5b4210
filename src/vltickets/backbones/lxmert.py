"""LXMERT: a stream of words and one of objects that cross, as the library transformers has it (`LxmertModel`).

Nothing of the model is written anew: this class gives it our inputs and names. Its weights have the official names
without `bert.`, which are also those of Hugging Face. Import this module only where an LXMERT is built: transformers
takes seconds to load. Source: airsplay/lxmert (official-models 4).

Axes: b batch, t text, r regions, d hidden width.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LxmertConfig, LxmertModel

from vltickets.backbones.protocol import Outputs, Places
from vltickets.backbones.uniter import initialise_module, padding_bias
from vltickets.data import Inputs
from vltickets.specs import Lxmert, Part

GEOMETRY = 4  # x1/W, y1/H, x2/W, y2/H: the first of the seven numbers that UNITER takes
TOKEN_TYPES = 2
PREFIXES: dict[Part, tuple[str, ...]] = {  # of the matrices of each part
    "encoder": ("encoder.layer.", "encoder.x_layers.", "encoder.r_layers."),
    "pooler": ("pooler.",),
    "embeddings": ("embeddings.word_embeddings.",),
    "projection": ("encoder.visn_fc.visn_fc.", "encoder.visn_fc.box_fc."),
}


def config_of(spec: Lxmert, *, vocabulary: int, region_width: int, dropout: float) -> LxmertConfig:
    """Return the library's configuration of a spec on data of this vocabulary and width of features."""
    return LxmertConfig(
        vocab_size=vocabulary,
        hidden_size=spec.hidden,
        num_attention_heads=spec.heads,
        intermediate_size=spec.intermediate,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=spec.positions,
        type_vocab_size=TOKEN_TYPES,
        l_layers=spec.language_layers,
        r_layers=spec.object_layers,
        x_layers=spec.cross_layers,
        visual_feat_dim=region_width,
        visual_pos_dim=GEOMETRY,
    )


class LxmertBackbone(LxmertModel):
    """The trunk: embeddings of both modalities, their encoders, the crossing layers, a pooler over [CLS].

    A hidden region is one whose feature is 0, as officially in 80 % of cases; there is no mask vector. Regions have no
    type. Officially there is no mask of regions, because there are always 36; here padding may stand beside them.
    """

    def __init__(self, spec: Lxmert, *, vocabulary: int, region_width: int, dropout: float) -> None:
        super().__init__(config_of(spec, vocabulary=vocabulary, region_width=region_width, dropout=dropout))
        self.spec = spec

    @property
    def hidden(self) -> int:
        """Width of the states."""
        return self.spec.hidden

    def forward(self, inputs: Inputs) -> Outputs:
        """Return the states of words and regions after the crossing layers, and the pooled [CLS].

        A text without any regions goes through the language layers alone, as through a BERT: so a text-only
        pre-training makes what LXMERT's language side officially may start from.
        """
        if not inputs.features.shape[1]:
            return self._words_alone(inputs)
        found = super().forward(
            input_ids=inputs.tokens,
            attention_mask=inputs.token_mask,
            token_type_ids=inputs.token_types,
            visual_feats=inputs.features,
            visual_pos=inputs.boxes[..., :GEOMETRY],
            visual_attention_mask=inputs.region_mask,
        )
        return Outputs(
            sequence=torch.cat([found.language_output, found.vision_output], dim=1),
            pooled=found.pooled_output,
            mask=torch.cat([inputs.token_mask, inputs.region_mask], dim=1),
            text=inputs.tokens.shape[1],
        )

    def _words_alone(self, inputs: Inputs) -> Outputs:
        states = self.embeddings(inputs.tokens, self._types(inputs))
        bias = padding_bias(inputs.token_mask, states.dtype)
        for layer in self.encoder.layer:
            states = layer(states, bias)[0]
        return Outputs(states, self.pooler(states), inputs.token_mask, inputs.tokens.shape[1])

    @staticmethod
    def _types(inputs: Inputs) -> torch.Tensor:
        return torch.zeros_like(inputs.tokens) if inputs.token_types is None else inputs.token_types

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the weights a mask covers, by name: the encoder's matrices and the pooler (official-models 7.3).

        Not biases, norms, embeddings or the projections of features and boxes, 182,255,616 weights at base size; unless
        the spec's `prunable` says otherwise.
        """
        covered = tuple(prefix for part in self.spec.prunable for prefix in PREFIXES[part])
        return {
            name: weight for name, weight in self.named_parameters() if weight.dim() == 2 and name.startswith(covered)
        }

    def perturbed_places(self) -> Places:
        """Return word embeddings before position, type and LN; raw features before their projection."""
        return Places(words=self.embeddings.word_embeddings, regions=self.encoder.visn_fc.visn_fc)

    def word_table(self) -> torch.Tensor:
        """Return the word embeddings [words, d], to which the decoder of masked words is tied."""
        table: torch.Tensor = self.embeddings.word_embeddings.weight
        return table

    def feature_projection(self) -> None:
        """Return nothing: LXMERT's regression of features has a decoder of its own."""
        return None

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fill every weight as BERT does: normal with `std`, norms 1, biases 0; row 0 of each table stays 0."""
        for module in self.modules():
            initialise_module(module, generator, std)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
