"""UNITER: words and image regions in one stream of post-LN BERT layers, under the official checkpoint's names.

Axes: b batch, t text, r regions, j = t + r the joint sequence, d hidden width.
Source: ChenRocks/UNITER model/{model,layer,attention}.py (official-models 1.1 to 1.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from vltickets.backbones.packing import Packing
from vltickets.backbones.protocol import Outputs, Places
from vltickets.data import Inputs
from vltickets.specs import Part, Uniter

LAYER_NORM_EPS = 1e-12
MASKED_SCORE = -10000.0  # the official additive mask of padding
PREFIXES: dict[Part, tuple[str, ...]] = {  # of the matrices of each part
    "encoder": ("encoder.",),
    "pooler": ("pooler.",),
    "embeddings": ("embeddings.word_embeddings.",),
    "projection": ("img_embeddings.img_linear.", "img_embeddings.pos_linear."),
}


class UniterBackbone(nn.Module):
    """The trunk: embeddings of both modalities, the encoder, and a pooler over [CLS].

    The official code packs each row's regions right behind its own words; here they follow the padded text. Regions
    have no place in a sequence and padding is masked, so every token's state is the same.

    With `packed` the encoder computes valid tokens only: the same states but for rounding, zeros at padding. Only the
    embeddings, a fiftieth of the work, are made of padding too, so that perturbations enter the padded rows.
    """

    packed = False

    def __init__(
        self, spec: Uniter, *, vocabulary: int, region_width: int, dropout: float, type_count: int = 2
    ) -> None:
        super().__init__()
        self.spec = spec
        self.embeddings = TextEmbeddings(spec, vocabulary, dropout, type_count)
        self.img_embeddings = RegionEmbeddings(spec.hidden, region_width, dropout)
        self.encoder = Encoder(spec, dropout)
        self.pooler = Pooler(spec.hidden)

    @property
    def hidden(self) -> int:
        """Width of the states."""
        return self.spec.hidden

    def forward(self, inputs: Inputs) -> Outputs:
        """Return the last layer's states of words and regions, and the pooled [CLS]."""
        text = self.embeddings(inputs.tokens, inputs.token_types)
        joint = torch.cat([text, self.embed_regions(inputs)], dim=1) if inputs.features.shape[1] else text
        mask = torch.cat([inputs.token_mask, inputs.region_mask], dim=1)
        if self.packed:
            packing = Packing.of(mask)
            sequence = packing.unpack(self.encoder(packing.pack(joint), packing))
        else:
            sequence = self.encoder(joint, padding_bias(mask, joint.dtype))
        return Outputs(sequence=sequence, pooled=self.pooler(sequence), mask=mask, text=inputs.tokens.shape[1])

    def compile_layers(self) -> None:
        """Compile the encoder's layers by `torch.compile` when they first run: one graph for all, and for all lengths.

        Attention stays out of it: it is a library's kernel, and what pays is joining the steps around it into one.
        """
        for layer in cast(Iterable[Layer], self.encoder.layer):
            attention: Any = layer.attention.self
            attention.forward = torch.compiler.disable(attention.forward)
            layer.compile(dynamic=True)

    def embed_regions(self, inputs: Inputs) -> torch.Tensor:
        """Return the regions' embeddings [b, r, d]; they take their type from the text's table."""
        types = self.embeddings.token_type_embeddings(inputs.region_types)
        embedded: torch.Tensor = self.img_embeddings(inputs.features, inputs.boxes, types, inputs.hidden_regions)
        return embedded

    def pool_embedded(self, joint: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the pooled [CLS] [b, d] of embeddings [b, j, d] made before: what scoring many pairs needs.

        The same numbers as `forward`'s, for less work: nothing but [CLS] is computed in the last layer.
        """
        pooled: torch.Tensor = self.pooler(self.encoder.first(joint, padding_bias(mask, joint.dtype)))
        return pooled

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the weights a mask covers, by name: the encoder's matrices and the pooler (official-models 7.1).

        Not biases, norms, embeddings or the image projection, 85,524,480 weights at base size; unless the spec's
        `prunable` says otherwise.
        """
        covered = tuple(prefix for part in self.spec.prunable for prefix in PREFIXES[part])
        return {
            name: weight for name, weight in self.named_parameters() if weight.dim() == 2 and name.startswith(covered)
        }

    def perturbed_places(self) -> Places:
        """Return VILLA's places: word embeddings before position, type and LN; raw features before the projection."""
        return Places(words=self.embeddings.word_embeddings, regions=self.img_embeddings.img_linear)

    def word_table(self) -> torch.Tensor:
        """Return the word embeddings [words, d], to which the decoder of masked words is tied."""
        return self.embeddings.word_embeddings.weight

    def feature_projection(self) -> torch.Tensor:
        """Return the projection of region features [d, f] that feature regression is tied to."""
        return self.img_embeddings.img_linear.weight

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fill every weight as BERT does: normal with `std`, norms 1, biases 0; the padding word's row stays 0."""
        for module in self.modules():
            initialise_module(module, generator, std)
        with torch.no_grad():
            self.embeddings.word_embeddings.weight[0] = 0


class TextEmbeddings(nn.Module):
    """Word + position + type, then LN. Regions take their type from this module's table too."""

    def __init__(self, spec: Uniter, vocabulary: int, dropout: float, type_count: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, spec.hidden, padding_idx=0)
        self.position_embeddings = nn.Embedding(spec.positions, spec.hidden)
        self.token_type_embeddings = nn.Embedding(type_count, spec.hidden)
        self.LayerNorm = nn.LayerNorm(spec.hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
        """Embed tokens [b, t] as [b, t, d]; texts have type 0 unless `types` [b, t] says otherwise."""
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        segment = self.token_type_embeddings.weight[0] if types is None else self.token_type_embeddings(types)
        embedded = self.word_embeddings(tokens) + positions + segment
        out: torch.Tensor = self.dropout(self.LayerNorm(embedded))
        return out


class RegionEmbeddings(nn.Module):
    """Feature and geometry, each projected and normed, plus the type; a hidden region's feature is the mask vector."""

    def __init__(self, hidden: int, width: int, dropout: float) -> None:
        super().__init__()
        self.img_linear = nn.Linear(width, hidden)
        self.img_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.pos_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.pos_linear = nn.Linear(7, hidden)
        self.mask_embedding = nn.Embedding(2, width, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, features: torch.Tensor, boxes: torch.Tensor, types: torch.Tensor, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Embed features [b, r, f] and boxes [b, r, 7] as [b, r, d]."""
        if hidden is not None:
            features = features + hidden[..., None].to(features.dtype) * self.mask_embedding.weight[1]
        embedded = self.img_layer_norm(self.img_linear(features)) + self.pos_layer_norm(self.pos_linear(boxes)) + types
        out: torch.Tensor = self.dropout(self.LayerNorm(embedded))
        return out


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, spec: Uniter, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(spec, dropout) for _ in range(spec.layers)])

    def forward(self, states: torch.Tensor, bias: torch.Tensor | Packing) -> torch.Tensor:
        """Return the last layer's states [b, j, d]; `bias` [b, 1, 1, j] is added to the attention scores.

        With a `Packing` in its place the states are packed ones [n, d], in all of the encoder.
        """
        for layer in self.layer:
            states = layer(states, bias)
        return states

    def first(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the last layer's state of the first token alone [b, 1, d]."""
        for layer in self.layer[:-1]:
            states = layer(states, bias)
        last: torch.Tensor = self.layer[-1](states, bias, 1)
        return last


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LN."""

    def __init__(self, spec: Uniter, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(spec, dropout)
        self.intermediate = Dense(spec.hidden, spec.intermediate)
        self.output = ResidualDense(spec.intermediate, spec.hidden, dropout)

    def forward(self, states: torch.Tensor, bias: torch.Tensor | Packing, wanted: int | None = None) -> torch.Tensor:
        """Return the layer's states [b, j, d], or those of the first `wanted` tokens only."""
        attended = self.attention(states, bias, wanted)
        out: torch.Tensor = self.output(F.gelu(self.intermediate.dense(attended)), attended)
        return out


class Attention(nn.Module):
    """Multi-head self-attention with its output projection."""

    def __init__(self, spec: Uniter, dropout: float) -> None:
        super().__init__()
        self.self = SelfAttention(spec, dropout)
        self.output = ResidualDense(spec.hidden, spec.hidden, dropout)

    def forward(self, states: torch.Tensor, bias: torch.Tensor | Packing, wanted: int | None = None) -> torch.Tensor:
        """Return attended states [b, j, d] of the first `wanted` tokens."""
        out: torch.Tensor = self.output(self.self(states, bias, wanted), states[:, :wanted])
        return out


class SelfAttention(nn.Module):
    """Scaled dot-product attention over all words and regions."""

    def __init__(self, spec: Uniter, dropout: float) -> None:
        super().__init__()
        self.heads = spec.heads
        self.probability = dropout
        self.query = nn.Linear(spec.hidden, spec.hidden)
        self.key = nn.Linear(spec.hidden, spec.hidden)
        self.value = nn.Linear(spec.hidden, spec.hidden)

    def forward(self, states: torch.Tensor, bias: torch.Tensor | Packing, wanted: int | None = None) -> torch.Tensor:
        """Return the heads' outputs side by side [b, j, d], for the first `wanted` tokens; of packed ones, for all."""
        if isinstance(bias, Packing):
            return self._packed(states, bias)
        b, _, d = states.shape

        def split(projected: torch.Tensor) -> torch.Tensor:
            return projected.view(b, -1, self.heads, d // self.heads).transpose(1, 2)

        context = F.scaled_dot_product_attention(
            split(self.query(states[:, :wanted])),
            split(self.key(states)),
            split(self.value(states)),
            attn_mask=bias,
            dropout_p=self.probability if self.training else 0.0,
        )
        return context.transpose(1, 2).reshape(b, -1, d)

    def _packed(self, states: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Return the heads' outputs [n, d] of packed states [n, d]."""
        q, k, v = (layer(states).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        return packing.attend(q, k, v, self.probability if self.training else 0.0).flatten(1)


class Dense(nn.Module):
    """A linear layer under the official name `dense`."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)


class ResidualDense(nn.Module):
    """Linear, dropout, residual, LN."""

    def __init__(self, width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)
        self.LayerNorm = nn.LayerNorm(out, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return LN(dropout(W states) + residual)."""
        out: torch.Tensor = self.LayerNorm(self.dropout(self.dense(states)) + residual)
        return out


class Pooler(nn.Module):
    """Linear and tanh on the first token, [CLS]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """Return [b, d]."""
        return torch.tanh(self.dense(sequence[:, 0]))


def padding_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores [b, 1, 1, j]: 0 at valid places, -10,000 at padding."""
    return (~mask)[:, None, None, :].to(dtype) * MASKED_SCORE


def initialise_module(module: nn.Module, generator: torch.Generator, std: float) -> None:
    """Fill one module's own weights as BERT does: matrices and tables normal, norms 1, biases 0."""
    with torch.no_grad():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0.0, std, generator=generator)
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.zero_()
