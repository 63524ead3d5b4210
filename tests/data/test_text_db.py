"""UNITER's text databases give the same examples as the public files, and broken ones are named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lz4.frame
import msgpack
import numpy as np
import pytest

from vltickets.data import Source, open_folder
from vltickets.errors import UserError

Examples = Mapping[str, tuple[dict[str, Any], Any]]  # id -> (fields, image or pair)
Write = Callable[..., None]  # (path, vocabulary, examples, bytes that replace an example's)


def pack(record: Any) -> bytes:
    return bytes(lz4.frame.compress(msgpack.packb(record, use_bin_type=True)))


@pytest.fixture
def source(official: Path) -> Source:
    return open_folder(official)


@pytest.fixture
def coded(source: Source) -> Callable[[str], list[int]]:
    return lambda text: source.vocabulary.encode([text])[0][1:-1]


def same(first: Any, second: Any) -> None:
    """Check that two splits hold the same texts, images and numbers."""
    for name, value in vars(first).items():
        other = getattr(second, name)
        if hasattr(value, "values"):
            assert (value.values.tolist(), value.lengths.tolist()) == (other.values.tolist(), other.lengths.tolist())
        elif isinstance(value, np.ndarray):
            assert value.shape == other.shape, name
            assert np.allclose(value, other), name
        elif name == "ids":
            assert value == other


def test_vqa_is_the_same_from_a_database(
    source: Source, coded: Callable[[str], list[int]], write_database: Write
) -> None:
    answers = source.answers()
    public = source.vqa("dev", answers)
    examples = {
        str(number): (
            {
                "input_ids": coded("what is on the left ?"),
                "img_fname": "unused",
                "target": {"labels": np.flatnonzero(row).tolist(), "scores": [float(s) for s in row[row > 0]]},
                "answer_type": "other",
            },
            public.regions.names[image],
        )
        for number, row, image in zip(public.ids, public.scores, public.images, strict=True)
    }
    write_database(source.folder / "vqa" / "vqa_devval.db", source.vocabulary, examples)
    read = source.vqa("dev", answers)
    same(public, read)
    assert read.kinds == public.kinds
    assert source.vqa("train", answers).ids == [0, 1, 2]  # no database of this split: the public files


def test_training_databases_join_and_leave_out_what_has_no_answer(
    source: Source, coded: Callable[[str], list[int]], write_database: Write
) -> None:
    for number, name in enumerate(("train", "trainval", "vg")):
        target = {"labels": [number] if number != 1 else [], "scores": [1.0] if number != 1 else []}
        fields = {"input_ids": coded("two dog"), "target": target}
        write_database(
            source.folder / "vqa" / f"vqa_{name}.db",
            source.vocabulary,
            {str(number): (fields, "coco_train2014_000000000001.npz")},
        )
    data = source.vqa("train", source.answers())
    assert (data.ids, data.left_out) == ([0, 2], 1)
    assert len(data.texts) == 2


def test_entailment_is_the_same_from_a_database(
    source: Source, coded: Callable[[str], list[int]], write_database: Write
) -> None:
    public = source.entailment("dev")
    examples = {
        str(identity): (
            {"input_ids": coded("a dog is on the car ."), "target": {"labels": [n], "scores": [1.0]}},
            public.regions.names[public.images[n]],
        )
        for n, identity in enumerate(public.ids)
    }
    write_database(source.folder / "snli_ve" / "ve_dev.db", source.vocabulary, examples)
    read = source.entailment("dev")
    same(public, read)
    assert read.kinds == public.kinds


def test_nlvr2_is_the_same_from_a_database(
    source: Source, coded: Callable[[str], list[int]], write_database: Write
) -> None:
    public = source.nlvr2("test")
    examples = {
        identifier: (
            {"input_ids": coded("two dog on the left ."), "target": int(label), "identifier": identifier},
            [public.regions.names[image] for image in pair],
        )
        for identifier, label, pair in zip(public.identifiers, public.labels, public.images, strict=True)
    }
    write_database(source.folder / "nlvr2" / "nlvr2_test1.db", source.vocabulary, examples)
    same(public, source.nlvr2("test"))


def test_vcr_is_the_same_from_a_database(source: Source, write_database: Write) -> None:
    public = source.vcr("dev")
    examples: Examples = {
        identity: (
            {
                "input_ids": public.questions.row(n).tolist(),
                "input_ids_as": [public.answers.row(4 * n + k).tolist() for k in range(4)],
                "input_ids_rs": [public.rationales.row(4 * n + k).tolist() for k in range(4)],
                "qa_target": int(public.answer_labels[n]),
                "qar_target": int(public.rationale_labels[n]),
            },
            [f"vcr_gt_val_{n}.npz", f"vcr_val_{n}.npz"],
        )
        for n, identity in enumerate(public.ids)
    }
    write_database(source.folder / "vcr" / "vcr_val.db", source.vocabulary, examples)
    same(public, source.vcr("dev"))


@pytest.mark.parametrize("boxes", ["true", "detected"])
def test_refcoco_is_the_same_from_a_database(
    source: Source, coded: Callable[[str], list[int]], boxes: str, write_database: Write
) -> None:
    public = source.expressions("dev", boxes)
    ref = pickle.loads((source.folder / "refcoco" / "refs(unc).p").read_bytes())[1]
    examples = {
        str(sentence["sent_id"]): (
            {
                "input_ids": coded(sentence["sent"]),
                "sent_id": sentence["sent_id"],
                "ann_id": ref["ann_id"],
                "image_id": 7,
                "bbox": [10.5, 2, 20, 30],
            },
            "unused",
        )
        for sentence in ref["sentences"]
    }
    path = source.folder / "refcoco" / "refcoco+_val.db"
    write_database(path, source.vocabulary, examples)
    (path / "images.json").write_text(
        json.dumps([{"id": 7, "width": 640, "height": 480, "ann_ids": [102, 100, 101], "file_name": "x.jpg"}])
    )
    same(public, source.expressions("dev", boxes))


def test_retrieval_is_the_same_from_a_database(
    source: Source, coded: Callable[[str], list[int]], write_database: Write
) -> None:
    public = source.retrieval("dev")
    examples = {
        str(n): ({"input_ids": coded("a dog ." if n % 2 == 0 else "the cat .")}, public.regions.names[image])
        for n, image in enumerate(public.images)
    }
    write_database(source.folder / "flickr30k" / "itm_flickr30k_val.db", source.vocabulary, examples)
    same(public, source.retrieval("dev"))


# What is broken is named

GOOD = {"input_ids": [5, 6], "target": {"labels": [0], "scores": [1.0]}}
IMAGE = "coco_val2014_000000000001.npz"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (pack([1, 2]), "expected a map of fields, found list"),
        (pack({"input_ids": [5]}), "no field 'target': examples without answers"),
        (pack(GOOD | {"input_ids": [5, 10**6]}), "has the word piece 1000000"),
        (pack(GOOD | {"input_ids": []}), r"'input_ids' is \[\], expected"),
        (pack(GOOD | {"target": {"labels": [4], "scores": [1.0]}}), "the label 4 is not one of the 4 answers"),
        (pack(GOOD | {"target": {"labels": [1], "scores": []}}), "1 labels but 0 scores"),
        (pack(GOOD | {"target": {"labels": [1], "scores": [float("nan")]}}), "the score nan is not from 0 to 1"),
        (pack(GOOD | {"more": msgpack.ExtType(5, b"code")}), "extension type 5"),
        (pack(GOOD)[:-9], "cut off|not an lz4 frame"),
        (msgpack.packb(GOOD), "not an lz4 frame of msgpack"),
        (bytes(lz4.frame.compress(b"\0" * (1 << 22))), "larger than 1048576 bytes"),
        (bytes(lz4.frame.compress(b"\xc1")), "not an lz4 frame of msgpack"),
    ],
)
def test_a_broken_example_is_named(source: Source, value: bytes, says: str, write_database: Write) -> None:
    path = source.folder / "vqa" / "vqa_devval.db"
    write_database(path, source.vocabulary, {"7": (GOOD, IMAGE)}, **{"7": value})
    with pytest.raises(UserError, match=f"vqa_devval.db, example '7'.*({says})"):
        source.vqa("dev", source.answers())


def test_a_broken_database_is_named(source: Source, write_database: Write) -> None:
    path = source.folder / "vqa" / "vqa_devval.db"
    write_database(path, source.vocabulary, {"7": (GOOD, IMAGE)})
    answers = source.answers()
    assert source.vqa("dev", answers).ids == [7]
    whole = (path / "data.mdb").read_bytes()
    for content, says in (
        (whole[: len(whole) // 2], "it was cut off|not an LMDB file"),
        (b"", "not an LMDB file|it was cut off"),
        (b"x" * 20000, "not an LMDB file"),
    ):
        (path / "data.mdb").write_bytes(content)
        with pytest.raises(UserError, match=f"data.mdb: ({says})"):
            source.vqa("dev", answers)
    (path / "data.mdb").write_bytes(whole)
    (path / "txt2img.json").write_text(json.dumps({"7": IMAGE, "8": IMAGE}))
    with pytest.raises(UserError, match=r"example '8': txt2img.json names it, but data.mdb does not have it"):
        source.vqa("dev", answers)
    (path / "txt2img.json").write_text(json.dumps({"7": [IMAGE]}))
    with pytest.raises(UserError, match=r"txt2img.json gives it the image"):
        source.vqa("dev", answers)
    (path / "data.mdb").unlink()
    with pytest.raises(UserError, match=r"data.mdb: no such file"):
        source.vqa("dev", answers)


def test_another_vocabulary_than_the_database_s_is_refused(source: Source, write_database: Write) -> None:
    path = source.folder / "vqa" / "vqa_devval.db"
    write_database(path, source.vocabulary, {"7": (GOOD, IMAGE)})
    (path / "meta.json").write_text(json.dumps({"CLS": 101, "SEP": 102, "MASK": 103}))
    with pytest.raises(
        UserError, match=r"meta.json: CLS is 101, but the vocabulary has \[CLS\] as 2; put the vocab.txt"
    ):
        source.vqa("dev", source.answers())


def test_damage_anywhere_in_a_database_is_a_sentence_or_does_no_harm(source: Source, write_database: Write) -> None:
    """liblmdb ends the process on some of these files."""
    path = source.folder / "vqa" / "vqa_devval.db"
    examples = {str(number): (GOOD, IMAGE) for number in range(7, 90)}
    write_database(path, source.vocabulary, examples)
    whole, answers, rng = (path / "data.mdb").read_bytes(), source.answers(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 40):
            content[place] = rng.integers(256)
        (path / "data.mdb").write_bytes(content)
        try:
            found = source.vqa("dev", answers)
        except UserError:
            refused += 1
        else:
            assert len(found.ids) == len(examples)
    assert 0 < refused <= 150
