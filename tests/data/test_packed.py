"""The layout `photos`: real photos' packings serve captions, entailment, questions and statements."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from vltickets.data import open_folder, open_source, register_folder, stream
from vltickets.data.nlvr1 import TYPES, WIDTH
from vltickets.data.vocabulary import SPECIALS
from vltickets.errors import UserError
from vltickets.specs import Pixels
from vltickets.store import Store


def picture(colour: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    """A grey picture of 400 by 100 with one square of 20 pixels in its first box, at (10, 30)."""
    image = Image.new("RGB", (400, 100), (211, 211, 211))
    image.paste(colour, (10, 30, 30, 50))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


SQUARE = {"box": 0, "type": "square", "color": "Black", "x1": 10, "y1": 30, "x2": 30, "y2": 50, "size": 20}


def examples() -> list[dict[str, Any]]:
    return [
        {
            "example_id": f"train-{n}-0-0",
            "sentence": "there is a square .",
            "label": n % 2 == 0,
            "objects": [SQUARE] * n,
            "image_png": picture(),
        }
        for n in range(4)
    ]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


def features(names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": name,
            "num_boxes": 2,
            "boxes": [0.0, 0.0, 0.5, 0.5, 0.25, 0.25, 1.0, 1.0],
            "features": np.full((2, 3), n, dtype="<f2").tobytes(),
            "soft_labels": np.tile(np.array([255, 0, 0], dtype=np.uint8), (2, 1)).tobytes(),
        }
        for n, name in enumerate(names)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A root with two photos of each set, a few records of each part, the same in train and dev."""
    root = tmp_path / "photos"
    for split in ("train", "dev"):
        captions = [{"image_id": f"{n}_x.jpg", "captions": ["a dog runs ."] * 5} for n in range(2)]
        write_table(root / "flickr8k" / f"{split}.parquet", captions)
        write_table(root / "features" / "flickr8k" / f"{split}.parquet", features(["0_x.jpg", "1_x.jpg"]))
        write_table(root / "features" / "daquar" / f"{split}.parquet", features(["image1", "image2"]))
        write_table(root / "nlvr1" / f"{split}.parquet", examples())
        labels = ("neutral", "entailment", "contradiction")
        pairs = [
            {
                "pair_id": f"snli-{n}",
                "image_id": "1_x.jpg",
                "premise": "secret",
                "hypothesis": "the zebra",
                "label": label,
            }
            for n, label in enumerate(labels)
        ]
        write_lines(root / "snli_ve_flickr8k" / f"{split}.jsonl", pairs)
        answers = [["red", "blue"], ["2"], ["red"]] if split == "train" else [["blue", "red"], ["red", "blue"], ["2"]]
        questions = [
            {"question_id": n, "image_id": "image2", "question": "what lamp ?", "answer": ", ".join(a), "answers": a}
            for n, a in enumerate(answers)
        ]
        write_lines(root / "daquar" / f"{split}.jsonl", questions)
    return root


