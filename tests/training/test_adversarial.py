"""The adversarial step against hand-written ones, on a model that can be worked by hand and on every task."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from vltickets.backbones import Outputs, Places, build_backbone
from vltickets.data import Inputs, Source, open_source
from vltickets.errors import UserError
from vltickets.specs import TASK_KINDS, Adversarial, Fresh, Recipe, Train, Uniter, World, changed, parse
from vltickets.store import Store
from vltickets.tasks import LogitTask, Model, Task, build_task
from vltickets.tickets import HoldZeros, Mask, initialise, prune, random_scores
from vltickets.training import train
from vltickets.training.adversarial import Adversary, Perturbation, block_norms, project

Build = Callable[..., tuple[Model, Task]]
Make = Callable[..., tuple[Model, LogitTask]]
WORLD = World(generator=1, seed=3, scenes=40, examples=120, heldout=60)
TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
RECIPE = Recipe(steps=500, learning_rate=3e-3, batch_tokens=200)
PAPER = Adversarial(form="paper", steps=2, step_size=0.3, bound=0.4, kl_weight=1.0, perturb="both")
VILLA = Adversarial(form="villa", steps=3, step_size=0.2, perturb="both")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("vqa", {}),
    ("gqa", {}),
    ("vcr", {}),
    ("snli_ve", {}),
    ("nlvr2", {"head": "paired-attn"}),
    ("nlvr2", {"head": "paired"}),
    ("nlvr2", {"head": "triplet"}),
    ("refcoco", {"head_layers": 1}),
    ("refcoco", {"head_layers": 2}),
    ("matching", {}),
    ("retrieval", {}),
    ("retrieval", {"hard_negatives": 2, "pool": 9}),
]


def name_of(value: object) -> str:
    return "-".join([str(part) for part in value.values()]) if isinstance(value, dict) else str(value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(WORLD, Store(tmp_path_factory.mktemp("store")))


@pytest.fixture
def make(world: Source, tmp_path: Path) -> Make:
    """A toy model on a task of the world, wide enough at random for its loss to depend on what it sees."""

    def made(kind: str = "vqa", dropout: float = 0.0, **options: Any) -> tuple[Model, LogitTask]:
        spec: Any = parse(TASK_KINDS[kind], {"kind": kind, "data": WORLD, **options}, "the test")
        task = build_task(spec, world, TOY)
        backbone = build_backbone(
            TOY,
            vocabulary=len(world.vocabulary),
            region_width=task.region_width(),
            dropout=dropout,
            type_count=len(task.type_rows),
        )
        model = Model(backbone, task.head(TOY.hidden, dropout))
        node = Train(backbone=TOY, task=spec, start=Fresh(), recipe=Recipe(steps=1, learning_rate=0.1))
        initialise(model, task, node, Store(tmp_path / "no-store"))
        assert isinstance(task, LogitTask)
        return model.train(), task

    return made


def adversary(model: Model, task: LogitTask, spec: Adversarial, *, dropout: bool = False) -> Adversary:
    return Adversary(model, task, spec, dropout, contextlib.nullcontext, torch.Tensor.backward)


def batch_of(task: LogitTask, count: int = 6) -> Any:
    return task.batch(np.arange(count), np.random.default_rng(0))  # type: ignore[attr-defined]


def gradients(model: Model) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    model.zero_grad()
    return found


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    whole = math.sqrt(sum(float(value.norm() ** 2) for value in second.values()))
    assert whole > 0
    for name, value in second.items():
        assert float((first[name] - value).norm()) <= tolerance * whole, name


def bits(model: Model) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


# Moving and projecting


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6)),
    bound=st.floats(1e-3, 1e3),
    size=st.floats(1e-4, 1e4),
    seed=st.integers(0, 999),
)
def test_projection_keeps_blocks_in_the_ball_and_their_direction(
    shape: tuple[int, int, int], bound: float, size: float, seed: int
) -> None:
    blocks = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    inside = project(blocks, bound)
    assert float(block_norms(inside).max()) <= bound * (1 + 1e-5)
    assert torch.equal(project(inside * 0.5, bound), inside * 0.5)  # what is inside stays, bit for bit
    cosine = F.cosine_similarity(blocks.flatten(1), inside.flatten(1))
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-4)


class Logistic(nn.Module):
    """A backbone that passes the first region on: with a linear head, logistic regression."""

    hidden = 3

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Identity()
        self.embedding = nn.Embedding(9, 3)

    def forward(self, inputs: Inputs) -> Outputs:
        states = self.look(inputs.features)
        return Outputs(sequence=states, pooled=states[:, 0], mask=inputs.region_mask, text=0)

    def perturbed_places(self) -> Places:
        return Places(words=self.embedding, regions=self.look)


class Binary(LogitTask):
    """Yes or no by the sign of w·x."""

    name = "binary"

    def logits(self, model: Model, batch: Any) -> torch.Tensor:
        score = model.head(model.backbone(batch[0]).pooled)
        return torch.cat([torch.zeros_like(score), score], -1)

    def loss_of(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        return F.cross_entropy(logits, batch[1])


def logistic() -> tuple[Model, Binary, tuple[Inputs, torch.Tensor]]:
    head = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, -1.0, 2.0]]))  # of length 3
    features = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, -1.0]]])
    inputs = Inputs(
        tokens=torch.ones(2, 1, dtype=torch.int64),
        token_mask=torch.ones(2, 1, dtype=torch.bool),
        features=features,
        boxes=torch.zeros(2, 1, 7),
        region_mask=torch.ones(2, 1, dtype=torch.bool),
        region_types=torch.ones(2, 1, dtype=torch.int64),
    )
    return Model(Logistic(), head), Binary(), (inputs, torch.tensor([1, 0]))


@pytest.mark.parametrize("bound", [None, 0.5])
def test_each_ascent_step_is_the_one_worked_by_hand_and_raises_the_loss(bound: float | None) -> None:
    """log(1 + exp(-y w·x)) rises fastest along -y w / ||w||: after k steps of s, δ = -min(k s, ε) y w / ||w||."""
    model, task, batch = logistic()
    weight = model.head.weight.detach()[0]
    signs = torch.tensor([1.0, -1.0])
    margins = signs * (batch[0].features[:, 0] @ weight)
    losses = [float(F.softplus(-margins).mean())]
    for steps in (1, 2, 3, 4):
        spec = Adversarial(form="paper", steps=steps, step_size=0.2, bound=bound, perturb="regions", kl_weight=0.0)
        attack = adversary(model, task, spec)
        value = attack.gradients(batch, 1.0, 0)
        length = steps * 0.2 if bound is None else min(steps * 0.2, bound)
        assert torch.allclose(attack.delta.blocks[0, "regions"][:, 0], -length * signs[:, None] * weight / 3, atol=1e-6)
        perturbed = float(F.softplus(-(margins - 3 * length)).mean())
        assert value == pytest.approx(losses[0] + perturbed, rel=1e-5)  # L_std + R_at
        losses.append(perturbed)
    rising = losses if bound is None else losses[:4]
    assert rising == sorted(set(rising))
    assert bound is None or losses[3] == losses[4]  # at the ball's edge there is nothing more to gain


def test_a_row_without_gradient_stays_where_it_is_and_so_does_padding() -> None:
    delta = Perturbation(Logistic())
    delta.blocks[0, "regions"] = torch.zeros(2, 2, 2, requires_grad=True)
    delta.valid[0, "regions"] = torch.tensor([[True, True], [True, False]])[..., None]
    delta.ascend([torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [9.0, 9.0]]])], 1.0, None)
    assert delta.blocks[0, "regions"].tolist() == [[[0, 0], [0, 0]], [pytest.approx([0.6, 0.8]), [0, 0]]]


# Against hand-written steps


def logits_at(model: Model, task: LogitTask, batch: Any, deltas: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits with the regions' δ added to the features themselves, the words' δ to what is looked up."""
    if "regions" in deltas:
        batch = replace(batch, inputs=replace(batch.inputs, features=batch.inputs.features + deltas["regions"]))
    words: Any = model.backbone.embeddings.word_embeddings  # type: ignore[attr-defined]
    hook = words.register_forward_hook(lambda _, args, out: out + deltas.get("words", 0))
    logits = task.logits(model, batch)
    hook.remove()
    return logits


