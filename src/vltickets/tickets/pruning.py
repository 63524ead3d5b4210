"""Removing the lowest-scored weights, exactly as many as asked, whatever the ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from vltickets.errors import UserError
from vltickets.tickets.mask import Mask

SAMPLE = 1 << 18
NOT_NUMBERS = "the weights can't be ranked: some are not numbers (NaN); the training has diverged"
Scores = Callable[[str], torch.Tensor]  # the scores of a weight tensor, by its name


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
    return prune(lambda name: weights[name].detach().abs(), mask, sparsity)


def prune(scores: Scores, mask: Mask, sparsity: float) -> Mask:
    """Return the subset of `mask` that keeps its highest-scored weights, with exactly round(sparsity · d₁) pruned.

    Of equal scores, those later in name order go first, so every process agrees. Memory stays within a few copies of
    the largest tensor: the threshold is bracketed from a sample, and only what lies in the bracket is ranked.
    Raises `UserError` where the sparsity is below the mask's own, outside [0, 1), or a score is not a number.

    >>> mask = Mask.dense({"w": (4,)})
    >>> prune(lambda name: torch.tensor([3.0, 1.0, 1.0, 2.0]), mask, 0.25)["w"].tolist()
    [True, True, False, True]
    """
    target, gone = zeros_at(sparsity, mask.total), mask.total - mask.kept
    if target < gone:
        raise UserError(
            f"sparsity {sparsity} is below the mask's own {mask.sparsity:.4f}: pruned weights do not come back"
        )
    amount = target - gone
    if amount == 0:
        return mask
    threshold, below = _threshold(scores, mask, amount)
    ties = amount - below  # so many of the weights that score exactly the threshold go as well
    kept: dict[str, torch.Tensor] = {}
    for name in sorted(mask, reverse=True):
        values = scores(name)
        tensor = mask[name] & (values > threshold).cpu()
        equal = (mask[name] & (values == threshold).cpu()).flatten()
        if (count := int(equal.count_nonzero())) > ties:
            spared = equal.nonzero().flatten()[: count - ties]
            tensor.view(-1)[spared] = True
            ties = 0
        else:
            ties -= count
        kept[name] = tensor
    return Mask({name: kept[name] for name in mask})


def _threshold(scores: Scores, mask: Mask, amount: int) -> tuple[float, int]:
    """Return the `amount`-th smallest kept score, and how many kept scores are smaller than it."""
    low, high = _bracket(scores, mask, amount)
    for bounds in ((low, high), (-math.inf, math.inf)):
        below, inside = _between(scores, mask, *bounds)
        if below < amount <= below + len(inside):
            threshold = inside.kthvalue(amount - below).values
            return float(threshold), below + int((inside < threshold).count_nonzero())
    raise UserError(NOT_NUMBERS)


def _bracket(scores: Scores, mask: Mask, amount: int) -> tuple[float, float]:
    """Return two scores between which the threshold almost surely lies, from an evenly spaced sample."""
    stride = max(mask.total // SAMPLE, 1)
    parts = []
    for name in sorted(mask):
        flat = scores(name).flatten()[::stride].cpu().float()
        parts.append(flat[mask[name].flatten()[::stride]])
    sample = torch.cat(parts).sort().values
    if not len(sample):
        return -math.inf, math.inf
    place = amount / mask.kept * len(sample)
    margin = 6 * (len(sample) ** 0.5) + 2  # about twelve standard deviations: missing it only costs a second pass
    low = sample[int(place - margin)].item() if place > margin else -math.inf
    high = sample[int(place + margin)].item() if place + margin < len(sample) else math.inf
    return low, high


def _between(scores: Scores, mask: Mask, low: float, high: float) -> tuple[int, torch.Tensor]:
    """Return how many kept scores are below `low`, and those from `low` to `high`."""
    below, inside = 0, []
    for name in sorted(mask):
        values = scores(name).cpu()
        if values.numel() and bool(values.amin().isnan()):
            raise UserError(NOT_NUMBERS)
        keep = mask[name]
        below += int((keep & (values < low)).count_nonzero())
        inside.append(values[keep & (values >= low) & (values <= high)].float())
    return below, torch.cat(inside)


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
