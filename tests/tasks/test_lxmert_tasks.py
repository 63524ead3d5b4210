"""LXMERT plays in the same loop as UNITER: pre-training, fine-tuning, a mask held; what it can't do is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vltickets.backbones import build_backbone, prunable_shapes
from vltickets.data import Source, open_source, stream
from vltickets.errors import UserError
from vltickets.specs import (
    Adversarial,
    Fresh,
    Lxmert,
    Objectives,
    Pretraining,
    Prune,
    Recipe,
    TaskSpec,
    Train,
    Trained,
    World,
    parse,
)
from vltickets.specs.tasks import TASK_KINDS
from vltickets.store import Store
from vltickets.studies.work import run_node
from vltickets.tasks import Model, Task, build_task
from vltickets.tasks.answer_transfer import normalised, transferred_answers
from vltickets.tasks.answering import LxmertAnswerHead
from vltickets.tickets import HoldZeros, Mask, initialise, prune, random_scores
from vltickets.training import evaluate, train

pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
WORLD = World(generator=1, seed=3, scenes=40, examples=120, heldout=60)
TOY = Lxmert(language_layers=1, object_layers=1, cross_layers=2, hidden=16, heads=2, intermediate=32, positions=64)
EVERY = Objectives(mlm=1.0, mrc=1.0, mrc_kl=1.0, mrfr=1.0, itm=1.0, wra=0.1)


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


def node_of(spec: TaskSpec, *, steps: int = 6, **fields: object) -> Train:
    recipe = Recipe(steps=steps, learning_rate=2e-3, batch_tokens=600, dropout=0.0)
    return Train(**{"backbone": TOY, "task": spec, "start": Fresh(), "recipe": recipe, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["vqa", "gqa", "nlvr2", "snli_ve", "refcoco", "retrieval"])
def test_a_task_learns_under_a_mask_that_stays(kind: str, source: Source, store: Store) -> None:
    model, task = built(spec_of(kind), source, store)
    shapes = prunable_shapes(TOY)
    mask = prune(random_scores(7, shapes), Mask.dense(shapes), 0.5)
    hold = HoldZeros(model, mask, zero_stays=True)
    losses: list[float] = []
    recipe = Recipe(steps=30, learning_rate=2e-3, batch_tokens=600, dropout=0.0)
    train(model, task, recipe, seed=0, hooks=[hold], progress=lambda done, last, loss: losses.append(loss))
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    for name, weight in model.backbone.prunable().items():
        assert not weight.detach()[~mask[name]].any()
    evaluation = evaluate(model, task, "test")
    assert evaluation.score == pytest.approx(float(evaluation.items.mean()))


def test_heads_have_the_official_names_and_shapes(source: Source, store: Store) -> None:
    names = [f"logit_fc.{layer}.{part}" for layer in (0, 2, 3) for part in ("weight", "bias")]
    for kind, inner in (("vqa", (32, 16)), ("gqa", (32, 16)), ("nlvr2", (32, 32))):
        model, task = built(spec_of(kind), source, store)
        head = model.head.state_dict()
        assert sorted(head) == sorted(names)
        assert head["logit_fc.0.weight"].shape == inner
        assert head["logit_fc.3.weight"].shape[1] == 32
        assert task.type_rows == (0, 1)


def test_the_two_passes_of_a_pair_stand_side_by_side(source: Source, store: Store) -> None:
    model, task = built(spec_of("nlvr2"), source, store)
    model.eval()
    batch = task.batch(np.arange(3), stream("test", 0))
    pooled = model.backbone(batch.inputs).pooled
    expected = model.head.logit_fc(torch.cat([pooled[0::2], pooled[1::2]], dim=-1))
    torch.testing.assert_close(task.logits(model, batch), expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("objective", ["mlm", "mrc", "mrc_kl", "mrfr", "itm"])
def test_each_pre_training_objective_reaches_the_backbone(objective: str, source: Source, store: Store) -> None:
    only = Objectives(**{name: 1.0 * (name == objective) for name in ("mlm", "mrc", "mrc_kl", "mrfr", "itm")})
    model, task = built(Pretraining(data=WORLD, split="dev", objectives=only), source, store)
    task.loss(model, task.batch(np.arange(12), stream("test", 1))).backward()
    grads = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "backbone.encoder.layer.0.attention.self.query.weight" in grads
    visual = "backbone.encoder.x_layers.1.visn_output.dense.weight" in grads
    assert visual == (objective in ("mrc", "mrc_kl", "mrfr"))
    assert ("head.feat_regress.net.3.weight" in grads) == (objective == "mrfr")  # a decoder of its own, not tied


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pre_training_holds_a_mask(precision: str, source: Source, store: Store) -> None:
    model, task = built(Pretraining(data=WORLD, split="dev", objectives=EVERY, foils=0.5), source, store)
    shapes = prunable_shapes(TOY)
    mask = prune(random_scores(7, shapes), Mask.dense(shapes), 0.5)
    recipe = Recipe(steps=12, learning_rate=2e-3, batch_tokens=600, dropout=0.1, precision=precision)
    state = train(model, task, recipe, seed=0, hooks=[HoldZeros(model, mask, zero_stays=True)])
    assert np.isfinite([loss for _, loss in state.curve]).all()
    assert len(state.parts) > 2  # several objectives were drawn
    for name, weight in model.backbone.prunable().items():
        assert not weight.detach()[~mask[name]].any()


def test_pre_training_prunes_and_its_ticket_is_trained(source: Source, store: Store) -> None:
    words = node_of(Pretraining(data=WORLD, split="dev", text_only=True), steps=4)
    both = node_of(Pretraining(data=WORLD, split="dev", objectives=EVERY, foils=0.5), start=Trained(train=words))
    mask = Prune(train=both, sparsity=0.5)
    ticket = node_of(spec_of("vqa"), start=Trained(train=both), mask=mask)
    for node in (words, both, mask, ticket):
        run_node(node, store)
    kept = Mask.unpacked(store.arrays(mask.digest, "mask"), prunable_shapes(TOY))
    weights, start = store.weights(ticket.digest), store.weights(both.digest)
    assert kept.sparsity == pytest.approx(0.5, abs=1e-3)
    assert all(not weights[f"backbone.{name}"][~kept[name].numpy()].any() for name in kept)
    fresh = store.weights(words.digest)
    crossing = "backbone.encoder.x_layers.0.lang_inter.dense.weight"
    assert not np.array_equal(fresh[crossing], start[crossing])
    assert {"mlm_accuracy", "mrfr_error", "mrc_accuracy", "itm_accuracy"} <= set(store.record(both.digest).metrics)


def test_adversarial_steps_perturb_words_and_regions(source: Source, store: Store) -> None:
    model, task = built(spec_of("vqa"), source, store)
    recipe = Recipe(
        steps=2, learning_rate=1e-3, batch_tokens=400, dropout=0.0, adversarial=Adversarial(form="paper", bound=0.5)
    )
    before = model.backbone.word_table().detach().clone()
    train(model, task, recipe, seed=0)
    assert not torch.equal(before, model.backbone.word_table())


@pytest.mark.parametrize(
    ("kind", "options", "words"), [("vcr", {}, "4 token types"), ("nlvr2", {"head": "triplet"}, "triplet")]
)
def test_tasks_it_cannot_do_are_refused(kind: str, options: dict[str, str], words: str, source: Source) -> None:
    with pytest.raises(UserError, match=words):
        build_task(spec_of(kind, **options), source, TOY)


def test_known_answers_take_their_rows_and_others_are_zero() -> None:
    torch.manual_seed(0)
    known = ["a Man.", "2", "gray", "the cat", "cat"]
    pretrained = {f"answer_head.{name}": value for name, value in LxmertAnswerHead(4, 5).state_dict().items()}
    head, count = transferred_answers(pretrained, known, ["two", "man", "zebra", "grey", "a cat"])
    assert count == 4
    own = LxmertAnswerHead(4, 5)
    own.load_state_dict(head)
    rows = pretrained["answer_head.logit_fc.3.weight"]
    assert torch.equal(own.logit_fc[3].weight[[0, 1, 3, 4]], rows[[1, 0, 2, 3]])
    assert not own.logit_fc[3].weight[2].any()
    assert not own.logit_fc[3].bias[2].any()
    assert torch.equal(own.logit_fc[0].weight, pretrained["answer_head.logit_fc.0.weight"])
    assert [normalised(text) for text in ("The Ten.", "grey", "theatre", "")] == ["10", "gray", "theatre", ""]
    with pytest.raises(UserError, match="5 rows, and 2 answers"):
        transferred_answers(pretrained, ["a", "b"], [])
    with pytest.raises(UserError, match=r"lacks logit_fc\.0\.weight"):
        transferred_answers({}, known, [])