def zeros(batch: Any, perturb: str) -> dict[str, torch.Tensor]:
    b, t = batch.inputs.tokens.shape
    blocks = {"words": torch.zeros(b, t, TOY.hidden), "regions": torch.zeros_like(batch.inputs.features)}
    return {name: block.requires_grad_() for name, block in blocks.items() if perturb in (name, "both", "alternating")}


def moved(delta: torch.Tensor, gradient: torch.Tensor | None, spec: Adversarial) -> torch.Tensor:
    assert gradient is not None
    out = delta.detach() + spec.step_size * gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    if spec.bound is not None:
        out = out * (spec.bound / out.flatten(1).norm(dim=1)[:, None, None]).clamp(max=1)
    return out.requires_grad_()


def two_sided(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return KL(p||q) + KL(q||p) by torch's own KL, summed over classes, mean over examples."""
    p, q = F.log_softmax(p, -1), F.log_softmax(q, -1)
    sides = [F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p))]
    return sides[0] + sides[1]


@pytest.mark.parametrize("perturb", ["words", "regions", "both"])
def test_the_papers_gradient_is_that_of_its_formula(make: Make, perturb: str) -> None:
    model, task = make("vqa")
    batch = batch_of(task)
    spec = changed(PAPER, perturb=perturb, kl_weight=0.7)
    value = adversary(model, task, spec).gradients(batch, 1.0, 0)
    found = gradients(model)

    deltas = zeros(batch, perturb)
    for _ in range(spec.steps):
        task.loss_of(logits_at(model, task, batch, deltas), batch).backward()
        deltas = {name: moved(delta, delta.grad, spec) for name, delta in deltas.items()}
    model.zero_grad()
    fixed = {name: delta.detach() for name, delta in deltas.items()}
    clean, perturbed = task.logits(model, batch), logits_at(model, task, batch, fixed)
    whole = task.loss_of(clean, batch) + task.loss_of(perturbed, batch) + 0.7 * two_sided(perturbed, clean)
    whole.backward()
    assert value == pytest.approx(whole.item(), rel=1e-5)
    assert_same(found, gradients(model))


