"""Corpora of pre-training: official files give captions and images, broken ones are named, all are mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vltickets.data import (
    CORPORA,
    BatchPlan,
    Captions,
    Groups,
    MixedPlan,
    RegionWriter,
    Source,
    batch_plan,
    check_soft_labels,
    open_folder,
    region_shape,
    soft_targets,
    stream,
)
from vltickets.data.vocabulary import SPECIALS
from vltickets.errors import UserError
from vltickets.specs import Corpora, Pretraining, World, canonical

WORDS = ("a", "red", "two", "dog", "cat", "car", "man", "the", ".")
VG, CC, SBU = "visual_genome/region_descriptions.json", "conceptual_captions/", "sbu/"
TRAIN_TSV, DEV_TSV = CC + "Train_GCC-training.tsv", CC + "Validation_GCC-1.1.0-Validation.tsv"
SBU_JSON = SBU + "sbu-captions-all.json"
PAIR = (SBU + "SBU_captioned_photo_dataset_captions.txt", SBU + "SBU_captioned_photo_dataset_urls.txt")


@pytest.fixture
def source(tmp_path: Path, write_regions: Callable[..., None]) -> Source:
    """A folder with a few records of each corpus; of CC's and SBU's images some are missing."""
    folder = tmp_path / "corpora"
    for corpus in CORPORA.values():
        (folder / corpus.folder).mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIALS, *WORDS]) + "\n")
    annotations = [{"id": n, "image_id": n // 2, "caption": "a red car ."} for n in range(4)]
    coco = [f"coco_{name}_{n:012d}.npz" for name in ("train2014", "val2014") for n in (0, 1)]
    for name in ("train2014", "val2014"):
        (folder / "captions" / f"captions_{name}.json").write_text(json.dumps({"annotations": annotations}))
    for split, name in (("train", "train2014"), ("dev", "val2014"), ("all", "2014")):
        write_regions(folder / "captions", split, {image: 2 for image in coco if name in image})
    phrases, box = ("the red car", "two dog", " "), {"x": -3, "y": 0, "width": 9, "height": 9}
    images = [
        {
            "id": image,
            "regions": [{"region_id": n, "image_id": image, "phrase": text, **box} for n, text in enumerate(phrases)],
        }
        for image in (1, 50, 51)
    ]
    (folder / VG).write_text(json.dumps(images))
    write_regions(folder / "visual_genome", "all", {f"vg_{image}.npz": 3 for image in (1, 50, 51)})
    for place, texts in ((TRAIN_TSV, ("a dog", "a cat", "the car")), (DEV_TSV, ("two cat", "a man"))):
        (folder / place).write_text("".join(f"{text}\thttp://x/{n}.jpg?a=1\n" for n, text in enumerate(texts)))
    names = [f"gcc_train_{n:012d}.npz" for n in (1, 3)] + [f"gcc_val_{2:012d}.npz"]
    write_regions(folder / "conceptual_captions", "all", dict.fromkeys(names, 2))
    captions = [f"{'a ' * (n % 5)}man" for n in range(1, 201)]
    lists = {"image_urls": [f"http://x/{n}" for n in range(200)], "captions": captions, "user_ids": ["u"] * 200}
    (folder / SBU_JSON).write_text(json.dumps(lists))
    write_regions(folder / "sbu", "all", {f"sbu_{n:012d}.npz": 1 for n in (1, 7, 8, 100)})
    return open_folder(folder)


def read(source: Source, split: str, corpus: str) -> list[tuple[str, str]]:
    """Return each caption with its image's name."""
    data, words = source.captions(split, corpus), source.vocabulary.words
    coded = [data.texts.row(n).tolist() for n in range(len(data.texts))]
    assert all(row[0] == source.vocabulary.cls and row[-1] == source.vocabulary.sep for row in coded)
    texts = [" ".join(words[piece] for piece in row[1:-1]) for row in coded]
    return [(text, data.regions.names[image]) for text, image in zip(texts, data.images, strict=True)]


def test_coco_is_read_as_without_a_corpus_s_name(source: Source) -> None:
    for split, name in (("train", "train2014"), ("dev", "val2014")):
        plain, named = source.captions(split), source.captions(split, "coco")
        assert plain.texts.values.tolist() == named.texts.values.tolist()
        assert plain.images.tolist() == named.images.tolist() == [0, 0, 1, 1]
        assert named.regions.names[0] == f"coco_{name}_000000000000.npz"


