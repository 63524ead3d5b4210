"""Every task's public files are read as they are downloaded, and what is wrong in them is named."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.data import Ragged, Source, Vocabulary, open_folder
from vltickets.data.answers import normal_answer
from vltickets.data.gqa import gqa_files
from vltickets.data.snli_ve import read_snli_ve
from vltickets.data.vcr import read_vcr
from vltickets.data.vocabulary import SPECIALS
from vltickets.data.vqa import read_answers, read_vqa
from vltickets.errors import UserError

WriteRegions = Callable[[Path, str, dict[str, int]], None]


@pytest.fixture
def source(official: Path) -> Source:
    return open_folder(official)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the value of a JSON file, a JSON-lines file's list of records, or a pickle's value."""
    if path.suffix == ".p":
        value = pickle.loads(path.read_bytes())
        change(value)
        path.write_bytes(pickle.dumps(value))
    elif path.suffix == ".jsonl":
        value = [json.loads(line) for line in path.read_text().splitlines()]
        change(value)
        path.write_text("".join(json.dumps(record) + "\n" for record in value))
    else:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))


def words(source: Source, texts: Ragged, row: int) -> str:
    return " ".join(source.vocabulary.words[number] for number in texts.row(row))


# VQA


def test_vqa_train_is_train2014_and_leaves_out_what_has_no_known_answer(source: Source) -> None:
    answers = source.answers()
    train, dev = source.vqa("train", answers), source.vqa("dev", answers)
    assert (train.ids, train.left_out) == ([0, 1, 2], 1)
    assert (dev.ids, dev.left_out) == ([10, 11, 12, 13], 0)
    # "Two" is 2 and "the red." is red in the official normal form; three and two annotators say so.
    expected = [[1, 0, 0, 0], [0, 1, 0.9, 0], [0, 0, 0, 0.6], [0, 0, 0, 0]]
    assert dev.scores.tolist() == [pytest.approx(row) for row in expected]
    assert dev.regions.names[dev.images[0]] == "coco_val2014_000000000001.npz"
    assert words(source, dev.texts, 0) == "[CLS] what is on the left ? [SEP]"


def test_vqa_with_a_mini_dev_trains_on_the_rest_of_val2014(source: Source) -> None:
    (source.folder / "vqa" / "minidev.json").write_text("[11, 13]")
    answers = source.answers()
    assert source.vqa("dev", answers).ids == [11, 13]
    assert source.vqa("train", answers).ids == [0, 1, 2, 10, 12]
    (source.folder / "vqa" / "minidev.json").write_text("[11, 99]")
    with pytest.raises(UserError, match=r"minidev.json: question 99 is not in .*val2014_questions.json"):
        source.vqa("dev", answers)
    (source.folder / "vqa" / "minidev.json").write_text('["11"]')
    with pytest.raises(UserError, match=r"minidev.json: expected a list of question ids"):
        source.vqa("train", answers)


def test_vqa_trains_on_visual_genome_too(source: Source) -> None:
    questions = [
        {"qa_id": 90, "image_id": 4, "question": "what is red ?", "answer": "The red."},
        {"qa_id": 91, "image_id": 4, "question": "what is red ?", "answer": "Sailboats."},
    ]
    (source.folder / "vqa" / "question_answers.json").write_text(json.dumps([{"id": 4, "qas": questions}]))
    data = source.vqa("train", source.answers())
    assert (data.ids, data.left_out) == ([0, 1, 2, 90], 2)
    assert data.scores[-1].tolist() == [0, 0, 0, 1]
    assert data.regions.names[data.images[-1]] == "vg_4.npz"


def test_vqa_test_has_no_answers_and_says_so(source: Source) -> None:
    (source.folder / "vqa" / "v2_OpenEnded_mscoco_test2015_questions.json").write_text('{"questions": []}')
    with pytest.raises(UserError, match=r"answers of test2015 were never published"):
        source.vqa("test", source.answers())


