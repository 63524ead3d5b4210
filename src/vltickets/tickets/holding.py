"""Holding pruned weights at zero through training: a hook for the loop, or hooks on an optimiser in a foreign one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

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
        weights = weights_of(model, mask)
        self.weights = [weights[name] for name in mask]
        self.masks = [mask[name].to(weights[name].device, weights[name].dtype) for name in mask]
        self.zero_stays = zero_stays
        self._steps = 0
        _multiply(list(self.weights), self.masks)

    def before_step(self, model: nn.Module) -> None:
        """Zero the gradients of pruned weights."""
        self._follow()
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

    @contextmanager
    def attached_to(self, *optimizers: torch.optim.Optimizer) -> Iterator[HoldZeros]:
        """Hold inside `with`, for a loop that calls neither `before_step` nor `after_step`.

        Each backward pass leaves gradients of 0 on pruned weights, so clipping sees only what is kept, and each step of
        an optimiser leaves the weights at 0. Wrapped optimisers (accelerate's) are found inside their wrappers. One
        that has none of the mask's weights is a `UserError`: its steps would hold nothing.
        """
        inner = [_unwrapped_optimizer(optimizer) for optimizer in optimizers]
        trained = {id(weight) for one in inner for group in one.param_groups for weight in group["params"]}
        if not any(id(weight) in trained for weight in self.weights):
            raise UserError("the optimizer has none of the mask's weights: make it from the model that is held")
        zeroed: set[int] = set()  # gradients already 0 where they should be, so that the step need not do it again

        def zero_gradient(place: int) -> Callable[[torch.Tensor], None]:
            def hook(weight: torch.Tensor) -> None:
                if weight.grad is not None:
                    weight.grad.mul_(self.masks[place].to(weight.grad.device))
                    zeroed.add(place)

            return hook

        def before(*_: Any) -> None:  # what did not come from a backward pass inside `with`
            self._follow()
            for place, (weight, mask) in enumerate(zip(self.weights, self.masks, strict=True)):
                if weight.grad is not None and place not in zeroed:
                    weight.grad.mul_(mask)

        def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            zeroed.clear()
            self.after_step(nn.Module())

        self._follow()
        _multiply(list(self.weights), self.masks)
        handles = [
            weight.register_post_accumulate_grad_hook(zero_gradient(place))
            for place, weight in enumerate(self.weights)
            if weight.requires_grad
        ]
        handles += [one.register_step_pre_hook(before) for one in inner]
        handles += [one.register_step_post_hook(after) for one in inner]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _follow(self) -> None:
        """Bring the masks to where the weights are now."""
        self.masks = [mask.to(weight.device) for weight, mask in zip(self.weights, self.masks, strict=True)]

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


def weights_of(model: nn.Module, names: Mask | Iterable[str]) -> dict[str, nn.Parameter]:
    """Return the module's weights of a mask, or of these names; of a `Model` they are its backbone's.

    Raises `UserError`, naming the first, where a weight is missing or of another shape than the mask's.
    """
    names = names if isinstance(names, Mask) else tuple(names)
    weights = dict(unwrapped(model).named_parameters())
    backbone = getattr(unwrapped(model), "backbone", None)
    if isinstance(backbone, nn.Module) and not all(name in weights for name in names):
        weights = dict(backbone.named_parameters())  # a `Model`: masks name the backbone's own weights
    shapes = names.shapes if isinstance(names, Mask) else {}
    for name in names:
        found = tuple(weights[name].shape) if name in weights else None
        if found is None or found != shapes.get(name, found):
            wanted = f" of shape {shapes[name]}" if name in shapes else ""
            has = "no weight of this name" if found is None else f"one of shape {found}"
            raise UserError(
                f"the mask is of another backbone: it is for a weight {name!r}{wanted}, the model has {has}"
            )
    return {name: weights[name] for name in names}


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of every linear layer, by its name in the module; one that layers share is named once."""
    linear_ones = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in linear_ones}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside what `torch.compile` and data parallelism put around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _unwrapped_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimiser whose steps move weights; wrappers keep it as `optimizer`."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"zeros are held through a torch optimizer, not through a {type(optimizer).__name__}")
    return optimizer
