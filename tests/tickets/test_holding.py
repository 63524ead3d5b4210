"""Pruned weights, their gradients and their optimiser state are exactly 0 after every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from vltickets.data import stream
from vltickets.errors import UserError
from vltickets.tasks import Model, Task
from vltickets.tickets import HoldZeros, Mask, prune_by_magnitude
from vltickets.training import Hook

Build = Callable[..., tuple[Model, Task]]
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1),
    "fused AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=True),
    "AMSGrad": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, amsgrad=True),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "Nesterov": lambda model: torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True
    ),
}


def ticket_of(model: Model, sparsity: float = 0.7) -> Mask:
    """A mask with ties: the weights are ranked by few values."""
    weights = model.backbone.prunable()
    dense = Mask.dense({name: tuple(weight.shape) for name, weight in weights.items()})
    return prune_by_magnitude({name: (weight * 10).round() for name, weight in weights.items()}, dense, sparsity)


def check_zeros(model: Model, task: Task, mask: Mask, hook: Hook, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Train, and look at weights, gradients and state at every step."""
    weights = model.backbone.prunable()
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    model.train()
    torch.manual_seed(0)
    for step in range(steps):
        examples = stream("test", step).integers(0, 120, 8)
        task.loss(model, task.batch(examples, stream("test", step, "batch"))).backward()
        hook.before_step(model)
        for name, weight in weights.items():
            assert weight.grad is not None
            assert not weight.grad[~mask[name]].any(), f"gradient of {name} at step {step}"
        optimizer.step()
        hook.after_step(model)
        for name, weight in weights.items():
            assert not weight[~mask[name]].any(), f"{name} at step {step}"
            for key, state in optimizer.state[weight].items():
                if isinstance(state, torch.Tensor) and state.shape == weight.shape:
                    assert not state[~mask[name]].any(), f"{key} of {name} at step {step}"
        optimizer.zero_grad()
    for name, weight in weights.items():
        assert not torch.equal(weight[mask[name]], start[name][mask[name]])
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == mask.total - mask.kept
    assert mask.total - mask.kept == round(0.7 * mask.total)


@pytest.mark.parametrize("zero_stays", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_hold_through_every_optimiser_step(build: Build, name: str, zero_stays: bool) -> None:
    model, task = build("vqa")
    mask = ticket_of(model)
    hold = HoldZeros(model, mask, zero_stays=zero_stays)
    check_zeros(model, task, mask, hold, OPTIMIZERS[name](model), steps=25)


def test_both_ways_of_holding_give_the_same_weights(build: Build) -> None:
    found = []
    for zero_stays in (False, True):
        model, task = build("vqa")
        mask = ticket_of(model)
        hold = HoldZeros(model, mask, zero_stays=zero_stays)
        check_zeros(model, task, mask, hold, OPTIMIZERS["AdamW"](model), steps=5)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("zero_stays", [False, True])
def test_an_optimiser_that_moves_zeros_is_held_or_found_out(build: Build, zero_stays: bool) -> None:
    model, task = build("vqa")
    mask = ticket_of(model)
    hold = HoldZeros(model, mask, zero_stays=zero_stays)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def add_noise(*_: object) -> None:  # as Langevin dynamics does
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=1e-3)

    optimizer.register_step_post_hook(add_noise)
    if zero_stays:
        with pytest.raises(RuntimeError, match=r"moves weights of 0 .*zero_stays=False"):
            check_zeros(model, task, mask, hold, optimizer, steps=3)
    else:
        check_zeros(model, task, mask, hold, optimizer, steps=3)


class WeightsOnly:
    """A mutant: it zeroes the weights, and forgets the gradients."""

    def __init__(self, model: nn.Module, mask: Mask) -> None:
        self.hold = HoldZeros(model, mask)

    def before_step(self, model: nn.Module) -> None:
        pass

    def after_step(self, model: nn.Module) -> None:
        self.hold.after_step(model)


class GradientsOnly:
    """A mutant: it zeroes the gradients, and never the weights, not even at first."""

    def __init__(self, model: nn.Module, mask: Mask) -> None:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        self.hold = HoldZeros(model, mask)
        model.load_state_dict(state)

    def before_step(self, model: nn.Module) -> None:
        self.hold.before_step(model)

    def after_step(self, model: nn.Module) -> None:
        pass


@pytest.mark.parametrize("mutant", [WeightsOnly, GradientsOnly])
def test_mutant_a_hook_that_does_half_of_it_fails_at_step_one(build: Build, mutant: Callable[..., Hook]) -> None:
    model, task = build("vqa")
    mask = ticket_of(model)
    with pytest.raises(AssertionError, match="at step 0"):
        check_zeros(model, task, mask, mutant(model, mask), OPTIMIZERS["SGD"](model), steps=2)


def test_the_clipped_norm_is_that_of_the_kept_weights(build: Build) -> None:
    model, task = build("vqa")
    mask = ticket_of(model)
    hold = HoldZeros(model, mask)
    task.loss(model, task.batch(stream("x").integers(0, 120, 8), stream("y"))).backward()
    pruned = model.backbone.prunable()
    squares = 0.0
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            own = name.removeprefix("backbone.")
            grad = weight.grad[mask[own]] if own in pruned else weight.grad
            squares += float(grad.double().square().sum())
    whole = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    hold.before_step(model)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), 1e-3))
    assert norm == pytest.approx(squares**0.5, rel=1e-5)
    assert norm < 0.999 * whole


def test_a_mask_of_another_backbone_is_refused(build: Build) -> None:
    model, _ = build("vqa")
    for mask in (Mask.dense({"encoder.nothing.weight": (2, 2)}), Mask.dense({"pooler.dense.weight": (2, 2)})):
        with pytest.raises(UserError, match="the mask is of another backbone"):
            HoldZeros(model, mask)


def test_a_foreign_module_is_held_by_its_own_names() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Linear(3, 3)
            self.box = nn.Linear(3, 1)

    model = Detector()
    mask = Mask({"backbone.weight": torch.eye(3, dtype=torch.bool), "box.weight": torch.ones(1, 3, dtype=torch.bool)})
    HoldZeros(model, mask)
    assert torch.equal(model.backbone.weight != 0, mask["backbone.weight"])


def test_weights_that_got_no_gradient_are_no_trouble(build: Build) -> None:
    model, _ = build("vqa")
    mask = ticket_of(model)
    hold = HoldZeros(model, mask)
    hold.before_step(model)
    hold.after_step(model)
    assert all(weight.grad is None for weight in model.parameters())