def test_vqa_in_lxmert_s_form(source: Source) -> None:
    folder = source.folder / "vqa"
    for path in folder.glob("v2_*.json"):
        path.unlink()
    item = {
        "question_id": 5,
        "img_id": "COCO_train2014_000000000001",
        "sent": "what is on ?",
        "label": {"no": 0.6, "x": 1},
    }
    (folder / "train.json").write_text(json.dumps([item, item | {"label": {"x": 1}}]))
    data = source.vqa("train", source.answers())
    assert (data.ids, data.left_out) == ([5], 1)
    assert data.scores[0].tolist() == pytest.approx([0, 0.6, 0, 0])
    assert data.regions.names[data.images[0]] == "coco_train2014_000000000001.npz"


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("Yes", "yes"),
        (" the  Red\n", "red"),
        ("Two", "2"),
        ("none", "0"),
        ("1,000", "1000"),
        ("blue, green", "blue green"),
        ("t-shirt", "t shirt"),
        ("U.S.", "us"),
        ("2.5", "2.5"),
        ("dont", "don't"),
        ("youve a dog", "you've dog"),
        ("somebody'd", "somebodyd"),
        ("oclock!", "o'clock"),
        ("an", ""),
    ],
)
def test_answers_are_normal_as_in_the_official_evaluation(given: str, normal: str) -> None:
    assert normal_answer(given) == normal


@pytest.mark.shared
def test_uniter_s_answers_are_in_their_normal_form(shared: Path) -> None:
    answers = read_answers(shared / "data" / "formats" / "vqav2" / "ans2label.json")
    assert [answer for answer in answers if normal_answer(answer) != answer] == []
    assert sorted(answers) == sorted(read_answers(shared / "data" / "formats" / "vqav2" / "trainval_label2ans.json"))


# GQA


def test_gqa_trains_on_train_and_val_and_is_scored_on_testdev(source: Source) -> None:
    answers = source.answers("gqa")
    assert answers == ["yes", "no", "red"]
    train, dev = source.gqa("train", answers), source.gqa("dev", answers)
    assert (train.ids, train.left_out) == ([0, 1, 4, 5], 2)
    assert train.scores.tolist() == [[1, 0, 0], [0, 0, 1]] * 2
    assert (dev.ids, dev.kinds) == ([8, 9, 10], ["verify", "query", "query"])
    assert dev.scores.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert source.gqa("test", answers).ids == dev.ids
    assert [dev.regions.names[image] for image in dev.images] == ["vg_n1.npz", "vg_2.npz", "vg_n1.npz"]


def test_gqa_in_parts_is_read_in_order(source: Source) -> None:
    folder = source.folder / "gqa"
    whole = json.loads((folder / "train_balanced_questions.json").read_text())
    parts = folder / "train_all_questions"
    parts.mkdir()
    for number, (identity, item) in zip((0, 2, 10), whole.items(), strict=True):
        (parts / f"train_all_questions_{number}.json").write_text(json.dumps({identity: item}))
    for name in ("train", "val"):
        (folder / f"{name}_balanced_questions.json").unlink()
    assert [path.stem[-2:] for path in gqa_files(folder, "train")] == ["_0", "_2", "10"]
    assert source.gqa("train", source.answers("gqa")).ids == [0, 1]


# VCR


def test_vcr_is_read_with_object_names_for_object_tags(source: Source) -> None:
    data = source.vcr("dev")
    assert data.ids == ["val-0", "val-1"]
    assert (len(data.questions), len(data.answers), len(data.rationales)) == (2, 8, 8)
    assert words(source, data.questions, 0) == "is person car on the left ?"
    assert words(source, data.answers, 4 + 2) == "person is"
    assert words(source, data.rationales, 0) == "a car is red"
    assert (data.answer_labels.tolist(), data.rationale_labels.tolist()) == ([0, 1], [3, 2])
    assert data.objects.features.lengths[data.object_images].tolist() == [3, 3]
    assert data.detected.names[data.detected_images[1]] == "vcr_val_1.npz"


