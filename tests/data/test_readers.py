"""Readers take the public formats, and say file, record and field where one is broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vltickets.data import (
    RegionWriter,
    Source,
    Vocabulary,
    open_folder,
    open_source,
    register_folder,
    soft_targets,
)
from vltickets.data.captions import read_coco_captions, read_flickr8k
from vltickets.data.nlvr2 import read_nlvr2
from vltickets.data.regions import geometry
from vltickets.data.vocabulary import SPECIALS
from vltickets.data.vqa import read_answers, read_vqa
from vltickets.errors import UserError
from vltickets.specs import Folder, World
from vltickets.store import Store

QUESTIONS = "vqa/v2_OpenEnded_mscoco_test_questions.json"
ANNOTATIONS = "vqa/v2_mscoco_test_annotations.json"
Change = Callable[[Any], object]


@pytest.fixture
def folder(small_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_world, tmp_path / "world"))


def read(folder: Path, part: str, split: str = "test") -> Any:
    source = open_folder(folder)
    if part == "vqa":
        return source.vqa(split, source.answers())
    return source.nlvr2(split) if part == "nlvr2" else source.captions(split)


def edit(path: Path, change: Change) -> None:
    """Change a JSON file's value, or the list of a JSON-lines file's records, in place."""
    if path.parent.name == "nlvr2":
        records = [json.loads(line) for line in path.read_text().splitlines()]
        change(records)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))


class Break:
    """One broken record, and what the sentence about it must say."""

    def __init__(self, path: str, change: Change, *says: str) -> None:
        self.path, self.change, self.says = path, change, says


CAPTIONS = "captions/captions_test.json"
PAIRS = "nlvr2/test.json"
BREAKS = {
    "questions missing": Break(QUESTIONS, lambda v: v.pop("questions"), "_questions.json", "'questions' is missing"),
    "questions no list": Break(QUESTIONS, lambda v: v.update(questions={}), "_questions.json", "expected list"),
    "a question that is no object": Break(
        QUESTIONS, lambda v: v["questions"].__setitem__(4, "x"), "question 4", "'question_id'", "found str"
    ),
    "no question text": Break(QUESTIONS, lambda v: v["questions"][4].pop("question"), "question 4", "'question'"),
    "a question that is a number": Break(
        QUESTIONS, lambda v: v["questions"][4].update(question=7), "question 4", "'question' is 7", "expected str"
    ),
    "an image as text": Break(
        QUESTIONS, lambda v: v["questions"][4].update(image_id="7"), "question 4", "'image_id' is '7'", "expected int"
    ),
    "an image without regions": Break(
        QUESTIONS,
        lambda v: v["questions"][4].update(image_id=10**6),
        "regions_test has no regions of image 'coco_test_000001000000.npz'",
        "question 4",
    ),
    "a question without annotation": Break(
        ANNOTATIONS, lambda v: v["annotations"].pop(4), "_annotations.json: no annotation of question_id", "question 4"
    ),
    "an annotation without answers": Break(
        ANNOTATIONS, lambda v: v["annotations"][4].pop("answers"), "annotation 4", "'answers' is missing"
    ),
    "an answer without text": Break(
        ANNOTATIONS, lambda v: v["annotations"][4]["answers"][2].pop("answer"), "annotation 4, answer 2", "'answer'"
    ),
    "labels with a gap": Break("vqa/ans2label.json", lambda v: v.update(zebra=10**6), "ans2label.json", "from 0 up"),
    "a caption that is missing": Break(
        CAPTIONS, lambda v: v["annotations"][5].pop("caption"), "annotation 5", "'caption'"
    ),
    "a caption without its foil": Break(
        CAPTIONS, lambda v: v["annotations"][5].pop("foil"), "119 of 120", "all or none"
    ),
    "a caption of no image": Break(
        CAPTIONS, lambda v: v["annotations"][5].update(image_id=10**6), "has no regions", "annotation 5"
    ),
    "an identifier of another form": Break(
        PAIRS,
        lambda v: v[3].update(identifier="test-3-0"),
        "test.json, line 4",
        "'test-3-0'",
        "split-set-pair-sentence",
    ),
    "a label that is neither": Break(
        PAIRS, lambda v: v[3].update(label="Maybe"), "line 4", "'label' is 'Maybe'", "'True' or 'False'"
    ),
    "a label that is a truth value": Break(PAIRS, lambda v: v[3].update(label=True), "line 4", "'label' is True"),
    "no sentence": Break(PAIRS, lambda v: v[3].pop("sentence"), "line 4", "'sentence' is missing"),
    "a pair without regions": Break(
        PAIRS, lambda v: v[3].update(identifier="test-99999-0-0"), "nlvr2_test-99999-0-img0.npz", "line 4"
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_record_is_named_by_file_record_and_field(folder: Path, name: str) -> None:
    broken = BREAKS[name]
    edit(folder / broken.path, broken.change)
    with pytest.raises(UserError) as caught:
        read(folder, broken.path.partition("/")[0])
    for part in broken.says:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [QUESTIONS, ANNOTATIONS, CAPTIONS, PAIRS])
@pytest.mark.parametrize(("content", "says"), [(b"{", "not valid JSON"), (b'{"\xff"', "not "), (None, "no such file")])
def test_a_file_that_is_broken_or_missing_is_named(folder: Path, path: str, content: bytes | None, says: str) -> None:
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content)
    with pytest.raises(UserError, match=f"{Path(path).name}.*{says}"):
        read(folder, path.partition("/")[0])


# What is read is what is in the files


def test_soft_scores_are_the_official_ones(folder: Path) -> None:
    given = [["no"] * n + ["yes"] * (10 - n) for n in (0, 1, 2, 3, 4, 5)] + [["nobody says so"] * 10]

    def change(value: Any) -> None:
        for annotation, answers in zip(value["annotations"], given, strict=False):
            annotation["answers"] = [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers, 1)]

    edit(folder / ANNOTATIONS, change)
    data = read(folder, "vqa")
    place = open_folder(folder).answers().index("no")
    assert data.scores[:6, place].tolist() == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])
    assert data.scores[0].sum() == 1
    assert not data.scores[6].any()


def leave_one_out(answers: list[str], answer: str) -> float:
    """The official metric, from its definition: the mean over annotators of min(1, others who agree / 3)."""
    return float(np.mean([min(1, (answers[:n] + answers[n + 1 :]).count(answer) / 3) for n in range(10)]))


def test_soft_scores_are_the_metric_s_definition(folder: Path) -> None:
    data, answers = read(folder, "vqa"), open_folder(folder).answers()
    for number, item in enumerate(json.loads((folder / ANNOTATIONS).read_text())["annotations"]):
        said = [answer["answer"] for answer in item["answers"]]
        for answer in set(said) & set(answers):
            assert data.scores[number, answers.index(answer)] == pytest.approx(leave_one_out(said, answer))


def test_questions_keep_the_order_of_their_file_whatever_that_of_the_annotations(folder: Path) -> None:
    before = read(folder, "vqa")
    edit(folder / ANNOTATIONS, lambda value: value["annotations"].reverse())
    after = read(folder, "vqa")
    assert after.ids == before.ids
    assert np.array_equal(after.scores, before.scores)
    assert after.kinds == before.kinds


def test_each_text_has_the_regions_of_its_image(source: Source, small_world: Path) -> None:
    data = source.captions("test")
    items = json.loads((small_world / CAPTIONS).read_text())["annotations"]
    names = [data.regions.names[image] for image in data.images]
    assert names == [f"coco_test_{item['image_id']:012d}.npz" for item in items]
    pairs = source.nlvr2("test")
    for identifier, (left, right) in zip(pairs.identifiers, pairs.images, strict=True):
        stem = identifier.rpartition("-")[0]
        assert pairs.regions.names[left] == f"nlvr2_{stem}-img0.npz"
        assert pairs.regions.names[right] == f"nlvr2_{stem}-img1.npz"
    lines = [json.loads(line) for line in (small_world / PAIRS).read_text().splitlines()]
    assert pairs.labels.tolist() == [int(line["label"] == "True") for line in lines]


def test_geometry_is_corners_sides_and_area() -> None:
    seven = geometry(torch.tensor([[0.125, 0.25, 0.375, 0.75]]))
    assert seven.tolist() == [[0.125, 0.25, 0.375, 0.75, 0.25, 0.5, 0.125]]


def test_soft_targets_sum_to_one_where_there_is_a_region(source: Source) -> None:
    regions = source.captions("test").regions
    targets = soft_targets(regions, np.arange(8))
    present = regions.soft_labels.padded(np.arange(8))[1]
    assert np.allclose(targets.sum(-1)[present], 1, atol=1e-5)
    assert not targets[~present].any()


# Where data comes from


def test_a_folder_is_known_by_its_bytes_wherever_it_lies(small_world: Path, folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    here, there = register_folder(small_world, store), register_folder(folder, store)
    assert here == there
    assert np.array_equal(open_source(there, store).nlvr2("test").labels, read(folder, "nlvr2").labels)
    edit(folder / PAIRS, lambda records: records.pop())
    assert register_folder(folder, store) != here


def test_bytes_are_read_again_where_size_or_time_changed(small_world: Path, folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    before = register_folder(folder, store)
    file, state = folder / PAIRS, (folder / PAIRS).stat()
    file.write_bytes(b" " * state.st_size)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert register_folder(folder, store) == before
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert register_folder(folder, store) != before


def test_data_that_is_not_known_here_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"fingerprint 0123456789.* is not known here; name it with --data"):
        open_source(Folder(layout="official", fingerprint="0123456789"), store)
    with pytest.raises(UserError, match="world's generator 99"):
        open_source(World(generator=99), store)


def test_the_world_is_made_where_it_is_missing_and_only_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    source = open_source(World(generator=1, seed=5, examples=20, heldout=12), store)
    assert (len(source.nlvr2("train").labels), len(source.nlvr2("dev").labels)) == (20, 12)
    files = {path: path.stat().st_mtime_ns for path in source.folder.rglob("*")}
    open_source.cache_clear()
    again = open_source(World(generator=1, seed=5, examples=20, heldout=12), store)
    assert again.nlvr2("train").identifiers == source.nlvr2("train").identifiers
    assert {path: path.stat().st_mtime_ns for path in source.folder.rglob("*")} == files


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: (path / "photos").mkdir(parents=True)]
)
def test_a_folder_of_no_known_layout_is_named(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "mine")
    with pytest.raises(UserError, match=r"mine.*(no such folder|has neither flickr8k)"):
        open_folder(tmp_path / "mine")


# The public samples


def made_up_regions(path: Path, names: list[str]) -> None:
    box = np.array([[0, 0, 1, 1]], dtype=np.float32)
    with RegionWriter(path, width=4, classes=3) as writer:
        for name in names:
            writer.add(name, np.zeros((1, 4)), box, np.ones((1, 3)))


def vocabulary_of(texts: list[str]) -> Vocabulary:
    words = sorted({word.lower() for text in texts for word in text.replace("?", " ?").replace(".", " .").split()})
    return Vocabulary([*SPECIALS, *words])


@pytest.mark.shared
def test_official_vqa_files_are_read(shared: Path, tmp_path: Path) -> None:
    samples = shared / "data" / "formats" / "vqav2"
    shutil.copy(samples / "questions.json", tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json")
    shutil.copy(samples / "annotations.json", tmp_path / "v2_mscoco_train2014_annotations.json")
    items = json.loads((samples / "questions.json").read_text())["questions"]
    images = sorted({item["image_id"] for item in items})
    made_up_regions(tmp_path / "regions_train2014", [f"coco_train2014_{n:012d}.npz" for n in images])
    answers = read_answers(samples / "ans2label.json")
    vocabulary = vocabulary_of([item["question"] for item in items])
    data = read_vqa(tmp_path, "train2014", vocabulary, answers, 60)
    assert (len(data.ids), data.scores.shape) == (3, (3, 3129))
    assert answers[data.scores[0].argmax()] == "net"
    said = json.loads((samples / "annotations.json").read_text())["annotations"][0]["answers"]
    assert data.scores[0].max() == pytest.approx(leave_one_out([item["answer"] for item in said], "net"))
    assert vocabulary.unk not in data.texts.values


@pytest.mark.shared
def test_official_nlvr2_files_are_read(shared: Path, tmp_path: Path) -> None:
    sample = shared / "data" / "formats" / "nlvr2" / "dev_sample.json"
    shutil.copy(sample, tmp_path / "dev.json")
    lines = [json.loads(line) for line in sample.read_text().splitlines()]
    stems = sorted({line["identifier"].rpartition("-")[0] for line in lines})
    made_up_regions(tmp_path / "regions_dev", [f"nlvr2_{stem}-img{n}.npz" for stem in stems for n in (0, 1)])
    data = read_nlvr2(tmp_path, "dev", vocabulary_of([line["sentence"] for line in lines]), 60)
    assert data.identifiers == [line["identifier"] for line in lines]
    assert data.labels.tolist() == [int(line["label"] == "True") for line in lines]
    assert len(data.identifiers) == 48


@pytest.mark.shared
def test_official_coco_captions_are_read(shared: Path, tmp_path: Path) -> None:
    sample = next((shared / "data" / "coco_mini").glob("captions_val*.json"))
    shutil.copy(sample, tmp_path / "captions_val2017.json")
    items = json.loads(sample.read_text())["annotations"]
    names = [f"coco_val2017_{n:012d}.npz" for n in sorted({item["image_id"] for item in items})]
    made_up_regions(tmp_path / "regions_val2017", names)
    data = read_coco_captions(tmp_path, "val2017", vocabulary_of([item["caption"] for item in items]), 60)
    assert data.foils is None
    assert [data.regions.names[image] for image in data.images] == [
        f"coco_val2017_{item['image_id']:012d}.npz" for item in items
    ]


@pytest.mark.shared
def test_the_flickr8k_packing_is_read(shared: Path) -> None:
    data = read_flickr8k(shared / "data", "dev", Vocabulary([*SPECIALS, "a", "dog"]), 60)
    assert len(np.unique(data.images)) == 1000
    assert np.bincount(data.images).tolist() == [5] * 1000
    assert (data.regions.width, data.regions.classes) == (256, 81)
    counts = data.regions.features.lengths
    assert (counts.min() >= 7, counts.max() <= 16) == (True, True)
    assert len(data.regions.names) == 1000
    boxes = geometry(data.regions.boxes.values)
    assert (boxes[:, :4].min() >= 0, boxes[:, :4].max() <= 1, boxes[:, 4:6].min() > 0) == (True, True, True)
    # Class 0 is the background, and the detector mostly sees something else.
    targets = soft_targets(data.regions, np.arange(1000))
    present = data.regions.features.padded(np.arange(1000))[1]
    assert np.allclose(targets[present].sum(-1), 1, atol=1e-3)
    raw = background_share(shared)
    assert float(targets[present][:, 0].mean()) == pytest.approx(raw, abs=0.01)


def background_share(shared: Path) -> float:
    """The mean share of the last column of the file, which its README calls the background."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(shared / "data" / "features" / "flickr8k" / "dev.parquet", columns=["soft_labels"])
    labels = np.frombuffer(b"".join(table["soft_labels"].to_pylist()), dtype=np.uint8).reshape(-1, 81).astype(float)
    return float((labels[:, -1] / labels.sum(1)).mean())


def test_a_folder_that_changed_since_it_was_registered_is_refused(small_world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(small_world, folder)
    store = Store(tmp_path / "store")
    spec = register_folder(folder, store)
    assert open_source(spec, store).folder == folder
    open_source.cache_clear()
    with (folder / "vqa" / "ans2label.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="changed since this study was planned"):
        open_source(spec, store)
