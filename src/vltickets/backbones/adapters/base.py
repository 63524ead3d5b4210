"""What all adapters share: pictures from patches, configuration, prunable weights by rule, random weights.

Axes: b batch, t text, r regions, n the model's own patches, d hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from vltickets.backbones.protocol import Outputs, Places
from vltickets.backbones.uniter import initialise_module
from vltickets.data import Inputs
from vltickets.data.patches import joined_pictures
from vltickets.errors import UserError
from vltickets.specs import HuggingFace


@dataclass(frozen=True)
class Sizes:
    """What data and recipe say of a model: words of the vocabulary, numbers in a region's feature, dropout."""

    vocabulary: int
    region_width: int
    dropout: float


@dataclass(frozen=True)
class States:
    """What a model made of a batch: states of words [b, t, d], of its patches or regions [b, n, d], pooled [b, d]."""

    words: torch.Tensor
    sights: torch.Tensor
    pooled: torch.Tensor


class Adapter(nn.Module):
    """A model of transformers as a backbone. A subclass says `config`, `network` and `read`: about thirty lines.

    A model gets square pictures with sides of `spec.pixels.shorter`, others are scaled to that; where `pixels` is False
    it gets the regions' features, without boxes. `fused`: whether the words' states have seen the picture.
    """

    fused: ClassVar[bool] = True
    pixels: ClassVar[bool] = True

    def __init__(self, spec: HuggingFace, *, vocabulary: int, region_width: int, dropout: float) -> None:
        super().__init__()
        if self.pixels != (spec.pixels is not None):
            raise UserError(
                f"the Hugging Face model {spec.model} takes {'pixels' if self.pixels else 'region features'}: "
                f"{'give its backbone a table `pixels`' if self.pixels else 'leave out `pixels` of its backbone'}"
            )
        self.spec = spec
        self.seen = nn.Identity()  # where perturbations of pixels or of region features enter
        try:
            config = self.config(spec, Sizes(vocabulary, region_width, dropout))
            for name, value in spec.options:
                set_option(config, name, value, spec.model)
            self.network = self.model(config)
        except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"the Hugging Face model {spec.model} can't be built of this shape: {error}") from None

    def config(self, spec: HuggingFace, sizes: Sizes) -> Any:
        """Return the library's configuration of a spec on data of these sizes."""
        raise NotImplementedError

    def model(self, config: Any) -> nn.Module:
        """Return the library's model of a configuration."""
        raise NotImplementedError

    def read(self, network: Any, words: dict[str, torch.Tensor], seen: torch.Tensor, mask: torch.Tensor) -> States:
        """Return the states of a batch. `words` are the library's `input_ids` and `attention_mask`, int64 [b, t].

        `seen` is pixels [b, 3, side, side] or, for a model without pixels, region features [b, r, f]; `mask`, int64
        [b, r], is 0 at padded regions (pictures have no padding).
        """
        raise NotImplementedError

    def words(self) -> nn.Module:
        """Return the table of word embeddings."""
        table: nn.Module = self.network.get_input_embeddings()  # type: ignore[operator]
        return table

    @property
    def hidden(self) -> int:
        """Width of the states."""
        return self.spec.hidden

    def forward(self, inputs: Inputs) -> Outputs:
        """Return the states of words and of patches or regions, and the pooled state. A text does not stand alone."""
        seen, mask = self.seen(inputs.features), inputs.region_mask
        if self.spec.pixels is not None:
            seen = pictures(seen, inputs, self.spec.pixels.grid, self.spec.pixels.patch)
        words = {"input_ids": inputs.tokens, "attention_mask": inputs.token_mask.long()}
        states = self.read(self.network, words, seen, mask.long())
        if self.spec.pixels is not None:  # the model's own patches, as many for every picture
            mask = torch.ones(states.sights.shape[:2], dtype=torch.bool, device=seen.device)
        return Outputs(
            sequence=torch.cat([states.words, states.sights], dim=1),
            pooled=states.pooled.contiguous(),
            mask=torch.cat([inputs.token_mask, mask], dim=1),
            text=inputs.tokens.shape[1],
        )

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the weights a mask covers, by name: the matrices of the encoder's layers.

        A layer is what stands in an `nn.ModuleList`. Not biases, norms, embeddings, or what stands outside of layers:
        poolers, projections of pictures and into the common space.
        """
        modules = dict(self.named_modules())
        return {
            name: weight
            for name, weight in self.named_parameters()
            if weight.dim() == 2
            and not isinstance(modules[name.rpartition(".")[0]], nn.Embedding)
            and any(isinstance(modules[above], nn.ModuleList) for above in _above(name))
        }

    def perturbed_places(self) -> Places:
        """Return word embeddings as they leave their table; pixels or region features as they come."""
        return Places(words=self.words(), regions=self.seen)

    def word_table(self) -> torch.Tensor:
        """Return the word embeddings [words, d], to which the decoder of masked words is tied."""
        table: torch.Tensor = self.words().weight  # type: ignore[assignment]
        return table

    def feature_projection(self) -> None:
        """Return nothing: regression of features has a decoder of its own."""
        return None

    def initialise(self, generator: torch.Generator, std: float) -> None:
        """Fill every weight as BERT does: normal with `std`, norms 1, biases 0; row 0 of the word table stays 0.

        Single numbers, such as the temperature of a contrastive loss, stay as the library sets them.
        """
        modules = dict(self.named_modules())
        for module in modules.values():
            initialise_module(module, generator, std)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                owner, _, last = name.rpartition(".")
                if isinstance(modules[owner], nn.Linear | nn.Embedding | nn.LayerNorm):
                    continue
                if last.endswith("bias"):
                    weight.zero_()
                elif weight.numel() > 1:
                    weight.normal_(0.0, std, generator=generator)
            self.word_table()[0] = 0


def stack_of(spec: HuggingFace) -> dict[str, Any]:
    """Return the shape of one stack of layers, under the names most configurations of the library have."""
    return {
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate,
    }


def words_of(spec: HuggingFace, sizes: Sizes) -> dict[str, Any]:
    """Return what configurations say of words: how many, the longest text, and that 0 is padding.

    Other marks than padding are our tokens' own affair; the library wants numbers that are in the vocabulary.
    """
    marks = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    return {"vocab_size": sizes.vocabulary, "max_position_embeddings": spec.positions, **marks}


def sight_of(spec: HuggingFace) -> dict[str, Any]:
    """Return what configurations say of square pictures and their patches."""
    assert spec.pixels is not None
    return {"image_size": spec.pixels.shorter, "patch_size": spec.pixels.patch}


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def set_option(config: Any, name: str, value: Any, model: str) -> None:
    """Set one dotted name of a configuration; a name that it lacks is a `UserError`."""
    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part, None)
    if not hasattr(config, last):
        raise UserError(f"options of the Hugging Face model {model}: its configuration has no {name!r}")
    setattr(config, last, value)


def pictures(patches: torch.Tensor, inputs: Inputs, grid: int, patch: int) -> torch.Tensor:
    """Return square pictures [b, 3, side, side] of patches [b, r, 3·p·p]; one of another shape is scaled to the square.

    The boxes tell each picture's grid. One without width, as a blind model sees it, is all zero.
    """
    side = grid * patch
    out = patches.new_zeros(len(patches), 3, side, side)
    sides = inputs.boxes[:, 0, 4:6]
    counts = torch.where(sides > 0, (1 / sides.clamp(min=1e-6)).round(), 0.0).long()
    for across, down in torch.unique(counts, dim=0).tolist():
        if not across:
            continue
        rows = ((counts[:, 0] == across) & (counts[:, 1] == down)).nonzero().squeeze(1)
        found = joined_pictures(patches[rows, : across * down], (down, across), patch)
        if (across, down) != (grid, grid):
            found = F.interpolate(found, size=(side, side), mode="bilinear", align_corners=False)
        out = out.index_put((rows,), found)
    return out


def last_valid(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return each row's last state that is not padding [b, d], of states [b, t, d] and their mask [b, t]."""
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return two embeddings [b, d] as one, number by number: the mean of the product is their cosine similarity.

    So a head that weighs all alike scores pairs as the dual encoder itself does; no weight is added.
    """
    width = first.shape[-1]
    return width * F.normalize(first, dim=-1) * F.normalize(second, dim=-1)
