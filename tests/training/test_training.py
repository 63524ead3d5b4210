"""What happens at a step depends on nothing but the step: a run goes on with the same bits, dense or masked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from vltickets.data import Inputs, stream_seed
from vltickets.specs import Recipe, changed
from vltickets.tasks import Evaluation, Model, Task
from vltickets.tickets import HoldZeros, Mask, prune, random_scores
from vltickets.training import Checkpoint, Diverged, build_optimizer, evaluate, learning_rate, train
from vltickets.training.loop import seed_torch

Build = Callable[..., tuple[Model, Task]]
RECIPE = Recipe(steps=500, learning_rate=3e-3, batch_tokens=200)  # a curve point is five steps
END = 23
NAMES = ("vqa", "nlvr2", "matching", "pretraining")


class KilledError(Exception):
    """The process is gone."""


def kill_at(step: int) -> Callable[[int, int, float], None]:
    def progress(done: int, last: int, loss: float) -> None:
        if done == step:
            raise KilledError

    return progress


def bits(model: Model) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.fixture
def keeps_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vltickets.training.loop.CHECKPOINT_SECONDS", -1.0)


def straight(build: Build, name: str = "vqa", **options: Any) -> tuple[Model, Checkpoint]:
    model, task = build(name)
    return model, train(model, task, RECIPE, seed=0, last_step=END, **options)


# A killed run


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("keeps_every_step")
def test_a_killed_run_goes_on_with_the_same_bits(build: Build, tmp_path: Path, name: str) -> None:
    whole, expected = straight(build, name)
    path = tmp_path / "checkpoint.safetensors"
    for death in (1, 8, 12):  # before the first checkpoint, and twice in the middle of a curve point
        model, task = build(name)
        with pytest.raises(KilledError):
            train(model, task, RECIPE, seed=0, last_step=END, checkpoint=path, progress=kill_at(death))
    model, task = build(name)
    steps: list[int] = []
    state = train(
        model, task, RECIPE, seed=0, last_step=END, checkpoint=path, progress=lambda done, *_: steps.append(done)
    )
    assert steps == list(range(12, END + 1))
    assert bits(model) == bits(whole)
    assert (state.curve, state.sums, state.step) == (expected.curve, expected.sums, END)
    assert [step for step, _ in state.curve] == [5, 10, 15, 20]
    assert state.sums[1] == 3


@pytest.mark.usefixtures("keeps_every_step")
def test_mutant_a_run_that_forgets_its_optimiser_state_has_other_bits(build: Build, tmp_path: Path) -> None:
    whole, _ = straight(build)
    model, task = build("vqa")
    train(model, task, RECIPE, seed=0, last_step=12)
    train(model, task, RECIPE, seed=0, first_step=12, last_step=END)
    assert bits(model) != bits(whole)


@pytest.mark.usefixtures("keeps_every_step")
def test_a_masked_run_goes_on_with_the_same_bits(build: Build, tmp_path: Path) -> None:
    model, _ = build()
    mask = mask_for(model)
    whole, _ = straight_masked(build, mask)
    path = tmp_path / "checkpoint.safetensors"
    for progress in (kill_at(9), None):
        model, task = build()
        hooks = [HoldZeros(model, mask)]
        options: dict[str, Any] = {"hooks": hooks, "checkpoint": path, "progress": progress}
        if progress is None:
            train(model, task, RECIPE, seed=0, last_step=END, **options)
        else:
            with pytest.raises(KilledError):
                train(model, task, RECIPE, seed=0, last_step=END, **options)
    assert bits(model) == bits(whole)


@pytest.mark.parametrize("content", [b"", b"half a checkpoint"])
def test_a_checkpoint_that_can_t_be_read_is_begun_anew(build: Build, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    whole, _ = straight(build)
    model, _ = straight(build, checkpoint=path)
    assert bits(model) == bits(whole)


def test_a_run_handed_over_at_step_i_goes_on_with_the_same_bits(build: Build, tmp_path: Path) -> None:
    whole, expected = straight(build)
    path = tmp_path / "work" / "checkpoint.safetensors"
    model, task = build()
    train(model, task, RECIPE, seed=0, last_step=8, handover=path)
    rewound = bits(model)
    again, state = straight(build, checkpoint=path)
    assert bits(again) == bits(whole)
    assert (state.curve, state.sums) == (expected.curve, expected.sums)
    short, task = build()
    train(short, task, RECIPE, seed=0, last_step=8)
    assert bits(short) == rewound  # θᵢ is where the whole run passed


def test_a_handover_leaves_a_checkpoint_that_is_there(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"of a longer run")
    model, task = build()
    train(model, task, RECIPE, seed=0, last_step=2, handover=path)
    assert path.read_bytes() == b"of a longer run"


def test_a_run_of_no_steps_is_the_start(build: Build, tmp_path: Path) -> None:
    model, task = build()
    before = bits(model)
    state = train(model, task, RECIPE, seed=0, last_step=0, handover=tmp_path / "h.safetensors")
    assert bits(model) == before
    assert (state.step, state.curve) == (0, [])
    whole, _ = straight(build)
    again, _ = straight(build, checkpoint=tmp_path / "h.safetensors")
    assert bits(again) == bits(whole)


# Random streams


def test_a_run_depends_on_its_seed_and_on_no_other_random_state(build: Build) -> None:
    first, _ = straight(build)
    torch.manual_seed(12345)
    np.random.seed(5)
    torch.rand(7)
    second, _ = straight(build)
    other, task = build()
    train(other, task, RECIPE, seed=1, last_step=END)
    assert bits(first) == bits(second) != bits(other)


def test_torch_is_seeded_as_by_its_own_call() -> None:
    torch.manual_seed(2**62 + 5)
    wanted = torch.rand(7)
    seed_torch(2**62 + 5)
    assert torch.equal(torch.rand(7), wanted)


class Watched:
    """A task that writes down what each step was given, and otherwise is the task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seen: list[tuple[bytes, ...]] = []
        self.draws: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> Any:
        batch = self.task.batch(examples, rng)
        inputs: Inputs = batch.inputs
        tensors = [value for item in fields(inputs) if (value := getattr(inputs, item.name)) is not None]
        self.seen.append((examples.tobytes(), *(tensor.numpy().tobytes() for tensor in tensors)))
        state = torch.get_rng_state()
        self.draws.append(torch.rand(1).item())  # what dropout will draw
        torch.set_rng_state(state)
        return batch


