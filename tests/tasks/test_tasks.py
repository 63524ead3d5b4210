"""Metrics by hand, candidates and negatives that are what they say, masks that hide what they should and no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vltickets.backbones import Outputs
from vltickets.data import Inputs, Source, open_folder, stream
from vltickets.errors import UserError
from vltickets.specs import Matching, Nlvr2, Objectives, Pretraining, Uniter, Vqa, World
from vltickets.tasks import Evaluation, Model, Task, build_task
from vltickets.tasks.masking import NOT_MASKED, choose, mask_words, other_images
from vltickets.tasks.matching import MatchingTask, candidates
from vltickets.tasks.nlvr2 import Nlvr2Task, consistency
from vltickets.tasks.pretraining import Objective, PretrainingTask
from vltickets.tasks.protocol import evaluation_batches, examples_at_once
from vltickets.tasks.vqa import VqaTask

Build = Callable[..., tuple[Model, Task]]
DATA = World(generator=1)
TOY = Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64)


class Reads(nn.Module):
    """A backbone that hands its inputs on: what a head is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Inputs) -> Outputs:
        mask = torch.cat([inputs.token_mask, inputs.region_mask], 1)
        return Outputs(sequence=mask[..., None].float(), pooled=inputs.tokens.float(), mask=mask, text=1)


class Answers(nn.Module):
    """A head that gives the next rows of a table, in the order in which a split is scored."""

    def __init__(self, table: torch.Tensor, order: np.ndarray) -> None:
        super().__init__()
        self.rows = table[torch.from_numpy(order)]
        self.place = 0

    def forward(self, states: Any) -> torch.Tensor:
        count = len(states.pooled) // 2 if isinstance(states, Outputs) else len(states)
        self.place += count
        return self.rows[self.place - count : self.place]


def scored(task: Task, split: str, table: torch.Tensor, lengths: np.ndarray) -> Evaluation:
    """Evaluate a model that gives item k the answers `table[k]`."""
    order = np.concatenate(list(evaluation_batches(lengths)))
    return task.evaluate(Model(Reads(), Answers(table, order)), split)


# VQA


def test_vqa_s_score_is_the_soft_score_of_the_likeliest_answer(source: Source) -> None:
    task = VqaTask(Vqa(data=DATA), source)
    data = task.questions("test")
    lengths = data.texts.lengths + data.regions.features.lengths[data.images]
    logits = torch.randn(data.scores.shape, generator=torch.Generator().manual_seed(0))
    result = scored(task, "test", logits, lengths)
    by_hand = [data.scores[number, int(logits[number].argmax())] for number in range(len(data.ids))]
    assert result.items.tolist() == pytest.approx(by_hand)
    assert result.score == result.metrics["accuracy"] == pytest.approx(float(np.mean(by_hand)))
    words = task.labels()["answers"].split("\n")
    assert result.answers == [(data.ids[k], words[int(logits[k].argmax())]) for k in range(len(data.ids))]
    for kind in set(data.kinds):
        own = [score for score, other in zip(by_hand, data.kinds, strict=True) if other == kind]
        assert result.metrics[f"accuracy/{kind}"] == pytest.approx(float(np.mean(own)))
    best = scored(task, "test", torch.from_numpy(data.scores), lengths)
    assert best.score == pytest.approx(float(data.scores.max(1).mean()))


def test_vqa_s_tie_goes_to_the_first_answer_and_chance_is_the_best_constant(source: Source) -> None:
    task = VqaTask(Vqa(data=DATA), source)
    data = task.questions("test")
    lengths = data.texts.lengths + data.regions.features.lengths[data.images]
    flat = scored(task, "test", torch.zeros(data.scores.shape), lengths)
    assert flat.items.tolist() == data.scores[:, 0].tolist()
    constant = [
        scored(task, "test", torch.eye(data.scores.shape[1])[answer].expand(data.scores.shape), lengths).score
        for answer in range(data.scores.shape[1])
    ]
    assert task.chance("test") == pytest.approx(max(constant))


def test_the_answers_come_from_the_training_split_or_from_the_model(source: Source) -> None:
    answers = source.answers()
    own = build_task(Vqa(data=DATA), source, TOY)
    assert own.labels() == {"answers": "\n".join(answers)}
    turned = build_task(Vqa(data=DATA), source, TOY, {"answers": "\n".join(answers[::-1])})
    assert isinstance(own, VqaTask)
    assert isinstance(turned, VqaTask)
    assert np.array_equal(turned.questions("test").scores, own.questions("test").scores[:, ::-1])


