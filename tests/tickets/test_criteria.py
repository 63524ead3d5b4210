"""Each criterion against a case worked by hand, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import vltickets as vlt
from vltickets.errors import UserError
from vltickets.tickets import CRITERIA, Criterion, Evidence, Mask, criterion_of


def layer(*rows: list[float]) -> nn.Linear:
    made = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        made.weight.copy_(torch.tensor(rows))
    return made


def scores(name: str, model: nn.Module, **evidence: Any) -> list[float]:
    mask = Mask.dense({"weight": tuple(model.get_parameter("weight").shape)})
    return criterion_of(name).score(model, mask, Evidence(**evidence))("weight").flatten().tolist()


def total(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).sum()


def test_magnitude_is_the_absolute_value() -> None:
    assert scores("magnitude", layer([1.0, -3.0, 0.0])) == [1.0, 3.0, 0.0]


def test_snip_is_weight_times_gradient_summed_over_batches_before_the_absolute_value() -> None:
    model = layer([1.0, -2.0])
    one, other = torch.tensor([[3.0, 1.0]]), torch.tensor([[-1.0, 1.0]])
    assert scores("snip", model, batches=[one], loss=total) == [3.0, 2.0]
    assert scores("snip", model, batches=[one, other], loss=total) == [2.0, 4.0]  # |1·(3−1)|, |−2·(1+1)|


def test_movement_is_minus_weight_times_gradient_summed_over_steps() -> None:
    model = layer([2.0, -1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with vlt.Movement(model) as movement:
        for _ in range(2):
            optimizer.zero_grad()
            total(model, torch.tensor([[1.0, 2.0]])).backward()
            optimizer.step()
    total(model, torch.tensor([[100.0, 100.0]])).backward()  # outside: not recorded
    # weights 2, −1, then 1.5, −2; gradients 1, 2 in both steps
    assert movement.scores("weight").flatten().tolist() == [-(2.0 + 1.5), 2 * 1.0 + 2 * 2.0]
    assert scores("movement", model, movement=movement) == [-3.5, 6.0]


def test_movement_of_a_batch_in_parts_is_that_of_the_whole() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for parts in (1, 4):
        model = layer([1.0, 2.0, -3.0])
        with vlt.Movement(model) as movement:
            for part in x.chunk(parts):
                total(model, part).backward()
        found.append(movement.scores("weight"))
    torch.testing.assert_close(found[0], found[1])


def test_wanda_is_the_weight_times_the_norm_of_its_input_over_all_batches_and_places() -> None:
    model = layer([1.0, -2.0], [3.0, 0.5])
    batches = [torch.tensor([[3.0, 0.0]]), torch.tensor([[[0.0, 1.0], [4.0, 0.0]]])]  # column norms 5 and 1
    assert scores("wanda", model, batches=batches) == [5.0, 2.0, 15.0, 0.5]


def test_wanda_compares_within_each_output_row() -> None:
    model = layer([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0])
    mask = vlt.prune(model, 0.5, criterion="wanda", batches=[torch.tensor([[9.0, 1.0, 1.0, 1.0]])]).mask
    assert mask["weight"].tolist() == [[True, False, False, True]] * 2


@pytest.mark.parametrize("batch", [torch.ones(1, 2), (torch.ones(1, 2),), {"input": torch.ones(1, 2)}])
def test_wanda_calls_the_model_with_any_form_of_batch(batch: Any) -> None:
    assert scores("wanda", layer([1.0, -2.0]), batches=[batch]) == [1.0, 2.0]


def test_wanda_counts_all_uses_of_a_shared_weight() -> None:
    first, second = layer([1.0, 0.0], [0.0, 2.0]), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    found = criterion_of("wanda").score(model, Mask.dense({"0.weight": (2, 2)}), Evidence([torch.ones(1, 2)]))
    torch.testing.assert_close(
        found("0.weight"), torch.tensor([[2**0.5, 0.0], [0.0, 2 * 5**0.5]])
    )  # inputs 1,1 and 1,2


def test_lamp_is_the_square_over_the_squares_that_are_not_smaller() -> None:
    expected = torch.tensor([4 / 13, 1 / 14, 1.0], dtype=torch.float64).tolist()
    assert scores("lamp", layer([-2.0, 1.0, 3.0])) == pytest.approx(expected)
    assert scores("lamp", layer([1.0, 1.0, 0.0])) == pytest.approx([1.0, 0.5, 0.0])  # of equal ones the first is larger


def test_lamp_keeps_the_largest_weight_of_a_tensor_however_small_and_magnitude_does_not() -> None:
    model = nn.Sequential(layer([0.001, 0.002]), layer([5.0], [6.0]))
    assert vlt.prune(model, 0.5, criterion="lamp").mask["0.weight"].tolist() == [[False, True]]
    assert vlt.prune(model, 0.5, criterion="magnitude").mask["0.weight"].tolist() == [[False, False]]


def test_layer_wise_magnitude_takes_the_same_share_of_each_tensor() -> None:
    model = nn.Sequential(layer([0.1, 0.3, 0.2, 0.4]), layer([8.0], [7.0], [6.0], [5.0]))
    mask = vlt.prune(model, 0.5, criterion="magnitude-layerwise").mask
    assert mask["0.weight"].tolist() == [[False, True, False, True]]
    assert mask["1.weight"].flatten().tolist() == [True, True, False, False]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    first=st.floats(0, 0.99),
    second=st.floats(0, 0.99),
    values=st.sampled_from(["random", "equal"]),
)
@pytest.mark.parametrize("name", ["magnitude-layerwise", "lamp", "random"])
def test_counts_are_exact_and_masks_nested(
    name: str, sizes: list[int], first: float, second: float, values: str
) -> None:
    model = nn.ModuleList([nn.Linear(size, 1) for size in sizes])
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        nn.init.ones_(weight) if values == "equal" else nn.init.normal_(weight, generator=generator)
    low, high = sorted((first, second))
    earlier = vlt.prune(model, low, criterion=name)
    later = vlt.prune(model, high, criterion=name, so_far=earlier)
    assert later.mask.is_subset_of(earlier.mask)
    assert [mask.total - mask.kept for mask in (earlier.mask, later.mask)] == [
        round(level * sum(sizes)) for level in (low, high)
    ]
    assert later.mask == vlt.prune(model, high, criterion=name).mask or name == "lamp"  # LAMP's sums know the mask


@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=6), tenths=st.integers(0, 9))
def test_layer_wise_shares_are_exact_where_they_divide(sizes: list[int], tenths: int) -> None:
    model = nn.ModuleList([nn.Linear(10 * size, 1) for size in sizes])
    mask = vlt.prune(model, tenths / 10, criterion="magnitude-layerwise").mask
    assert [int((~mask[f"{i}.weight"]).sum()) for i in range(len(sizes))] == [tenths * size for size in sizes]


def test_ranks_are_exact_in_tensors_too_long_for_single_precision() -> None:
    length = (1 << 24) + 4
    model = nn.Linear(length, 1, bias=False)
    with torch.no_grad():
        bits = torch.arange(length, dtype=torch.int32) + (
            1 << 28
        )  # of positive floats: each larger than the one before
        model.weight.copy_(bits.view(torch.float32)[None])
    mask = vlt.prune(model, 1 - 3 / length, criterion="magnitude-layerwise").mask
    assert torch.nonzero(mask["weight"][0]).flatten().tolist() == [length - 3, length - 2, length - 1]


def noisy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


def evidence() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 4, generator=generator) for _ in range(2)]
    return {"batches": batches, "loss": lambda model, x: F.mse_loss(model(x), x[:, :2])}


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"movement"}))
def test_scoring_leaves_the_model_as_it_was_and_gives_the_same_again(name: str) -> None:
    model = noisy()
    model[2].eval()
    model(torch.ones(3, 4)).sum().backward()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    one, two = (vlt.prune(model, 0.5, criterion=name, **evidence()) for _ in range(2))
    assert one.mask == two.mask
    assert one.provenance == two.provenance
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found = [weight.grad for weight in model.parameters()]
    assert all(torch.equal(*pair) for pair in zip(found, gradients, strict=True))
    assert [module.training for module in model] == [True, True, False, True]
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_finds_a_ticket_in_rounds(name: str) -> None:
    model = noisy()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    known = evidence()
    seen: list[int] = []

    def train(model: nn.Module, hold: vlt.HoldZeros) -> None:
        seen.append(sum(int((model[place].weight == 0).sum()) for place in (0, 3)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        with hold.attached_to(optimizer):
            for batch in known["batches"]:
                optimizer.zero_grad()
                known["loss"](model, batch).backward()
                optimizer.step()

    ticket = vlt.find_ticket(model, train, levels=[0.25, 0.5], criterion=name, **known)
    assert seen == [0, 9]
    assert (ticket.mask.total, ticket.mask.kept) == (36, 18)
    for key, value in model.state_dict().items():
        assert torch.equal(value, torch.where(ticket.mask[key], start[key], 0) if key in ticket.mask else start[key])


def test_an_iterator_of_batches_serves_all_rounds() -> None:
    def once() -> Iterator[torch.Tensor]:
        yield torch.ones(2, 4)

    ticket = vlt.find_ticket(noisy(), lambda model, hold: None, levels=[0.2, 0.5], criterion="wanda", batches=once())
    assert ticket.mask.kept == 18


def test_a_criterion_of_ones_own_has_the_same_signature() -> None:
    smallest = Criterion("smallest", lambda model, mask, evidence: lambda name: -model.get_parameter(name).abs())
    mask = vlt.prune(layer([1.0, 2.0, 3.0, 4.0]), 0.5, criterion=smallest).mask
    assert mask["weight"].tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"criterion": "magnitud"}, "did you mean 'magnitude'"),
        ({"criterion": "snip"}, "'snip' needs batches and loss"),
        ({"criterion": "snip", "batches": [], "loss": total}, "there are no batches"),
        ({"criterion": "wanda"}, "'wanda' needs batches"),
        ({"criterion": "movement"}, "'movement' needs movement"),
        ({"sparsity": 50}, "for 70 % write 0.7"),
        ({"sparsity": None}, "needs a sparsity"),
    ],
)
def test_what_is_missing_is_said(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        vlt.prune(layer([1.0, 2.0]), **({"sparsity": 0.5} | arguments))


def test_what_a_criterion_cannot_score_is_said() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 2), nn.Linear(3, 1))

    def all_weights(model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: model.get_parameter(name) for name in ("0.weight", "1.weight")}

    with pytest.raises(UserError, match=r"saw none of '0\.weight'"):
        vlt.prune(model, 0.5, criterion="wanda", batches=[torch.ones(1, 1, 4)], prunable=all_weights)
    model[1].weight.requires_grad_(False)
    with pytest.raises(UserError, match=r"'1\.weight' has requires_grad=False"):
        vlt.prune(model, 0.5, criterion="snip", batches=[torch.ones(1, 1, 4)], loss=total)
    with pytest.raises(UserError, match=r"movement of '1\.weight' was not recorded"):
        vlt.prune(model, 0.5, criterion="movement", movement=vlt.Movement(model))
    model[1].weight.data[0, 0] = torch.nan
    for name in ("magnitude", "magnitude-layerwise", "lamp"):
        with pytest.raises(UserError, match="NaN"):
            vlt.prune(model, 0.5, criterion=name)