def mask_for(model: Model, sparsity: float = 0.7) -> Mask:
    shapes = {name: tuple(weight.shape) for name, weight in model.backbone.prunable().items()}
    return prune(random_scores(0, shapes), Mask.dense(shapes), sparsity)


def straight_masked(build: Build, mask: Mask) -> tuple[Model, Checkpoint]:
    model, task = build()
    return model, train(model, task, RECIPE, seed=0, last_step=END, hooks=[HoldZeros(model, mask)])


@pytest.mark.parametrize("name", NAMES)
def test_dense_and_masked_runs_of_a_seed_see_the_same_batches_dropout_and_head(build: Build, name: str) -> None:
    runs, heads = [], []
    for sparsity in (None, 0.5, 0.9):
        model, task = build(name, seed=3)
        heads.append(bits(model)["head." + next(iter(model.head.state_dict()))])
        hooks = [] if sparsity is None else [HoldZeros(model, mask_for(model, sparsity))]
        watched = Watched(task)
        train(model, watched, RECIPE, seed=3, last_step=8, hooks=hooks)
        runs.append(watched)
    assert all(run.seen == runs[0].seen for run in runs)
    assert all(run.draws == runs[0].draws for run in runs)
    assert len(set(heads)) == 1
    assert len(set(runs[0].draws)) == 8
    assert len({step[0] for step in runs[0].seen}) == 8