def test_examples_at_once_are_as_many_as_asked_for_and_each_comes_once() -> None:
    lengths = np.array([5, 9, 2, 7, 7, 30, 1])
    with examples_at_once(3):
        batches = [batch.tolist() for batch in evaluation_batches(lengths, tokens=10)]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert sorted(one for batch in batches for one in batch) == list(range(7))
    assert len(list(evaluation_batches(lengths, tokens=10))) > 3, "the budget of tokens counts again"


# NLVR2


def test_nlvr2_s_accuracy_and_consistency_by_hand(source: Source) -> None:
    task = Nlvr2Task(Nlvr2(data=DATA), source, heads=2)
    data = task.pairs("test")
    lengths = 2 * data.texts.lengths + data.regions.features.lengths[data.images].sum(-1)
    right = np.arange(len(data.labels)) % 3 != 0
    logits = torch.zeros(len(right), 2)
    logits[torch.arange(len(right)), torch.from_numpy(np.where(right, data.labels, 1 - data.labels))] = 1
    result = scored(task, "test", logits, lengths)
    assert result.items.tolist() == right.astype(float).tolist()
    said = [bool(label) == good for label, good in zip(data.labels, right, strict=True)]
    assert result.answers == list(zip(data.identifiers, said, strict=True))
    assert result.metrics["accuracy"] == pytest.approx(right.mean())
    share = data.labels.mean()
    assert task.chance("test") == pytest.approx(max(share, 1 - share))


def test_consistency_counts_sentences_that_are_right_on_all_their_pairs() -> None:
    names = ["dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-2-0-0", "dev-2-1-0"]
    assert consistency(names, np.array([1, 0, 1, 1, 1])) == pytest.approx(2 / 3)
    assert consistency(names, np.array([1, 1, 1, 1, 1])) == 1
    assert consistency(["dev-1-0-0", "test1-1-1-0"], np.array([1, 0])) == 0.5


def test_a_pair_is_two_rows_left_then_right_of_one_text(source: Source) -> None:
    task = Nlvr2Task(Nlvr2(data=DATA), source, heads=2)
    data, examples = task.pairs("train"), np.array([5, 2, 9])
    inputs = task.batch(examples, stream("x")).inputs
    assert torch.equal(inputs.tokens[0::2], inputs.tokens[1::2])
    assert (inputs.region_types[0::2] == 1).all()
    assert (inputs.region_types[1::2] == 2).all()
    for row, example in enumerate(examples):
        for side in (0, 1):
            features = data.regions.features.row(int(data.images[example, side])).float()
            assert torch.equal(inputs.features[2 * row + side, : len(features)], features)


# Matching


def test_candidates_are_fixed_the_right_one_first_and_the_others_of_other_photos(source: Source) -> None:
    data = source.captions("test")
    photos, rows = candidates(data, "test", 20)
    assert rows.shape == (len(np.unique(data.images)), 20)
    assert (data.images[rows[:, 0]] == photos).all()
    assert [int(row) for row in rows[:, 0]] == [int(np.flatnonzero(data.images == photo)[0]) for photo in photos]
    assert (data.images[rows[:, 1:]] != photos[:, None]).all()
    assert np.array_equal(candidates(data, "test", 20)[1], rows)
    assert np.array_equal(candidates(open_folder(source.folder).captions("test"), "test", 20)[1], rows)


def matching_scores(source: Source, table: np.ndarray) -> Evaluation:
    task = MatchingTask(Matching(data=DATA, candidates=8), source)
    data = task.captions("test")
    photos, rows = candidates(data, "test", 8)
    lengths = data.texts.lengths[rows.ravel()] + data.regions.features.lengths[np.repeat(photos, 8)]
    return scored(task, "test", torch.from_numpy(table.astype(np.float32).ravel()), lengths)


