"""Every weight of a backbone: is it prunable, and why or why not? What `backbone show` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from vltickets.backbones.building import build_backbone
from vltickets.backbones.checkpoints import LXMERT_WORDS, OFFICIAL_REGION_WIDTH, OFFICIAL_WORDS
from vltickets.backbones.uniter import UniterBackbone
from vltickets.specs import (
    PARTS,
    BackboneSpec,
    HuggingFace,
    Kind,
    Lxmert,
    Part,
    Place,
    Uniter,
    Vilt,
    covering,
    weight_places,
)

if TYPE_CHECKING:
    from vltickets.backbones.adapters import Adapter
    from vltickets.backbones.lxmert import LxmertBackbone
    from vltickets.backbones.vilt import ViltBackbone

# What heads read, where that is not the pooled [CLS]: the pooler is then trained by nothing (official-models 1.4).
WITHOUT_POOLER = {
    "refcoco": "its head reads the regions' states",
    "nlvr2": "the paired-attn head reads both sequences; paired and triplet read the pooler",
}
# LXMERT's pooler reads the language side, so the last crossing layer's own work on the visual side is then for nothing.
WITHOUT_VISION = ("vqa", "gqa", "nlvr2", "nlvr1", "snli_ve", "retrieval", "matching")
VISUAL_SIDE = ("visn_self_att", "visn_inter", "visn_output")
PART_OF: dict[Kind, Part] = {"pooler": "pooler", "embedding": "embeddings", "projection": "projection"}
REASONS: dict[Part, str] = {
    "encoder": "matrix of the encoder",
    "pooler": "pooler",
    "embeddings": "word table",
    "projection": "projection of the picture",
}


@dataclass(frozen=True)
class Unused:
    """Weights that a task's head does not read, so that nothing trains them: what they are, their names, and why."""

    task: str
    what: str
    weights: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Weight:
    """One tensor of a backbone: its name and shape, whether a mask covers it, and the rule that says so.

    `part` is the one it belongs to of those that a mask can cover, None for biases, norms and other tables.
    """

    name: str
    shape: tuple[int, ...]
    prunable: bool
    reason: str
    part: Part | None = None

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()


def list_weights(
    spec: BackboneSpec, *, vocabulary: int | None = None, region_width: int = OFFICIAL_REGION_WIDTH
) -> list[Weight]:
    """Return every weight of a backbone in the order of its file, without any memory for them.

    `vocabulary` is the official one of the backbone's kind unless given.
    """
    vocabulary = vocabulary or official_words(spec)
    with torch.device("meta"):
        backbone = build_backbone(spec, vocabulary=vocabulary, region_width=region_width, dropout=0.0)
    modules = dict(backbone.named_modules())
    if isinstance(spec, HuggingFace):
        return list(_listed_by_rule(cast("Adapter", backbone), modules))
    places = weight_places(covering(spec, PARTS, vocabulary=vocabulary, region_width=region_width))
    return list(_listed(cast("UniterBackbone | LxmertBackbone | ViltBackbone", backbone), modules, places))


def official_words(spec: BackboneSpec) -> int:
    """Return how many words the official checkpoints of a backbone's kind have."""
    return OFFICIAL_WORDS if isinstance(spec, Uniter) else LXMERT_WORDS  # ViLT's are BERT's uncased ones too


def official_covering(spec: BackboneSpec, prunable: tuple[str, ...]) -> BackboneSpec:
    """Return a backbone whose masks cover these parts, of the official sizes where the data has a say in them."""
    return covering(spec, prunable, vocabulary=official_words(spec), region_width=OFFICIAL_REGION_WIDTH)


def unused_weights(spec: BackboneSpec, weights: list[Weight]) -> list[Unused]:
    """Return what the tasks leave unused of a backbone's listed weights."""

    def below(*prefixes: str) -> tuple[str, ...]:
        return tuple(weight.name for weight in weights if weight.name.startswith(prefixes))

    if isinstance(spec, HuggingFace):
        return []  # what heads read of it is the adapter's affair
    if isinstance(spec, Vilt):  # all its tasks' heads read the pooler
        types = "embeddings.text_embeddings.token_type_embeddings.weight"
        seeing = ("patch_embeddings.", "cls_token", "position_embeddings")
        names = below("pooler.", *(f"embeddings.{part}" for part in seeing))
        return [
            Unused("every task", f"row 1 of {types}", (f"{types}[1]",), "words have type 0 there, as officially"),
            Unused(
                "text-only pre-training", "the pooler and what embeds pictures", names, "it reads the words' states"
            ),
        ]
    without_pooler = {"refcoco": WITHOUT_POOLER["refcoco"]} if isinstance(spec, Lxmert) else WITHOUT_POOLER
    found = [Unused(task, "the pooler", below("pooler."), why) for task, why in without_pooler.items()]
    if isinstance(spec, Lxmert):
        last = f"encoder.x_layers.{spec.cross_layers - 1}"
        what = f"the visual side of the last crossing layer ({last}.{{{','.join(VISUAL_SIDE)}}})"
        names = below(*(f"{last}.{part}." for part in VISUAL_SIDE))
        found += [Unused(task, what, names, "its head reads the pooled words only") for task in WITHOUT_VISION]
    return found


def _listed(
    backbone: UniterBackbone | LxmertBackbone | ViltBackbone, modules: dict[str, nn.Module], places: dict[str, Place]
) -> Iterator[Weight]:
    covered = backbone.prunable()
    for name, weight in backbone.named_parameters():
        owner, _, last = name.rpartition(".")
        part = PART_OF.get(places[name].kind, "encoder") if name in places else None
        reason = REASONS[part] if part else _reason(modules[owner], last)
        yield Weight(name, tuple(weight.shape), name in covered, reason, part)


def _listed_by_rule(adapter: Adapter, modules: dict[str, nn.Module]) -> Iterator[Weight]:
    """Yield an adapter's weights: what its rule covers is the encoder, and the rest has no part."""
    covered = adapter.prunable()
    for name, weight in adapter.named_parameters():
        owner, _, last = name.rpartition(".")
        reason = REASONS["encoder"] if name in covered else _reason(modules[owner], last)
        if isinstance(modules[owner], nn.Conv2d) and last != "bias":
            reason = REASONS["projection"]
        elif reason == "embedding" and weight.dim() == 2:
            reason = "outside the encoder's layers"
        yield Weight(name, tuple(weight.shape), name in covered, reason, "encoder" if name in covered else None)


def _reason(owner: nn.Module, last: str) -> str:
    if last == "bias":
        return "bias"
    if isinstance(owner, nn.LayerNorm):
        return "norm"
    return "embedding table" if isinstance(owner, nn.Embedding) else "embedding"
