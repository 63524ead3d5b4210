"""Optimal transport between words and regions: the distance behind word-region alignment (official-models 2).

Source: the official model/ot.py; the inexact proximal point method for optimal transport (IPOT, Xie et al. 2018).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

PADDING = 1e4  # what padding adds to a denominator: its share vanishes


def transport_distance(
    words: torch.Tensor,
    word_mask: torch.Tensor,
    regions: torch.Tensor,
    region_mask: torch.Tensor,
    *,
    beta: float = 0.5,
    iterations: int = 50,
) -> torch.Tensor:
    """Return the transport distance [b] of states `words` [b, t, d] and `regions` [b, r, d]; masks are True at states.

    The cost of a pair is 1 - cosine. The plan carries no gradient, only the cost does. In float32 whatever comes in.
    """
    with torch.autocast(words.device.type, enabled=False):
        cost = 1 - F.normalize(words.float(), dim=-1, eps=1e-5) @ F.normalize(regions.float(), dim=-1, eps=1e-5).mT
        cost = cost.masked_fill(~(word_mask[:, :, None] & region_mask[:, None, :]), 0.0)
        plan = transport_plan(cost.detach(), word_mask, region_mask, beta=beta, iterations=iterations)
        return (cost * plan).sum((1, 2))


@torch.no_grad()
def transport_plan(
    cost: torch.Tensor, word_mask: torch.Tensor, region_mask: torch.Tensor, *, beta: float, iterations: int
) -> torch.Tensor:
    """Return the plan T [b, t, r] that moves the words' even mass to the regions' for the cost [b, t, r] (IPOT)."""
    words, regions = word_mask.sum(1, keepdim=True).to(cost.dtype), region_mask.sum(1, keepdim=True).to(cost.dtype)
    word_padding, region_padding = (~word_mask) * PADDING, (~region_mask) * PADDING
    valid = word_mask[:, :, None] & region_mask[:, None, :]
    kernel = torch.exp(-cost / beta).masked_fill(~valid, 0.0)
    sigma = word_mask / words
    plan = valid.to(cost.dtype)
    for _ in range(iterations):
        proposal = kernel * plan
        delta = 1 / (regions * torch.einsum("btr,bt->br", proposal, sigma) + region_padding)
        sigma = 1 / (words * torch.einsum("btr,br->bt", proposal, delta) + word_padding)
        plan = sigma[:, :, None] * proposal * delta[:, None, :]
    return plan