@pytest.mark.parametrize("together", [True, False], ids=["first step with the clean pass", "each pass by itself"])
@pytest.mark.parametrize("bound", [None, 0.3])
@pytest.mark.parametrize("perturb", ["words", "both", "alternating"])
def test_villas_gradient_is_that_of_its_released_loop(
    make: Make, perturb: str, bound: float | None, together: bool
) -> None:
    """The released loop goes back through the kept graph of the clean pass in every step."""
    model, task = make("vqa")
    batch = batch_of(task)
    spec = changed(VILLA, perturb=perturb, bound=bound)
    attack = adversary(model, task, spec, dropout=not together)
    value = attack.gradients(batch, 1.0, 0)
    found = gradients(model)

    clean = task.logits(model, batch)
    deltas, total = zeros(batch, perturb), 0.0
    turns = [["words"], ["regions"]] if perturb == "alternating" else [list(deltas)]
    for _ in range(spec.steps):
        for turn in turns:
            logits = logits_at(model, task, batch, {name: deltas[name] for name in turn})
            loss = (task.loss_of(logits, batch) + 1.5 * two_sided(logits, clean)) / (spec.steps * len(turns))
            loss.backward(retain_graph=True)
            total += loss.item()
        last = deltas
        deltas = {name: moved(delta, delta.grad, spec) for name, delta in deltas.items()}
    for name, delta in last.items():  # the move after the last step is not made
        assert torch.allclose(attack.delta.blocks[0, name], delta, atol=1e-5)  # type: ignore[index]
    assert value == pytest.approx(total, rel=1e-5)
    assert_same(found, gradients(model))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_villas_first_step_is_the_plain_one_bit_for_bit(make: Make, dropout: float) -> None:
    model, task = make("vqa", dropout=dropout)
    batch = batch_of(task)
    torch.manual_seed(0)
    value = adversary(model, task, changed(VILLA, steps=1, kl_weight=0.0), dropout=dropout > 0).gradients(batch, 1.0, 0)
    found = gradients(model)
    torch.manual_seed(0)
    loss = task.loss(model, batch)
    loss.backward()
    plain = gradients(model)
    assert value == loss.item()
    assert_same(found, plain, 1e-6 if dropout == 0 else 0.0)