VCR_BREAKS = {
    "no label": (lambda v: v[0].pop("answer_label"), r"line 1: no field 'answer_label': a test split without labels"),
    "a label of five": (
        lambda v: v[1].update(answer_label=4),
        r"line 2: the field 'answer_label' is 4, expected 0 to 3",
    ),
    "three answers": (lambda v: v[1]["answer_choices"].pop(), r"line 2: the field 'answer_choices' has 3 entries"),
    "an object too far": (lambda v: v[0]["question"].append([3]), r"line 1.*'question' names the object 3 of 3"),
    "an object that is a name": (lambda v: v[0]["question"].append(["x"]), r"names the object 'x' of 3"),
    "an empty choice": (lambda v: v[0]["answer_choices"].__setitem__(2, []), r"'answer_choices', choice 2 is \[\]"),
    "objects fewer than regions": (lambda v: v[1]["objects"].append("car"), r"has 4 entries, but .* has 3 regions"),
    "objects fewer than boxes": (lambda v: v[0]["objects"].append("car"), r"0.json: 3 boxes, but .* has 4 objects"),
}


@pytest.mark.parametrize("name", VCR_BREAKS)
def test_a_broken_vcr_record_is_named(source: Source, name: str) -> None:
    change, says = VCR_BREAKS[name]
    edit(source.folder / "vcr" / "val.jsonl", change)
    with pytest.raises(UserError, match=says):
        source.vcr("dev")


# SNLI-VE


def test_snli_ve_takes_both_spellings_and_skips_pairs_without_a_label(source: Source) -> None:
    data = source.entailment("dev")
    assert data.scores.tolist() == np.eye(3).tolist()
    assert data.kinds == ["contradiction", "entailment", "neutral"]
    assert [data.regions.names[image] for image in data.images] == [f"flickr30k_{n:012d}.npz" for n in range(3)]
    assert words(source, data.texts, 0) == "[CLS] a dog is on the car . [SEP]"


def test_snli_ve_keeps_to_a_list_of_photos_where_there_is_one(source: Source) -> None:
    (source.folder / "snli_ve" / "flickr30k_val.lst").write_text("2\n0\n")
    assert source.entailment("dev").ids == ["0.jpg#0r1c", "2.jpg#0r1c"]


# RefCOCO+


@pytest.mark.parametrize(("split", "target"), [("train", 1), ("dev", 2), ("test", 0)])
def test_refcoco_s_target_is_the_annotation_s_place_in_the_features(source: Source, split: str, target: int) -> None:
    data = source.expressions(split, "true")
    number = ("train", "dev", "test").index(split)
    assert data.ids == [2 * number, 2 * number + 1]
    assert data.targets.tolist() == [target, target]
    assert data.boxes.tolist() == [[10.5 * number, 2, 20, 30]] * 2
    assert data.sizes.tolist() == [[640, 480]] * 2
    assert words(source, data.texts, 1) == "[CLS] man on the left [SEP]"


def test_refcoco_with_detected_boxes_has_no_target(source: Source) -> None:
    data = source.expressions("dev", "detected")
    assert data.targets.tolist() == [-1, -1]
    assert data.regions.features.lengths[data.images].tolist() == [5, 5]
    with pytest.raises(UserError, match=r"unknown kind of boxes 'gt' \(allowed: detected, true\)"):
        source.expressions("dev", "gt")


def test_refcoco_needs_the_order_of_the_annotations(source: Source) -> None:
    folder = source.folder / "refcoco"
    edit(folder / "iid_to_ann_ids.json", lambda value: value["7"].pop())
    with pytest.raises(UserError, match=r"reference 1, image 7: 2 annotations, but 3 regions"):
        source.expressions("dev", "true")
    (folder / "iid_to_ann_ids.json").unlink()
    with pytest.raises(
        UserError, match=r"iid_to_ann_ids.json: no such file; without it .* the 3 annotations of image 7"
    ):
        source.expressions("dev", "true")
    assert source.expressions("dev", "detected").ids == [2, 3]


# Retrieval, NLVR2, captions


def test_karpathy_s_splits_are_told_apart(source: Source) -> None:
    data = source.retrieval("dev")
    assert [data.regions.names[image] for image in data.images] == [f"flickr30k_{n:012d}.npz" for n in (1, 1, 4, 4)]
    assert data.foils is None
    assert words(source, data.texts, 1) == "[CLS] the cat . [SEP]"
    edit(
        source.folder / "flickr30k" / "dataset_flickr30k.json",
        lambda value: value["images"][1]["sentences"][1].update(raw=" "),
    )
    with pytest.raises(UserError, match=r"dataset_flickr30k.json, image 1, sentence 1: the field 'raw' is empty"):
        source.retrieval("dev")


