"""What the readers' tests share: made-up records, regions of named images, UNITER's text databases.

The one place that knows how a store is written.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lmdb
import lz4.frame
import msgpack
import numpy as np
import pytest

from vltickets.data import RegionWriter, Vocabulary
from vltickets.data.vocabulary import SPECIALS

WriteRegions = Callable[[Path, str, Mapping[str, int]], None]


def _write_regions(folder: Path, name: str, images: Mapping[str, int]) -> None:
    """Write `regions_NAME` of a task's folder: each image with so many regions, of 4 numbers and 3 classes."""
    shutil.rmtree(folder / f"regions_{name}", ignore_errors=True)
    with RegionWriter(folder / f"regions_{name}", width=4, classes=3) as writer:
        for image, count in images.items():
            box = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (count, 1))
            writer.add(image, np.zeros((count, 4), np.float16), box, np.ones((count, 3), np.float16), None)


@pytest.fixture(scope="session")
def write_regions() -> WriteRegions:
    """The function (task's folder, NAME, {image: number of regions}) that writes `regions_NAME`."""
    return _write_regions


def _write_database(
    path: Path, vocabulary: Vocabulary, examples: Mapping[str, tuple[dict[str, Any], Any]], **values: bytes
) -> None:
    """Write a text database of examples, id -> (fields, image or pair); `values` replaces an example's stored bytes."""
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 22) as database, database.begin(write=True) as writing:
        for identity, (record, _) in examples.items():
            packed = lz4.frame.compress(msgpack.packb(record, use_bin_type=True))
            writing.put(identity.encode(), values.get(identity, packed))
    meta = {"CLS": vocabulary.cls, "SEP": vocabulary.sep, "MASK": vocabulary.mask, "UNK": vocabulary.unk}
    _json(path / "meta.json", meta | {"v_range": [5, len(vocabulary)], "bert": "bert-base-cased"})
    _json(path / "txt2img.json", {identity: image for identity, (_, image) in examples.items()})
    _json(path / "id2len.json", dict.fromkeys(examples, 3))


@pytest.fixture(scope="session")
def write_database() -> Callable[..., None]:
    """The function (path, vocabulary, examples, bytes that replace an example's) that writes a text database."""
    return _write_database