# Every task


@pytest.mark.parametrize("perturb", ["words", "both", "alternating"])
@pytest.mark.parametrize("spec", [PAPER, changed(VILLA, bound=0.25)], ids=["paper", "villa"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=name_of)
def test_every_task_with_logits_trains_in_both_forms(
    make: Make, kind: str, options: dict[str, Any], spec: Adversarial, perturb: str
) -> None:
    model, task = make(kind, **options)
    attack = adversary(model, task, changed(spec, perturb=perturb))
    value = attack.gradients(batch_of(task), 1.0, 0)
    assert math.isfinite(value)
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    used = {"words": {"words"}, "both": {"words", "regions"}, "alternating": {"words", "regions"}}[perturb]
    if spec.form == "paper" and perturb == "alternating":
        used = {"words"}  # in step 0; the regions' turn is step 1
    pools = 2 if options.get("hard_negatives") else 1
    assert set(attack.delta.blocks) == {(call, name) for call in range(pools) for name in used}
    for key, block in attack.delta.blocks.items():
        norms = block_norms(block.detach()).flatten()
        assert float(norms.max()) <= (spec.bound or 0) * (1 + 1e-5)
        assert float(norms.max()) > 0.9 * (spec.bound or 0)  # two steps reach the ball's edge
        assert not block.detach()[~attack.delta.valid[key][..., 0]].any()  # padding


@pytest.mark.parametrize("form", ["paper", "villa"])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=name_of)
def test_a_step_of_the_loop_moves_the_weights_otherwise_than_a_plain_one(
    make: Make, kind: str, options: dict[str, Any], form: str
) -> None:
    found = []
    for spec in (None, PAPER if form == "paper" else VILLA):
        model, task = make(kind, **options)
        before = bits(model)
        train(model, task, changed(RECIPE, batch_tokens=600, dropout=0.0, adversarial=spec), seed=0, last_step=2)  # type: ignore[arg-type]
        assert bits(model) != before
        found.append(bits(model))
    assert found[0] != found[1]


def test_the_papers_alternating_takes_its_turns_by_the_optimisers_step(make: Make) -> None:
    model, task = make("vqa")
    attack = adversary(model, task, changed(PAPER, perturb="alternating"))
    used = []
    for step in range(4):
        attack.gradients(batch_of(task), 1.0, step)
        used.append([name for _, name in attack.delta.blocks])
    assert used == [["words"], ["regions"]] * 2


def test_hard_negatives_are_found_once_a_step_and_are_the_same_in_all_passes(make: Make) -> None:
    model, task = make("retrieval", hard_negatives=2, pool=9)
    calls: list[tuple[bool, int]] = []
    model.backbone.register_forward_pre_hook(  # type: ignore[attr-defined]
        lambda _, args: calls.append((torch.is_grad_enabled(), len(args[0].tokens)))
    )
    adversary(model, task, VILLA).gradients(batch_of(task), 1.0, 0)
    assert (
        calls == [(False, 60)] * 2 + [(True, 18)] * 2 * 3
    )  # six groups of 1 + 9, then of 1 + 2; the clean pass is one


# In the loop


@pytest.mark.parametrize("form", ["paper", "villa"])
def test_no_ascent_steps_are_standard_training_bit_for_bit(build: Build, form: str) -> None:
    found = []
    for adversarial in (None, Adversarial(form=form, steps=0)):  # type: ignore[arg-type]
        model, task = build("vqa")
        state = train(model, task, changed(RECIPE, adversarial=adversarial), seed=0, last_step=12)
        found.append((bits(model), state.curve))
    assert found[0] == found[1]


