"""Without padding a model computes what it computes with it, and so do both ways to attend."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vltickets.backbones import UniterBackbone, build_backbone, check_recipe
from vltickets.backbones.packing import Packing, attend_by_row, attend_nested
from vltickets.data import Inputs
from vltickets.errors import UserError
from vltickets.specs import Recipe, Uniter, sized

TEXTS, REGIONS = [5, 2, 9, 7], [3, 8, 0, 6]


def inputs(noise: float = 0.0) -> Inputs:
    """A batch of uneven rows, with noise where it is padded."""
    torch.manual_seed(0)
    token_mask = torch.arange(9) < torch.tensor(TEXTS)[:, None]
    region_mask = torch.arange(8) < torch.tensor(REGIONS)[:, None]
    features, boxes = torch.randn(4, 8, 12), torch.rand(4, 8, 7)
    return Inputs(
        tokens=torch.randint(5, 40, (4, 9)) * token_mask,
        token_mask=token_mask,
        features=torch.where(region_mask[..., None], features, noise),
        boxes=torch.where(region_mask[..., None], boxes, noise),
        region_mask=region_mask,
        region_types=torch.ones(4, 8, dtype=torch.int64),
    )


def backbone(*, packed: bool, dropout: float = 0.0) -> UniterBackbone:
    spec = Uniter(layers=3, hidden=16, heads=2, intermediate=32, positions=16)
    built = build_backbone(spec, vocabulary=40, region_width=12, dropout=dropout)
    assert isinstance(built, UniterBackbone)
    built.initialise(torch.Generator().manual_seed(1), 0.2)
    built.packed = packed
    return built


def test_states_and_gradients_are_those_of_the_padded_model() -> None:
    states, gradients = [], []
    for packed in (False, True):
        model, batch = backbone(packed=packed), inputs()
        outputs = model(batch)
        weights = torch.linspace(-1, 1, 16) * outputs.mask[..., None]
        ((outputs.sequence * weights).sum() + outputs.pooled.pow(2).sum()).backward()
        states.append((outputs.sequence * outputs.mask[..., None], outputs.pooled))
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]))
    for padded, packed_ones in zip(*states, strict=True):
        assert torch.allclose(padded, packed_ones, atol=1e-5)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)
    assert gradients[0].abs().max() > 1


def test_padding_is_nowhere_in_the_packed_states() -> None:
    plain, noisy = (backbone(packed=True)(inputs(noise)) for noise in (0.0, 1e3))
    assert torch.equal(plain.sequence, noisy.sequence)
    assert not plain.sequence[~plain.mask].any()
    assert plain.sequence[plain.mask].any(-1).all()


def test_packing_and_unpacking_move_every_valid_state_and_nothing_else() -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    packing = Packing.of(mask)
    states = torch.arange(24.0).view(3, 4, 2) + 1
    assert packing.lengths == [2, 3, 0]
    assert packing.offsets.tolist() == [0, 2, 5, 5]
    assert torch.equal(packing.pack(states), states[mask])
    assert torch.equal(packing.unpack(packing.pack(states)), states * mask[..., None])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("attend", [attend_by_row, attend_nested])  # what a CPU does, and what a GPU does
def test_a_row_attends_to_itself_alone(attend: type(attend_by_row)) -> None:
    torch.manual_seed(0)
    packing = Packing.of(torch.arange(6) < torch.tensor([3, 6, 1])[:, None])
    query, key, value = (torch.randn(10, 2, 8, requires_grad=True) for _ in range(3))
    attended = attend(packing, query, key, value, 0.0)
    assert attended.shape == (10, 2, 8)
    for own in (slice(0, 3), slice(3, 9), slice(9, 10)):
        alone = F.scaled_dot_product_attention(*(one[own].transpose(0, 1) for one in (query, key, value)))
        assert torch.allclose(attended[own], alone.transpose(0, 1), atol=1e-6)
    (gradient,) = torch.autograd.grad(attended[3:9].sum(), value)
    assert gradient[3:9].any()
    assert not torch.cat([gradient[:3], gradient[9:]]).any()


def test_dropout_falls_on_packed_states_in_training_only() -> None:
    model, batch = backbone(packed=True, dropout=0.5), inputs()
    assert not torch.equal(model(batch).pooled, model(batch).pooled)
    model.eval()
    assert torch.equal(model(batch).pooled, model(batch).pooled)


@pytest.mark.parametrize("option", ["packed", "compiled"])
def test_another_backbone_is_refused(option: str) -> None:
    recipe = Recipe(steps=1, learning_rate=0.1, **{option: True})
    check_recipe(recipe, sized("tiny"))
    check_recipe(Recipe(steps=1, learning_rate=0.1), sized("vilt-tiny"))
    with pytest.raises(UserError, match=rf"training.{option} = true is for UNITER, and the backbone is vilt; leave it"):
        check_recipe(recipe, sized("vilt-tiny"))