WORDS = ("a", "b", "c", "?", ".", "dog", "cat", "man", "person", "car", "red", "two", "yes", "no")
WORDS += ("what", "is", "on", "the", "left")


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _json_lines(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _vqa(folder: Path) -> None:
    """Four questions of train2014 and four of val2014, and one image of Visual Genome with two."""
    _json(folder / "ans2label.json", {"yes": 0, "no": 1, "2": 2, "red": 3})
    images = {}
    for start, split in ((0, "train2014"), (10, "val2014")):
        said = [["yes"] * 10, ["Two"] * 3 + ["no"] * 7, ["the red."] * 2 + ["blue"] * 8, ["zebra"] * 10]
        numbers = range(start, start + len(said))
        questions = [{"image_id": n % 3, "question": "what is on the left ?", "question_id": n} for n in numbers]
        answers = [
            {
                "question_id": n,
                "image_id": n % 3,
                "question_type": "what",
                "answer_type": "other",
                "multiple_choice_answer": given[0],
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": rank}
                    for rank, answer in enumerate(given, 1)
                ],
            }
            for n, given in zip(numbers, said, strict=True)
        ]
        _json(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        _json(folder / f"v2_mscoco_{split}_annotations.json", {"annotations": answers})
        images |= {f"coco_{split}_{n:012d}.npz": 2 for n in range(3)}
    for split in ("train", "dev"):
        _write_regions(folder, split, images | {"vg_4.npz": 2})


def _gqa(folder: Path) -> None:
    _json(folder / "trainval_label2ans.json", ["yes", "no", "red"])
    for split, first in (("train", 0), ("val", 4), ("testdev", 8)):
        records = {
            f"{first + n:08d}": {
                "imageId": ("n1", "2")[n % 2],
                "question": "is the car red ?",
                "answer": ("yes", "red", "zebra")[n],
                "fullAnswer": "yes .",
                "types": {"structural": ("verify", "query", "query")[n], "semantic": "attr"},
            }
            for n in range(3)
        }
        _json(folder / f"{split}_balanced_questions.json", records)
    for split in ("train", "testdev"):
        _write_regions(folder, split, {"vg_n1.npz": 2, "vg_2.npz": 3})


def _vcr(folder: Path) -> None:
    records = [
        {
            "annot_id": f"val-{n}",
            "img_id": f"val-{n}",
            "metadata_fn": f"movie/{n}.json",
            "objects": ["person", "person", "car"],
            "question": ["is", [0, 2], "on", "the", "left", "?"],
            "answer_choices": [["yes"], ["no", "."], [[1], "is"], ["two"]],
            "answer_label": n,
            "rationale_choices": [["a", [2], "is", "red"], ["b"], ["c"], ["dog"]],
            "rationale_label": 3 - n,
        }
        for n in range(2)
    ]
    _json_lines(folder / "val.jsonl", records)
    _json(folder / "vcr1images" / "movie" / "0.json", {"boxes": [[0, 0, 1, 1, 0.5]] * 3})
    _write_regions(folder, "gt_val", {f"vcr_gt_val_{n}.npz": 3 for n in range(2)})
    _write_regions(folder, "det_val", {f"vcr_val_{n}.npz": 4 for n in range(2)})


def _snli_ve(folder: Path) -> None:
    labels = ("contradiction", "entailment", "neutral", "-")
    records: list[dict[str, object]] = [
        {
            "pairID": f"{n}.jpg#0r1c",
            "gold_label": label,
            "sentence1": "a man .",
            "sentence2": "a dog is on the car .",
            **({"Flickr30K_ID": str(n)} if n % 2 else {"Flikr30kID": f"{n}.jpg"}),
        }
        for n, label in enumerate(labels)
    ]
    _json_lines(folder / "snli_ve_dev.jsonl", records)
    _write_regions(folder, "dev", {f"flickr30k_{n:012d}.npz": 2 for n in range(4)})


def _refcoco(folder: Path) -> None:
    refs = [
        {
            "ref_id": n,
            "ann_id": 100 + n,
            "image_id": 7,
            "category_id": 1,
            "split": ("train", "val", "testA")[n],
            "file_name": "COCO_train2014_000000000007_0.jpg",
            "sent_ids": [2 * n, 2 * n + 1],
            "sentences": [
                {"sent_id": 2 * n + k, "sent": "man on the left", "raw": "man", "tokens": ["man"]} for k in range(2)
            ],
        }
        for n in range(3)
    ]
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    boxes = [{"id": 100 + n, "image_id": 7, "bbox": [10.5 * n, 2, 20, 30], "category_id": 1} for n in range(3)]
    _json(
        folder / "instances.json",
        {"images": [{"id": 7, "width": 640, "height": 480}], "annotations": boxes, "categories": []},
    )
    _json(folder / "iid_to_ann_ids.json", {"7": [102, 100, 101]})
    _write_regions(folder, "gt_all", {"visual_grounding_coco_gt_000000000007.npz": 3})
    _write_regions(folder, "det_all", {"visual_grounding_det_coco_000000000007.npz": 5})


def _flickr30k(folder: Path) -> None:
    images = [
        {
            "filename": f"{n}.jpg",
            "imgid": n,
            "split": ("train", "val", "test")[n % 3],
            "sentids": [2 * n, 2 * n + 1],
            "sentences": [{"raw": raw, "tokens": [], "sentid": 0, "imgid": n} for raw in ("a dog .", "the cat .")],
        }
        for n in range(6)
    ]
    _json(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    _write_regions(folder, "all", {f"flickr30k_{n:012d}.npz": 2 for n in range(6)})


def _nlvr2(folder: Path) -> None:
    records: list[dict[str, object]] = [
        {"identifier": f"test1-{n}-0-1", "sentence": "two dog on the left .", "label": ("True", "False")[n]}
        for n in range(2)
    ]
    _json_lines(folder / "test1.json", records)
    images = {f"nlvr2_test1-{n}-0-img{side}.npz": 2 for n in range(2) for side in (0, 1)}
    _write_regions(folder, "test1", images)


def _captions(folder: Path) -> None:
    items = [{"id": n, "image_id": n // 2, "caption": "a red car ."} for n in range(4)]
    _json(folder / "captions_val2017.json", {"annotations": items})
    _write_regions(folder, "dev", {f"coco_val2017_{n:012d}.npz": 2 for n in range(2)})


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder with a few made-up records of every task in its public files, under their official names."""
    folder = tmp_path / "official"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]) + "\n")
    for task, write in {
        "vqa": _vqa, "gqa": _gqa, "vcr": _vcr, "snli_ve": _snli_ve, "refcoco": _refcoco, "flickr30k": _flickr30k,
        "nlvr2": _nlvr2, "captions": _captions,
    }.items():  # fmt: skip
        write(folder / task)
    return folder
