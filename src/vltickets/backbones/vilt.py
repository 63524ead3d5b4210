"""ViLT: one stream of words and patches, as the library transformers has it (`ViltModel`).

Nothing of its layers is written anew: this class gives them our inputs and names. Patches come cut already, so the
convolution that embeds them is one matrix product; the library would cut pixels padded to one shape, and draw at random
which patches stay, in evaluation too. Import this module only where a ViLT is built: transformers takes seconds to
load. Source: dandelin/ViLT (official-models 5).

Axes: b batch, t text, r patches, d hidden width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViltConfig, ViltModel

from vltickets.backbones.protocol import Outputs, Places
from vltickets.backbones.uniter import LAYER_NORM_EPS, initialise_module, padding_bias
from vltickets.data import Inputs
from vltickets.specs import Part, Vilt

PREFIXES: dict[Part, tuple[str, ...]] = {  # of the matrices of each part
    "encoder": ("encoder.",),
    "pooler": ("pooler.",),
    "embeddings": ("embeddings.text_embeddings.word_embeddings.",),
    "projection": ("embeddings.patch_embeddings.projection.",),
}
LAYER_EPS = 1e-6  # officially of all norms but the text embedding's, which has BERT's


def config_of(spec: Vilt, *, vocabulary: int, dropout: float, type_count: int) -> ViltConfig:
    """Return the library's configuration of a spec; officially nothing is dropped inside attention."""
    return ViltConfig(
        vocab_size=vocabulary,
        modality_type_vocab_size=type_count,
        max_position_embeddings=spec.positions,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.intermediate,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=LAYER_EPS,
        image_size=spec.pixels.shorter,
        patch_size=spec.pixels.patch,
        pad_token_id=0,
    )


class ViltBackbone(ViltModel):
    """The trunk: embeddings of words and patches, the encoder, a last norm, a pooler over [CLS].

    Regions are patches (`data/patches.py`), of which boxes tell the place: position embeddings are interpolated to each
    picture's grid. There are two type tables: the texts' own, of which only row 0 is used, and that of the modalities,
    0 for words and the regions' type for patches. The picture's own [CLS] takes part but is not among the outputs.
    """

    def __init__(self, spec: Vilt, *, vocabulary: int, dropout: float, type_count: int) -> None:
        super().__init__(config_of(spec, vocabulary=vocabulary, dropout=dropout, type_count=type_count))
        self.embeddings.text_embeddings.LayerNorm.eps = LAYER_NORM_EPS
        self.embedded_patches = nn.Identity()  # where perturbations of patch embeddings enter
        self.placed = placed
        self.spec = spec

    @property
    def hidden(self) -> int:
        """Width of the states."""
        return self.spec.hidden

    def forward(self, inputs: Inputs) -> Outputs:
        """Return the states of words and patches, and the pooled [CLS]. A text may stand alone."""
        modalities = self.embeddings.token_type_embeddings
        states, mask = self.embeddings.text_embeddings(inputs.tokens) + modalities.weight[0], inputs.token_mask
        text = inputs.tokens.shape[1]
        seen = bool(inputs.features.shape[1])
        if seen:
            patches, patch_mask = self._picture(inputs)
            states, mask = torch.cat([states, patches], dim=1), torch.cat([mask, patch_mask], dim=1)
        states = self.encoder(states, attention_mask=padding_bias(mask, states.dtype)).last_hidden_state
        states = self.layernorm(states)
        assert self.pooler is not None
        pooled = self.pooler(states)
        if seen:  # without the picture's [CLS]
            states = torch.cat([states[:, :text], states[:, text + 1 :]], dim=1)
            mask = torch.cat([inputs.token_mask, inputs.region_mask], dim=1)
        return Outputs(states, pooled, mask, text)

    def _picture(self, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the picture's [CLS] and patches embedded, with places and types [b, 1 + r, d], and their mask."""
        table = self.embeddings.position_embeddings
        projection = self.embeddings.patch_embeddings.projection
        patches = self.embedded_patches(F.linear(inputs.features, projection.weight.flatten(1), projection.bias))
        patches = patches + self.placed(table[0, 1:], inputs.boxes, self.spec.pixels.grid)
        first = (self.embeddings.cls_token + table[:, :1]).expand(patches.shape[0], 1, -1)
        types = torch.cat([inputs.region_types[:, :1], inputs.region_types], dim=1)
        states = self.embeddings.dropout(torch.cat([first, patches], dim=1))
        states = states + self.embeddings.token_type_embeddings(types)
        return states, F.pad(inputs.region_mask, (1, 0), value=True)

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the weights a mask covers, by name: the encoder's matrices and the pooler (official-models 7.3).

        Not biases, norms, embeddings or the projection of patches, 85,524,480 weights at base size; unless the spec's
        `prunable` says otherwise. The projection is a convolution's, with four axes.
        """
        covered = tuple(prefix for part in self.spec.prunable for prefix in PREFIXES[part])
        return {
            name: weight for name, weight in self.named_parameters() if weight.dim() > 1 and name.startswith(covered)
        }

    def perturbed_places(self) -> Places:
        """Return word embeddings before position, type and LN; embedded patches before their place and type."""
        return Places(words=self.embeddings.text_embeddings.word_embeddings, regions=self.embedded_patches)

    def word_table(self) -> torch.Tensor:
        """Return the word embeddings [words, d], to which the decoder of masked words is tied."""
        table: torch.Tensor = self.embeddings.text_embeddings.word_embeddings.weight
        return table

    def feature_projection(self) -> None:
        """Return nothing: ViLT regresses no features."""
        return None

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fill every weight as BERT does: normal with `std`, norms 1, biases 0; row 0 of the word table stays 0."""
        for module in self.modules():
            initialise_module(module, generator, std)
        projection = self.embeddings.patch_embeddings.projection
        with torch.no_grad():
            for weight in (projection.weight, self.embeddings.cls_token, self.embeddings.position_embeddings):
                weight.normal_(0.0, std, generator=generator)
            self.word_table()[0] = 0


def placed(table: torch.Tensor, boxes: torch.Tensor, grid: int) -> torch.Tensor:
    """Return the position embedding [b, r, d] of each patch, given its cell's box [b, r, 7] and the learned table
    [grid·grid, d], which is interpolated to the grid of each picture (bilinear, corners aligned).

    A box without width, as a blind model sees it or as padding has it, is a picture of one patch.
    """
    learned = table.T.reshape(1, -1, grid, grid)
    sides = boxes[:, :1, 4:6]  # the first patch's width and height: one over the patches across and down
    counts = torch.where(sides > 0, (1 / sides.clamp(min=1e-6)).round(), 1.0).long().squeeze(1)
    places = torch.empty(*boxes.shape[:2], table.shape[1], dtype=table.dtype, device=table.device)
    for across, down in torch.unique(counts, dim=0).tolist():
        rows = ((counts[:, 0] == across) & (counts[:, 1] == down)).nonzero().squeeze(1)
        scaled = F.interpolate(learned, size=(down, across), mode="bilinear", align_corners=True)
        cells = (boxes[rows, :, :2] * torch.tensor([across, down], device=boxes.device)).round().long()
        flat = scaled[0].flatten(1).T
        places = places.index_put((rows,), flat[cells[..., 1] * across + cells[..., 0]])
    return places
