"""What makes a weight worth keeping: criteria from the literature, all with one signature.

A criterion looks at a module, the mask so far (whose names are the prunable weights) and some evidence, and gives each
weight a score; a pattern (`patterns.py`) then keeps the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from vltickets.errors import UserError, unknown
from vltickets.tickets.holding import linear_weights, unwrapped, weights_of
from vltickets.tickets.mask import Mask
from vltickets.tickets.patterns import Within, places
from vltickets.tickets.pruning import Scores, random_scores

Loss = Callable[[nn.Module, Any], torch.Tensor]


class Movement:
    """Records movement, −Σ w·∂L/∂w over the backward passes inside `with`, for the criterion of that name.

    Sanh et al. 2020, "Movement Pruning". It hooks the gradients of the weights it is for (every linear weight, or those
    named), so the loop inside stays as it is; parts of a batch and clipping are no trouble. A loss scaled for half
    precision scales the scores too.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 2.0)
    >>> with Movement(layer) as movement:
    ...     layer(torch.tensor([[3.0]])).sum().backward()
    >>> movement.scores("weight").item()  # the weight is 2, its gradient 3
    -6.0
    """

    def __init__(self, model: nn.Module, names: Iterable[str] | None = None) -> None:
        module = unwrapped(model)
        own = linear_weights(module) if names is None else weights_of(module, names)
        self._weights = {name: weight for name, weight in own.items() if weight.requires_grad}
        self._totals: dict[str, torch.Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Movement:
        for name, weight in self._weights.items():
            self._handles.append(weight.register_hook(self._recorder(name, weight)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _recorder(self, name: str, weight: nn.Parameter) -> Callable[[torch.Tensor], None]:
        def record(gradient: torch.Tensor) -> None:
            moved = weight.detach().float() * gradient.detach().float()
            total = self._totals.get(name)
            self._totals[name] = -moved if total is None else total.to(moved.device).sub_(moved)

        return record

    def scores(self, name: str) -> torch.Tensor:
        """Return the scores of a weight, of its shape; one without any gradient so far is a `UserError`."""
        if name not in self._totals:
            raise UserError(f"movement of {name!r} was not recorded: run backward passes through it inside `with`")
        return self._totals[name]


@dataclass(frozen=True)
class Evidence:
    """What criteria may look at beside the weights; each takes what it needs.

    `batches` are a few, in any form; `loss(model, batch)` gives a scalar. Where a criterion needs no loss, it calls
    the model with a batch: as keywords where it is a mapping, as arguments where it is a tuple or list.
    """

    batches: Iterable[Any] | None = None
    loss: Loss | None = None
    movement: Movement | None = None
    seed: int = 0


@dataclass(frozen=True)
class Criterion:
    """A way to score: `score(model, mask, evidence)` gives the scores of each weight by name, the highest to keep.

    `within` says which scores are comparable: all, or only those of a tensor or of a row, which then lose the same
    share each. `needs` are the fields of `Evidence` that it can't do without.
    """

    name: str
    score: Callable[[nn.Module, Mask, Evidence], Scores]
    within: Within = "all"
    needs: tuple[str, ...] = field(default=())

    def check(self, evidence: Evidence) -> None:
        """Raise `UserError` where something it needs is not there."""
        if missing := [name for name in self.needs if getattr(evidence, name) is None]:
            raise UserError(f"the criterion {self.name!r} needs {' and '.join(missing)}: give them by these names")


def magnitude(model: nn.Module, mask: Mask, evidence: Evidence) -> Scores:
    """Score |w| (Han et al. 2015; Frankle and Carbin 2019)."""
    weights = weights_of(model, mask)
    return lambda name: weights[name].detach().abs()


def random(model: nn.Module, mask: Mask, evidence: Evidence) -> Scores:
    """Score at random by `evidence.seed`: the baseline. Masks of one seed are nested."""
    return random_scores(evidence.seed, mask.shapes)


def snip(model: nn.Module, mask: Mask, evidence: Evidence) -> Scores:
    """Score |w · ∂L/∂w| of the loss summed over the batches (Lee et al. 2019, "SNIP").

    The model is looked at in evaluation mode, without dropout; its gradients and buffers are left alone.
    """
    assert evidence.loss is not None
    weights = weights_of(model, mask)
    if frozen := [name for name, weight in weights.items() if not weight.requires_grad]:
        raise UserError(f"the criterion 'snip' needs gradients, but {frozen[0]!r} has requires_grad=False")
    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    with _evaluating(model), torch.enable_grad():
        for batch in _some(evidence):
            gradients = torch.autograd.grad(evidence.loss(model, batch), list(weights.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient
    return lambda name: (weights[name].detach() * sums[name]).abs()


def movement(model: nn.Module, mask: Mask, evidence: Evidence) -> Scores:
    """Score −Σ w · ∂L/∂w over a training: weights that moved away from 0 (Sanh et al. 2020, "Movement Pruning")."""
    assert evidence.movement is not None
    return evidence.movement.scores


def wanda(model: nn.Module, mask: Mask, evidence: Evidence) -> Scores:
    """Score |w| · ‖x‖₂, x the weight's input over all batches and places (Sun et al. 2024, "Wanda").

    For linear layers only, and compared within each output row. Padding counts as it enters the layer.
    """
    weights = weights_of(model, mask)
    names = {id(weight): name for name, weight in weights.items()}
    squares: dict[str, torch.Tensor] = {}

    def recorder(name: str) -> Callable[..., None]:
        def record(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = (args[0] if args else kwargs["input"]).detach()
            total = x.reshape(-1, x.shape[-1]).double().square().sum(0).cpu()
            squares[name] = squares[name] + total if name in squares else total

        return record

    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module.weight) in names]
    handles = [layer.register_forward_pre_hook(recorder(names[id(layer.weight)]), with_kwargs=True) for layer in layers]
    try:
        with _evaluating(model), torch.no_grad():
            for batch in _some(evidence):
                _run(model, batch, evidence.loss)
    finally:
        for handle in handles:
            handle.remove()
    if unseen := [name for name in weights if name not in squares]:
        raise UserError(
            f"the criterion 'wanda' needs the inputs of linear layers, and saw none of {unseen[0]!r}: "
            "leave it out with `prunable`"
        )
    return lambda name: weights[name].detach().cpu().abs() * squares[name].sqrt().float()


def lamp(model: nn.Module, mask: Mask, evidence: Evidence) -> Scores:
    """Score w² / Σ w′² over the weights w′ of its tensor that are not smaller (Lee et al. 2021, "LAMP").

    Of equal weights one counts as larger, as in the paper, so that each tensor keeps at least one: its score is 1.
    """
    weights = weights_of(model, mask)

    @cache
    def scores(name: str) -> torch.Tensor:
        weight = weights[name].detach().cpu()
        squares = (weight.double() * mask[name]).square().flatten()
        place = places(squares[None])[0]
        rising = torch.empty_like(squares).scatter_(0, place, squares)
        rest = rising.flip(0).cumsum(0).flip(0)
        return torch.where(rest == 0, 0, rising / rest)[place].view_as(weight)

    return scores


CRITERIA = {
    criterion.name: criterion
    for criterion in (
        Criterion("magnitude", magnitude),
        Criterion("magnitude-layerwise", magnitude, within="tensor"),
        Criterion("random", random),
        Criterion("snip", snip, needs=("batches", "loss")),
        Criterion("movement", movement, needs=("movement",)),
        Criterion("wanda", wanda, within="row", needs=("batches",)),
        Criterion("lamp", lamp),
    )
}


def criterion_of(criterion: str | Criterion) -> Criterion:
    """Return a criterion by its name, or the one given; an unknown name is a `UserError`."""
    if isinstance(criterion, Criterion):
        return criterion
    if criterion not in CRITERIA:
        raise unknown("criterion", criterion, CRITERIA)
    return CRITERIA[criterion]


def _run(model: nn.Module, batch: Any, loss: Loss | None) -> None:
    if loss is not None:
        loss(model, batch)
    elif isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)


def _some(evidence: Evidence) -> Iterator[Any]:
    count = 0
    for batch in evidence.batches or ():
        count += 1
        yield batch
    if not count:
        raise UserError("there are no batches to score weights on: give at least one, as a list")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode for a while; every part has its own mode back afterwards."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training
