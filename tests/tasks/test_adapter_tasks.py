"""Models of transformers play in the world's tasks: they learn, hold a mask, and carry a ticket from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vltickets import load_ticket
from vltickets.backbones import build_backbone, prunable_shapes
from vltickets.data import Source, open_source
from vltickets.errors import UserError
from vltickets.specs import (
    SIZES,
    Adversarial,
    Fresh,
    HuggingFace,
    Objectives,
    Pixels,
    Pretraining,
    Prune,
    Recipe,
    TaskSpec,
    Train,
    Trained,
    World,
    changed,
    parse,
)
from vltickets.specs.tasks import TASK_KINDS
from vltickets.store import Store
from vltickets.studies.config import Study
from vltickets.studies.scoring import score_ticket, ticket_of
from vltickets.studies.work import build_model, run_node
from vltickets.tasks import Model, Task, build_task, check_task
from vltickets.tickets import HoldZeros, Mask, initialise, prune, random_scores
from vltickets.training import evaluate, train

pytest.importorskip("transformers", reason="adapters need transformers (vltickets[hf])")
WORLD = World(generator=1, seed=3, scenes=40, examples=80, heldout=20)
DRAWN = Pixels(patch=12, shorter=36, mean=0.0, std=0.4)
MODELS = ("clip", "siglip", "blip", "flava", "bridgetower", "visualbert")
NOTHING = {"mlm": 0.0, "mrc": 0.0, "mrc_kl": 0.0, "mrfr": 0.0, "itm": 0.0, "wra": 0.0}


def toy(model: str) -> HuggingFace:
    hidden = 64 if model == "bridgetower" else 16
    pixels = None if model == "visualbert" else DRAWN
    return HuggingFace(model=model, layers=1, hidden=hidden, heads=2, intermediate=32, pixels=pixels)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    store.prepare()
    return store


@pytest.fixture(scope="module")
def source(store: Store) -> Source:
    return open_source(WORLD, store)


def spec_of(kind: str, **options: object) -> TaskSpec:
    return parse(TASK_KINDS[kind], {"kind": kind, "data": WORLD, **options}, "the test")  # type: ignore[return-value]


def node_of(model: str, spec: TaskSpec, *, steps: int = 4, **fields: object) -> Train:
    recipe = Recipe(steps=steps, learning_rate=3e-3, batch_tokens=600, dropout=0.0)
    return Train(**{"backbone": toy(model), "task": spec, "start": Fresh(), "recipe": recipe, **fields})  # type: ignore[arg-type]


def built(model: str, spec: TaskSpec, source: Source, store: Store) -> tuple[Model, Task]:
    node = node_of(model, spec)
    task = build_task(spec, source, node.backbone)
    made = build_model(node.backbone, node.recipe, task, source)
    initialise(made, task, node, store)
    return made, task


@pytest.mark.parametrize("model", MODELS)
def test_a_model_learns_under_a_mask_that_stays(model: str, source: Source, store: Store) -> None:
    made, task = built(model, spec_of("vqa"), source, store)
    shapes = prunable_shapes(toy(model))
    mask = prune(random_scores(7, shapes), Mask.dense(shapes), 0.5)
    before = made.backbone.word_table().detach().clone()
    losses: list[float] = []
    recipe = Recipe(steps=25, learning_rate=3e-3, batch_tokens=600, dropout=0.1)
    hold = HoldZeros(made, mask, zero_stays=True)
    train(made, task, recipe, seed=0, hooks=[hold], progress=lambda done, last, loss: losses.append(loss))
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    assert not torch.equal(before, made.backbone.word_table())
    assert all(not weight.detach()[~mask[name]].any() for name, weight in made.backbone.prunable().items())


@pytest.mark.parametrize(("model", "kind"), [("blip", "nlvr2"), ("clip", "retrieval"), ("visualbert", "refcoco")])
def test_other_tasks_read_it_too(model: str, kind: str, source: Source, store: Store) -> None:
    made, task = built(model, spec_of(kind), source, store)
    train(made, task, Recipe(steps=2, learning_rate=1e-3, batch_tokens=400, dropout=0.0), seed=0)
    evaluation = evaluate(made, task, "test")
    assert evaluation.score == pytest.approx(float(evaluation.items.mean()))


@pytest.mark.parametrize("model", MODELS)
def test_a_ticket_is_found_saved_and_loaded_with_exact_zeros(
    model: str, source: Source, store: Store, tmp_path: Path
) -> None:
    full = node_of(model, spec_of("matching", candidates=4))
    mask = Prune(train=full, sparsity=0.5)
    ticket = changed(full, mask=mask)
    for node in (full, mask, ticket):
        run_node(node, store)
    path = tmp_path / "ticket.safetensors"
    ticket_of(ticket, store).save(path)
    loaded = load_ticket(path)
    assert loaded.backbone == toy(model)
    assert loaded.sparsity == pytest.approx(0.5, abs=1e-3)
    assert score_ticket(path, store, None, None).score == pytest.approx(store.record(ticket.digest).metrics["score"])
    fresh = build_backbone(toy(model), vocabulary=9, region_width=DRAWN.width, dropout=0.0)
    fresh.initialise(torch.Generator().manual_seed(1), 0.1)
    loaded.apply_(fresh)
    pruned = sum(int((weight == 0).sum()) for weight in fresh.prunable().values())
    assert pruned == loaded.mask.total - loaded.mask.kept
    other = toy("blip" if model != "blip" else "clip")
    with pytest.raises(UserError):
        loaded.apply_(build_backbone(other, vocabulary=9, region_width=DRAWN.width, dropout=0.0))


@pytest.mark.parametrize(
    ("model", "objectives"),
    [
        ("clip", {"itm": 1.0}),
        ("blip", {"mlm": 1.0, "itm": 1.0}),
        ("visualbert", {"mlm": 1.0, "mrc_kl": 1.0, "mrfr": 1.0}),
    ],
)
def test_pre_training_makes_a_start(model: str, objectives: dict[str, float], store: Store) -> None:
    spec = Pretraining(data=WORLD, split="dev", objectives=Objectives(**(NOTHING | objectives)), foils=0.5)
    before = node_of(model, spec, steps=6)
    after = node_of(model, spec_of("vqa"), start=Trained(train=before))
    run_node(before, store)
    run_node(after, store)
    assert set(store.record(before.digest).parts) <= set(objectives)
    assert 0 <= store.record(after.digest).metrics["score"] <= 1


def test_adversarial_steps_perturb_words_and_pixels(source: Source, store: Store) -> None:
    made, task = built("blip", spec_of("vqa"), source, store)
    recipe = Recipe(
        steps=2, learning_rate=1e-3, batch_tokens=400, dropout=0.0, adversarial=Adversarial(form="paper", bound=0.5)
    )
    before = made.backbone.word_table().detach().clone()
    train(made, task, recipe, seed=0)
    assert not torch.equal(before, made.backbone.word_table())


@pytest.mark.parametrize(
    ("model", "spec", "words"),
    [
        ("clip", spec_of("vcr"), "4 token types"),
        ("clip", spec_of("refcoco"), "takes pixels"),
        ("blip", spec_of("nlvr1"), "takes pixels"),
        ("blip", spec_of("nlvr2", head="triplet"), "two passes"),
        ("visualbert", spec_of("vcr"), "4 token types"),
        ("blip", Pretraining(data=WORLD, split="dev", text_only=True), "words alone"),
        (
            "clip",
            Pretraining(data=WORLD, split="dev", objectives=Objectives(**(NOTHING | {"mlm": 1.0}))),
            "dual encoder",
        ),
        (
            "blip",
            Pretraining(data=WORLD, split="dev", objectives=Objectives(**(NOTHING | {"mrc": 1.0}))),
            "set mrc to 0",
        ),
        (
            "visualbert",
            Pretraining(data=WORLD, split="dev", objectives=Objectives(**(NOTHING | {"itm": 1.0, "wra": 0.1}))),
            "set wra to 0",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(model: str, spec: TaskSpec, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_task(spec, toy(model))


def test_a_recipe_names_a_model_or_says_its_shape() -> None:
    common = {"title": "t", "start": "fresh", "baselines": ["full"], "training": {"steps": 1, "learning_rate": 1e-3}}
    assert parse(Study, common | {"backbone": "clip-tiny"}, "r").shape == SIZES["clip-tiny"]
    table = {"kind": "hugging-face", "model": "clip", "layers": 1, "hidden": 16, "heads": 2, "intermediate": 32}
    table |= {"pixels": {"patch": 12, "shorter": 36}, "options": {"text_config.hidden_act": "gelu"}}
    study = parse(Study, common | {"backbone": table}, "r")
    assert study.shape.options == (("text_config.hidden_act", "gelu"),)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="backbone"):
        parse(Study, common | {"backbone": "clip-huge"}, "r")
