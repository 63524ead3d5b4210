"""LXMERT's own pre-training: every loss as officially, all of one batch; its answer head starts VQA's and GQA's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vltickets.backbones import build_backbone
from vltickets.backbones.checkpoints import TRUNK, lxmert_name, read_checkpoint, write_import
from vltickets.data import Inputs, RegionWriter, Source, open_folder, open_source, read_regions, stream
from vltickets.errors import UserError
from vltickets.scenes import CLASS_COLORS, write_captions, write_vocabulary
from vltickets.specs import (
    SIZES,
    Fresh,
    Gqa,
    Imported,
    Lxmert,
    LxmertObjectives,
    LxmertPretraining,
    Pretraining,
    Recipe,
    Shuffled,
    TaskSpec,
    Train,
    Trained,
    Vqa,
    World,
    parse,
)
from vltickets.store import Store
from vltickets.studies.config import Pretrain, Stage
from vltickets.studies.loading import load_study
from vltickets.studies.work import run_node
from vltickets.tasks import Model, build_task
from vltickets.tasks.answer_transfer import normalised
from vltickets.tasks.lxmert_pretraining import LxmertBatch, LxmertPretrainingTask
from vltickets.tasks.masking import NOT_MASKED, mask_features, other_sentences
from vltickets.tickets import initialise
from vltickets.training import evaluate, train

transformers = pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
WORLD = World(generator=1, seed=3, scenes=40, examples=60, heldout=30)
TOY = Lxmert(language_layers=1, object_layers=1, cross_layers=1, hidden=16, heads=2, intermediate=32, positions=64)
OBJECTIVES = ("mlm", "itm", "objects", "attributes", "features", "qa")
COLORS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    store.prepare()
    return store


@pytest.fixture(scope="module")
def source(store: Store) -> Source:
    return open_source(WORLD, store)


def spec_of(**options: object) -> LxmertPretraining:
    return LxmertPretraining(data=WORLD, split="dev", **options)  # type: ignore[arg-type]


def node_of(spec: TaskSpec, *, steps: int = 3, **fields: object) -> Train:
    recipe = Recipe(steps=steps, learning_rate=2e-3, batch_tokens=600, dropout=0.0)
    return Train(**{"backbone": TOY, "task": spec, "start": Fresh(), "recipe": recipe, **fields})  # type: ignore[arg-type]


def built(spec: LxmertPretraining, source: Source, store: Store) -> tuple[Model, LxmertPretrainingTask]:
    task = build_task(spec, source, TOY)
    assert isinstance(task, LxmertPretrainingTask)
    words, width = len(source.vocabulary), task.region_width()
    backbone = build_backbone(TOY, vocabulary=words, region_width=width, dropout=0.0)
    model = Model(backbone, task.head(TOY.hidden, 0.0))
    initialise(model, task, node_of(spec), store)
    return model, task


def batch_of(task: LxmertPretrainingTask, kind: str, count: int = 16, seed: int = 0) -> LxmertBatch:
    return task._batch(kind, task.sentences("train")[kind], np.arange(count), stream("test", kind, seed))


def library_model(source: Source, answers: int) -> torch.nn.Module:
    """Transformers' model with the official heads, of the toy size and for the world's data."""
    torch.manual_seed(0)
    config = transformers.LxmertConfig(
        vocab_size=len(source.vocabulary),
        hidden_size=TOY.hidden,
        num_attention_heads=TOY.heads,
        intermediate_size=TOY.intermediate,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=TOY.positions,
        l_layers=TOY.language_layers,
        r_layers=TOY.object_layers,
        x_layers=TOY.cross_layers,
        visual_feat_dim=48,
        num_object_labels=120,
        num_attr_labels=COLORS,
        num_qa_labels=answers,
        visual_loss_normalizer=1 / 0.15,
        initializer_range=0.3,
    )
    model: torch.nn.Module = transformers.LxmertForPreTraining(config).eval()
    return model


def test_the_sum_of_all_losses_is_that_of_the_library_s_model(source: Source, store: Store) -> None:
    model, task = built(spec_of(), source, store)
    library = library_model(source, len(task.answers))
    official = {lxmert_name(name): value for name, value in library.state_dict().items()}
    heads = {name: value for name, value in official.items() if not name.startswith(TRUNK)}
    heads = {name: value for name, value in heads.items() if not name.startswith("cls.predictions.decoder.")}
    assert heads.keys() == model.head.state_dict().keys()  # the official names, all of them
    model.head.load_state_dict(heads)
    model.backbone.load_state_dict({n: v for n, v in official.items() if n.startswith(TRUNK)})  # type: ignore[attr-defined]
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, len(source.vocabulary), (3, 7), generator=draw)
    words = torch.where(torch.rand(3, 7, generator=draw) < 0.4, tokens, NOT_MASKED)
    features, corners = torch.randn(3, 4, 48, generator=draw), torch.rand(3, 4, 7, generator=draw)
    there = torch.ones(3, 4, dtype=torch.bool)
    batch = LxmertBatch(
        objective="vqa",
        inputs=Inputs(tokens, torch.ones(3, 7, dtype=torch.bool), features, corners, there, there.long()),
        words=words,
        match=torch.tensor([1, 0, 1]),
        features=torch.randn(3, 4, 48, generator=draw),
        hidden=torch.rand(3, 4, generator=draw) < 0.5,
        classes=torch.softmax(3 * torch.randn(3, 4, 121, generator=draw), -1),
        answers=torch.tensor([2, -1, 4]),
    )
    objects, attributes = (task.region_labels(name, batch.classes) for name in ("objects", "attributes"))
    with torch.no_grad():
        expected = library(
            input_ids=tokens,
            visual_feats=features,
            visual_pos=corners[..., :4],
            labels=words.masked_fill(words == NOT_MASKED, -100),
            obj_labels={"obj": objects, "attr": attributes, "feat": (batch.features, batch.hidden.float())},
            matched_label=batch.match,
            ans=batch.answers.masked_fill(batch.answers < 0, -100),
        ).loss
        torch.testing.assert_close(task.loss(model.eval(), batch), expected, rtol=1e-5, atol=1e-5)
        padded = torch.cat([there, torch.zeros(3, 2, dtype=torch.bool)], dim=1)
        more = {name: F.pad(getattr(batch, name), (0, 0, 0, 2), value=1.0) for name in ("features", "classes")}
        seen = replace(
            batch.inputs,
            features=F.pad(features, (0, 0, 0, 2), value=9.0),
            boxes=F.pad(corners, (0, 0, 0, 2)),
            region_mask=padded,
            region_types=padded.long(),
        )
        longer = replace(batch, inputs=seen, hidden=F.pad(batch.hidden, (0, 2)), **more)
        torch.testing.assert_close(task.loss(model, longer), expected, rtol=1e-5, atol=1e-5)  # padding counts nowhere


def test_weights_weigh_and_zero_leaves_out(source: Source, store: Store) -> None:
    model, task = built(spec_of(), source, store)
    batch = batch_of(task, "vqa")
    losses = task.losses(model.eval(), batch)
    assert set(losses) == set(OBJECTIVES)
    other = LxmertPretrainingTask(spec_of(objectives=LxmertObjectives(mlm=0.5, features=0.0)), source)
    expected = sum(losses.values()) - 0.5 * losses["mlm"] - losses["features"]
    torch.testing.assert_close(other.loss(model, batch), expected)


def test_labels_of_a_region_by_hand(source: Source) -> None:
    task = LxmertPretrainingTask(spec_of(), source)
    classes = torch.zeros(1, 2, 121)
    red = [place for place, color in enumerate(CLASS_COLORS) if color == 0]
    blue = next(place for place, color in enumerate(CLASS_COLORS) if color == 2)
    classes[0, 0, 0], classes[0, 0, blue] = 0.1, 0.4  # the likeliest class is blue, most of the mass is red
    classes[0, 0, red[0]], classes[0, 0, red[5]] = 0.3, 0.2
    classes[0, 1, 0] = 1.0  # background alone: nothing is asked
    labels, confidence = task.region_labels("objects", classes)
    assert labels[0, 0] == blue - 1
    assert confidence[0].tolist() == pytest.approx([0.4, 0.0])
    labels, confidence = task.region_labels("attributes", classes)
    assert labels[0, 0] == 0
    assert confidence[0].tolist() == pytest.approx([0.5, 0.0])


def test_the_attribute_of_a_world_s_class_is_its_color(source: Source) -> None:
    # Shape, color, size, material in this order, the last one fastest: class 1 is a big red wooden cube.
    assert CLASS_COLORS[:6] == (-1, 0, 0, 0, 0, 1)
    assert [CLASS_COLORS.count(color) for color in range(COLORS)] == [20] * COLORS


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_is_learnt(objective: str, source: Source, store: Store) -> None:
    only = LxmertObjectives(**{name: float(name == objective) for name in OBJECTIVES})
    model, task = built(spec_of(objectives=only), source, store)
    batches = [batch_of(task, kind, seed=seed) for kind in ("captions", "vqa") for seed in range(2)]

    def value() -> float:
        with torch.no_grad():
            found = [task.losses(model.eval(), batch) for batch in batches]
        assert all(losses.keys() <= {objective} for losses in found)
        return float(np.mean([float(losses[objective]) for losses in found if losses]))

    before = value()
    train(model, task, Recipe(steps=40, learning_rate=3e-3, batch_tokens=600, dropout=0.0, clip=1.0), seed=0)
    assert value() < before - 0.01


def test_one_step_asks_everything_at_once(source: Source, store: Store) -> None:
    model, task = built(spec_of(), source, store)
    task.loss(model, batch_of(task, "gqa")).backward()
    lacking = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    # Its row 0, the only type of word there is, is a padding index in the official class and never learns.
    assert lacking == {"backbone.embeddings.token_type_embeddings.weight"}


def test_swapped_sentences_are_of_another_image_and_are_asked_no_answer(source: Source) -> None:
    task = LxmertPretrainingTask(spec_of(), source)
    data = task.sentences("train")["vqa"]
    batch = batch_of(task, "vqa", count=60)
    match = batch.match.numpy() == 1
    assert 15 < match.sum() < 45
    assert (batch.answers.numpy()[~match] == -1).all()
    asked = batch.answers.numpy()[match]
    assert (asked >= 0).mean() > 0.9
    assert data.scores is not None
    labels = source.answers("vqa")
    for row, answer in zip(np.flatnonzero(match), asked, strict=True):
        allowed = {normalised(labels[label]) for label in np.flatnonzero(data.scores[row])}
        assert answer == -1 or normalised(task.answers[answer]) in allowed
    rows = other_sentences(stream("swap"), np.arange(60), data.captions.images)
    assert (data.captions.images[rows] != data.captions.images[:60]).all()
    assert (other_sentences(stream("swap"), np.arange(3), np.zeros(3, dtype=np.int64)) < 3).all()  # no other: it ends


def test_foils_stand_beside_their_captions_and_their_words_are_not_asked(source: Source) -> None:
    task = LxmertPretrainingTask(spec_of(foils=1.0), source)
    batch = batch_of(task, "captions", count=20)
    assert batch.match.tolist() == [1] * 10 + [0] * 10
    assert torch.equal(batch.features[:10], batch.features[10:])
    assert (batch.words[:10] != NOT_MASKED).any(dim=1).all()
    assert (batch.words[10:] == NOT_MASKED).all()
    mask = source.vocabulary.mask
    assert (batch.inputs.tokens[10:] == mask).any()  # hidden all the same: [MASK] must not tell a foil


def test_hidden_regions_become_zero_another_s_or_stay(source: Source) -> None:
    pool = source.captions("train").regions
    features, there = pool.features.padded(np.arange(40), torch.float32)
    share, counts = 0.5, np.zeros(3)
    known = {tuple(row.tolist()) for row in pool.features.values}  # type: ignore[attr-defined]
    chosen = 0
    for turn in range(30):
        out, hidden = mask_features(features, there, stream("mask", turn), share, pool)
        assert not (hidden & ~there).any()
        assert torch.equal(out[~hidden], features[~hidden])
        zero = (out[hidden] == 0).all(-1)
        same = (out[hidden] == features[hidden]).all(-1)
        other = ~zero & ~same
        assert all(tuple(row.half().tolist()) in known for row in out[hidden][other])
        counts += [int(zero.sum()), int(other.sum()), int(same.sum())]
        chosen += int(hidden.sum())
    assert chosen / (30 * int(there.sum())) == pytest.approx(share, abs=0.03)
    assert counts / counts.sum() == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


@torch.no_grad()
def test_every_objective_is_scored(source: Source, store: Store) -> None:
    model, task = built(spec_of(foils=0.5), source, store)
    found = evaluate(model, task, "dev")
    assert found.headline == "itm_accuracy"
    names = ["mlm_accuracy", "features_error", "objects_accuracy", "attributes_accuracy", "qa_accuracy", "itm_accuracy"]
    assert [name for name in found.metrics if "/" not in name] == names
    assert all(np.isfinite(value) and value >= 0 for value in found.metrics.values())
    without = LxmertPretrainingTask(spec_of(questions=(), objectives=LxmertObjectives(itm=0.0)), source)
    assert "answer_head" not in dict(without.head(16, 0.0).named_children())
    assert without.labels() == {}
    assert (batch_of(without, "captions").match == 1).all()


@pytest.fixture(scope="module")
def pretrained(source: Source, store: Store) -> Train:
    words = node_of(Pretraining(data=WORLD, split="dev", text_only=True), steps=2)
    both = node_of(spec_of(foils=0.5), start=Trained(train=words))
    run_node(words, store)
    run_node(both, store)
    return both


@pytest.mark.parametrize(("kind", "shuffled"), [(Vqa, False), (Gqa, False), (Vqa, True)])
def test_a_task_starts_from_the_answer_head_by_text(
    kind: type[Vqa] | type[Gqa], shuffled: bool, pretrained: Train, source: Source, store: Store
) -> None:
    start = Trained(train=pretrained)
    node = node_of(kind(data=WORLD), start=Shuffled(start=start) if shuffled else start, until=0)
    run_node(node, store)
    old, new = store.weights(pretrained.digest), store.weights(node.digest)
    table = store.labels(pretrained.digest)["answers"].split("\n")
    wanted = source.answers(kind.model_fields["kind"].default)
    rows = [list(map(normalised, table)).index(normalised(answer)) for answer in wanted]
    assert rows != list(range(len(rows))) or kind is Vqa
    for part in ("weight", "bias"):
        last = f"logit_fc.3.{part}"
        assert np.array_equal(new[f"head.{last}"], old[f"head.answer_head.{last}"][rows])
        assert np.array_equal(new[f"head.logit_fc.0.{part}"], old[f"head.answer_head.logit_fc.0.{part}"])
    assert store.record(node.digest).metrics["answers_transferred"] == len(wanted)


def test_pre_training_goes_on_with_all_its_heads(pretrained: Train, store: Store) -> None:
    again = node_of(spec_of(foils=0.5), start=Trained(train=pretrained), until=0)
    run_node(again, store)
    old, new = store.weights(pretrained.digest), store.weights(again.digest)
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_a_start_without_answers_leaves_the_head_fresh(source: Source, store: Store) -> None:
    without = node_of(spec_of(questions=()))
    run_node(without, store)
    heads = []
    for start in (Trained(train=without), Fresh()):
        node = node_of(Vqa(data=WORLD), start=start, until=0)
        run_node(node, store)
        assert "answers_transferred" not in store.record(node.digest).metrics
        heads.append({name: value for name, value in store.weights(node.digest).items() if name.startswith("head.")})
    assert all(np.array_equal(value, heads[1][name]) for name, value in heads[0].items())


def test_an_official_answer_head_starts_vqa_where_its_table_is_named(
    source: Source, store: Store, tmp_path: Path
) -> None:
    wanted = source.answers("vqa")
    listed = ["nothing like it", f"The {wanted[2]}.", wanted[0]]
    (tmp_path / "all_ans.json").write_text(json.dumps([{"ans": answer, "dsets": ["vqa"]} for answer in listed]))
    library = library_model(source, len(listed))
    torch.save({n.replace("lxmert.", "bert."): v for n, v in library.state_dict().items()}, tmp_path / "x.pth")
    for answers, known in ((tmp_path / "all_ans.json", 2), (None, 0)):
        made = read_checkpoint(tmp_path / "x.pth", TOY, answers=answers)
        out = tmp_path / f"{known}.safetensors"
        write_import(made, out, source="x.pth")
        node = node_of(Vqa(data=WORLD), start=Imported(name="x", sha256=store.put_imported(out)), until=0)
        run_node(node, store)
        assert store.record(node.digest).metrics.get("answers_transferred", 0) == known
        rows = store.weights(node.digest)["head.logit_fc.3.weight"]
        if known:
            table = library.state_dict()["answer_head.logit_fc.3.weight"].numpy()
            assert np.array_equal(rows[[2, 0]], table[[1, 2]])
            assert not np.delete(rows, [2, 0], axis=0).any()  # unknown answers: 0, as officially
        else:
            assert rows.any(axis=1).all()  # fresh


def test_a_table_that_does_not_fit_the_answer_head_is_refused(source: Source, tmp_path: Path) -> None:
    state = {n.replace("lxmert.", "bert."): v for n, v in library_model(source, 4).state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    (tmp_path / "few.json").write_text('["yes", "no"]')
    with pytest.raises(UserError, match=r"few\.json has 2 answers, the answer head of .*x\.pth 4 rows"):
        read_checkpoint(tmp_path / "x.pth", TOY, answers=tmp_path / "few.json")
    torch.save({n: v for n, v in state.items() if not n.startswith("answer_head.")}, tmp_path / "y.pth")
    with pytest.raises(UserError, match=r"y\.pth has no answer head"):
        read_checkpoint(tmp_path / "y.pth", TOY, answers=tmp_path / "few.json")
    (tmp_path / "odd.json").write_text('[{"ans": "yes"}, {"answer": "no"}]')
    with pytest.raises(UserError, match=r"odd\.json, answer 1: the field 'ans' is missing"):
        read_checkpoint(tmp_path / "x.pth", TOY, answers=tmp_path / "odd.json")


def test_heads_of_another_detector_are_named(source: Source, store: Store) -> None:
    model, task = built(spec_of(), source, store)
    state = model.head.state_dict()
    other = state | {"obj_predict_head.decoder_dict.obj.weight": torch.zeros(7, 16)}
    with pytest.raises(UserError, match=r"no head for the objective objects .* found \(7, 16\)"):
        task.adopt(model.head, other)
    without = LxmertPretrainingTask(spec_of(objectives=LxmertObjectives(objects=0.0)), source)
    without.adopt(model.head, other)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_regions_without_labels_are_refused_before_training(split: str, tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    for name in ("train", "dev"):
        write_captions(tmp_path, name, seed=1, scenes=20)
    where = tmp_path / "captions" / f"regions_{split}"
    whole = read_regions(where)
    shutil.rmtree(where)
    with RegionWriter(where, width=whole.width, classes=0) as writer:
        for row, image in enumerate(whole.names):
            features, boxes = (values.row(row).float().numpy() for values in (whole.features, whole.boxes))
            writer.add(image, features, boxes[:, :4], np.zeros((len(features), 0), dtype=np.float32))
    source = replace(open_folder(tmp_path), class_attributes=CLASS_COLORS)
    with pytest.raises(UserError, match=rf"objective objects needs the detector's soft labels.*regions_{split}"):
        LxmertPretrainingTask(spec_of(questions=()), source).lengths()
    words = LxmertObjectives(objects=0.0, attributes=0.0)
    LxmertPretrainingTask(spec_of(questions=(), objectives=words), source).lengths()


def test_what_does_not_fit_is_one_sentence(source: Source, store: Store) -> None:
    with pytest.raises(UserError, match="is for an LXMERT, and the backbone is a uniter"):
        build_task(spec_of(), source, SIZES["tiny"])
    source.captions("train")
    folder = open_folder(source.folder)
    with pytest.raises(UserError, match=r"have no attributes.*set attributes = 0\.0"):
        build_task(spec_of(), folder, TOY)
    build_task(spec_of(objectives=LxmertObjectives(attributes=0.0)), folder, TOY)
    with pytest.raises(UserError, match="at least one objective"):
        parse(LxmertObjectives, dict.fromkeys(OBJECTIVES, 0.0), "x")
    with pytest.raises(UserError, match="none twice"):
        parse(LxmertPretraining, {"data": WORLD, "questions": ["vqa", "vqa"]}, "x")
    training = {"steps": 2, "learning_rate": 1e-3}
    with pytest.raises(UserError, match="need a table `lxmert`"):
        parse(Stage, {"training": training, "questions": ["vqa"]}, "x")
    stage = {"training": training, "lxmert": {}}
    with pytest.raises(UserError, match="hides words alone"):
        parse(Pretrain, {"text": stage, "vision_language": {"training": training}}, "x")
    with pytest.raises(UserError, match="is for an LXMERT, and backbone = 'tiny'"):
        load_study("lxmert-world", ('backbone="tiny"',))
