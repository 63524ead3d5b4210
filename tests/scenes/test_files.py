"""The files' formats, as the readers of the public data sets expect them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.scenes import REGION_CLASSES, REGION_WIDTH, write_captions, write_nlvr2, write_vocabulary, write_vqa
from vltickets.scenes.questions import ANSWERS

FOLDERS = ("captions", "vqa", "nlvr2")


def read_regions(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format"] == "vltickets-regions-2"
    return json.loads((path / "names.json").read_text()), {
        name.removesuffix(".npy"): np.load(path / name) for name in manifest["files"] if name.endswith(".npy")
    }


def written(folder: Path, *, seed: int = 5, split: str = "val") -> dict[str, bytes]:
    write_vocabulary(folder)
    write_captions(folder, split, seed=seed, scenes=40)
    write_vqa(folder, split, seed=seed, questions=40)
    write_nlvr2(folder, split, seed=seed, examples=40)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_call_writes_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a"), written(tmp_path / "b")
    assert first == second
    stores = {str(Path(name).parent) for name in first if "/regions_" in name}
    assert stores == {"captions/regions_val", "nlvr2/regions_val", "vqa/regions_val"}
    assert [name for name in first if "/regions_" not in name] == [
        "captions/captions_val.json",
        "nlvr2/val.json",
        "vocab.txt",
        "vqa/ans2label.json",
        "vqa/v2_OpenEnded_mscoco_val_questions.json",
        "vqa/v2_mscoco_val_annotations.json",
    ]


def test_another_seed_or_split_is_another_world(tmp_path: Path) -> None:
    worlds = [
        written(tmp_path / "a"),
        written(tmp_path / "b", seed=6),
        written(tmp_path / "c", split="test"),
    ]
    firsts = {
        json.loads(world[name])["annotations"][0]["caption"]
        for world in worlds
        for name in world
        if "captions_" in name
    }
    assert len(firsts) == 3


@pytest.mark.parametrize("folder", FOLDERS)
def test_region_files_keep_the_contract(world: Path, folder: str) -> None:
    names, tensors = read_regions(world / folder / "regions_train")
    rows = len(tensors["scores"])
    assert {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()} == {
        "features": ("float16", (rows, REGION_WIDTH)),
        "boxes": ("float32", (rows, 4)),
        "soft_labels": ("float16", (rows, REGION_CLASSES)),
        "scores": ("float16", (rows,)),
        "offsets": ("int64", (len(names) + 1,)),
    }
    sizes = np.diff(tensors["offsets"])
    assert (tensors["offsets"][0], tensors["offsets"][-1]) == (0, rows)
    assert sizes.min() >= 1
    assert sizes.max() == 6
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_regions_have_sound_boxes_and_labels(world: Path, folder: str) -> None:
    _, tensors = read_regions(world / folder / "regions_train")
    boxes, labels = tensors["boxes"], tensors["soft_labels"].astype(np.float32)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert (boxes[:, 2:] - boxes[:, :2]).min() > 0.05
    assert np.allclose(labels.sum(axis=1), 1, atol=0.01)
    assert (labels.argmax(axis=1) > 0).all()
    assert np.abs(tensors["features"]).max() < 2
    assert tensors["scores"].min() > 0.59
    assert tensors["scores"].max() < 1


def test_caption_files_have_coco_s_fields_and_the_names_of_their_regions(world: Path, captions: dict[str, Any]) -> None:
    assert set(captions) == {"info", "images", "annotations"}
    assert all(set(image) == {"id", "file_name", "width", "height"} for image in captions["images"])
    fields = {"id", "image_id", "caption", "foil", "foil_kind"}
    assert all(set(annotation) == fields for annotation in captions["annotations"])
    names, _ = read_regions(world / "captions/regions_train")
    assert names == [f"coco_train_{image['id']:012d}.npz" for image in captions["images"]]
    assert len(captions["annotations"]) == 3 * len(captions["images"]) == 6000


def test_question_files_have_the_official_fields(
    world: Path, questions: dict[str, Any], annotations: dict[str, Any]
) -> None:
    head = {"info", "task_type", "data_type", "data_subtype"}
    assert set(questions) == head | {"questions"}
    assert set(annotations) == head | {"annotations"}
    names, _ = read_regions(world / "vqa/regions_train")
    for question, annotation in zip(questions["questions"], annotations["annotations"], strict=True):
        assert set(question) == {"image_id", "question", "question_id"}
        assert set(annotation) == {
            "question_type", "multiple_choice_answer", "answers", "image_id", "answer_type", "question_id"
        }  # fmt: skip
        assert question["question_id"] == annotation["question_id"]
        assert question["question_id"] // 1000 == question["image_id"] == annotation["image_id"]
        assert question["question"].startswith(annotation["question_type"])
    assert len(questions["questions"]) == 3000
    images = dict.fromkeys(question["image_id"] for question in questions["questions"])
    assert names == [f"coco_train_{image:012d}.npz" for image in images]


def test_ten_people_answer_and_at_least_seven_rightly(annotations: dict[str, Any]) -> None:
    dissent = 0
    for annotation in annotations["annotations"]:
        given = [row["answer"] for row in annotation["answers"]]
        assert [row["answer_id"] for row in annotation["answers"]] == list(range(1, 11))
        assert {row["answer_confidence"] for row in annotation["answers"]} <= {"yes", "maybe"}
        assert given.count(annotation["multiple_choice_answer"]) >= 7
        dissent += given.count(annotation["multiple_choice_answer"]) < 10
    assert dissent > 1000


def test_answer_labels_are_fixed_and_cover_every_true_answer(world: Path, annotations: dict[str, Any]) -> None:
    labels = json.loads((world / "vqa/ans2label.json").read_text())
    assert labels == {answer: index for index, answer in enumerate(sorted(ANSWERS))}
    assert {annotation["multiple_choice_answer"] for annotation in annotations["annotations"]} == set(labels)


def test_pair_files_have_the_official_fields_and_sets(world: Path, pair_examples: list[dict[str, Any]]) -> None:
    names, _ = read_regions(world / "nlvr2/regions_train")
    sentences = defaultdict(set)
    labels = defaultdict(list)
    for example in pair_examples:
        assert set(example) == {
            "validation", "sentence", "left_url", "writer", "label", "right_url", "synset", "query", "identifier",
            "extra_validations",
        }  # fmt: skip
        split, number, pair, sentence = example["identifier"].split("-")
        assert {f"nlvr2_{split}-{number}-{pair}-img{side}.npz" for side in (0, 1)} <= set(names)
        assert example["left_url"].startswith("world://")
        sentences[number, sentence].add(example["sentence"])
        labels[number, sentence].append(example["label"])
    assert len(pair_examples) == 2001 == len({example["identifier"] for example in pair_examples})
    assert all(len(texts) == 1 for texts in sentences.values())
    assert all(sorted(found) == ["False", "False", "True", "True"] for found in list(labels.values())[:-1])


def test_the_vocabulary_holds_every_word_that_is_said(
    world: Path, captions: dict[str, Any], questions: dict[str, Any], pair_examples: list[dict[str, Any]]
) -> None:
    words = (world / "vocab.txt").read_text().splitlines()
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert words[5:] == sorted(set(words[5:]))
    assert len(words) < 100
    said = [row[field] for row in captions["annotations"] for field in ("caption", "foil")]
    said += [row["question"] for row in questions["questions"]] + [row["sentence"] for row in pair_examples]
    assert {word for text in said for word in text.split(" ")} <= set(words)
    assert max(len(text.split(" ")) for text in said) <= 12


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_to_write_is_refused(tmp_path: Path, folder: str) -> None:
    calls = {
        "captions": lambda: write_captions(tmp_path, "val", seed=0, scenes=0),
        "vqa": lambda: write_vqa(tmp_path, "val", seed=0, questions=0),
        "nlvr2": lambda: write_nlvr2(tmp_path, "val", seed=0, examples=0),
    }
    with pytest.raises(ValueError, match="at least 1"):
        calls[folder]()
