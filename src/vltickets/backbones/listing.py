"""Every weight of a backbone: is it prunable, and why or why not? What `backbone show` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from vltickets.backbones.building import build_backbone
from vltickets.backbones.checkpoints import OFFICIAL_REGION_WIDTH, OFFICIAL_WORDS
from vltickets.specs import Uniter

# What heads read, where that is not the pooled [CLS]: the pooler is then trained by nothing (official-models 1.4).
WITHOUT_POOLER = {
    "refcoco": "its head reads the regions' states",
    "nlvr2": "the paired-attn head reads both sequences; paired and triplet read the pooler",
}


@dataclass(frozen=True)
class Weight:
    """One tensor of a backbone: its name and shape, whether a mask covers it, and the rule that says so."""

    name: str
    shape: tuple[int, ...]
    prunable: bool
    reason: str

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()


def list_weights(
    spec: Uniter, *, vocabulary: int = OFFICIAL_WORDS, region_width: int = OFFICIAL_REGION_WIDTH
) -> list[Weight]:
    """Return every weight of a backbone in the order of its file, without any memory for them."""
    with torch.device("meta"):
        backbone = build_backbone(spec, vocabulary=vocabulary, region_width=region_width, dropout=0.0)
    covered = backbone.prunable()
    modules = dict(backbone.named_modules())
    return list(_listed(backbone, modules, set(covered)))


def _listed(backbone: nn.Module, modules: dict[str, nn.Module], covered: set[str]) -> Iterator[Weight]:
    for name, weight in backbone.named_parameters():
        owner, _, last = name.rpartition(".")
        prunable = name in covered
        yield Weight(name, tuple(weight.shape), prunable, _reason(name, modules[owner], last, prunable))


def _reason(name: str, owner: nn.Module, last: str, prunable: bool) -> str:
    if prunable:
        return "pooler" if name.startswith("pooler.") else "matrix of the encoder"
    if last == "bias":
        return "bias"
    if isinstance(owner, nn.LayerNorm):
        return "norm"
    if isinstance(owner, nn.Embedding):
        return "embedding table"
    return "projection of the picture"
