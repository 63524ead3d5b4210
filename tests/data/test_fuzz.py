"""Whatever is in a file, a reader gives examples or one `UserError`, never another exception."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vltickets.data import Source, open_folder, stream
from vltickets.errors import UserError

Read = Callable[[Source], object]

READERS: dict[str, tuple[str, Read]] = {
    "vqa questions": ("vqa/v2_OpenEnded_mscoco_val2014_questions.json", lambda s: s.vqa("dev", s.answers())),
    "vqa annotations": ("vqa/v2_mscoco_val2014_annotations.json", lambda s: s.vqa("dev", s.answers())),
    "vqa answers": ("vqa/ans2label.json", lambda s: s.vqa("dev", s.answers())),
    "genome": ("vqa/question_answers.json", lambda s: s.vqa("train", s.answers())),
    "gqa": ("gqa/testdev_balanced_questions.json", lambda s: s.gqa("dev", s.answers("gqa"))),
    "gqa answers": ("gqa/trainval_label2ans.json", lambda s: s.gqa("dev", s.answers("gqa"))),
    "vcr": ("vcr/val.jsonl", lambda s: s.vcr("dev")),
    "vcr metadata": ("vcr/vcr1images/movie/0.json", lambda s: s.vcr("dev")),
    "snli_ve": ("snli_ve/snli_ve_dev.jsonl", lambda s: s.entailment("dev")),
    "refs": ("refcoco/refs(unc).p", lambda s: s.expressions("dev", "true")),
    "instances": ("refcoco/instances.json", lambda s: s.expressions("dev", "true")),
    "order": ("refcoco/iid_to_ann_ids.json", lambda s: s.expressions("dev", "true")),
    "karpathy": ("flickr30k/dataset_flickr30k.json", lambda s: s.retrieval("dev")),
    "nlvr2": ("nlvr2/test1.json", lambda s: s.nlvr2("test")),
    "captions": ("captions/captions_val2017.json", lambda s: s.captions("dev")),
    "vocabulary": ("vocab.txt", lambda s: open_folder(s.folder).captions("dev")),
}
JUNK: list[Any] = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, 2**200, 1.5, float("nan"), float("inf"), "", " ", "7", "-", "x" * 5000,
    "\ud800", "\x00", "é漢\u2028", "../../x", [], [[]], [0], ["a"], {}, {"a": 1}, [None], {"7": None},
]  # fmt: skip


def load(path: Path) -> Any:
    if path.suffix == ".p":
        return pickle.loads(path.read_bytes())
    if path.suffix == ".jsonl" or path.parent.name == "nlvr2":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(path.read_text())


def dump(path: Path, value: Any) -> bytes:
    if path.suffix == ".p":
        return pickle.dumps(value)
    if (path.suffix == ".jsonl" or path.parent.name == "nlvr2") and isinstance(value, list):
        return "".join(json.dumps(record) + "\n" for record in value).encode()
    return json.dumps(value).encode()


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value within a value, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*way, key)
        yield from places(item, (*way, key))


def mutated(value: Any, rng: np.random.Generator) -> Any:
    """Return the value with one thing in it gone, doubled, renamed or replaced by junk."""
    ways = list(places(value))
    way = ways[rng.integers(len(ways))]
    holder = value
    for key in way[:-1]:
        holder = holder[key]
    kind = rng.integers(4)
    if kind == 0:
        del holder[way[-1]]
    elif kind == 1 and isinstance(holder, list):
        holder.append(holder[way[-1]])
    elif kind == 1 and isinstance(holder, dict):
        holder[str(way[-1]) + "x"] = holder.pop(way[-1])
    else:
        holder[way[-1]] = JUNK[rng.integers(len(JUNK))]
    return value


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes cut off, or with some replaced, or with others put in."""
    place = int(rng.integers(len(content)))
    if rng.random() < 0.4:
        return content[:place]
    junk = rng.integers(0, 256, size=int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
    return content[:place] + junk + content[place + len(junk) * int(rng.integers(2)) :]


def refusal(read: Callable[[], object]) -> str | None:
    """Read; return the sentence of the refusal, or None where all was well."""
    try:
        read()
    except UserError as error:
        return str(error)
    return None


def check(read: Read, source: Source) -> bool:
    """Read; return whether it was refused. A refusal is one line that names a file of the folder."""
    said = refusal(lambda: read(source))
    if said is None:
        return False
    assert "\n" not in said
    assert str(source.folder) in said
    return True


@pytest.fixture
def source(official: Path) -> Source:
    questions = [{"qa_id": 90, "image_id": 4, "question": "what is red ?", "answer": "Red."}]
    (official / "vqa" / "question_answers.json").write_text(json.dumps([{"id": 4, "qas": questions}]))
    return open_folder(official)


@pytest.mark.parametrize("name", [name for name in READERS if name != "vocabulary"])
def test_no_value_in_a_record_raises_anything_but_a_user_error(source: Source, name: str) -> None:
    place, read = READERS[name]
    path = source.folder / place
    assert not check(read, source)
    whole, rng, refused = path.read_bytes(), stream("fuzz", name), 0
    for _ in range(60):
        path.write_bytes(whole)
        path.write_bytes(dump(path, mutated(load(path), rng)))
        refused += check(read, source)
    assert refused > 3  # the changes do reach what is read


@pytest.mark.parametrize("name", READERS)
def test_no_bytes_raise_anything_but_a_user_error(source: Source, name: str) -> None:
    place, read = READERS[name]
    path = source.folder / place
    whole, rng, refused = path.read_bytes(), stream("fuzz bytes", name), 0
    special = [b"", b"\x00", b"\xff\xfe", b"null", b"[" * 100_000, b'"\\ud800"', b"[" + b"9" * 5000 + b"]"]
    for content in special + [damaged(whole, rng) for _ in range(30)]:
        path.write_bytes(content)
        refused += check(read, source)
    assert refused > 3


SAMPLES: dict[str, tuple[str, Read]] = {
    "vqav2/questions.json": ("vqa/v2_OpenEnded_mscoco_val2014_questions.json", lambda s: s.vqa("dev", s.answers())),
    "vqav2/annotations.json": ("vqa/v2_mscoco_val2014_annotations.json", lambda s: s.vqa("dev", s.answers())),
    "gqa/questions.json": ("gqa/testdev_balanced_questions.json", lambda s: s.gqa("dev", s.answers("gqa"))),
    "vcr/sample.jsonl": ("vcr/val.jsonl", lambda s: s.vcr("dev")),
    "snli_ve/sample_pairs.jsonl": ("snli_ve/snli_ve_dev.jsonl", lambda s: s.entailment("dev")),
    "nlvr2/dev_sample.json": ("nlvr2/test1.json", lambda s: s.nlvr2("test")),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", SAMPLES)
def test_no_change_of_a_public_sample_raises_anything_but_a_user_error(
    source: Source, shared: Path, write_regions: Callable[..., None], name: str
) -> None:
    place, read = SAMPLES[name]
    samples, path = shared / "data" / "formats", source.folder / place
    path.write_bytes((samples / name).read_bytes())
    for other, (beside, _) in SAMPLES.items():
        if Path(beside).parts[0] == "vqa":
            (source.folder / beside).write_bytes((samples / other).read_bytes())
    write_sample_regions(source.folder, samples, write_regions)
    assert refusal(lambda: read(source)) is None
    whole, rng, refused = path.read_bytes(), stream("fuzz samples", name), 0
    for _ in range(60):
        path.write_bytes(whole)
        path.write_bytes(dump(path, mutated(load(path), rng)))
        refused += check(read, source)
    assert refused > 0


def write_sample_regions(folder: Path, samples: Path, write_regions: Callable[..., None]) -> None:
    """Write the regions that the samples' records need."""
    images = [item["image_id"] for item in json.loads((samples / "vqav2" / "questions.json").read_text())["questions"]]
    write_regions(folder / "vqa", "val2014", {f"coco_val2014_{image:012d}.npz": 2 for image in images})
    for stale in (folder / "vqa").glob("regions_dev*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    write_regions(folder / "gqa", "dev", {"vg_n578564.npz": 2})
    write_regions(folder / "vcr", "gt_dev", {"vcr_gt_train_0.npz": 4, "vcr_gt_val_0.npz": 6})
    write_regions(folder / "vcr", "det_dev", {"vcr_train_0.npz": 4, "vcr_val_0.npz": 6})
    pairs = load(samples / "snli_ve" / "sample_pairs.jsonl")
    photos = {int(item.get("Flickr30K_ID") or item["Flikr30kID"].removesuffix(".jpg")) for item in pairs}
    write_regions(folder / "snli_ve", "val", {f"flickr30k_{photo:012d}.npz": 2 for photo in photos})
    for stale in (folder / "snli_ve").glob("regions_dev*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    stems = {item["identifier"].rpartition("-")[0] for item in load(samples / "nlvr2" / "dev_sample.json")}
    write_regions(folder / "nlvr2", "test", {f"nlvr2_{stem}-img{side}.npz": 2 for stem in stems for side in (0, 1)})
