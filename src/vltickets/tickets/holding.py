"""Holding pruned weights at zero through training: a hook for the loop."""

from __future__ import annotations

import torch
from torch import nn

from vltickets.errors import UserError
from vltickets.tickets.mask import Mask


class HoldZeros:
    """Zeroes the gradients of pruned weights before they are clipped, and the weights after the step.

    The mask is part of the function f(x; m⊙θ, φ), so pruned weights have no gradient. With no gradient from the first
    step on, the optimiser's moments for them stay exactly 0 as well.

    `zero_stays` promises that the optimiser leaves a weight alone whose value, gradient and state are 0, as SGD, Adam
    and AdamW do. Then nothing is left to do after a step, which halves the cost; the promise is checked after steps
    1, 2, 4, 8, … and a broken one raises `RuntimeError`.
    """

    def __init__(self, model: nn.Module, mask: Mask, *, zero_stays: bool = False) -> None:
        weights = dict(model.named_parameters())
        backbone = getattr(model, "backbone", None)
        if isinstance(backbone, nn.Module) and not all(name in weights for name in mask):
            weights = dict(backbone.named_parameters())  # a `Model`: masks name the backbone's own weights
        missing = [name for name in mask if name not in weights or tuple(weights[name].shape) != mask.shapes[name]]
        if missing:
            raise UserError(f"the mask is of another backbone: this one has no weight {missing[0]!r} of its shape")
        self.weights = [weights[name] for name in mask]
        self.masks = [mask[name].to(weights[name].device, weights[name].dtype) for name in mask]
        self.zero_stays = zero_stays
        self._steps = 0
        _multiply(list(self.weights), self.masks)

    def before_step(self, model: nn.Module) -> None:
        """Zero the gradients of pruned weights."""
        self.masks = [mask.to(weight.device) for weight, mask in zip(self.weights, self.masks, strict=True)]
        pairs = [(weight.grad, mask) for weight, mask in zip(self.weights, self.masks, strict=True)]
        present = [(grad, mask) for grad, mask in pairs if grad is not None]
        _multiply([grad for grad, _ in present], [mask for _, mask in present])

    def after_step(self, model: nn.Module) -> None:
        """Zero the pruned weights themselves, or look whether they are 0."""
        if not self.zero_stays:
            _multiply(list(self.weights), self.masks)
            return
        self._steps += 1
        if self._steps & (self._steps - 1) == 0 and not self._are_zero():
            raise RuntimeError(
                "the optimiser moves weights of 0 that have no gradient: use HoldZeros(zero_stays=False)"
            )

    def _are_zero(self) -> bool:
        pairs = zip(self.weights, self.masks, strict=True)
        return all(torch.equal(weight.detach() * mask, weight.detach()) for weight, mask in pairs)


def _multiply(tensors: list[torch.Tensor] | list[nn.Parameter], masks: list[torch.Tensor]) -> None:
    """Multiply in place, all tensors in one call where torch has it (a private name, hence the loop beside it)."""
    foreach = getattr(torch, "_foreach_mul_", None)
    with torch.no_grad():
        if foreach is not None and tensors:
            foreach(tensors, masks)
        else:
            for tensor, mask in zip(tensors, masks, strict=True):
                tensor.mul_(mask)
