"""ViLT plays in the same loop from pictures: pre-training, fine-tuning, a mask held; what it can't do is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vltickets.backbones import build_backbone, prunable_shapes
from vltickets.data import Source, assemble, open_source, stream
from vltickets.data.augmentation import OPERATIONS, augmented, randaugment
from vltickets.data.patches import PatchRegions
from vltickets.errors import UserError
from vltickets.specs import (
    Adversarial,
    Fresh,
    Objectives,
    Pixels,
    Pretraining,
    Prune,
    Recipe,
    TaskSpec,
    Train,
    Trained,
    Uniter,
    Vilt,
    World,
    changed,
    parse,
)
from vltickets.specs.tasks import TASK_KINDS
from vltickets.store import Store
from vltickets.studies.work import run_node
from vltickets.tasks import Model, Task, build_task
from vltickets.tickets import HoldZeros, Mask, initialise, prune, random_scores
from vltickets.training import evaluate, train

pytest.importorskip("transformers", reason="a ViLT needs transformers (vltickets[hf])")
WORLD = World(generator=1, seed=3, scenes=40, examples=120, heldout=60)
PIXELS = Pixels(patch=12, shorter=36, mean=0.0, std=0.4)
TOY = Vilt(layers=2, hidden=16, heads=2, intermediate=32, positions=64, pixels=PIXELS)
WORDS = Objectives(mlm=1.0, mrc_kl=0.0, itm=1.0)
TASKS = ["vqa", "gqa", "nlvr2", "snli_ve", "retrieval", "matching"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    store.prepare()
    return store


@pytest.fixture(scope="module")
def source(store: Store) -> Source:
    return open_source(WORLD, store)


def spec_of(kind: str, **options: object) -> TaskSpec:
    options = ({"candidates": 8} if kind == "matching" else {"images": 6} if kind == "retrieval" else {}) | options
    options |= {"head": "paired"} if kind == "nlvr2" and "head" not in options else {}
    return parse(TASK_KINDS[kind], {"kind": kind, "data": WORLD, **options}, "the test")  # type: ignore[return-value]


def built(spec: TaskSpec, source: Source, store: Store) -> tuple[Model, Task]:
    task = build_task(spec, source, TOY)
    backbone = build_backbone(
        TOY,
        vocabulary=len(source.vocabulary),
        region_width=task.region_width(),
        dropout=0.0,
        type_count=len(task.type_rows),
    )
    model = Model(backbone, task.head(TOY.hidden, 0.0))
    initialise(model, task, node_of(spec, steps=1), store)
    return model, task


def recipe_of(steps: int, **fields: object) -> Recipe:
    return Recipe(**{"steps": steps, "learning_rate": 2e-3, "batch_tokens": 600, "dropout": 0.0, **fields})  # type: ignore[arg-type]


def node_of(spec: TaskSpec, *, steps: int = 4, **fields: object) -> Train:
    return Train(**{"backbone": TOY, "task": spec, "start": Fresh(), "recipe": recipe_of(steps), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_learns_from_pictures_under_a_mask_that_stays(kind: str, source: Source, store: Store) -> None:
    model, task = built(spec_of(kind), source, store)
    assert task.region_width() == 3 * 12 * 12
    shapes = prunable_shapes(TOY)
    mask = prune(random_scores(7, shapes), Mask.dense(shapes), 0.5)
    losses: list[float] = []
    hold = HoldZeros(model, mask, zero_stays=True)
    train(model, task, recipe_of(24), seed=0, hooks=[hold], progress=lambda done, last, loss: losses.append(loss))
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    for name, weight in model.backbone.prunable().items():
        assert not weight.detach()[~mask[name]].any()
    evaluation = evaluate(model, task, "test")
    assert evaluation.score == pytest.approx(float(evaluation.items.mean()))
    assert np.array_equal(evaluate(model, task, "test").items, evaluation.items)


@pytest.mark.parametrize("kind", TASKS)
def test_pictures_and_regions_tell_of_the_same_examples(kind: str, source: Source) -> None:
    read = {"vqa": "questions", "gqa": "questions", "snli_ve": "questions", "nlvr2": "pairs"}.get(kind, "captions")
    seen, detected = (
        getattr(build_task(spec_of(kind), source, backbone), read)("test") for backbone in (TOY, Uniter(hidden=12))
    )
    assert isinstance(seen.regions, PatchRegions)
    assert np.array_equal(seen.images, detected.images)
    assert seen.texts.values.tolist() == detected.texts.values.tolist()
    assert set(seen.regions.features.lengths) == {9}


def test_heads_have_the_official_names(source: Source, store: Store) -> None:
    for kind, key in (("vqa", "vqa_classifier"), ("gqa", "vqa_classifier"), ("nlvr2", "nlvr2_classifier")):
        model, task = built(spec_of(kind), source, store)
        names = [f"{key}.{layer}.{part}" for layer in (0, 1, 3) for part in ("weight", "bias")]
        assert sorted(model.head.state_dict()) == sorted(names)
        assert task.type_rows == ((0, 1, 1) if kind == "nlvr2" else (0, 1))


@pytest.mark.parametrize("objective", ["mlm", "itm"])
def test_each_pre_training_objective_reaches_the_patches(objective: str, source: Source, store: Store) -> None:
    only = Objectives(**{"mrc_kl": 0.0, "mlm": 0.0, "itm": 0.0, objective: 1.0})
    model, task = built(Pretraining(data=WORLD, split="dev", objectives=only, foils=0.5), source, store)
    task.loss(model, task.batch(np.arange(12), stream("test", 1))).backward()
    grads = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "backbone.embeddings.patch_embeddings.projection.weight" in grads
    assert ("head.itm_output.weight" in grads) == (objective == "itm")


def test_pre_training_prunes_and_its_ticket_is_trained(source: Source, store: Store) -> None:
    words = node_of(Pretraining(data=WORLD, split="dev", text_only=True))
    both = node_of(Pretraining(data=WORLD, split="dev", objectives=WORDS, foils=0.5), start=Trained(train=words))
    mask = Prune(train=both, sparsity=0.5)
    ticket = node_of(spec_of("vqa"), start=Trained(train=both), mask=mask)
    for node in (words, both, mask, ticket):
        run_node(node, store)
    kept = Mask.unpacked(store.arrays(mask.digest, "mask"), prunable_shapes(TOY))
    weights = store.weights(ticket.digest)
    assert all(not weights[f"backbone.{name}"][~kept[name].numpy()].any() for name in kept)
    told = {name for name in store.record(both.digest).metrics if not name.startswith("itm_accuracy/")}
    assert told == {"mlm_accuracy", "itm_accuracy", "score"}
    assert {"itm_accuracy/color", "itm_accuracy/shape"} <= set(store.record(both.digest).metrics)


def test_texts_are_cut_to_the_places_the_backbone_has(source: Source, store: Store) -> None:
    short = changed(TOY, positions=6)
    task = build_task(spec_of("vqa"), source, short)
    model = Model(
        build_backbone(short, vocabulary=len(source.vocabulary), region_width=432, dropout=0.0), task.head(16, 0.0)
    )
    assert source.vqa("train", source.answers()).texts.lengths.max() > 6
    assert 0 <= evaluate(model.eval(), task, "dev").score <= 1


@pytest.mark.parametrize("form", ["paper", "villa"])
@pytest.mark.parametrize("kind", ["vqa", "nlvr2", "retrieval"])
def test_adversarial_steps_perturb_words_and_patches(kind: str, form: str, source: Source, store: Store) -> None:
    model, task = built(spec_of(kind), source, store)
    seen: list[tuple[int, ...]] = []
    model.backbone.perturbed_places().regions.register_forward_hook(
        lambda _, args, out: seen.append(tuple(out.shape[1:]))
    )
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    adversarial = Adversarial(form=form, bound=0.5, steps=2)
    train(model, task, recipe_of(2, adversarial=adversarial), seed=0)
    assert set(seen) == {(9, 16)}
    now = dict(model.named_parameters())
    for name in ("embeddings.patch_embeddings.projection.weight", "embeddings.text_embeddings.word_embeddings.weight"):
        assert not torch.equal(weights[f"backbone.{name}"], now[f"backbone.{name}"])


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("vcr", {}, "the task vcr is about regions, and ViLT takes patches"),
        ("refcoco", {}, "the task refcoco is about regions, and ViLT takes patches"),
        ("nlvr2", {"head": "triplet"}, "two passes"),
        ("pretraining", {}, "ViLT hides no regions: set mrc_kl, mrfr to 0"),
        ("pretraining", {"objectives": {"mlm": 1.0, "mrc": 1.0, "mrc_kl": 0.0}}, "set mrc to 0"),
    ],
)
def test_tasks_it_cannot_do_are_refused(kind: str, options: dict[str, Any], words: str, source: Source) -> None:
    with pytest.raises(UserError, match=words):
        build_task(spec_of(kind, **options), source, TOY)


@pytest.mark.parametrize(
    "read", [lambda source: source.vcr("train"), lambda source: source.expressions("train", "true")]
)
def test_a_source_seen_as_patches_has_no_tasks_of_regions(read: Any, source: Source) -> None:
    with pytest.raises(UserError, match="is about regions, and this backbone takes patches"):
        read(source.seen_as(PIXELS))


def test_augmentation_is_off_unless_asked_for(source: Source) -> None:
    spec = spec_of("vqa")
    assert (spec.augment, spec.magnitude) == (0, 9)
    assert changed(spec, augment=0).digest == spec.digest != changed(spec, augment=2).digest
    data = build_task(spec, source, TOY).questions("train")  # type: ignore[attr-defined]
    batch = build_task(spec, source, TOY).batch(np.arange(4), stream("test", 0))
    assert torch.equal(batch.inputs.features, data.regions.features.padded(data.images[:4])[0])


@pytest.mark.parametrize("kind", ["vqa", "nlvr2", "matching", "pretraining"])
def test_augmented_batches_are_a_function_of_seed_and_step(kind: str, source: Source) -> None:
    options: dict[str, Any] = {"objectives": WORDS, "split": "dev", "foils": 0.5} if kind == "pretraining" else {}
    plain, task = (build_task(spec_of(kind, **options, augment=count), source, TOY) for count in (0, 2))
    examples = np.arange(6)
    before, first, again, other = (
        one.batch(examples, stream("test", step)).inputs for one, step in ((plain, 0), (task, 0), (task, 0), (task, 1))
    )
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, other.features)
    assert not torch.equal(first.features, before.features)
    for name in ("tokens", "boxes", "region_mask", "region_types"):  # what the batch is made of does not move
        assert torch.equal(getattr(first, name), getattr(before, name))


def test_retrieval_trains_on_changed_pictures_and_looks_for_hard_ones_among_plain(source: Source, store: Store) -> None:
    spec = spec_of("retrieval", hard_negatives=2, pool=4)
    seen: list[torch.Tensor] = []
    found = []
    for count in (0, 2):
        model, task = built(changed(spec, augment=count), source, store)
        model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].features))
        seen.clear()
        batch = task.settled(model, task.batch(np.arange(4), stream("test", 0)))  # type: ignore[attr-defined]
        settling = [features.clone() for features in seen]
        seen.clear()
        first, second = (task.logits(model, batch) for _ in range(2))  # type: ignore[attr-defined]
        torch.testing.assert_close(first, second)
        found.append((settling, list(seen)))
    (plain_settling, plain), (settling, shown) = found
    assert all(torch.equal(one, other) for one, other in zip(plain_settling, settling, strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(plain, shown, strict=True))


def test_evaluation_sees_pictures_as_they_are(source: Source, store: Store) -> None:
    model, plain = built(spec_of("vqa"), source, store)
    task = build_task(spec_of("vqa", augment=2), source, TOY)
    assert np.array_equal(evaluate(model, plain, "test").items, evaluate(model, task, "test").items)
    model.train()
    train(model, task, recipe_of(2), seed=0)


def test_a_blind_model_and_padding_stay_as_they_are(source: Source) -> None:
    data = source.seen_as(PIXELS).vqa("train", source.answers())
    task = build_task(spec_of("vqa", blind=True, augment=3), source, TOY)
    assert not task.batch(np.arange(4), stream("test", 0)).inputs.features.any()
    inputs = assemble(data.texts, np.arange(2), data.regions, data.images[:2])
    longer = {name: F.pad(getattr(inputs, name), (0, 0, 0, 3)) for name in ("features", "boxes")}
    padded = replace(inputs, **longer)
    out = augmented(padded, PIXELS, 2, 9, stream("test", 0))
    assert not out.features[:, 9:].any()
    assert not torch.equal(out.features[:, :9], inputs.features)


@pytest.mark.parametrize("place", range(len(OPERATIONS)))
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_operations_keep_size_and_kind_of_a_picture(place: int, magnitude: int) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8))
    operation, weakest, strongest, _ = OPERATIONS[place]
    out = operation(picture, magnitude / 30 * (strongest - weakest) + weakest)
    assert (out.size, out.mode) == ((40, 24), "RGB")
    assert randaugment(picture, 0, magnitude, stream("test", 0)).tobytes() == picture.tobytes()


def test_shifts_are_in_proportion_to_the_picture() -> None:
    for side, moved in ((384, 30), (768, 60)):
        picture = Image.new("RGB", (side, side), (255, 255, 255))
        operation, weakest, strongest, _ = OPERATIONS[12]
        columns = np.asarray(operation(picture, 0.3 * (strongest - weakest) + weakest))[0, :, 0]
        assert (columns == 0).sum() == moved


def test_augmentation_is_for_backbones_that_take_patches(source: Source) -> None:
    with pytest.raises(UserError, match=r"augment = 2, which changes pictures, and this backbone takes a"):
        build_task(spec_of("vqa", augment=2), source, Uniter(layers=1, hidden=16, heads=2, intermediate=32))
