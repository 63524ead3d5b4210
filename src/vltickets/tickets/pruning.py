"""Removing the lowest-scored weights, exactly as many as asked, whatever the ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch

from vltickets.errors import UserError
from vltickets.tickets.mask import Mask

SAMPLE = 1 << 18
CHUNK = 1 << 16
NOT_NUMBERS = "the weights can't be ranked: some are not numbers (NaN); the training has diverged"
Scores = Callable[[str], torch.Tensor]  # the scores of a weight tensor, by its name
Chunks = Callable[[str], Iterator[tuple[slice, torch.Tensor, torch.Tensor]]]


def zeros_at(sparsity: float, total: int) -> int:
    """Return how many of `total` weights are pruned at a sparsity: round(s · d₁).

    Raises `UserError` where the sparsity is not in [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity {sparsity} is outside [0, 1); for 70 % write 0.7")
    return round(sparsity * total)


def prune_by_magnitude(weights: Mapping[str, torch.Tensor], mask: Mask, sparsity: float) -> Mask:
    """Return the mask with the smallest kept weights removed, globally, until `sparsity` of all is pruned.

    Gan et al. 2022, Algorithm 1, line 4. `weights` maps names to tensors on any device; they are left alone.
    """
    return _prune(weights.__getitem__, mask, sparsity, lambda chunk: chunk.abs().float())


def prune(scores: Scores, mask: Mask, sparsity: float) -> Mask:
    """Return the subset of `mask` that keeps its highest-scored weights, with exactly round(sparsity · d₁) pruned.

    Scores are compared in single precision, or in double where they come so; of equal ones, those later in name order
    go first, so every process agrees. Memory stays within a few copies of the largest tensor: the threshold is
    bracketed from a sample, and only what lies in the bracket is ranked.
    Raises `UserError` where the sparsity is below the mask's own, outside [0, 1), or a score is not a number.

    >>> mask = Mask.dense({"w": (4,)})
    >>> prune(lambda name: torch.tensor([3.0, 1.0, 1.0, 2.0]), mask, 0.25)["w"].tolist()
    [True, True, False, True]
    """
    return _prune(scores, mask, sparsity, lambda chunk: chunk if chunk.dtype == torch.float64 else chunk.float())


def _prune(tensors: Scores, mask: Mask, sparsity: float, score: Callable[[torch.Tensor], torch.Tensor]) -> Mask:
    target, kept = zeros_at(sparsity, mask.total), mask.kept
    gone = mask.total - kept
    if target < gone:
        raise UserError(
            f"sparsity {sparsity} is below the mask's own {mask.sparsity:.4f}: pruned weights do not come back"
        )
    amount = target - gone
    if amount == 0:
        return mask

    def chunks(name: str) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yield place, scores and mask of pieces that stay in the processor's cache, the last one first."""
        flat, keep = tensors(name).detach().flatten().cpu(), mask[name].flatten()
        for start in reversed(range(0, len(flat), CHUNK)):
            place = slice(start, start + CHUNK)
            yield place, score(flat[place]), keep[place]

    low, high = _bracket(tensors, mask, amount / kept, score)
    threshold, below = _threshold(chunks, mask, amount, ((low, high), (-math.inf, math.inf)))
    ties = amount - below  # so many of the weights that score exactly the threshold go as well
    found: dict[str, torch.Tensor] = {}
    for name in sorted(mask, reverse=True):
        flat = torch.empty(mask[name].numel(), dtype=torch.bool)
        for place, values, keep in chunks(name):
            out, ranked = flat[place].numpy(), values.numpy()
            np.greater_equal(ranked, threshold, out=out)
            out &= keep.numpy()
            if ties:
                equal = np.flatnonzero(out & (ranked == threshold))
                out[equal[max(len(equal) - ties, 0) :]] = False
                ties -= min(len(equal), ties)
        found[name] = flat.view(mask[name].shape)
    return Mask({name: found[name] for name in mask})


def _threshold(chunks: Chunks, mask: Mask, amount: int, brackets: Iterable[tuple[float, float]]) -> tuple[float, int]:
    """Return the `amount`-th smallest kept score, and how many kept scores are smaller than it."""
    for low, high in brackets:
        below, ties, inside = _between(chunks, mask, low, high)
        if below < amount <= below + ties + sum(map(len, inside)):
            if low == high:
                return low, below
            ranked = np.concatenate(inside)
            threshold = np.partition(ranked, amount - below - 1)[amount - below - 1]
            return float(threshold), below + int((ranked < threshold).sum())
    raise UserError(NOT_NUMBERS)


def _between(chunks: Chunks, mask: Mask, low: float, high: float) -> tuple[int, int, list[np.ndarray]]:
    """Return how many kept scores are below `low`, and those up to `high`: only their number where both are one."""
    below, ties, inside = mask.kept, 0, []
    for name in mask:
        for _, values, keep in chunks(name):
            if bool(values.amin().isnan()):
                raise UserError(NOT_NUMBERS)
            ranked = values.numpy()  # NumPy compares several times faster than torch on the CPU
            upper = (ranked >= low) & keep.numpy()
            below -= int(np.count_nonzero(upper))
            upper &= ranked <= high
            if low == high:
                ties += int(np.count_nonzero(upper))
            else:
                inside.append(ranked[upper])
    return below, ties, inside


def _bracket(
    tensors: Scores, mask: Mask, share: float, score: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[float, float]:
    """Return two scores between which the smallest `share` of the kept ones almost surely ends, from a sample."""
    stride = max(mask.total // SAMPLE, 1)
    parts = []
    for name in mask:
        flat = score(tensors(name).detach().flatten()[::stride]).cpu()
        parts.append(flat[mask[name].flatten()[::stride]])
    sample = torch.cat(parts).sort().values
    place = share * len(sample)
    margin = 3 * (len(sample) ** 0.5) + 2  # six standard deviations or more: missing it only costs a second pass
    low = sample[int(place - margin)].item() if place > margin else -math.inf
    high = sample[int(place + margin)].item() if place + margin < len(sample) else math.inf
    return low, high


def random_scores(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> Scores:
    """Return uniformly random scores, the same at every call: masks of one seed are nested over sparsities."""
    drawn: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(shapes):
        drawn[name] = torch.rand(shapes[name], generator=generator, dtype=torch.float64).float()
    return drawn.__getitem__


def prune_like(scores: Scores, like: Mask) -> Mask:
    """Return the mask that keeps the highest-scored weights, in each tensor as many as `like` keeps there."""
    kept = {}
    for name in like:
        single = Mask.dense({name: like.shapes[name]})
        share = 1 - int(like[name].count_nonzero()) / like[name].numel()
        kept[name] = prune(scores, single, share)[name] if share < 1 else torch.zeros_like(like[name])
    return Mask(kept)