def test_matching_s_accuracy_and_reciprocal_rank_by_hand(source: Source) -> None:
    table = stream("test", "scores").random((40, 8))
    ranks = [sorted(row, reverse=True).index(row[0]) + 1 for row in table.tolist()]
    result = matching_scores(source, table)
    assert result.items.tolist() == [float(rank == 1) for rank in ranks]
    photos, rows = candidates(source.captions("test"), "test", 8)
    assert result.answers == [
        (photo, row[int(best)]) for photo, row, best in zip(photos, rows, table.argmax(1), strict=True)
    ]
    assert result.score == pytest.approx(np.mean([rank == 1 for rank in ranks]))
    assert result.metrics["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_constant_scores_count_as_wrong(source: Source) -> None:
    result = matching_scores(source, np.zeros((40, 8)))
    assert result.score == 0
    assert result.metrics["mrr"] == pytest.approx(1 / 8)
    tied = np.zeros((40, 8))
    tied[:, [0, 3]] = 1
    assert matching_scores(source, tied).score == 0


def test_mutant_ties_for_the_model_make_a_constant_look_right(source: Source) -> None:
    table = np.zeros((40, 8))
    assert float(((table[:, 1:] > table[:, :1]).sum(-1) == 0).mean()) == 1 != matching_scores(source, table).score


def check_first_row_is_right(task: MatchingTask, rounds: int = 5) -> None:
    data = task.captions("train")
    photos = np.unique(data.images)
    said = {
        photo: {tuple(data.texts.row(n).tolist()) for n in np.flatnonzero(data.images == photo)}
        for photo in photos.tolist()
    }
    for number in range(rounds):
        examples = stream("test", number).permutation(len(photos))[:10]
        batch = task.batch(examples, stream("draw", number))
        tokens = batch.inputs.tokens.view(10, 1 + task.spec.negatives, -1)
        mask = batch.inputs.token_mask.view(tokens.shape)
        for row, photo in enumerate(photos[examples].tolist()):
            texts = [tuple(tokens[row, n][mask[row, n]].tolist()) for n in range(1 + task.spec.negatives)]
            assert texts[0] in said[photo]
        features = batch.inputs.features.view(10, 1 + task.spec.negatives, *batch.inputs.features.shape[1:])
        assert (features == features[:, :1]).all()


def test_a_training_batch_has_the_right_caption_first(source: Source) -> None:
    check_first_row_is_right(MatchingTask(Matching(data=DATA), source))


def test_captions_need_not_stand_together_in_their_file(small_world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_world, tmp_path / "world"))
    path = folder / "captions" / "captions_train.json"
    value = json.loads(path.read_text())
    order = stream("test", "shuffle").permutation(len(value["annotations"]))  # as in COCO's own files
    value["annotations"] = [value["annotations"][place] for place in order]
    path.write_text(json.dumps(value))
    check_first_row_is_right(MatchingTask(Matching(data=DATA), open_folder(folder)))


def test_the_wrong_captions_of_a_batch_are_of_other_photos(source: Source) -> None:
    task = MatchingTask(Matching(data=DATA, negatives=7), source)
    data = task.captions("train")
    by_text: dict[tuple[int, ...], set[int]] = {}
    for number, image in enumerate(data.images.tolist()):
        by_text.setdefault(tuple(data.texts.row(number).tolist()), set()).add(image)
    batch = task.batch(np.arange(30), stream("draw"))
    photos = np.unique(data.images)
    tokens = batch.inputs.tokens.view(30, 8, -1)
    mask = batch.inputs.token_mask.view(30, 8, -1)
    for row in range(30):
        for wrong in range(1, 8):
            images = by_text[tuple(tokens[row, wrong][mask[row, wrong]].tolist())]
            assert images - {int(photos[row])}


def test_one_photo_alone_can_t_be_matched(small_world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_world, tmp_path / "world"))
    path = folder / "captions" / "captions_train.json"
    value = json.loads(path.read_text())
    value["annotations"] = value["annotations"][:3]
    path.write_text(json.dumps(value))
    task = MatchingTask(Matching(data=DATA), open_folder(folder))
    with pytest.raises(UserError, match="two images at least"):
        task.batch(np.array([0]), stream("x"))


def test_matching_starts_from_the_match_output_of_pre_training(build: Build) -> None:
    model, task = build("matching")
    pretrained = build("pretraining")[0].head.state_dict()
    task.adopt(model.head, pretrained)
    assert torch.equal(model.head.rank_output.weight, pretrained["itm_output.weight"][1:])
    assert torch.equal(model.head.rank_output.bias, pretrained["itm_output.bias"][1:])


# Pre-training


def pretraining(source: Source, **options: Any) -> PretrainingTask:
    return PretrainingTask(Pretraining(data=DATA, **options), source)


def drawn(task: PretrainingTask, objective: Objective, *, number: int = 0, count: int = 24) -> Any:
    data = task.captions("train")
    examples = stream("examples", number).permutation(len(data.texts))[:count]
    return examples, task._batch(objective, data, examples, stream("batch", number))


