"""Pre-training's mix: official shares, feature regression, word-region alignment, heads that go on, curves apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vltickets.backbones import build_backbone
from vltickets.data import Groups, RegionWriter, Source, assemble, batch_plan, open_folder, stream
from vltickets.data.regions import read_regions
from vltickets.errors import UserError
from vltickets.scenes import write_captions, write_vocabulary
from vltickets.specs import (
    OFFICIAL_OBJECTIVES,
    Corpora,
    Fresh,
    Objectives,
    Pretraining,
    Recipe,
    Train,
    Uniter,
    World,
    parse,
)
from vltickets.store import Store
from vltickets.tasks import Model, Task
from vltickets.tasks.pretraining import PretrainingTask, alignment_loss, distances
from vltickets.tickets import initialise
from vltickets.training import evaluate, train

Build = Callable[..., tuple[Model, Task]]
DATA = World(generator=1)
TOY = Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64)
EVERY = Objectives(mlm=2.0, mrc=1.0, mrc_kl=1.0, mrfr=1.0, itm=2.0, wra=0.1)


def task_of(source: Source, **options: object) -> PretrainingTask:
    return PretrainingTask(Pretraining(data=DATA, **options), source)  # type: ignore[arg-type]


def test_the_default_mix_is_the_official_one() -> None:
    shares = Pretraining(data=DATA).objectives.shares
    expected = {"itm": 0.273, "mlm": 0.364, "mrfr": 0.182, "mrc_kl": 0.182}
    assert shares == {name: pytest.approx(share, abs=5e-4) for name, share in expected.items()}
    assert OFFICIAL_OBJECTIVES.wra == 0.1


def test_alignment_without_matching_is_refused() -> None:
    with pytest.raises(UserError, match="needs an itm above 0"):
        parse(Objectives, {"itm": 0.0, "wra": 0.1}, "objectives")


def test_regression_asks_for_the_hidden_regions_features(source: Source, build: Build) -> None:
    model = build("pretraining")[0].eval()
    task = task_of(source)
    data = task.captions("train")
    examples = np.arange(12)
    batch = task._batch("mrfr", data, examples, stream("batch"))
    features, _ = data.regions.features.padded(data.images[examples])
    hidden = batch.inputs.hidden_regions
    assert hidden is not None
    assert batch.features is not None
    assert torch.equal(batch.features, features.float()[hidden])
    assert not batch.inputs.features[hidden].any()
    with torch.no_grad():
        states = model.backbone(batch.inputs).regions[hidden]
        guess = model.head.feat_regress(states, model.backbone.img_embeddings.img_linear.weight)  # type: ignore[attr-defined,operator]
        by_hand = (guess - batch.features).square().sum() / (len(guess) * data.regions.width)
        assert torch.allclose(task.loss(model, batch), by_hand, atol=1e-6)


def test_alignment_brings_matched_pairs_near_and_mismatched_ones_apart() -> None:
    apart = torch.tensor([0.5, 0.25, 0.75])
    assert float(alignment_loss(apart, torch.tensor([1, 0, 1]))) == pytest.approx((0.5 - 0.25 + 0.75) / 3)


def test_matching_carries_the_alignment_with_its_weight(source: Source, build: Build) -> None:
    model = build("pretraining")[0].eval()
    without, light, heavy = (task_of(source, objectives=Objectives(wra=wra)) for wra in (0.0, 0.1, 0.4))
    batch = without._batch("itm", without.captions("train"), np.arange(16), stream("batch"))
    with torch.no_grad():
        assert batch.match is not None
        extra = alignment_loss(distances(model.backbone(batch.inputs), batch.inputs), batch.match)
        plain, less, more = (task.loss(model, batch) for task in (without, light, heavy))
    assert abs(float(extra)) > 1e-4
    assert torch.allclose(less - plain, 0.1 * extra, atol=1e-6)
    assert torch.allclose(more - plain, 0.4 * extra, atol=1e-6)


def test_all_parts_of_a_step_have_one_objective(source: Source) -> None:
    task = task_of(source, objectives=EVERY)
    for step in range(30):
        whole = task.batch(np.arange(2), stream("step", step))
        rng = stream("step", step)
        parts = [task.batch(np.arange(2), rng) for _ in range(4)]
        assert {part.objective for part in parts} == {whole.objective}
        assert len({part.inputs.tokens.numpy().tobytes() for part in parts}) > 1 or whole.objective != "mlm"


def test_each_objective_has_a_curve_of_its_own(source: Source, build: Build, tmp_path: Path) -> None:
    task = task_of(source, objectives=EVERY)
    recipe = Recipe(steps=60, learning_rate=1e-3, batch_tokens=120, dropout=0.0)

    def run(last: int, checkpoint: Path | None, handover: Path | None = None) -> dict[str, list[tuple[int, float]]]:
        model, _ = build("pretraining")
        state = train(model, task, recipe, seed=0, last_step=last, checkpoint=checkpoint, handover=handover)
        assert set(state.parts) <= {"mlm", "mrc", "mrc_kl", "mrfr", "itm"}
        steps = {step for curve in state.parts.values() for step, _ in curve}
        assert steps == {step for step, _ in state.curve}
        return state.parts

    whole = run(60, None)
    assert set(whole) == {"mlm", "mrc", "mrc_kl", "mrfr", "itm"}
    path = tmp_path / "checkpoint.safetensors"
    run(31, None, handover=path)
    assert run(60, path) == whole


def test_pre_training_goes_on_with_its_heads(source: Source, build: Build) -> None:
    pretrained = {name: value + 1 for name, value in build("pretraining")[0].head.state_dict().items()}
    model, _ = build("pretraining")
    task_of(source, objectives=EVERY).adopt(model.head, pretrained | {"vqa_output.0.weight": torch.zeros(3)})
    assert all(torch.equal(value, pretrained[name]) for name, value in model.head.state_dict().items())


def test_a_head_that_is_needed_and_not_there_is_named(source: Source, build: Build) -> None:
    model, _ = build("pretraining")
    state = model.head.state_dict()
    lacking = {name: value for name, value in state.items() if not name.startswith("feat_regress.")}
    task_of(source, objectives=Objectives()).adopt(model.head, lacking)  # nobody asks for it
    with pytest.raises(UserError, match=r"no head for the objective mrfr .* found nothing; start from weights"):
        task_of(source, objectives=EVERY).adopt(model.head, lacking)
    with pytest.raises(UserError, match=r"no head for the objective mrc_kl .* region_classifier"):
        task_of(source).adopt(model.head, state | {"region_classifier.net.3.bias": torch.zeros(7)})


@torch.no_grad()
def test_validation_scores_every_objective(source: Source, build: Build) -> None:
    model, _ = build("pretraining")
    found = task_of(source, objectives=EVERY).evaluate(model.eval(), "test").metrics
    names = ["mlm_accuracy", "mrfr_error", "mrc_accuracy", "itm_accuracy", "transport/matched", "transport/mismatched"]
    assert list(found) == names
    assert all(value >= 0 for value in found.values())
    assert list(task_of(source, objectives=Objectives()).evaluate(model, "test").metrics) == [
        "mlm_accuracy",
        "mrc_accuracy",
        "itm_accuracy",
    ]


@torch.no_grad()
def test_matching_is_told_by_what_is_false_in_the_wrong_caption(source: Source, build: Build) -> None:
    model, _ = build("pretraining")
    task, captions = task_of(source, foils=0.5), source.captions("test")
    kinds = np.array(captions.foil_kinds)
    found = task.evaluate(model.eval(), "test").metrics
    for kind in set(kinds.tolist()):
        right = []
        for row in np.flatnonzero(kinds == kind):
            for texts, match in ((captions.texts, 1), (captions.foils, 0)):
                inputs = assemble(texts, np.array([row]), captions.regions, captions.images[[row]])
                right.append(int(model.head.itm_output(model.backbone(inputs).pooled).argmax(-1)) == match)
        assert found[f"itm_accuracy/{kind}"] == pytest.approx(np.mean(right))
    assert {name for name in found if name.startswith("itm_accuracy/")} == {f"itm_accuracy/{kind}" for kind in kinds}
    assert not any(
        "itm_accuracy/" in name for name in task_of(source).evaluate(model, "test").metrics
    )  # trained without foils


@pytest.fixture
def corpora(tmp_path: Path) -> Source:
    """A small world's captions as COCO, and its pictures again as Visual Genome's, all with the same phrase."""
    folder = tmp_path / "world"
    write_vocabulary(folder)
    for split in ("train", "dev"):
        write_captions(folder, split, seed=1, scenes=60)
    regions = read_regions(folder / "captions" / "regions_train")
    entries = []
    genome = folder / "visual_genome"
    with RegionWriter(genome / "regions_all", width=regions.width, classes=regions.classes) as writer:
        for number in range(1, 61):
            rows = (
                regions.features.row(number - 1),
                regions.boxes.row(number - 1),
                regions.soft_labels.row(number - 1),
            )
            features, boxes, labels = (values.float().numpy() for values in rows)
            writer.add(f"vg_{number}.npz", features, boxes[:, :4], labels)
            phrases = [{"region_id": number, "image_id": number, "phrase": "a big red ball"}]
            entries.append({"id": number, "regions": phrases})
    (genome / "region_descriptions.json").write_text(json.dumps(entries))
    return open_folder(folder)


def test_a_step_is_of_one_corpus_and_all_are_learnt_from(corpora: Source, tmp_path: Path) -> None:
    spec = Pretraining(data=DATA, split="dev", objectives=EVERY, corpora=Corpora(coco=1.0, vg=2.0))
    task = PretrainingTask(spec, corpora)
    groups = task.lengths()
    assert isinstance(groups, Groups)
    phrase = task.corpora("train")["vg"].texts
    assert {tuple(phrase.row(row).tolist()) for row in range(len(phrase))} == {tuple(phrase.row(0).tolist())}
    found = {"coco": 0, "vg": 0}
    plan = batch_plan(groups, tokens=200, task="pretraining", seed=0)
    for step in range(60):
        batch = task.batch(plan(step), stream("test", step))
        if batch.objective in ("mrfr", "mrc"):
            rows = {tuple(row[row != 0].tolist()) for row in batch.inputs.tokens}
            found["vg" if rows == {tuple(phrase.row(0).tolist())} else "coco"] += 1
    assert found["coco"] > 0
    assert found["vg"] > found["coco"]
    model = model_of(task, corpora, tmp_path)
    train(model, task, Recipe(steps=6, learning_rate=1e-3, accumulation=2), seed=0)
    assert 0 <= evaluate(model, task, "dev").metrics["itm_accuracy"] <= 1


def model_of(task: PretrainingTask, source: Source, folder: Path) -> Model:
    """A toy model with fresh weights."""
    backbone = build_backbone(TOY, vocabulary=len(source.vocabulary), region_width=task.region_width(), dropout=0.0)
    model = Model(backbone, task.head(TOY.hidden, 0.0))
    node = Train(backbone=TOY, task=task.spec, start=Fresh(), recipe=Recipe(steps=1, learning_rate=1e-3))
    initialise(model, task, node, Store(folder / "no-store"))
    return model


def test_an_objective_without_labels_is_refused_before_training(corpora: Source, tmp_path: Path) -> None:
    where = corpora.folder / "visual_genome" / "regions_all"
    whole = read_regions(where)
    shutil.rmtree(where)
    with RegionWriter(where, width=whole.width, classes=0) as writer:
        for row, name in enumerate(whole.names):
            features, boxes = (values.row(row).float().numpy() for values in (whole.features, whole.boxes))
            writer.add(name, features, boxes[:, :4], np.zeros((len(features), 0), dtype=np.float32))
    lacking = Pretraining(data=DATA, split="dev", corpora=Corpora(coco=1.0, vg=2.0))
    with pytest.raises(UserError, match=r"mrc_kl needs the detector's soft labels, but the regions of the corpus vg"):
        PretrainingTask(lacking, corpora).lengths()
    without = Objectives(mlm=1.0, mrc_kl=0.0, itm=1.0)
    task = PretrainingTask(lacking.model_copy(update={"objectives": without}), corpora)
    assert isinstance(task.lengths(), Groups)
    found = evaluate(model_of(task, corpora, tmp_path), task, "dev").metrics
    assert "mrc_accuracy" in found  # of the corpus that has labels


def test_regions_of_another_shape_than_the_scored_ones_are_refused_before_training(corpora: Source) -> None:
    where = corpora.folder / "captions" / "regions_train"
    whole = read_regions(where)
    shutil.rmtree(where)
    with RegionWriter(where, width=whole.width - 1, classes=whole.classes) as writer:
        for row, name in enumerate(whole.names):
            rows = (whole.features.row(row)[:, 1:], whole.boxes.row(row)[:, :4], whole.soft_labels.row(row))
            writer.add(name, *(values.float().numpy() for values in rows))
    with pytest.raises(UserError, match="take the features of one detector"):
        PretrainingTask(Pretraining(data=DATA, split="dev"), corpora).lengths()


def test_pre_training_starts_from_bert_s_head_of_words_alone(source: Source, build: Build) -> None:
    model, _ = build("pretraining")
    words = {name: value + 1 for name, value in model.head.state_dict().items() if name.startswith("cls.")}
    fresh = {name: value.clone() for name, value in model.head.state_dict().items()}
    task_of(source, objectives=EVERY).adopt(model.head, words)
    for name, value in model.head.state_dict().items():
        assert torch.equal(value, words.get(name, fresh[name]))
