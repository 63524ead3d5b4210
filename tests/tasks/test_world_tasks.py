"""Every task trains on the embedded world through the official readers, and is scored on every item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vltickets.backbones import build_backbone
from vltickets.data import Captions, Source, open_source
from vltickets.deploy import compile_sparse
from vltickets.deploy.answers import answer, differ
from vltickets.specs import Fresh, Recipe, Refcoco, Retrieval, TaskSpec, Train, Uniter, World, parse
from vltickets.specs.tasks import TASK_KINDS
from vltickets.store import Store
from vltickets.studies.oracle import oracle_score
from vltickets.tasks import LogitTask, Model, Task, build_task
from vltickets.tasks.linear import ridge_retrieval
from vltickets.tasks.protocol import evaluation_batches
from vltickets.tasks.ranking import score_all_pairs, score_in_official_batches
from vltickets.tasks.refcoco import PADDING_SCORE, RefcocoTask, _lengths
from vltickets.tasks.retrieval import RetrievalTask
from vltickets.tasks.vcr import VcrTask
from vltickets.tickets import initialise
from vltickets.training import evaluate, train

WORLD = World(generator=1, seed=3, scenes=40, examples=120, heldout=60)
TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
HEADLINES = {
    "vqa": "accuracy",
    "gqa": "accuracy",
    "vcr": "q_ar",
    "nlvr2": "accuracy",
    "snli_ve": "accuracy",
    "refcoco": "accuracy/detected",
    "retrieval": "ir@1",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


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
    node = Train(backbone=TOY, task=spec, start=Fresh(), recipe=Recipe(steps=1, learning_rate=0.1))
    initialise(model, task, node, store)
    return model, task


@pytest.mark.parametrize("kind", sorted(HEADLINES))
def test_a_task_of_the_world_learns_and_scores_every_item(kind: str, source: Source, store: Store) -> None:
    model, task = built(spec_of(kind), source, store)
    losses: list[float] = []
    recipe = Recipe(steps=30, learning_rate=2e-3, batch_tokens=600, dropout=0.0)
    train(model, task, recipe, seed=0, progress=lambda done, last, loss: losses.append(loss))
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    evaluation = evaluate(model, task, "test")
    assert evaluation.headline == HEADLINES[kind]
    assert evaluation.score == pytest.approx(float(evaluation.items.mean()))
    assert 0 < task.chance("test") < 1
    dense = answer(model, task, "test")
    assert np.array_equal(dense.evaluation.items, evaluation.items)
    assert len(evaluation.answers) == len(evaluation.items)
    assert len({name for name, _ in evaluation.answers}) == len(evaluation.items)
    compiled = differ(answer(compile_sparse(model), task, "test"), dense)
    assert (compiled.answers, compiled.scores) == (0, 0)
    assert compiled.logit < 1e-5 * compiled.largest


@pytest.mark.parametrize("kind", sorted(HEADLINES))
def test_a_blind_model_does_not_see_the_features(kind: str, source: Source, store: Store) -> None:
    model, task = built(spec_of(kind, blind=True), source, store)
    seen: list[float] = []
    backbone = model.backbone

    class Watched(torch.nn.Module):
        def forward(self, inputs: object) -> object:
            seen.append(float(inputs.features.abs().sum()))  # type: ignore[attr-defined]
            return backbone(inputs)  # type: ignore[arg-type]

    model.backbone = Watched()  # type: ignore[assignment]
    task.loss(model, task.batch(np.arange(4), np.random.default_rng(0)))
    assert seen == [0.0] * len(seen) != []


def test_retrieval_can_be_scored_on_a_split_s_first_images(source: Source, store: Store) -> None:
    model, whole = built(spec_of("retrieval"), source, store)
    _, part = built(spec_of("retrieval", images=6), source, store)
    every, some = evaluate(model, whole, "test"), evaluate(model, part, "test")
    data = source.retrieval("test")
    first = np.isin(data.images, np.unique(data.images)[:6])
    assert len(some.items) == first.sum() < len(every.items)
    assert len(some.more_items["tr@1"]) == 6
    assert (some.items >= every.items[first]).all()  # fewer rivals can only help
    assert part.chance("test") == 1 / 6


@pytest.mark.parametrize("kind", sorted(HEADLINES))
def test_the_oracle_is_above_chance_and_at_most_one(kind: str, source: Source) -> None:
    task = build_task(spec_of(kind), source, TOY)
    assert task.chance("test") < oracle_score(task, WORLD, "test") <= 1


def test_the_oracle_of_vqa_is_a_sure_answerer_among_noisy_annotators(source: Source) -> None:
    task = build_task(spec_of("vqa"), source, TOY)
    data = source.vqa("test", source.answers())
    assert oracle_score(task, WORLD, "test") == pytest.approx(float(data.scores.max(1).mean()))
    assert oracle_score(task, WORLD, "test") > 0.8


def test_a_referred_region_is_found_by_one_who_knows(source: Source) -> None:
    data = source.expressions("test", "true")
    task = RefcocoTask(Refcoco(data=WORLD), source)

    order = np.concatenate(list(evaluation_batches(_lengths(data))))

    class Knows(torch.nn.Module):
        """Scores the true region highest, batch by batch in the order in which a split is scored."""

        def __init__(self) -> None:
            super().__init__()
            self.at = 0

        def forward(self, regions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            rows = order[self.at : self.at + len(regions)]
            self.at += len(regions)
            return torch.nn.functional.one_hot(torch.from_numpy(data.targets[rows]), mask.shape[1]).float()

    backbone = build_backbone(TOY, vocabulary=len(source.vocabulary), region_width=data.regions.width, dropout=0.0)
    right, _ = task._right(Model(backbone, Knows()).eval(), data)
    assert right.mean() == 1.0


@pytest.mark.parametrize("blind", [False, True])
def test_fast_and_official_scoring_give_the_same_table(blind: bool, source: Source, store: Store) -> None:
    model, task = built(spec_of("retrieval", blind=blind), source, store)
    assert isinstance(task, RetrievalTask)
    data: Captions = task.captions("test")
    images = np.unique(data.images)
    model.eval()
    with torch.inference_mode():
        fast = score_all_pairs(model, data, images, task._seen)
        official = score_in_official_batches(model, data, images, task._seen)
    assert fast.shape == (len(data.texts), len(images))
    assert np.abs(fast - official).max() < 1e-5
    assert blind or fast.std() > 100 * np.abs(fast - official).max()


def test_wrong_pairs_are_wrong_and_the_hardest_are_the_hardest(source: Source, store: Store) -> None:
    data = source.retrieval("train")
    plain = RetrievalTask(Retrieval(data=WORLD), source)
    (pairs,) = plain.batch(np.arange(20), np.random.default_rng(0))
    assert pairs.captions.shape == (20, 3)
    own = data.images[pairs.captions] == pairs.images
    assert own.tolist() == [[True, False, False]] * 20
    assert (pairs.captions[:, 0] == pairs.captions[:, 1]).all()  # the same caption, another image
    assert (pairs.images[:, 0] == pairs.images[:, 2]).all()  # another caption, the same image

    model, hard = built(spec_of("retrieval", hard_negatives=2, pool=9), source, store)
    assert isinstance(hard, RetrievalTask)
    model.train()
    pool, _ = hard.batch(np.arange(6), np.random.default_rng(0))
    with torch.no_grad():
        scores = hard._scores(model.eval(), pool)
        kept = hard._hardest(model, pool)
        hardest = hard._scores(model, kept)
    assert torch.allclose(hardest[:, 1:], scores[:, 1:].topk(2).values, atol=1e-5)
    assert torch.allclose(hardest[:, 0], scores[:, 0], atol=1e-5)


def test_vcr_sees_the_given_boxes_and_then_the_found_ones(source: Source, store: Store) -> None:
    _, task = built(spec_of("vcr"), source, store)
    data = source.vcr("train")
    batch = task.batch(np.array([0, 1]), np.random.default_rng(0))
    given = int(data.objects.features.lengths[data.object_images[0]])
    found = int(data.detected.features.lengths[data.detected_images[0]])
    assert batch.inputs.region_mask[0].sum() == given + found
    assert torch.equal(batch.inputs.features[0, :given].half(), data.objects.features.row(int(data.object_images[0])))
    assert batch.labels.view(2, 4).sum(1).tolist() == [1, 1]


def test_divergence_by_hand_scaled_as_each_task_s_loss_and_blind_to_padding(source: Source) -> None:
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2])
    by_hand = float((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
    first, second = torch.stack([p.log(), q.log()]), torch.stack([q.log(), q.log()])  # two examples, one of them alike
    assert float(LogitTask().divergence(first, second)) == pytest.approx(by_hand / 2, rel=1e-5)  # mean over examples
    vcr, refcoco, retrieval = (build_task(spec_of(kind), source, TOY) for kind in ("vcr", "refcoco", "retrieval"))
    assert isinstance(vcr, VcrTask)
    assert float(vcr.divergence(first, second)) == pytest.approx(by_hand / 4, rel=1e-5)  # and over the two classes
    assert isinstance(refcoco, RefcocoTask)
    assert float(refcoco.divergence(first, second)) == pytest.approx(by_hand, rel=1e-5)  # summed, as its loss is
    padded = [F.pad(logits, (0, 3), value=PADDING_SCORE) for logits in (first, second)]
    assert torch.equal(refcoco.divergence(*padded), refcoco.divergence(first, second))
    assert isinstance(retrieval, RetrievalTask)
    scores = [(logits[:, 0] - logits[:, 1]).view(1, 2, 1) for logits in (first, second)]
    assert float(retrieval.divergence(*scores)) == pytest.approx(by_hand / 2, rel=1e-5)  # right or not, mean over pairs


def test_the_linear_reference_of_retrieval_beats_guessing_and_sees_the_picture(source: Source) -> None:
    train, held_out = source.retrieval("train"), source.retrieval("test")
    score = ridge_retrieval(train, held_out)
    images = len(np.unique(held_out.images))
    assert 1 / images < score < 1
    swapped = replace(held_out, images=(held_out.images + 7) % images)  # captions of other pictures
    assert ridge_retrieval(train, swapped) < score