def test_the_root_of_all_packings_stays_flickr8k_unless_asked(photos: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    before = register_folder(photos, store)
    asked = register_folder(photos, store, "photos")
    assert (before.layout, asked.layout) == ("flickr8k", "photos")
    assert open_source(asked, store).statements("dev").ids[0] == "train-0-0-0"
    (photos / "nlvr1" / "dev.parquet").unlink()
    assert register_folder(photos, store) == before
    assert register_folder(photos, store, "photos") != asked
    with pytest.raises(UserError, match=r"unknown layout 'photo'; did you mean 'photos'\?"):
        register_folder(photos, store, "photo")


def test_the_vocabulary_is_of_all_training_texts(photos: Path) -> None:
    known = open_folder(photos, "photos").vocabulary.words[len(SPECIALS) :]
    assert set(known) == {"a", "dog", "runs", ".", "the", "zebra", "what", "lamp", "?", "there", "is", "square"}
    assert set(open_folder(photos).vocabulary.words[len(SPECIALS) :]) == {"a", "dog", "runs", "."}


def test_daquar_s_score_is_the_exact_match_of_the_first_answer(photos: Path) -> None:
    source = open_folder(photos, "photos")
    answers = source.answers()
    assert answers == ["red", "2"]
    data = source.vqa("dev", answers)
    assert data.scores.tolist() == [[0, 0], [1, 0], [0, 1]]
    assert data.kinds == ["list", "list", "number"]
    assert data.regions.names[data.images[0]] == "image2"
    assert source.vqa("train", answers).left_out == 0


def test_entailment_reads_the_hypothesis_and_not_the_premise(photos: Path) -> None:
    source = open_folder(photos, "photos")
    data = source.entailment("train")
    assert data.scores.argmax(1).tolist() == [2, 1, 0]
    assert [source.vocabulary.words[n] for n in data.texts.row(0)] == ["[CLS]", "the", "zebra", "[SEP]"]
    assert data.regions.features.row(int(data.images[0])).tolist() == [[1, 1, 1]] * 2


def test_captions_and_retrieval_are_flickr8k(photos: Path) -> None:
    source = open_folder(photos, "photos")
    assert source.retrieval("dev").images.tolist() == [0] * 5 + [1] * 5
    assert source.captions("dev").images.tolist() == source.retrieval("dev").images.tolist()


def test_statements_describe_boxes_and_objects(photos: Path) -> None:
    data = open_folder(photos, "photos").statements("train")
    assert data.scores.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]
    assert data.regions.features.lengths.tolist() == [3, 4, 5, 6]
    assert data.regions.width == WIDTH == 121
    boxes, square = data.regions.features.row(1)[:3].numpy(), data.regions.features.row(1)[3].numpy()
    assert boxes[:, : len(TYPES)].tolist() == [[1, 0, 0, 0]] * 3
    assert square[:4].tolist() == [0, 1, 0, 0]
    assert square[4:7].tolist() == [1, 0, 0]  # all its pixels are red
    assert square[7:9].tolist() == pytest.approx([0.2, 0.2], abs=1e-3)
    assert square[9:13].tolist() == pytest.approx([0.025, 0.3, 0.075, 0.5], abs=1e-3)
    assert square[13:].reshape(36, 3).tolist() == [[1, 0, 0]] * 36
    # The first box has 4% red pixels, the others none.
    grey = 211 / 255
    assert boxes[1:, 4:7] == pytest.approx(np.full((2, 3), grey), abs=1e-3)
    assert boxes[0, 4:7] == pytest.approx([grey + 0.04 * (1 - grey), 0.96 * grey, 0.96 * grey], abs=2e-3)
    assert data.regions.boxes.row(1)[:, :4].tolist()[1] == [0.375, 0, 0.625, 1]
    assert data.regions.soft_labels.row(1).argmax(1).tolist() == [1, 1, 1, 2]


def change_first(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    return [rows[0] | fields, *rows[1:]]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image_png": b"no picture"}, "row 0: the field 'image_png' is no picture"),
        ({"image_png": picture()[:200]}, "row 0: the field 'image_png' is no picture"),
        ({"sentence": " "}, "row 0: the field 'sentence' is empty"),
        ({"sentence": None}, "row 0: the field 'sentence' is None, expected str"),
        ({"label": None}, "row 0: the field 'label' is None, expected bool"),
        ({"objects": [SQUARE | {"type": "star"}]}, "row 0, object 0: the field 'type' is 'star'"),
        ({"objects": [SQUARE | {"x2": 401}]}, "row 0, object 0: the box .* does not lie in the picture"),
    ],
)
def test_a_broken_statement_is_named(photos: Path, fields: dict[str, Any], says: str) -> None:
    write_table(photos / "nlvr1" / "dev.parquet", change_first(examples(), **fields))
    source = open_folder(photos, "photos")
    with pytest.raises(UserError, match=f"nlvr1/dev.parquet, {says}"):
        source.statements("dev")


def test_a_task_that_a_layout_lacks_is_said(photos: Path, small_world: Path) -> None:
    source = open_folder(photos, "photos")
    lacking: list[Callable[[], object]] = [
        lambda: source.vcr("dev"),
        lambda: source.nlvr2("dev"),
        lambda: source.gqa("dev", ["yes"]),
        lambda: source.answers("gqa"),
        lambda: source.expressions("dev", "true"),
    ]
    for read in lacking:
        with pytest.raises(UserError, match=r"the layout photos has no "):
            read()
    with pytest.raises(UserError, match=r"the layout official has no NLVR v1"):
        open_folder(small_world).statements("dev")
    with pytest.raises(UserError, match=r"test.parquet: no such file"):
        source.captions("test")


@pytest.mark.shared
def test_the_real_packings_are_read(shared: Path) -> None:
    source = open_folder(shared / "data", "photos")
    answers = source.answers()
    questions = source.vqa("dev", answers)
    assert (len(answers), len(questions.ids)) == (459, 666)
    assert questions.scores.sum() == 651  # the first answer of so many is one of training
    pairs = source.entailment("dev")
    assert (len(pairs.ids), pairs.scores.sum(0).tolist()) == (539, [174, 177, 188])
    for data in (questions, pairs):
        assert (data.texts.values == source.vocabulary.unk).float().mean() < 0.03
    statements = source.statements("dev")
    assert statements.scores.sum(0).tolist() == [2652, 3282]
    assert (statements.regions.features.values.isfinite().all(), statements.regions.width) == (True, 121)


