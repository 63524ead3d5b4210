"""Batches made in the background are the batches made in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vltickets.specs import Recipe, changed
from vltickets.tasks import Model, Task
from vltickets.training import train
from vltickets.training.feed import Part, in_background, of_one_step, parts_of, pinned

Build = Callable[..., tuple[Model, Task]]
RECIPE = Recipe(steps=12, learning_rate=3e-3, batch_tokens=200)


def bits(model: Model) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", ["vqa", "pretraining"])
def test_a_training_with_batches_from_the_background_has_the_same_bits(
    build: Build, name: str, accumulation: int
) -> None:
    runs = []
    for prefetch in (False, True):
        model, task = build(name)
        state = train(model, task, changed(RECIPE, accumulation=accumulation), seed=0, prefetch=prefetch)
        runs.append((bits(model), state.curve, state.parts))
    assert runs[0] == runs[1]


def test_the_next_part_is_made_while_this_one_is_used() -> None:
    made = threading.Event()

    def parts() -> Iterator[Part]:
        yield Part("first", 0, 1.0, True)
        made.set()
        yield Part("second", 0, 1.0, True)

    coming = in_background(parts(), 1)
    assert next(coming).batch == "first"
    assert made.wait(10)  # nobody has asked for the second yet
    assert [part.batch for part in coming] == ["second"]


def test_a_mistake_in_the_background_is_raised_at_its_part() -> None:
    def parts() -> Iterator[Part]:
        yield Part("first", 0, 1.0, True)
        raise ValueError("a picture that does not decode")

    coming = in_background(parts(), 1)
    assert next(coming).batch == "first"
    with pytest.raises(ValueError, match="does not decode"):
        next(coming)


def test_a_training_that_stops_leaves_no_thread(build: Build) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: Any) -> None:
        raise StoppedError

    before = threading.active_count()
    model, task = build()
    with pytest.raises(StoppedError):
        train(model, task, RECIPE, seed=0, prefetch=True, progress=stop)
    assert threading.active_count() == before


def test_the_parts_of_a_step_are_its_batch(build: Build) -> None:
    _, task = build()
    whole = list(parts_of(task, RECIPE, 0, range(3, 5)))
    split = parts_of(task, changed(RECIPE, accumulation=4), 0, range(3, 5))
    for expected in whole:
        parts = list(of_one_step(split))
        assert [part.place for part in parts] == [0, 1, 2, 3]
        assert [part.last for part in parts] == [False, False, False, True]
        assert sum(part.share for part in parts) == pytest.approx(1)
        tokens = sum(int(part.batch.inputs.token_mask.sum()) for part in parts)
        assert tokens == int(expected.batch.inputs.token_mask.sum())
    assert next(split, None) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_pinned_reaches_every_tensor(build: Build, tmp_path: Path) -> None:
    _, task = build()
    part = next(parts_of(task, RECIPE, 0, range(1)))
    batch = pinned(part.batch)
    assert batch.targets.is_pinned()
    assert batch.inputs.features.is_pinned()
    assert torch.equal(batch.inputs.features, part.batch.inputs.features)