@given(number=st.integers(0, 40), share=st.sampled_from([0.01, 0.15, 0.9]))
def test_masked_words_are_words_and_at_least_one_a_row(source: Source, number: int, share: float) -> None:
    task = pretraining(source, mask_words=share)
    data, vocabulary = task.captions("train"), source.vocabulary
    examples, batch = drawn(task, "mlm", number=number)
    tokens, token_mask = data.texts.padded(examples)
    asked = batch.words != NOT_MASKED
    specials = torch.tensor([vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask])
    assert asked.any(1).all()
    assert not (asked & ~token_mask).any()
    assert not torch.isin(tokens[asked], specials).any()
    assert torch.equal(batch.words[asked], tokens[asked])
    assert torch.equal(batch.inputs.tokens[~asked], tokens[~asked])
    assert batch.inputs.hidden_regions is None
    features, _ = data.regions.features.padded(data.images[examples])
    assert torch.equal(batch.inputs.features, features.float())


def test_of_the_masked_words_most_are_hidden_some_random_some_kept() -> None:
    tokens = torch.full((50, 400), 7)
    hidden, words = mask_words(tokens, stream("test"), 0.15, 4, np.arange(5, 5005))
    asked = words != NOT_MASKED
    assert float(asked.float().mean()) == pytest.approx(0.15, abs=0.01)
    assert float((hidden[asked] == 4).float().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((hidden[asked] == 7).float().mean()) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("objective", ["mrc", "mrc_kl"])
def test_masked_regions_are_zero_and_the_words_are_whole(source: Source, objective: Objective) -> None:
    task = pretraining(source)
    data = task.captions("train")
    examples, batch = drawn(task, objective)
    hidden = batch.inputs.hidden_regions
    features, present = data.regions.features.padded(data.images[examples])
    assert hidden.any(1).all()
    assert not (hidden & ~present).any()
    assert not batch.inputs.features[hidden].any()
    assert torch.equal(batch.inputs.features[~hidden], features.float()[~hidden])
    assert torch.equal(batch.inputs.tokens, data.texts.padded(examples)[0])
    assert len(batch.classes) == int(hidden.sum())
    assert torch.allclose(batch.classes.sum(-1), torch.tensor(1.0), atol=1e-3)


@given(data=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_a_choice_is_among_the_allowed_and_at_least_one_where_there_is_any(data: list[list[bool]], seed: int) -> None:
    among = torch.tensor(data)
    picked = choose(among, stream("test", seed), 0.15)
    assert not (picked & ~among).any()
    assert torch.equal(picked.any(1), among.any(1))


def test_negatives_of_matching_are_other_images(source: Source) -> None:
    task = pretraining(source, foils=0.0)
    data = task.captions("train")
    matches = []
    for number in range(8):
        examples, batch = drawn(task, "itm", number=number)
        assert torch.equal(batch.inputs.tokens, data.texts.padded(examples)[0])
        for row, match in enumerate(batch.match.tolist()):
            shown = batch.inputs.features[row][batch.inputs.region_mask[row]]
            same = torch.equal(shown, data.regions.features.row(int(data.images[examples[row]])).float())
            assert same == bool(match)
        matches += batch.match.tolist()
    assert 0.35 < np.mean(matches) < 0.65


@given(images=st.lists(st.integers(0, 3), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_another_image_is_another_one(images: list[int], seed: int) -> None:
    pool = np.array([0, 1, 2, 3, 3, 3])
    assert (other_images(stream("test", seed), np.array(images), pool) != np.array(images)).all()
    assert other_images(stream("test"), np.array([5]), np.array([5, 5])).tolist() == [5]  # there is no other


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_caption_and_its_false_wording_stand_in_one_batch(source: Source, share: float) -> None:
    task = pretraining(source, foils=share)
    data = task.captions("train")
    assert data.foils is not None
    foiled = 0
    for number in range(6):
        examples, batch = drawn(task, "itm", number=number)
        half = len(examples) // 2
        assert batch.match.tolist() == [1] * half + [0] * half
        for row in range(half):
            places = (row, row + half)
            true, false = (tuple(batch.inputs.tokens[n][batch.inputs.token_mask[n]].tolist()) for n in places)
            shown = [batch.inputs.features[n][batch.inputs.region_mask[n]] for n in places]
            caption = tuple(data.texts.row(int(examples[row])).tolist())
            foil = tuple(data.foils.row(int(examples[row])).tolist())
            own = data.regions.features.row(int(data.images[examples[row]])).float()
            assert true == caption
            assert torch.equal(shown[0], own)
            if false == foil:  # the image stays, the wording is false
                foiled += 1
                assert torch.equal(shown[1], own)
            else:  # the wording stays, the image is another
                assert false == caption
                assert not torch.equal(shown[1], own)
    assert foiled == 72 if share == 1 else 20 < foiled < 52


def test_a_batch_in_which_nothing_is_hidden_has_no_loss_and_no_nan(build: Build) -> None:
    model, task = build("pretraining")
    assert isinstance(task, PretrainingTask)
    model.train()
    objectives: tuple[Objective, ...] = ("mrc", "mrc_kl", "mlm")
    for objective in objectives:
        _, batch = drawn(task, objective)
        if objective == "mlm":
            batch = batch.__class__(objective, batch.inputs, words=torch.full_like(batch.words, NOT_MASKED))
        else:
            hidden = torch.zeros_like(batch.inputs.hidden_regions)
            inputs = Inputs(**{**vars(batch.inputs), "hidden_regions": hidden})
            batch = batch.__class__(objective, inputs, classes=batch.classes[:0])
        loss = task.loss(model, batch)
        loss.backward()
        assert loss.item() == 0
        assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters() if weight.grad is not None)


def test_objectives_are_drawn_as_often_as_their_shares_say(source: Source) -> None:
    task = pretraining(source, objectives=Objectives(mlm=2.0, mrc=1.0, mrc_kl=0.0, itm=1.0))
    found = [task.batch(np.arange(2), stream("test", step)).objective for step in range(400)]
    assert set(found) == {"mlm", "mrc", "itm"}
    assert found.count("mlm") / 400 == pytest.approx(0.5, abs=0.08)


def test_text_only_pre_training_sees_no_region(build: Build, source: Source) -> None:
    model, _ = build("pretraining")
    task = pretraining(source, text_only=True)
    batch = task.batch(np.arange(6), stream("test"))
    assert (batch.objective, batch.inputs.features.shape[1], batch.inputs.region_mask.shape[1]) == ("mlm", 0, 0)
    assert np.array_equal(task.lengths(), task.captions("train").texts.lengths)
    assert task.loss(model, batch).isfinite()
    assert list(task.evaluate(model.eval(), "test").metrics) == ["mlm_accuracy"]


@torch.no_grad()
def test_evaluations_are_the_same_twice_and_of_every_item(build: Build) -> None:
    for name in ("vqa", "nlvr2", "matching", "pretraining"):
        model, task = build(name)
        first, second = (task.evaluate(model.eval(), "test") for _ in range(2))
        assert first.metrics == second.metrics
        assert np.array_equal(first.items, second.items)
        assert first.score == pytest.approx(float(first.items.mean()))
        no_shares = ("mrfr_error", "transport/matched", "transport/mismatched")
        assert all(0 <= value <= 1 for metric, value in first.metrics.items() if metric not in no_shares)


@pytest.mark.parametrize(
    "spec", [Vqa(data=DATA, blind=True), Nlvr2(data=DATA, blind=True), Matching(data=DATA, blind=True)]
)
def test_a_blind_model_sees_no_features_and_no_boxes(source: Source, spec: Any) -> None:
    inputs = build_task(spec, source, TOY).batch(np.arange(4), stream("x")).inputs
    assert not inputs.features.any()
    assert not inputs.boxes.any()
    assert inputs.region_mask.any()


@pytest.mark.parametrize("name", ["vqa", "nlvr2", "matching", "pretraining"])
def test_lengths_are_the_tokens_of_each_example(build: Build, name: str) -> None:
    _, task = build(name)
    lengths = task.lengths()
    for example in (0, 7, 31):
        inputs = task.batch(np.array([example]), stream("x")).inputs
        if name == "pretraining":
            assert isinstance(task, PretrainingTask)
            inputs = task._batch("mlm", task.captions("train"), np.array([example]), stream("x")).inputs
        tokens = int(inputs.token_mask.sum() + inputs.region_mask.sum())
        if name == "matching":  # counted with the photo's longest caption
            assert abs(tokens - lengths[example]) < 0.5 * tokens
        else:
            assert tokens == lengths[example]


def test_evaluation_batches_have_every_example_once() -> None:
    lengths = stream("test").integers(1, 50, 500)
    batches = list(evaluation_batches(lengths, tokens=300))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert all(lengths[batch].max() * len(batch) <= 300 for batch in batches)