def test_mutant_a_stream_named_by_the_mask_gives_other_batches() -> None:
    assert stream_seed("vqa", 3, "batch", 0) != stream_seed("vqa", 3, "a mask's digest", "batch", 0)


# The optimiser and its schedule


def test_the_learning_rate_by_hand() -> None:
    recipe = Recipe(steps=10, learning_rate=1, warmup=0.2, hold=0.3)
    expected = [1 / 3, 2 / 3, 1, 1, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    assert [learning_rate(step, recipe) for step in range(10)] == pytest.approx(expected)
    plain = Recipe(steps=4, learning_rate=1, warmup=0)
    assert [learning_rate(step, plain) for step in range(4)] == [1, 0.75, 0.5, 0.25]


@given(steps=st.integers(1, 400), warmup=st.floats(0, 0.99), hold=st.floats(0, 0.99))
def test_the_rate_rises_then_falls_and_every_step_moves(steps: int, warmup: float, hold: float) -> None:
    assume(warmup + hold <= 1)
    recipe = Recipe(steps=steps, learning_rate=1, warmup=warmup, hold=hold)
    rates = [learning_rate(step, recipe) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_the_rate_reaches_the_optimiser_step_by_step(build: Build) -> None:
    model, task = build()
    recipe = changed(RECIPE, head_multiplier=5.0, steps=10)
    moved: list[float] = []
    before = model.head.vqa_output[3].bias.detach().clone()

    def note(*_: object) -> None:
        moved.append(float((model.head.vqa_output[3].bias.detach() - before).abs().max()))
        before.copy_(model.head.vqa_output[3].bias.detach())

    train(model, task, recipe, seed=0, progress=note)
    # Adam's first step moves by the rate, whatever the gradient.
    assert moved[0] == pytest.approx(5 * 3e-3 * learning_rate(0, recipe), rel=1e-2)


def test_biases_and_layer_norms_do_not_decay_and_all_else_does(build: Build) -> None:
    for name in NAMES:
        model, _ = build(name)
        recipe = changed(RECIPE, weight_decay=0.5, learning_rate=0.1, head_multiplier=2.0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(1.0)
                weight.grad = torch.zeros_like(weight)
        build_optimizer(model, recipe).step()
        for parameter, weight in model.named_parameters():
            rate = 0.2 if parameter.startswith("head.") else 0.1
            exempt = parameter.endswith(("bias", "LayerNorm.weight"))
            assert torch.allclose(weight, torch.tensor(1.0 if exempt else 1 - rate * 0.5)), parameter


def test_gradients_are_clipped_all_together_after_the_hooks(build: Build) -> None:
    norms: list[float] = []

    class Norm:
        def before_step(self, model: nn.Module) -> None:
            self.whole = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
            assert self.whole > 0.1  # hooks come before clipping: what they zero does not count

        def after_step(self, model: nn.Module) -> None:
            clipped = float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
            norms.append(clipped / 0.01)

    model, task = build()
    train(model, task, changed(RECIPE, clip=0.01), seed=0, last_step=4, hooks=[Norm()])
    assert norms == pytest.approx([1.0] * 4, rel=1e-3)


# Masks through the loop


class Zeros:
    """Looks at pruned weights at the end of each step and at their gradients before clipping."""

    def __init__(self, model: Model, mask: Mask) -> None:
        self.weights, self.mask, self.steps = model.backbone.prunable(), mask, 0

    def before_step(self, model: nn.Module) -> None:
        for name, weight in self.weights.items():
            # NLVR2's head does without the pooler, and so do two of the pre-training's objectives.
            assert weight.grad is not None or name == "pooler.dense.weight"
            assert weight.grad is None or not weight.grad[~self.mask[name]].any(), name

    def after_step(self, model: nn.Module) -> None:
        self.steps += 1
        for name, weight in self.weights.items():
            assert not weight[~self.mask[name]].any(), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_zeros_hold_through_the_loop_in_every_task_and_precision(build: Build, name: str, precision: str) -> None:
    model, task = build(name)
    mask = mask_for(model)
    look = Zeros(model, mask)
    recipe = changed(RECIPE, precision=precision)
    train(model, task, recipe, seed=0, last_step=5, hooks=[HoldZeros(model, mask), look])
    assert look.steps == 5


def test_mutant_a_loop_without_the_hook_fails_at_once(build: Build) -> None:
    model, task = build()
    mask = mask_for(model)
    with pytest.raises(AssertionError):
        train(model, task, RECIPE, seed=0, last_step=5, hooks=[Zeros(model, mask)])


def test_half_precision_computes_otherwise_and_keeps_full_weights(build: Build) -> None:
    full, _ = straight(build)
    model, task = build()
    train(model, task, changed(RECIPE, precision="bf16"), seed=0, last_step=END)
    assert bits(model) != bits(full)
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


# Divergence and learning


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_that_is_no_number_stops_the_run(build: Build, name: str, tmp_path: Path) -> None:
    model, task = build(name)
    with torch.no_grad():
        model.get_parameter("backbone.encoder.layer.0.output.dense.weight").fill_(float("nan"))
    with pytest.raises(Diverged, match="loss is nan at step 0; try a lower learning rate"):
        train(model, task, RECIPE, seed=0, handover=tmp_path / "h")
    assert not (tmp_path / "h").exists()


def test_progress_is_told_of_every_step(build: Build) -> None:
    told: list[tuple[int, int, float]] = []
    _, state = straight(build, progress=lambda *step: told.append(step))
    assert [(done, last) for done, last, _ in told] == [(step, END) for step in range(1, END + 1)]
    means = [sum(loss for _, _, loss in told[start : start + 5]) / 5 for start in range(0, 20, 5)]
    assert [loss for _, loss in state.curve] == pytest.approx(means)


def test_the_loss_goes_down_and_evaluation_has_no_dropout(build: Build) -> None:
    model, task = build()
    state = train(model, task, Recipe(steps=60, learning_rate=5e-3, batch_tokens=400), seed=0)
    assert state.curve[-1][1] < 0.7 * state.curve[0][1]
    scores: list[Evaluation] = [evaluate(model, task, "test") for _ in range(2)]
    assert np.array_equal(scores[0].items, scores[1].items)
    assert scores[0].score == pytest.approx(float(scores[0].items.mean()))


# A batch in parts


@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_a_batch_in_parts_moves_the_weights_as_the_whole_does(build: Build, name: str) -> None:
    states = []
    for parts in (1, 3):
        model, task = build(name, dropout=0.0)
        # Without Adam's division by the gradient's size, so that a wrong scale would be seen.
        recipe = changed(RECIPE, accumulation=parts, epsilon=1e3, learning_rate=1.0, clip=1e6)
        train(model, task, recipe, seed=0, last_step=3)
        states.append({key: value.double() for key, value in model.state_dict().items()})
    start = {key: value.double() for key, value in build(name, dropout=0.0)[0].state_dict().items()}
    moved = torch.cat([(states[0][key] - start[key]).flatten() for key in start])
    between = torch.cat([(states[0][key] - states[1][key]).flatten() for key in start])
    assert moved.norm() > 0
    assert between.norm() < 1e-3 * moved.norm()


def test_a_recipe_may_count_its_batch_in_examples(build: Build) -> None:
    model, task = build("vqa")
    seen: list[int] = []
    batch = task.batch
    task.batch = lambda examples, rng: (seen.append(len(examples)), batch(examples, rng))[1]  # type: ignore[method-assign]
    try:
        train(model, task, changed(RECIPE, batch_examples=15), seed=0, last_step=5)
    finally:
        del task.batch  # the task is shared between tests
    assert seen == [15] * 5  # of 120 questions
