"""From a backbone's spec to a module, and to the names and shapes of its prunable weights."""

from __future__ import annotations

import torch

from vltickets.backbones.uniter import UniterBackbone
from vltickets.specs import Uniter


def build_backbone(
    spec: Uniter, *, vocabulary: int, region_width: int, dropout: float, type_count: int = 2
) -> UniterBackbone:
    """Return an uninitialised backbone. `type_count` grows for tasks with more segments (NLVR2: 3)."""
    return UniterBackbone(
        spec, vocabulary=vocabulary, region_width=region_width, dropout=dropout, type_count=type_count
    )


def prunable_shapes(spec: Uniter) -> dict[str, tuple[int, ...]]:
    """Return the prunable weights' names and shapes, without any memory for them; they depend on no data."""
    with torch.device("meta"):
        backbone = build_backbone(spec, vocabulary=1, region_width=1, dropout=0.0)
    return {name: tuple(weight.shape) for name, weight in backbone.prunable().items()}