PIXELS = Pixels(patch=4, shorter=12)


def add_photos(root: Path) -> None:
    """Give the photos their pictures, each of its own color."""
    for split in ("train", "dev"):
        captions = [
            {"image_id": f"{n}_x.jpg", "captions": ["a dog runs ."] * 5, "image_jpeg": picture((n, 0, 0))}
            for n in range(2)
        ]
        write_table(root / "flickr8k" / f"{split}.parquet", captions)
        rooms = [{"image_id": f"image{n}", "image_jpeg": picture((0, n, 0))} for n in (1, 2)]
        write_table(root / "daquar" / f"{split}_images.parquet", rooms)


def test_all_parts_are_read_from_their_pictures(photos: Path) -> None:
    add_photos(photos)
    source = open_folder(photos, "photos").seen_as(PIXELS)
    for data, names in (
        (source.retrieval("dev"), ["0_x.jpg", "1_x.jpg"]),
        (open_folder(photos).seen_as(PIXELS).captions("train"), ["0_x.jpg", "1_x.jpg"]),
        (source.entailment("train"), ["1_x.jpg"]),
        (source.vqa("dev", source.answers()), ["image2"]),
        (source.statements("train"), [f"train-{n}-0-0" for n in range(4)]),
    ):
        assert [data.regions.names[row] for row in np.unique(data.images)] == names
        assert data.regions.features.grids.tolist() == [[1, 4]] * len(data.regions.names)  # 400 by 100: 19 by 4.75
        assert data.regions.features.row(0).shape == (4, 48)
    assert data.images.tolist() == [0, 1, 2, 3]


def test_a_statement_without_its_picture_is_named(photos: Path) -> None:
    rows = change_first(examples(), image_png=b"no picture")
    write_table(photos / "nlvr1" / "dev.parquet", rows)
    with pytest.raises(UserError, match=r"nlvr1/dev\.parquet, row 0: the image can't be decoded"):
        open_folder(photos, "photos").seen_as(PIXELS).statements("dev")
    write_table(photos / "nlvr1" / "dev.parquet", [{**rows[1], "example_id": "x"}] * 2)
    with pytest.raises(UserError, match=r"dev\.parquet, row 0 and .*row 1 are both found by the name 'x'"):
        open_folder(photos, "photos").seen_as(PIXELS).statements("dev")
    with pytest.raises(UserError, match=r"daquar/dev_images\.parquet: no such folder or file"):
        open_folder(photos, "photos").seen_as(PIXELS).vqa("dev", ["red"])
    with pytest.raises(UserError, match=r"expected the column image_id and, with the images' bytes, image_jpeg"):
        open_folder(photos, "photos").seen_as(PIXELS).entailment("dev")


@pytest.mark.shared
def test_the_real_pictures_are_patches(shared: Path) -> None:
    source = open_folder(shared / "data", "photos").seen_as(Pixels())
    statements = source.statements("dev")
    assert statements.images.tolist() == list(range(5934))
    assert set(statements.regions.features.lengths) == {19 * 5}
    rooms, photos = source.vqa("dev", source.answers()), source.entailment("dev")
    for data, most in ((rooms, 228), (photos, 228)):
        lengths = data.regions.features.lengths
        assert 12 * 8 <= lengths.min() <= lengths.max() <= most
        values, mask = data.regions.features.padded(data.images[:3])
        assert values.shape == (3, mask.sum(1).max(), 3 * 32 * 32)
        assert -1 <= values.min() < -0.5 < 0.5 < values.max() <= 1


PACKED: dict[str, Callable[[Path], object]] = {
    "flickr8k/dev.parquet": lambda root: open_folder(root, "photos").captions("dev"),
    "features/flickr8k/dev.parquet": lambda root: open_folder(root, "photos").entailment("dev"),
    "nlvr1/dev.parquet": lambda root: open_folder(root, "photos").statements("dev"),
    "daquar/train.jsonl": lambda root: open_folder(root, "photos").answers(),
}


@pytest.mark.parametrize("name", PACKED)
def test_no_bytes_of_a_packing_raise_anything_but_a_user_error(photos: Path, name: str) -> None:
    path, rng, refused = photos / name, stream("fuzz", name), 0
    whole = path.read_bytes()
    for _ in range(40):
        place = int(rng.integers(len(whole)))
        content = whole[:place] if rng.random() < 0.3 else whole[:place] + rng.bytes(4) + whole[place + 4 :]
        path.write_bytes(content)
        said = refusal(lambda: PACKED[name](photos))
        assert said is None or str(photos) in said
        refused += said is not None
    assert refused > 3


def refusal(read: Callable[[], object]) -> str | None:
    """Read; return the sentence of the refusal, or None where all was well."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None