def test_coco_in_karpathys_split_trains_on_restval_too(source: Source) -> None:
    images = [
        {"filepath": place, "cocoid": n, "split": split, "filename": "x.jpg", "sentences": [{"raw": "a dog ."}]}
        for n, place, split in ((0, "train2014", "train"), (0, "val2014", "restval"), (1, "val2014", "val"))
    ]
    (source.folder / "captions" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    names = [name for _, name in read(source, "train", "coco")]
    assert names == ["coco_train2014_000000000000.npz", "coco_val2014_000000000000.npz"]
    assert [name for _, name in read(source, "dev", "coco")] == ["coco_val2014_000000000001.npz"]


@pytest.mark.shared
@pytest.mark.parametrize(("split", "year"), [("train", "train2017"), ("dev", "val2017")])
def test_cocos_own_captions_are_read(
    source: Source, shared: Path, write_regions: Callable[..., None], split: str, year: str
) -> None:
    folder, sample = source.folder / "captions", shared / "data" / "coco_mini" / f"captions_{year}.json"
    for path in folder.glob("captions_*"):
        path.unlink()
    (folder / sample.name).write_bytes(sample.read_bytes())
    annotations = json.loads(sample.read_text())["annotations"]
    names = [f"coco_{year}_{item['image_id']:012d}.npz" for item in annotations]
    write_regions(folder, split, dict.fromkeys(names, 2))
    assert [name for _, name in read(source, split, "coco")] == names
    assert len(names) > 200


def test_visual_genomes_phrases_are_captions_of_their_images(source: Source) -> None:
    said = ("the red car", "two dog")
    assert read(source, "train", "vg") == [(text, f"vg_{image}.npz") for image in (1, 51) for text in said]
    assert read(source, "dev", "vg") == [(text, "vg_50.npz") for text in said]
    assert source.captions("train", "vg").left_out == 2  # phrases that say nothing
    assert source.captions("dev", "vg").left_out == 1


def test_conceptual_captions_are_named_by_their_lines_and_dead_links_are_left_out(source: Source) -> None:
    assert read(source, "train", "cc") == [
        ("a dog", "gcc_train_000000000001.npz"),
        ("the car", "gcc_train_000000000003.npz"),
    ]
    assert read(source, "dev", "cc") == [("a man", "gcc_val_000000000002.npz")]
    assert source.captions("train", "cc").left_out == 1


def test_sbu_is_the_same_from_either_form_and_every_hundredth_is_dev(source: Source) -> None:
    expected = [("a man", 1), ("a a man", 7), ("a a a man", 8)]
    assert read(source, "train", "sbu") == [(text, f"sbu_{n:012d}.npz") for text, n in expected]
    assert read(source, "dev", "sbu") == [("man", "sbu_000000000100.npz")]
    assert (source.captions("train", "sbu").left_out, source.captions("dev", "sbu").left_out) == (195, 1)
    lists = json.loads((source.folder / SBU_JSON).read_text())
    (source.folder / SBU_JSON).unlink()
    for place, name in zip(PAIR, ("captions", "image_urls"), strict=True):
        (source.folder / place).write_text("".join(f"{text}\r\n" for text in lists[name]))
    assert read(source, "train", "sbu") == [(text, f"sbu_{n:012d}.npz") for text, n in expected]
    assert read(source, "dev", "sbu") == [("man", "sbu_000000000100.npz")]


def test_a_corpus_larger_than_a_chunk_is_the_same(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {corpus: read(source, "train", corpus) for corpus in ("vg", "cc", "sbu")}
    for size in (1, 2, 3):
        monkeypatch.setattr("vltickets.data.corpora.CHUNK", size)
        assert {corpus: read(source, "train", corpus) for corpus in whole} == whole


def test_stores_beside_the_corpora_serve_all_of_them(source: Source, write_regions: Callable[..., None]) -> None:
    for corpus in ("conceptual_captions", "sbu"):
        (source.folder / corpus / "regions_all").rename(source.folder / corpus / "elsewhere")
    names = dict.fromkeys(("gcc_train_000000000002.npz", "sbu_000000000002.npz"), 2)
    write_regions(source.folder / "regions", "made", names)
    assert read(source, "train", "cc") == [("a cat", "gcc_train_000000000002.npz")]
    assert read(source, "train", "sbu") == [("a a man", "sbu_000000000002.npz")]


# UNITER's text databases

DATABASES = {
    "coco": {"train": ["pretrain_coco_train", "pretrain_coco_restval"], "dev": ["pretrain_coco_val"]},
    "vg": {"train": ["pretrain_vg_train"], "dev": ["pretrain_vg_val"]},
    "cc": {"train": ["conceptual_caption_train"], "dev": ["conceptual_caption_val"]},
    "sbu": {"train": ["sbu_caption_train"], "dev": ["sbu_caption_val"]},
}
IMAGES = {
    "coco": "coco_train2014_000000000001.npz",
    "vg": "vg_51.npz",
    "cc": "gcc_val_000000000002.npz",
    "sbu": "sbu_000000000007.npz",
}


Write = Callable[[str, str], None]


@pytest.fixture
def write_databases(source: Source, write_database: Callable[..., None]) -> Write:
    """The function (corpus, image) that writes all databases of a corpus, one caption with a last word of its own."""

    def write(corpus: str, image: str) -> None:
        folder = source.folder / CORPORA[corpus].folder
        for n, name in enumerate(name for names in DATABASES[corpus].values() for name in names):
            coded = source.vocabulary.encode([f"a {WORDS[3 + n]}"])[0][1:-1]
            examples = {f"{n}": ({"input_ids": coded, "img_fname": image}, image)}
            write_database(folder / f"{name}.db", source.vocabulary, examples)

    return write


@pytest.mark.parametrize("corpus", DATABASES)
def test_text_databases_go_before_the_public_files(source: Source, write_databases: Write, corpus: str) -> None:
    image = IMAGES[corpus]
    write_databases(corpus, image)
    words = ("dog", "cat") if corpus == "coco" else ("dog",)  # COCO's train and restval together
    assert read(source, "train", corpus) == [(f"a {word}", image) for word in words]
    assert read(source, "dev", corpus) == [(f"a {WORDS[3 + len(words)]}", image)]
    if corpus == "coco":
        assert len(source.captions("train").texts) == 4  # without a corpus's name: the public file, as ever


@pytest.mark.parametrize("missing", ["pretrain_coco_restval", "pretrain_coco_train"])
def test_half_of_coco_is_refused(source: Source, write_databases: Write, missing: str) -> None:
    write_databases("coco", IMAGES["coco"])
    path = source.folder / "captions" / f"{missing}.db"
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(
        UserError, match=f"{missing}.db: no such text database.* pretrain_coco_train.db and pretrain_coco_restval.db"
    ):
        source.captions("train", "coco")


def test_a_split_is_not_taken_from_public_files_beside_a_database_of_another(
    source: Source, write_databases: Write
) -> None:
    write_databases("sbu", IMAGES["sbu"])
    (source.folder / "sbu" / "sbu_caption_val.db").rename(source.folder / "sbu" / "elsewhere")
    assert len(source.captions("train", "sbu").texts) == 1
    with pytest.raises(
        UserError, match=r"sbu_caption_val.db: no such text database, but sbu_caption_train.db is there"
    ):
        source.captions("dev", "sbu")


def test_an_image_missing_from_the_regions_is_left_out_or_refused_from_a_database_too(
    source: Source, write_databases: Write
) -> None:
    for corpus in ("coco", "vg"):
        write_databases(corpus, "gone.npz")
        with pytest.raises(UserError, match=r"no regions of image 'gone.npz', which .*\.db, example '0' needs"):
            source.captions("train", corpus)
    for corpus in ("cc", "sbu"):
        write_databases(corpus, "gone.npz")
        with pytest.raises(UserError, match=r"\.db \(train\): none of its 1 captions has an image in .*'gone.npz'"):
            source.captions("train", corpus)


# What is broken is named


def vg(region: Mapping[str, Any]) -> str:
    return json.dumps([{"id": 1, "regions": [region]}])


BROKEN: list[tuple[str, str, str, str, str]] = [
    ("vg", "train", VG, vg({"image_id": 1}), r"descriptions.json, image 0, region 0: the field 'phrase' is missing"),
    ("vg", "train", VG, vg({"phrase": "a", "image_id": "1"}), "image 0, region 0: the field 'image_id' is '1'"),
    ("vg", "train", VG, vg({"phrase": 7, "image_id": 1}), "image 0, region 0: the field 'phrase' is 7, expected str"),
    ("vg", "train", VG, vg({"phrase": "\ud800", "image_id": 1}), "the field 'phrase' is .* no text in Unicode"),
    ("vg", "train", VG, vg({"phrase": "a", "image_id": 2}), r"no regions of image 'vg_2.npz', which .*region 0"),
    ("vg", "train", VG, '[{"id": 1}]', "image 0: the field 'regions' is missing"),
    ("vg", "train", VG, '{"id": 1}', "expected a list of images, found dict"),
    ("vg", "train", VG, "[]", "it holds no caption of this split"),
    ("cc", "train", TRAIN_TSV, "a dog\turl\na cat\n", "training.tsv, line 2: expected a caption, a tab and a url"),
    ("cc", "train", TRAIN_TSV, "a\turl\n\n", "line 2: expected a caption, a tab and a url, found 1 columns"),
    ("cc", "dev", DEV_TSV, "a\tb\tc\n", "Validation_GCC-1.1.0-Validation.tsv, line 1: .* found 3 columns"),
    ("cc", "dev", DEV_TSV, "", "it holds no caption of this split"),
    ("sbu", "train", SBU_JSON, '{"captions": ["a"], "image_urls": []}', "1 'captions' but 0 'image_urls'"),
    ("sbu", "train", SBU_JSON, '{"captions": ["a"]}', "sbu-captions-all.json: the field 'image_urls' is missing"),
    ("sbu", "train", SBU_JSON, '{"captions": ["a", 3], "image_urls": [1, 2]}', "caption 2: the field 'captions' has 3"),
]  # fmt: skip


@pytest.mark.parametrize(("corpus", "split", "place", "content", "says"), BROKEN)
def test_a_broken_record_is_named(source: Source, corpus: str, split: str, place: str, content: str, says: str) -> None:
    (source.folder / place).write_text(content)
    with pytest.raises(UserError, match=says):
        source.captions(split, corpus)


def test_a_pair_of_files_one_of_which_was_cut_off_is_refused(source: Source) -> None:
    (source.folder / SBU_JSON).unlink()
    captions, urls = (source.folder / place for place in PAIR)
    captions.write_text("a dog\na cat\n")
    with pytest.raises(UserError, match=r"SBU_captioned_photo_dataset_urls.txt: no such file"):
        source.captions("train", "sbu")
    urls.write_text("http://x\n")
    with pytest.raises(UserError, match=r"captions.txt has 2 lines, but .*urls.txt has 1"):
        source.captions("train", "sbu")
    captions.write_bytes(b"a \xff\n")
    with pytest.raises(UserError, match=r"captions.txt: not a text file in UTF-8"):
        source.captions("train", "sbu")


def test_no_image_at_all_is_refused_with_the_name_that_was_looked_for(
    source: Source, write_regions: Callable[..., None]
) -> None:
    write_regions(source.folder / "conceptual_captions", "all", {"0001.jpg": 2})
    with pytest.raises(UserError, match=r"none of its 3 captions has an image in .*'gcc_train_000000000001.npz'"):
        source.captions("train", "cc")


def test_what_is_not_there_is_said(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown corpus of captions 'coc'; did you mean 'coco'"):
        source.captions("train", "coc")
    with pytest.raises(UserError, match="unknown split of the corpus vg 'test'"):
        source.captions("test", "vg")
    (source.folder / SBU_JSON).unlink()
    with pytest.raises(
        UserError, match=r"read from sbu-captions-all.json or SBU_.*_captions.txt or sbu_caption_val.db"
    ):
        source.captions("dev", "sbu")
    other = Source(tmp_path, "photos", source.vocabulary)
    with pytest.raises(UserError, match="the layout photos has no visual_genome"):
        other.captions("train", "vg")


JUNK: list[Any] = [None, True, -1, 0, 1, 2**63, 2**200, 1.5, float("nan"), "", " ", "\ud800", "\x00", [], [[]], {}, [0]]


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value within a value, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*way, key)
        yield from places(item, (*way, key))


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """Return the value with one thing in it gone or replaced by junk."""
    ways = list(places(value))
    *way, last = ways[rng.integers(len(ways))]
    holder = value
    for key in way:
        holder = holder[key]
    if rng.random() < 0.3:
        del holder[last]
    else:
        holder[last] = JUNK[rng.integers(len(JUNK))]
    return value


def refused(source: Source, corpus: str) -> bool:
    """Read; return whether it was refused. A refusal is one line that names a file of the folder."""
    said = ""
    try:
        source.captions("train", corpus)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or str(source.folder) in said
    return bool(said)


FILES = {"vg": VG, "cc": TRAIN_TSV, "sbu": SBU_JSON}


@pytest.mark.parametrize("corpus", ["vg", "sbu"])
def test_no_value_in_a_record_raises_anything_but_a_user_error(source: Source, corpus: str) -> None:
    path = source.folder / FILES[corpus]
    if corpus == "sbu":  # few captions, so that the changes reach those that are read
        path.write_text(json.dumps({"image_urls": ["u"] * 8, "captions": ["a dog"] * 8, "user_ids": ["x"] * 8}))
    whole, rng, count = path.read_bytes(), stream("fuzz corpora", corpus), 0
    for _ in range(80):
        path.write_bytes(json.dumps(mutated(json.loads(whole), rng)).encode())
        count += refused(source, corpus)
    assert count > 3


@pytest.mark.parametrize("place", [VG, TRAIN_TSV, SBU_JSON, *PAIR])
def test_no_bytes_raise_anything_but_a_user_error(source: Source, place: str) -> None:
    if place in PAIR:
        (source.folder / SBU_JSON).unlink()
        for name in PAIR:
            (source.folder / name).write_text("a dog on the car\n" * 8)
    path, corpus = source.folder / place, next(name for name, c in CORPORA.items() if place.startswith(c.folder))
    whole, rng, count = path.read_bytes(), stream("fuzz corpora bytes", place), 0
    special = [b"", b"\x00", b"\xff\xfe", b"null", b"[" * 100_000, b"a\tb\tc\n", b"\n\n", b"\r\r\n", b"x" * 9999]
    for _ in range(40):
        start, junk = int(rng.integers(len(whole))), rng.bytes(int(rng.integers(1, 9)))
        rest = whole[start + len(junk) * int(rng.integers(2)) :] if rng.random() < 0.6 else b""
        special.append(whole[:start] + junk * bool(rest) + rest)
    for content in special:
        path.write_bytes(content)
        count += refused(source, corpus)
    assert count > 3


# Regions of several corpora


def regions_of(source: Source, corpus: str, *, width: int, classes: int, label: float = 1.0) -> Captions:
    """Write the corpus' regions anew, with so many numbers and classes; return its training split."""
    path = source.folder / CORPORA[corpus].folder / "regions_train"
    names = source.captions("train", corpus).regions.names
    for stale in path.parent.glob("regions_*"):
        shutil.rmtree(stale)
    with RegionWriter(path, width=width, classes=classes) as writer:
        for name in names:
            box = np.array([[0, 0, 1, 1]], dtype=np.float32)
            writer.add(name, np.ones((1, width), np.float16), box, np.full((1, classes), label, np.float16), None)
    return source.captions("train", corpus)


def test_corpora_of_one_model_have_regions_of_one_shape(source: Source) -> None:
    corpora = {name: source.captions("train", name) for name in CORPORA}
    assert region_shape(corpora) == (4, 3)
    other = corpora | {"sbu": regions_of(source, "sbu", width=5, classes=3)}
    with pytest.raises(UserError, match=r"the corpus sbu has 5 numbers a region \(.*sbu.*\), the corpus coco has 4"):
        region_shape(other)
    other = corpora | {"cc": regions_of(source, "cc", width=4, classes=7)}
    with pytest.raises(UserError, match=r"the corpus cc has soft labels of 7 classes .* the corpus coco of 3"):
        region_shape(other)


def test_a_corpus_without_soft_labels_can_be_mixed_but_not_classified(source: Source) -> None:
    corpora = {"vg": regions_of(source, "vg", width=4, classes=0), "cc": source.captions("train", "cc")}
    assert region_shape(corpora) == (4, 3)
    with pytest.raises(
        UserError, match=r"objective mrc_kl needs .* the corpus vg \(.*visual_genome/regions_train\) have none; import"
    ):
        check_soft_labels(corpora, "mrc_kl")
    check_soft_labels({"cc": corpora["cc"]}, "mrc_kl")
    assert soft_targets(corpora["cc"].regions, np.array([0])).sum(-1).flatten().tolist() == pytest.approx(
        [1, 1], abs=1e-6
    )
    for classes, label in ((3, 0.0), (1, 1.0)):  # nothing but zeros, nothing but the background
        corpora["sbu"] = regions_of(source, "sbu", width=4, classes=classes, label=label)
        with pytest.raises(UserError, match=r"objective mrc needs .* the corpus sbu"):
            check_soft_labels({"sbu": corpora["sbu"]}, "mrc")


# The mix


def test_a_mix_names_the_corpora_and_an_old_pretraining_keeps_its_hash() -> None:
    assert set(Corpora.model_fields) == set(CORPORA)
    old = Pretraining(data=World(generator=1))
    assert "corpora" not in canonical(old)
    official = Pretraining(data=World(generator=1), corpora=Corpora(coco=2, vg=3, cc=3, sbu=2))
    assert official.digest != old.digest
    assert hash(official) == hash(Pretraining.model_validate(official.model_dump()))
    for wrong in ({}, {"coco": 0.0}, {"coco": -1.0, "vg": 1.0}, {"flickr": 1.0}, {"coco": float("inf")}):
        with pytest.raises(ValidationError):
            Corpora(**wrong)


def groups(shares: tuple[float, ...] = (2, 3, 3, 2), sizes: tuple[int, ...] = (120, 300, 200, 41)) -> Groups:
    rng = stream("test", "groups")
    return Groups(tuple(CORPORA)[: len(sizes)], [rng.integers(5, 40, size=size) for size in sizes], shares)


def mixed(parts: Groups, *, task: str = "pretraining", seed: int = 0) -> MixedPlan:
    plan = batch_plan(parts, tokens=200, task=task, seed=seed)
    assert isinstance(plan, MixedPlan)
    return plan


def test_without_groups_the_plan_is_the_plain_one() -> None:
    lengths = groups().lengths[1]
    plain, asked = (
        BatchPlan(lengths, tokens=200, task="vqa", seed=3),
        batch_plan(lengths, tokens=200, task="vqa", seed=3),
    )
    assert type(asked) is BatchPlan
    assert all(np.array_equal(plain(step), asked(step)) for step in range(50))


@given(order=st.permutations([0, 1, 2, 5, 40, 41, 300, 4095, 4096, 4097]), seed=st.integers(0, 9))
def test_a_mixed_batch_is_the_same_in_whatever_order_steps_are_asked(order: list[int], seed: int) -> None:
    straight, asked = mixed(groups(), seed=seed), mixed(groups(), seed=seed)
    expected = {step: straight(step) for step in sorted(order)}
    assert all(np.array_equal(asked(step), expected[step]) for step in order)
    another = mixed(groups(), seed=seed + 1)
    assert [another.turn(step) for step in range(40)] != [asked.turn(step) for step in range(40)]


def test_each_group_gives_its_own_plans_batches_in_order() -> None:
    parts = groups()
    plan, turns = mixed(parts), dict.fromkeys(parts.names, 0)
    own = {
        name: BatchPlan(lengths, tokens=200, task=f"pretraining/{name}", seed=0)
        for name, lengths in zip(parts.names, parts.lengths, strict=True)
    }
    for step in range(400):
        batch = plan(step)
        name, rows = parts.place(batch)
        assert np.array_equal(rows, own[name](turns[name]))
        assert np.array_equal(batch - rows, np.full(len(batch), parts.starts[parts.names.index(name)]))
        turns[name] += 1
    assert min(turns.values()) > 40


def test_the_other_groups_batches_do_not_change_when_one_is_left_out() -> None:
    some = Groups(("vg",), [groups().lengths[1]], (1.0,))
    parts, alone = groups(), mixed(some)
    plan = mixed(parts)
    found = [parts.place(plan(step)) for step in range(60)]
    rows = [rows for name, rows in found if name == "vg"]
    assert all(np.array_equal(row, alone(turn)) for turn, row in enumerate(rows))


@pytest.mark.parametrize("shares", [(2, 3, 3, 2), (1, 1), (0.02, 0.98), (7,)])
def test_groups_are_drawn_by_their_shares(shares: tuple[float, ...]) -> None:
    steps, part = 10_000, np.array(shares) / sum(shares)
    plan = mixed(groups(shares, sizes=(50,) * len(shares)))
    counts = np.bincount([plan.turn(step)[0] for step in range(steps)], minlength=len(shares))
    assert ((counts - steps * part) ** 2 / (steps * part)).sum() < 21.1  # chi-square, 3 degrees of freedom: p = 0.0001
    drawn = [plan.turn(step)[0] for step in range(9_000)]
    assert plan.turn(9_000)[1] == drawn.count(plan.turn(9_000)[0])
    assert len(shares) == 1 or drawn[:4096] != drawn[4096:8192]  # no block of draws comes again


def test_groups_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(UserError, match="the task pretraining/vg has no training examples"):
        mixed(groups((1, 1), sizes=(5, 0)))
    for shares in ((1.0, 0.0), (1.0,), (1.0, -1.0)):
        with pytest.raises(ValueError, match="share"):
            groups(shares, sizes=(5, 5))
    with pytest.raises(ValueError, match="are not all of the group"):
        groups().place(np.array([119, 120]))
