"""What pre-training hides and swaps: words, regions, and images or wordings that do not belong (official-models 2)."""

from __future__ import annotations

import numpy as np
import torch

NOT_MASKED = -1


def choose(among: torch.Tensor, rng: np.random.Generator, share: float) -> torch.Tensor:
    """Return a mask that picks each true place of `among` [b, n] with probability `share`, at least one in each row."""
    draws = torch.from_numpy(rng.random(tuple(among.shape))).masked_fill(~among, 2.0)
    picked = draws < share
    first = draws.argmin(dim=1)
    rows = torch.arange(len(among))
    picked[rows, first] |= ~picked.any(dim=1) & among.any(dim=1)
    return picked


def mask_words(
    tokens: torch.Tensor, rng: np.random.Generator, share: float, mask: int, content: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens with some words hidden, and the targets (-1 elsewhere), both [b, t].

    Of the chosen words 80 % become [MASK], 10 % a random word, 10 % stay (BERT's rule). Specials are never chosen.
    """
    picked = choose(torch.from_numpy(np.isin(tokens.numpy(), content)), rng, share)
    fate = torch.from_numpy(rng.random(tuple(tokens.shape)))
    random_words = torch.from_numpy(rng.choice(content, size=tuple(tokens.shape)))
    hidden = torch.where(picked & (fate < 0.8), torch.full_like(tokens, mask), tokens)
    hidden = torch.where(picked & (fate >= 0.8) & (fate < 0.9), random_words, hidden)
    return hidden, torch.where(picked, tokens, torch.full_like(tokens, NOT_MASKED))


def other_images(rng: np.random.Generator, images: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Draw for each image another one from the pool."""
    drawn = pool[rng.integers(0, len(pool), size=len(images))]
    while (same := drawn == images).any():
        if (pool == pool[0]).all():
            break  # a corpus of one image has no other
        drawn[same] = pool[rng.integers(0, len(pool), size=int(same.sum()))]
    return drawn