def test_official_names_of_splits_are_found(source: Source) -> None:
    assert source.nlvr2("test").labels.tolist() == [1, 0]
    assert source.nlvr2("test").regions.names[0] == "nlvr2_test1-0-0-img0.npz"
    captions = source.captions("dev")
    assert captions.regions.names[captions.images[3]] == "coco_val2017_000000000001.npz"


# The public samples


def vocabulary_of(texts: list[str]) -> Vocabulary:
    found = sorted({word.lower() for text in texts for word in text.replace("?", " ?").replace(".", " .").split()})
    return Vocabulary([*SPECIALS, *found])


@pytest.mark.shared
def test_the_public_samples_are_read(shared: Path, tmp_path: Path, write_regions: WriteRegions) -> None:
    samples = shared / "data" / "formats"
    only = vocabulary_of(["a", "."])

    folder = tmp_path / "gqa"
    images = {"vg_n578564.npz": 1, "vg_n166008.npz": 1, "vg_2407890.npz": 1, "vg_n199680.npz": 1}
    write_regions(folder, "train", images)
    shutil.copytree(samples / "gqa" / "question_dir", folder / "train_all_questions")
    shutil.copy(samples / "gqa" / "trainval_label2ans.json", folder)
    (tmp_path / "vocab.txt").write_text(only.text())
    source = open_folder(tmp_path)
    answers = source.answers("gqa")
    assert len(answers) == 1842
    parts = [json.loads(path.read_text()) for path in sorted((samples / "gqa" / "question_dir").iterdir())]
    write_regions(folder, "train", {f"vg_{item['imageId']}.npz": 1 for part in parts for item in part.values()})
    data = source.gqa("train", answers)
    assert [answers[row.argmax()] for row in data.scores] == [i["answer"] for part in parts for i in part.values()]

    folder = tmp_path / "vcr"
    write_regions(folder, "gt_train", {"vcr_gt_train_0.npz": 4, "vcr_gt_val_0.npz": 6})
    write_regions(folder, "det_train", {"vcr_train_0.npz": 9, "vcr_val_0.npz": 9})
    shutil.copy(samples / "vcr" / "sample.jsonl", folder / "train.jsonl")
    shutil.copytree(samples / "vcr" / "metadata", folder / "vcr1images")
    choices = read_vcr(folder, "train", only, 60)
    assert (choices.answer_labels.tolist(), choices.rationale_labels.tolist()) == ([1, 2], [1, 3])
    assert choices.objects.features.lengths[choices.object_images].tolist() == [4, 6]

    for name, count in (("sample_data", 5), ("sample_pairs", 16)):
        folder = tmp_path / name
        text = (samples / "snli_ve" / f"{name}.jsonl").read_text()
        records = [json.loads(line) for line in text.splitlines()]
        ids = {int((r.get("Flickr30K_ID") or r["Flikr30kID"]).removesuffix(".jpg")) for r in records}
        write_regions(folder, "dev", {f"flickr30k_{number:012d}.npz": 1 for number in ids})
        (folder / "snli_ve_dev.jsonl").write_text(text)
        pairs = read_snli_ve(folder, "dev", only, 60)
        assert pairs.kinds == [record["gold_label"] for record in records]
        assert len(pairs.ids) == count


@pytest.mark.shared
def test_the_public_sample_of_visual_genome_is_read(shared: Path, source: Source, write_regions: WriteRegions) -> None:
    sample = shared / "data" / "formats" / "visual_genome" / "question_answers.json"
    shutil.copy(sample, source.folder / "vqa" / "question_answers.json")
    said = [item["answer"] for image in json.loads(sample.read_text()) for item in image["qas"]]
    answers = ["purple", "glass"]
    images = {f"vg_{image['id']}.npz": 1 for image in json.loads(sample.read_text())}
    coco = {f"coco_train2014_{n:012d}.npz": 1 for n in range(3)}
    write_regions(source.folder / "vqa", "train", images | coco)
    data = read_vqa(source.folder / "vqa", "train", source.vocabulary, answers, 60)
    known = [normal_answer(answer) for answer in said if normal_answer(answer) in answers]
    assert len(known) >= 2
    assert [answers[row.argmax()] for row in data.scores] == known
