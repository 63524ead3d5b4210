"""What pre-training hides and swaps: words, regions; images, sentences or wordings that do not belong.

Sources: official-models 2 (UNITER) and 4 (LXMERT).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vltickets.data import Ragged, Regions

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


def mask_features(
    features: torch.Tensor, there: torch.Tensor, rng: np.random.Generator, share: float, pool: Regions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features [b, r, f] with some regions hidden, and the mask [b, r] of those; `there` [b, r] are no padding.

    LXMERT's rule (official-models 4): each region is chosen with probability `share`; of the chosen 80 % become 0,
    10 % the feature of some region of the pool, 10 % stay. Unlike in UNITER an image may have none.
    """
    fate = torch.from_numpy(rng.random(tuple(there.shape)) / share).masked_fill(~there, 1.0)
    hidden = fate < 1.0
    out = features.masked_fill((fate < 0.8)[..., None], 0.0)
    for row, region in torch.nonzero((fate >= 0.8) & (fate < 0.9)).tolist():
        others = pool.features.row(int(rng.integers(len(pool.names))))
        if len(others):
            out[row, region] = others[int(rng.integers(len(others)))].to(out.dtype)
    return out, hidden


def other_sentences(rng: np.random.Generator, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Draw for each sentence of `rows` [b] the row of another image's; `images` [sentences]: each one's image."""
    drawn = rng.integers(0, len(images), size=len(rows))
    while (same := images[drawn] == images[rows]).any():
        if (images == images[0]).all():
            break  # all sentences are of one image
        drawn[same] = rng.integers(0, len(images), size=int(same.sum()))
    return drawn


@lru_cache(maxsize=4)
def stacked(texts: Ragged, foils: Ragged) -> Ragged:
    """Return captions with their foils behind them: caption i's is row len(texts) + i."""
    values = np.concatenate([texts.values.numpy(), foils.values.numpy()])
    return Ragged(values, np.concatenate([texts.offsets, foils.offsets[1:] + texts.offsets[-1]]))
