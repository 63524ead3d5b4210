"""Algorithm 1, and finding a ticket in anybody's program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.errors import UserError
from vltickets.tickets import (
    HoldZeros,
    Mask,
    find_ticket,
    iterative_magnitude_pruning,
    linear,
    prune,
    random_scores,
)
from vltickets.tickets.holding import linear_weights

STEPS = 60


def test_each_round_trains_from_the_mask_so_far_and_comes_in_order() -> None:
    log: list[str] = []

    def train(mask: str | None) -> str:
        log.append(f"train {mask}")
        return f"θ({mask})"

    def prune(trained: str, sparsity: float) -> str:
        log.append(f"prune {trained} {sparsity}")
        return f"m{sparsity}"

    rounds = iterative_magnitude_pruning(train, prune, [0.1, 0.2, 0.3])
    first = next(rounds)
    assert (first.sparsity, first.trained, first.mask) == (0.1, "θ(None)", "m0.1")
    assert log == ["train None", "prune θ(None) 0.1"]
    assert [step.trained for step in rounds] == ["θ(m0.1)", "θ(m0.2)"]
    assert log[2:] == ["train m0.1", "prune θ(m0.1) 0.2", "train m0.2", "prune θ(m0.2) 0.3"]


@dataclass
class Toy:
    """A small network, a function of 3 of its 12 inputs to learn, and a loop that writes down the masks it saw."""

    model: nn.Module
    seen: list[Mask]
    starts: list[dict[str, torch.Tensor]]

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(256, 12, generator=torch.Generator().manual_seed(1))
        return x, (x[:, 0] * x[:, 1] + x[:, 2])[:, None]

    def loss(self, model: nn.Module) -> torch.Tensor:
        x, y = self.data()
        return F.mse_loss(model(x), y)

    def train(self, model: nn.Module, hold: HoldZeros) -> None:
        self.starts.append({name: value.clone() for name, value in model.state_dict().items()})
        self.seen.append(Mask({name: model.get_parameter(name) != 0 for name in linear_weights(model)}))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        for _ in range(STEPS):
            optimizer.zero_grad()
            self.loss(model).backward()
            hold.before_step(model)
            optimizer.step()
            hold.after_step(model)


def toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 1)), [], [])


def test_the_masks_of_a_search_are_nested_and_the_model_is_left_as_the_ticket() -> None:
    made = toy()
    start = {name: value.clone() for name, value in made.model.state_dict().items()}
    mask = find_ticket(made.model, made.train, sparsity=0.75).mask
    kept = [(seen.total, seen.kept) for seen in made.seen]
    assert kept == [(416, 416 - round(level * 416)) for level in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    for earlier, later in zip(made.seen, [*made.seen[1:], mask], strict=True):
        assert later.is_subset_of(earlier)
    assert mask.total - mask.kept == round(0.75 * 416)
    for name, value in made.model.state_dict().items():
        expected = torch.where(mask[name], start[name], 0.0) if name in mask.shapes else start[name]
        assert torch.equal(value, expected)
    for seen, began in zip(made.seen, made.starts, strict=True):  # every round: m ⊙ θ₀, biases as they came
        assert torch.equal(began["0.weight"], torch.where(seen["0.weight"], start["0.weight"], 0.0))
        assert torch.equal(began["0.bias"], start["0.bias"])


def test_the_ticket_trains_better_than_random_masks() -> None:
    found, random = [], []
    for seed in range(3):
        made = toy(seed)
        start = {name: value.clone() for name, value in made.model.state_dict().items()}
        mask = find_ticket(made.model, made.train, sparsity=0.9).mask
        drawn = prune(random_scores(seed, mask.shapes), Mask.dense(mask.shapes), 0.9)
        for ticket, losses in ((mask, found), (drawn, random)):
            made.model.load_state_dict(start)
            made.train(made.model, HoldZeros(made.model, ticket))
            losses.append(made.loss(made.model).item())
    assert sum(found) < 0.8 * sum(random)


def test_levels_may_be_given_and_what_is_prunable_too() -> None:
    made = toy()

    def first_layer(model: nn.Module) -> dict[str, nn.Parameter]:
        return {"0.weight": model.get_parameter("0.weight")}

    mask = find_ticket(made.model, made.train, levels=[0.5, 0.9], prunable=first_layer).mask
    assert len(made.seen) == 2
    assert mask.shapes == {"0.weight": (32, 12)}
    assert mask.total - mask.kept == round(0.9 * 384)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"sparsity": 1.5}, "1.5 is outside"), ({"sparsity": 70}, "for 70 % write 0.7"), ({"levels": [0.5, 0.3]}, "rise")],
)
def test_a_search_that_can_t_end_well_is_refused_before_any_training(arguments: dict[str, object], says: str) -> None:
    made = toy()
    with pytest.raises(UserError, match=says):
        find_ticket(made.model, made.train, **arguments)  # type: ignore[arg-type]
    assert made.seen == []


def test_the_default_is_the_paper_s_nine_rounds() -> None:
    made = toy()
    trained: list[int] = []
    mask = find_ticket(made.model, lambda model, hold: trained.append(1)).mask
    assert (len(trained), mask.total - mask.kept) == (len(linear()), round(0.9 * 416))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: nn.Linear(2, 3), ["weight"]),
        (lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(2, 3), nn.Embedding(2, 2)), ["1.weight"]),
        (lambda: nn.Sequential(*[nn.Linear(2, 2)] * 2), ["0.weight"]),
    ],
)
def test_linear_weights_are_named_as_in_the_module(make: Callable[[], nn.Module], names: list[str]) -> None:
    model = make()
    assert list(linear_weights(model)) == names
    assert all(name in dict(model.named_parameters()) for name in names)
