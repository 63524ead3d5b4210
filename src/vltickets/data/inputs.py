"""The tensors a backbone takes. Axes: b batch, t text, r regions, f feature width."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from vltickets.data.ragged import Ragged
from vltickets.data.regions import Regions


@dataclass(frozen=True)
class Inputs:
    """A batch of texts with regions, each padded at its end.

    `tokens` int64 [b, t], `token_mask` bool [b, t]; `features` float32 [b, r, f], `boxes` float32 [b, r, 7],
    `region_mask` bool [b, r]; `region_types` int64 [b, r] (1 unless a task says otherwise); `hidden_regions` bool
    [b, r] marks regions that masked-region tasks hide (their features are already zero), or None; `token_types` int64
    [b, t], or None where every word has type 0.
    """

    tokens: torch.Tensor
    token_mask: torch.Tensor
    features: torch.Tensor
    boxes: torch.Tensor
    region_mask: torch.Tensor
    region_types: torch.Tensor
    hidden_regions: torch.Tensor | None = None
    token_types: torch.Tensor | None = None

    def to(self, device: torch.device) -> Inputs:
        """Return the same batch on another device; to a GPU from pinned memory the copy holds nothing up."""
        ahead = device.type == "cuda"
        present = {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}
        return replace(self, **{name: value.to(device, non_blocking=ahead) for name, value in present.items()})

    def without_sight(self, *, keep_boxes: bool = False) -> Inputs:
        """Return the batch with all region features zero, and the boxes too unless kept: what a blind model sees."""
        boxes = self.boxes if keep_boxes else torch.zeros_like(self.boxes)
        return replace(self, features=torch.zeros_like(self.features), boxes=boxes)


def joined(first: Inputs, second: Inputs) -> Inputs:
    """Return the first batch with the second's regions behind its own; the texts must be the same."""
    names = ("features", "boxes", "region_mask", "region_types")
    return replace(first, **{name: torch.cat([getattr(first, name), getattr(second, name)], dim=1) for name in names})


def assemble(texts: Ragged, text_rows: np.ndarray, regions: Regions | None, images: np.ndarray) -> Inputs:
    """Return the batch of text rows, each with the regions of the image beside it; no regions at all where None."""
    tokens, token_mask = texts.padded(text_rows)
    if regions is None:
        empty = torch.zeros(len(text_rows), 0)
        return Inputs(
            tokens=tokens,
            token_mask=token_mask,
            features=empty[..., None],
            boxes=empty[..., None].expand(-1, -1, 7),
            region_mask=empty.bool(),
            region_types=empty.long(),
        )
    features, region_mask = regions.features.padded(images, torch.float32)
    boxes, _ = regions.boxes.padded(images)
    return Inputs(
        tokens=tokens,
        token_mask=token_mask,
        features=features,
        boxes=boxes,
        region_mask=region_mask,
        region_types=torch.ones_like(region_mask, dtype=torch.int64),
    )
