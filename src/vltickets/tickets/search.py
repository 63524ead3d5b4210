"""Iterative magnitude pruning: Algorithm 1 of Gan et al. 2022, and finding a ticket in anybody's program.

The algorithm is written once, over two verbs. With tensors the verbs do the work at once (`find_ticket`); with nodes
they describe it, and a study is planned by the very same lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from vltickets.errors import UserError
from vltickets.tickets.criteria import Criterion, Evidence, Loss, Movement, criterion_of
from vltickets.tickets.holding import HoldZeros, linear_weights, weights_of
from vltickets.tickets.mask import Mask
from vltickets.tickets.patterns import UNSTRUCTURED, NofM, Pattern, pattern_of
from vltickets.tickets.pruning import zeros_at
from vltickets.tickets.schedules import custom, schedule_levels
from vltickets.tickets.ticket_file import Ticket

Trained = TypeVar("Trained")
AnyMask = TypeVar("AnyMask")
Prunable = Callable[[nn.Module], dict[str, nn.Parameter]]


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
    schedule: str | None = None,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = UNSTRUCTURED,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    prunable: Prunable | None = None,
) -> Ticket:
    """Find a ticket of any module by iterative pruning in your own loop, and leave the module as the ticket.

    `train(model, hold)` trains the module in place, with an optimiser made anew at each call. It calls
    `hold.before_step(model)` after the backward pass and `hold.after_step(model)` after the optimiser's step, or runs
    inside `with hold.attached_to(optimizer):`. Every round starts from the weights the module came with; at the end
    the module holds m⊙θ₀.

    The rounds' sparsities are `levels`, or those of a `schedule` ("linear": 10 % of the original weights a round,
    unless given; "geometric", "one-shot") up to `sparsity` (0.9 unless given). `criterion` names how weights are
    scored after each round (`tickets/criteria.py`; SNIP needs `batches` and `loss`, Wanda `batches`), `pattern` which
    go together (`tickets/patterns.py`, or by name: "2:4"; n:m is reached in one round). `prunable` names the weights to
    prune: every `nn.Linear` weight unless given. Raises `UserError` before any training where these don't fit together.
    """
    chosen, pattern = criterion_of(criterion), pattern_of(pattern)
    weights, dense = _prunable(model, prunable)
    levels = _levels(sparsity, levels, schedule, pattern)
    pattern.check(dense.shapes, levels)
    evidence = Evidence(tuple(batches) if isinstance(batches, Iterator) else batches, loss, None, seed)
    recorder = Movement(model, weights)
    chosen.check(replace(evidence, movement=recorder))
    start = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def train_round(mask: Mask | None) -> tuple[Mask, Movement]:
        model.load_state_dict(start)
        held, recorder = HoldZeros(model, mask or dense), Movement(model, weights)
        with recorder if "movement" in chosen.needs else nullcontext():
            train(model, held)
        return mask or dense, recorder

    def prune_round(trained: tuple[Mask, Movement], level: float) -> Mask:
        mask, recorder = trained
        scores = chosen.score(model, mask, replace(evidence, movement=recorder))
        return pattern.prune(scores, mask, level, chosen.within)

    found = dense
    for step in iterative_magnitude_pruning(train_round, prune_round, levels):
        found = step.mask
    model.load_state_dict(start)
    found.apply_(weights)
    return Ticket(None, found, _provenance("find_ticket", chosen, pattern, levels, start))


def prune_module(
    model: nn.Module,
    sparsity: float | None = None,
    *,
    criterion: str | Criterion = "magnitude",
    pattern: str | Pattern = UNSTRUCTURED,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    movement: Movement | None = None,
    seed: int = 0,
    so_far: Ticket | None = None,
    prunable: Prunable | None = None,
) -> Ticket:
    """Return the ticket of a module as it is, without training; the module is left alone (`ticket.apply_(model)`).

    `vltickets.prune`. Arguments are those of `find_ticket`; `movement` is a recorder that was around your loop, and
    `so_far` a ticket of which the new one shall be a part. `sparsity` may be left out where the pattern has its own.
    """
    chosen, pattern = criterion_of(criterion), pattern_of(pattern)
    weights, dense = _prunable(model, prunable)
    if so_far is not None:
        weights, dense = weights_of(model, so_far.mask), so_far.mask
    if sparsity is None and not isinstance(pattern, NofM):
        raise UserError("prune needs a sparsity: for 70 % write 0.7")
    levels = _levels(sparsity, None, "one-shot", pattern)
    pattern.check(dense.shapes, levels)
    evidence = Evidence(batches, loss, movement, seed)
    chosen.check(evidence)
    mask = pattern.prune(chosen.score(model, dense, evidence), dense, levels[-1], chosen.within)
    return Ticket(None, mask, _provenance("prune", chosen, pattern, levels, weights))


def _prunable(model: nn.Module, prunable: Prunable | None) -> tuple[dict[str, nn.Parameter], Mask]:
    weights = (prunable or linear_weights)(model)
    if not weights:
        raise UserError("this module has nothing prunable: no linear layer; name its weights with `prunable`")
    return weights, Mask.dense({name: tuple(weight.shape) for name, weight in weights.items()})


def _levels(
    sparsity: float | None, levels: Iterable[float] | None, schedule: str | None, pattern: Pattern
) -> tuple[float, ...]:
    if levels is not None and sparsity is not None:
        raise UserError("find_ticket takes a sparsity or levels, not both: the last level is the sparsity")
    if levels is not None and schedule is not None:
        raise UserError("find_ticket takes levels or a schedule, not both: levels are a schedule of your own")
    if levels is not None:
        return custom(levels)
    if isinstance(pattern, NofM):
        sparsity = pattern.sparsity if sparsity is None else sparsity
        schedule = schedule or "one-shot"
    end = 0.9 if sparsity is None else sparsity
    zeros_at(end, 1)
    return schedule_levels(schedule or "linear", end) if end else (end,)


def _provenance(
    how: str, criterion: Criterion, pattern: Pattern, levels: tuple[float, ...], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Say how a ticket was found, and from which weights, by hash."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + content.tobytes())
    return {
        "found_by": how,
        "criterion": criterion.name,
        "pattern": pattern.name,
        "levels": list(levels),
        "start": {"kind": "module", "sha256": total.hexdigest()},
    }