class Zeros:
    """Looks at pruned weights and their gradients in every step."""

    def __init__(self, model: Model, mask: Mask) -> None:
        self.weights, self.mask, self.steps = model.backbone.prunable(), mask, 0

    def before_step(self, model: nn.Module) -> None:
        for name, weight in self.weights.items():
            assert weight.grad is None or not weight.grad[~self.mask[name]].any(), name

    def after_step(self, model: nn.Module) -> None:
        self.steps += 1
        for name, weight in self.weights.items():
            assert not weight[~self.mask[name]].any(), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", [PAPER, VILLA], ids=["paper", "villa"])
def test_masks_hold_exactly(build: Build, spec: Adversarial, precision: str) -> None:
    model, task = build("vqa")
    shapes = {name: tuple(weight.shape) for name, weight in model.backbone.prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), 0.7)
    look = Zeros(model, mask)
    recipe = changed(RECIPE, adversarial=spec, precision=precision, accumulation=2)
    train(model, task, recipe, seed=0, last_step=5, hooks=[HoldZeros(model, mask), look])
    assert look.steps == 5


class KilledError(Exception):
    """The process is gone."""


@pytest.mark.parametrize("spec", [changed(PAPER, perturb="alternating"), VILLA], ids=["paper", "villa"])
def test_a_killed_run_goes_on_with_the_same_bits(
    build: Build, tmp_path: Path, spec: Adversarial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vltickets.training.loop.CHECKPOINT_SECONDS", -1.0)
    recipe, path = changed(RECIPE, adversarial=spec), tmp_path / "checkpoint.safetensors"
    whole, task = build("vqa")
    expected = train(whole, task, recipe, seed=0, last_step=9)

    def kill(done: int, last: int, loss: float) -> None:
        if done == 4:
            raise KilledError

    model, task = build("vqa")
    with pytest.raises(KilledError):
        train(model, task, recipe, seed=0, last_step=9, checkpoint=path, progress=kill)
    model, task = build("vqa")
    state = train(model, task, recipe, seed=0, last_step=9, checkpoint=path)
    assert bits(model) == bits(whole)
    assert (state.curve, state.sums) == (expected.curve, expected.sums)


@pytest.mark.parametrize("spec", [PAPER, VILLA], ids=["paper", "villa"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(make: Make, spec: Adversarial) -> None:
    """Each row's δ depends on that row alone."""
    model, task = make("vqa")
    attack = adversary(model, task, spec)
    rng = np.random.default_rng(0)
    value = attack.gradients(task.batch(np.arange(6), rng), 1.0, 0)  # type: ignore[attr-defined]
    whole = gradients(model)
    parts = [task.batch(part, rng) for part in (np.arange(4), np.arange(4, 6))]  # type: ignore[attr-defined]
    shared = [attack.gradients(part, share, 0) for part, share in zip(parts, (4 / 6, 2 / 6), strict=True)]
    assert sum(shared) == pytest.approx(value, rel=1e-4)
    assert_same(gradients(model), whole, 1e-3)


def test_nothing_is_left_at_the_backbone(make: Make) -> None:
    model, task = make("vqa")
    batch = batch_of(task)
    before = task.logits(model, batch)
    adversary(model, task, PAPER).gradients(batch, 1.0, 0)
    with pytest.raises(ZeroDivisionError), Perturbation(model.backbone).added(("words", "regions")):
        raise ZeroDivisionError
    assert torch.equal(task.logits(model, batch), before)


def test_a_pass_without_gradients_is_not_perturbed(make: Make) -> None:
    model, task = make("vqa")
    batch = batch_of(task)
    attack = adversary(model, task, PAPER)
    attack.gradients(batch, 1.0, 0)
    expected = task.logits(model, batch)
    for perturbed in (True, False):
        with torch.set_grad_enabled(perturbed), attack.delta.added(("words", "regions")):
            assert torch.equal(task.logits(model, batch), expected) != perturbed


def test_a_task_without_logits_is_refused_in_one_sentence(build: Build) -> None:
    model, task = build("vqa")

    class Wordless:
        name = "wordless"

        def __getattr__(self, name: str) -> Any:
            return getattr(task, name)

    with pytest.raises(UserError, match=r"the task wordless gives no logits.*leave \[training.adversarial\] out"):
        train(model, Wordless(), changed(RECIPE, adversarial=VILLA), seed=0)  # type: ignore[arg-type]
