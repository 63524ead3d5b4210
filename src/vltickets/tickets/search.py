"""Iterative magnitude pruning: Algorithm 1 of Gan et al. 2022, and finding a ticket in anybody's program.

The algorithm is written once, over two verbs. With tensors the verbs do the work at once (`find_ticket`); with nodes
they describe it, and a study is planned by the very same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from vltickets.errors import UserError
from vltickets.tickets.holding import HoldZeros
from vltickets.tickets.mask import Mask
from vltickets.tickets.pruning import prune_by_magnitude, zeros_at
from vltickets.tickets.schedules import linear

Trained = TypeVar("Trained")
AnyMask = TypeVar("AnyMask")


@dataclass(frozen=True)
class Round(Generic[Trained, AnyMask]):
    """One round: `trained` under the mask so far (which is also that ticket's evaluation), then pruned to `mask`."""

    sparsity: float
    trained: Trained
    mask: AnyMask


def iterative_magnitude_pruning(
    train: Callable[[AnyMask | None], Trained],
    prune: Callable[[Trained, float], AnyMask],
    levels: Iterable[float],
) -> Iterator[Round[Trained, AnyMask]]:
    """Algorithm 1. `train(mask)` trains f(x; m⊙θᵢ, φᵢ) to step t, always from the same θᵢ and φᵢ (the rewinding);
    `prune(trained, sparsity)` removes the smallest kept weights of m⊙θₜ. Yields each round as it is done.
    """
    mask = None  # m = 1: nothing pruned yet
    for sparsity in levels:
        trained = train(mask)
        mask = prune(trained, sparsity)
        yield Round(sparsity, trained, mask)


def find_ticket(
    model: nn.Module,
    train: Callable[[nn.Module, HoldZeros], None],
    sparsity: float | None = None,
    levels: Iterable[float] | None = None,
    *,
    prunable: Callable[[nn.Module], dict[str, nn.Parameter]] | None = None,
) -> Mask:
    """Find a ticket of any module by iterative magnitude pruning in your own loop, and leave the module as a ticket.

    `train(model, hold)` trains the module in place, with an optimiser made anew at each call; it must call
    `hold.before_step(model)` after the backward pass and `hold.after_step(model)` after the optimiser's step. Every
    round starts from the weights the module came with; at the end the module holds m⊙θ₀. The rounds' sparsities are
    `levels`, or 10 % of the original weights a round up to `sparsity` (0.9 unless given). `prunable` names the weights
    to prune: every `nn.Linear` weight unless given. Raises `UserError` before any training where both or odd levels
    are given, or nothing is prunable.
    """
    if levels is not None and sparsity is not None:
        raise UserError("find_ticket takes a sparsity or levels, not both: the last level is the sparsity")
    if levels is None:
        end = 0.9 if sparsity is None else sparsity
        levels = (*(level for level in linear(0.1, 0.9) if level < end), end)
    start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    weights = (prunable or linear_weights)(model)
    if not weights:
        raise UserError("this module has nothing prunable: no linear layer; name its weights with `prunable`")
    dense = Mask.dense({name: tuple(weight.shape) for name, weight in weights.items()})
    levels = tuple(levels)
    if not levels or list(levels) != sorted(levels):
        raise UserError(f"the levels {levels} must be some, and rise: pruned weights do not come back")
    for level in levels:  # before any training: a search may take days
        zeros_at(level, dense.total)

    def train_round(mask: Mask | None) -> Mask:
        model.load_state_dict(start)
        train(model, HoldZeros(model, mask or dense))
        return mask or dense

    def prune_round(mask: Mask, level: float) -> Mask:
        current = {name: weight.detach() for name, weight in weights.items()}
        return prune_by_magnitude(current, mask, level)

    found = dense
    for step in iterative_magnitude_pruning(train_round, prune_round, levels):
        found = step.mask
    model.load_state_dict(start)
    with torch.no_grad():
        found.apply_(weights)
    return found


def linear_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of every linear layer, by its name in the module; one that layers share is named once."""
    linear_ones = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in linear_ones}
