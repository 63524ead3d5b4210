"""θ₀ in all its forms, and the fresh head φ₀, which depends on task and seed alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vltickets.errors import UserError
from vltickets.specs import Fresh, Matching, Nlvr2, Recipe, Rewound, Shuffled, Start, Train, Trained, Uniter, Vqa, World
from vltickets.store import Store
from vltickets.tasks import Model, Task
from vltickets.tickets import initialise, shipped
from vltickets.tickets.initialisations import shuffled

Build = Callable[..., tuple[Model, Task]]
TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
DATA = World(generator=1)
RECIPE = Recipe(steps=10, learning_rate=0.1)
PARENT = Train(backbone=TOY, task=Vqa(data=DATA), start=Fresh(seed=4), recipe=RECIPE)
STOPPED = Train(backbone=TOY, task=Vqa(data=DATA), start=Fresh(seed=4), recipe=RECIPE, until=3)
TASKS = {"vqa": Vqa(data=DATA), "nlvr2": Nlvr2(data=DATA), "matching": Matching(data=DATA)}
Tensors = dict[str, torch.Tensor]


def state(model: Model) -> Tensors:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def store(tmp_path: Path, build: Build) -> Store:
    """A store with the trained weights of PARENT and STOPPED, each a number of its own all over."""
    made = Store(tmp_path / "store")
    made.prepare()
    for train in (PARENT, STOPPED):
        generator = torch.Generator().manual_seed(train.until or 99)
        weights = {n: torch.randn(v.shape, generator=generator).numpy() for n, v in state(build("vqa")[0]).items()}
        made.put_weights(train, weights, {})
    return made


def started(build: Build, store: Store, start: Start, *, task: str = "vqa", seed: int = 0) -> tuple[Model, Tensors]:
    model, its_task = build(task, seed=77)
    node = Train(backbone=TOY, task=TASKS[task], start=start, recipe=RECIPE, seed=seed)
    initialise(model, its_task, node, store)
    return model, state(model)


def heads_of(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name.startswith("head.")}


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "matching"])
def test_the_fresh_head_depends_on_task_and_seed_alone(build: Build, store: Store, task: str) -> None:
    starts = (Fresh(), Fresh(seed=1), Trained(train=PARENT), Shuffled(start=Trained(train=PARENT)))
    first, *others = (heads_of(started(build, store, start, task=task)[1]) for start in starts)
    assert all(same(first, other) for other in others)
    assert not same(first, heads_of(started(build, store, Fresh(), task=task, seed=1)[1]))


def test_a_trained_start_is_the_backbone_and_not_the_head(build: Build, store: Store) -> None:
    _, tensors = started(build, store, Trained(train=PARENT))
    saved = store.weights(PARENT.digest)
    for name, value in tensors.items():
        assert bool((value.numpy() == saved[name]).all()) == name.startswith("backbone.")


def test_a_rewound_start_brings_its_head(build: Build, store: Store) -> None:
    _, tensors = started(build, store, Rewound(train=STOPPED))
    assert all((value.numpy() == store.weights(STOPPED.digest)[name]).all() for name, value in tensors.items())


def test_random_weights_are_as_wide_as_the_width_asks_and_of_their_own_seed(build: Build, store: Store) -> None:
    model, first = started(build, store, Fresh())
    _, second = started(build, store, Fresh(seed=1))
    for name in model.backbone.prunable():
        assert float(first[f"backbone.{name}"].std()) == pytest.approx(0.02 * (768 / 16) ** 0.5, rel=0.2)
        assert not torch.equal(first[f"backbone.{name}"], second[f"backbone.{name}"])
    assert all(not value.any() for name, value in first.items() if name.endswith("bias"))
    assert same(first, started(build, store, Fresh())[1])


def check_shuffled_within(before: Tensors, after: Tensors, prunable: set[str]) -> None:
    for name, value in before.items():
        if name in prunable:
            assert torch.equal(value.flatten().sort().values, after[name].flatten().sort().values)
            assert not torch.equal(value, after[name])
        else:
            assert torch.equal(value, after[name])


def test_shuffling_within_permutes_each_prunable_tensor_and_leaves_all_else(build: Build, store: Store) -> None:
    model, before = started(build, store, Trained(train=PARENT))
    _, after = started(build, store, Shuffled(start=Trained(train=PARENT)))
    prunable = {f"backbone.{name}" for name in model.backbone.prunable()}
    check_shuffled_within(before, after, prunable)
    _, again = started(build, store, Shuffled(start=Trained(train=PARENT)))
    _, other = started(build, store, Shuffled(start=Trained(train=PARENT), seed=1))
    assert same(after, again)
    assert not same(after, other)


def test_mutant_shuffling_across_tensors_or_of_too_many_is_noticed(build: Build, store: Store) -> None:
    model, before = started(build, store, Trained(train=PARENT))
    prunable = {f"backbone.{name}" for name in model.backbone.prunable()}
    first, second, *_ = [name for name in sorted(prunable) if before[name].shape == (16, 16)]
    swapped = before | {first: before[second], second: before[first]}
    for wrong in (swapped, before, shuffled(before, set(before), 0)):
        with pytest.raises(AssertionError):
            check_shuffled_within(before, wrong, prunable)


def test_shuffling_all_permutes_every_tensor_of_the_backbone(build: Build, store: Store) -> None:
    _, before = started(build, store, Trained(train=PARENT))
    _, after = started(build, store, Shuffled(start=Trained(train=PARENT), scope="all"))
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("head.")


def test_a_second_image_s_type_starts_as_a_copy_of_the_first_s(build: Build, store: Store) -> None:
    _, tensors = started(build, store, Trained(train=PARENT), task="nlvr2")
    types = tensors["backbone.embeddings.token_type_embeddings.weight"]
    saved = torch.from_numpy(store.weights(PARENT.digest)["backbone.embeddings.token_type_embeddings.weight"])
    assert torch.equal(types, torch.cat([saved, saved[1:2]]))


def test_weights_of_another_shape_are_refused(build: Build, store: Store) -> None:
    other = Train(backbone=TOY, task=Vqa(data=DATA), start=Fresh(seed=5), recipe=RECIPE)
    weights = {name: value.numpy() for name, value in state(build("vqa")[0]).items()}
    weights["backbone.pooler.dense.weight"] = weights["backbone.pooler.dense.weight"][:8]
    store.put_weights(other, weights, {})
    with pytest.raises(UserError, match=r"pooler.dense.weight should be \(16, 16\), found \(8, 16\)"):
        started(build, store, Trained(train=other))


def test_shipped_weights_of_no_known_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"unknown shipped weights 'theta1'; did you mean 'theta0'\?"):
        shipped("theta1")
