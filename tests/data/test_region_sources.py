"""Foreign region features become a native store with the same content, or one sentence names file and record."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest
import torch

from vltickets.data import import_regions, read_regions, stream, verify_store
from vltickets.data.region_sources import LEAST, find_source
from vltickets.errors import UserError

SRC = Path(__file__).resolve().parents[2] / "src"
WIDTH, CLASSES = 6, 4
NAMES = [f"coco_val2014_{number:012d}.npz" for number in (9, 25, 30, 42, 61)]
Arrays = dict[str, np.ndarray]


def image(name: str) -> Arrays:
    """The arrays of UNITER's extractor, 3 to 7 regions."""
    rng = np.random.default_rng(int(name[-9:-4]))
    count = 3 + int(name[-9:-4]) % 5
    low = rng.random((count, 2)) * 0.5
    corners = np.concatenate([low, low + 0.1 + rng.random((count, 2)) * 0.4], 1)
    return {
        "features": rng.normal(size=(count, WIDTH)).astype(np.float16),
        "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1).astype(np.float16),
        "conf": np.sort(rng.random((count, 1)).astype(np.float16), axis=0)[::-1],
        "soft_labels": rng.random((count, CLASSES)).astype(np.float16),
    }


def numpy_map(array: np.ndarray) -> dict[bytes, Any]:
    """What msgpack-numpy 0.4.8 writes for an array."""
    kind = b"O" if array.dtype == object else b""
    data = array.dumps() if array.dtype == object else array.tobytes()
    return {b"nd": True, b"type": array.dtype.str, b"kind": kind, b"shape": array.shape, b"data": data}


def packed(arrays: Arrays) -> bytes:
    content: bytes = msgpack.packb({name: numpy_map(array) for name, array in arrays.items()}, use_bin_type=True)
    return content


def zipped(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def write_database(folder: Path, values: dict[str, bytes], keys: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as writing:
        for name, value in values.items():
            writing.put(name.encode(), value)
        writing.put(b"__keys__", json.dumps(list(values) if keys is None else keys).encode())
    return folder


def coded(array: np.ndarray, kind: str) -> bytes:
    return base64.b64encode(array.astype(kind).tobytes())


def tsv_line(name: str, **change: bytes) -> bytes:
    """A line of LXMERT's extractor: image of 640 x 480 pixels, objects 0, 1, 2 ..., attributes of no interest."""
    arrays = image(name)
    count = len(arrays["features"])
    columns = {
        "img_id": name.removesuffix(".npz").replace("coco", "COCO").encode(),
        "img_h": b"480",
        "img_w": b"640",
        "objects_id": coded(np.arange(count), "<i8"),
        "objects_conf": coded(arrays["conf"], "<f4"),
        "attrs_id": coded(np.arange(count), "<i8"),
        "attrs_conf": coded(arrays["conf"], "<f4"),
        "num_boxes": str(count).encode(),
        "boxes": coded(arrays["norm_bb"][:, :4] * np.array([640, 480, 640, 480], dtype="<f4"), "<f4"),
        "features": coded(arrays["features"], "<f4"),
    }
    return b"\t".join((columns | change).values()) + b"\n"


def make_uniter(root: Path) -> Path:
    return write_database(root / "coco" / "feat_th0.2_max100_min10", {name: packed(image(name)) for name in NAMES})


def make_compressed(root: Path) -> Path:
    values = {name: zipped(image(name)) for name in NAMES}
    return write_database(root / "coco" / "feat_th0.2_max100_min10_compressed", values)


def make_lxmert(root: Path) -> Path:
    (root / "val2014_obj36.tsv").write_bytes(b"".join(tsv_line(name) for name in NAMES))
    return root / "val2014_obj36.tsv"


def make_npz(root: Path) -> Path:
    (root / "coco_val2014").mkdir()
    for name in NAMES:
        (root / "coco_val2014" / name).write_bytes(zipped(image(name)))
    return root / "coco_val2014"


MAKERS = {"uniter": make_uniter, "compressed": make_compressed, "lxmert": make_lxmert, "npz": make_npz}


@pytest.mark.parametrize("form", MAKERS)
def test_a_store_has_what_its_source_had(tmp_path: Path, form: str) -> None:
    told: list[tuple[int, int]] = []
    done = import_regions(MAKERS[form](tmp_path), tmp_path / "out", tell=lambda *counts: told.append(counts))
    regions = read_regions(tmp_path / "out")
    assert sorted(regions.names) == NAMES
    assert done == 5
    assert told[-1] == (5, 5)
    for name in NAMES:
        arrays, row = image(name), regions.index(name, "the test")
        assert torch.equal(regions.features.row(row), torch.from_numpy(arrays["features"]))
        corners = arrays["norm_bb"][:, :4].astype(np.float32)
        assert np.allclose(regions.boxes.row(row)[:, :4], corners, atol=1e-6)
        if form != "lxmert":
            assert torch.equal(regions.soft_labels.row(row), torch.from_numpy(arrays["soft_labels"]))
    verify_store(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} & {"out.partial", "out.import.json"} == set()


def test_lxmert_s_confidences_become_labels_that_sum_to_one(tmp_path: Path) -> None:
    import_regions(make_lxmert(tmp_path), tmp_path / "out")
    regions = read_regions(tmp_path / "out")
    labels = regions.soft_labels.row(regions.index(NAMES[0], "the test")).float()
    confidences = torch.from_numpy(image(NAMES[0])["conf"].astype(np.float32).ravel())
    assert labels.shape == (len(confidences), 1601)
    for region, confidence in enumerate(confidences):
        assert labels[region, region + 1] == confidence  # LXMERT's object 0 is class 1: the background is class 0
        assert labels[region, 0] == pytest.approx(1 - float(confidence), abs=1e-3)
        assert labels[region].sum() == pytest.approx(1, abs=1e-3)


def test_images_of_lxmert_get_the_names_the_readers_ask_for(tmp_path: Path) -> None:
    given = {"COCO_val2014_000000000009": "coco_val2014_000000000009.npz", "dev-0-1-img0": "nlvr2_dev-0-1-img0.npz"}
    given |= {"2354786": "vg_2354786.npz", "n161313": "vg_n161313.npz", "photo 7": "photo 7.npz"}
    lines = [tsv_line(NAMES[0], img_id=identity.encode()) for identity in given]
    (tmp_path / "all.tsv").write_bytes(b"".join(lines))
    import_regions(tmp_path / "all.tsv", tmp_path / "out")
    assert read_regions(tmp_path / "out").names == list(given.values())


def test_the_side_file_cuts_each_image_to_its_first_regions(tmp_path: Path) -> None:
    source = make_uniter(tmp_path)
    counts = {name: 1 + place % 3 for place, name in enumerate(NAMES)}
    (source.parent / "nbb_th0.2_max100_min10.json").write_text(json.dumps(counts))
    import_regions(source, tmp_path / "out")
    regions = read_regions(tmp_path / "out")
    for name, count in counts.items():
        row = regions.index(name, "the test")
        assert torch.equal(regions.features.row(row), torch.from_numpy(image(name)["features"][:count]))


def many(confident: int) -> Arrays:
    arrays = {name: np.repeat(array[:1], 40, axis=0) for name, array in image(NAMES[0]).items()}
    arrays["conf"] = np.where(np.arange(40) < confident, 0.5, 0.1).astype(np.float16)[:, None]
    return arrays


@pytest.mark.parametrize(("confident", "kept"), [(0, LEAST), (LEAST + 7, LEAST + 7), (40, 40)])
def test_a_database_of_all_regions_is_cut_by_uniter_s_rule(tmp_path: Path, confident: int, kept: int) -> None:
    source = write_database(tmp_path / "coco" / "all", {NAMES[0]: packed(many(confident))})
    import_regions(source, tmp_path / "out")
    assert read_regions(tmp_path / "out").features.lengths.tolist() == [kept]


def test_npz_files_are_whole_unless_a_threshold_is_given(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / NAMES[0]).write_bytes(zipped(many(15)))
    import_regions(tmp_path / "x", tmp_path / "whole")
    import_regions(tmp_path / "x", tmp_path / "cut", threshold=0.2)
    assert read_regions(tmp_path / "whole").features.lengths.tolist() == [40]
    assert read_regions(tmp_path / "cut").features.lengths.tolist() == [15]


def test_a_database_of_many_pages_is_read_whole(tmp_path: Path) -> None:
    names = [f"nlvr2_train-{number}-img0.npz" for number in range(700)]
    values = {name: packed(image(f"{number:012d}.npz")) for number, name in enumerate(names)}
    source = write_database(tmp_path / "feat_numbb36", values)
    import_regions(source, tmp_path / "out")
    regions = read_regions(tmp_path / "out")
    assert regions.names == sorted(names)
    for number in (0, 350, 699):
        features = image(f"{number:012d}.npz")["features"]
        assert torch.equal(regions.features.row(regions.index(names[number], "")), torch.from_numpy(features))


# What is broken


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("exploded",)


def changed(name: str, **change: Any) -> Arrays:
    return {key: array for key, array in (image(name) | change).items() if array is not None}


def spoilt(key: str, place: tuple[int, ...], value: float) -> Arrays:
    arrays = image(NAMES[2])
    arrays[key] = arrays[key].copy()
    arrays[key][place] = value
    return arrays


SPOILT: dict[str, tuple[Arrays, str]] = {
    "NaN": (spoilt("features", (1, 2), np.nan), "features has values that are not finite"),
    "another width": (changed(NAMES[2], features=np.ones((3, WIDTH + 1))), "features has shape"),
    "a box outside": (spoilt("norm_bb", (0, 2), 1.5), "box 0 is"),
    "a box of pixels": (spoilt("norm_bb", (0, 3), 300), "box 0 is"),
    "an inverted box": (spoilt("norm_bb", (0, 2), 0.0), "with x1 < x2"),
    "a negative label": (spoilt("soft_labels", (0, 0), -0.5), "a soft label is below 0"),
    "no regions": ({name: array[:0] for name, array in image(NAMES[2]).items()}, "no boxes"),
    "no features": (changed(NAMES[2], features=None), "'features' is missing"),
    "fewer boxes": (changed(NAMES[2], norm_bb=np.ones((1, 6), np.float16)), "norm_bb has shape"),
    "boxes of three numbers": (changed(NAMES[2], norm_bb=np.ones((3, 3), np.float16)), "3 numbers a box"),
    "features of one axis": (changed(NAMES[2], features=np.ones(3, np.float16)), "expected two axes"),
    "whole numbers": (changed(NAMES[2], conf=np.ones(3, np.int32)), "conf has the type '<i4'"),
    "a pickle": (changed(NAMES[2], soft_labels=np.array([Bomb()] * 3)), "objects"),
}


@pytest.mark.filterwarnings("ignore:.*pickle.*")
@pytest.mark.parametrize("form", ["uniter", "compressed", "npz"])
@pytest.mark.parametrize("name", SPOILT)
def test_a_broken_record_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays, says = SPOILT[name]
    values = {known: image(known) for known in NAMES} | {NAMES[2]: arrays}
    if form == "npz":
        source = make_npz(tmp_path)
        (source / NAMES[2]).write_bytes(zipped(arrays))
    else:
        pack = packed if form == "uniter" else zipped
        source = write_database(tmp_path / "feat_numbb36", {key: pack(value) for key, value in values.items()})
    refused(source, tmp_path, says, NAMES[2])
    assert not (tmp_path / "exploded").exists()


def refused(source: Path, root: Path, *says: str, kind: str | None = None) -> None:
    """Assert that the import is refused in one line that names the source, and leaves the folder as it was."""
    before = {path.name for path in root.iterdir()}
    with pytest.raises(UserError) as caught:
        import_regions(source, root / "out", kind)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(source) in sentence
    for part in says:
        assert part in sentence
    assert {path.name for path in root.iterdir()} == before


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "not a msgpack record"),
        (b"PK\x03\x04 not a zip", "not an .npz file"),
        (packed(image(NAMES[2]))[:-7], "not a msgpack record"),
        (zipped(image(NAMES[2]))[:-7], "not an .npz file"),
        (pickle.dumps(Bomb()), "not a msgpack record"),
        (msgpack.packb([1, 2]), "expected a map of arrays, found list"),
        (msgpack.packb({"features": "many"}), "expected a numeric array"),
        (msgpack.packb({"features": msgpack.ExtType(5, b"x")}), "extension type"),
        (msgpack.packb({"features": {b"nd": True, b"type": "<f2", b"shape": [9, 9], b"data": b"x"}}), "1 bytes"),
    ],
)
def test_a_value_of_another_encoding_is_named(tmp_path: Path, value: bytes, says: str) -> None:
    values = {name: packed(image(name)) for name in NAMES} | {NAMES[2]: value}
    refused(write_database(tmp_path / "feat_numbb36", values), tmp_path, says, NAMES[2])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"img_h": b"0"}, "img_h is '0', expected a whole number above 0"),
        ({"img_w": b"wide"}, "img_w is 'wide'"),
        ({"num_boxes": b"4"}, "objects_id is not base64 of 4 rows"),
        ({"features": b"???"}, "features is not base64"),
        ({"features": coded(np.ones(10), "<f4")}, "features is not base64 of 3 rows"),
        ({"features": coded(np.full((3, WIDTH), np.inf), "<f4")}, "features has values that are not finite"),
        ({"boxes": coded(np.tile([0, 0, 900, 10], 3), "<f4")}, "box 0 is"),
        ({"objects_id": coded(np.array([0, 1, 1600]), "<i8")}, "objects_id has a class outside 0 to 1599"),
        ({"objects_conf": coded(np.array([0, 1, 7]), "<f4")}, "objects_conf has numbers that are not from 0 to 1"),
        ({"img_id": b"\xff"}, "img_id is"),
        ({"img_id": b"COCO_val2014_000000000009"}, "comes twice"),
        ({"attrs_id": b"a\tb"}, "11 columns, expected the 10"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, change: dict[str, bytes], says: str) -> None:
    lines = [tsv_line(name) for name in NAMES]
    lines[2] = tsv_line(NAMES[2], **change)
    (tmp_path / "val.tsv").write_bytes(b"".join(lines))
    refused(tmp_path / "val.tsv", tmp_path, says, "line 3")


def test_a_database_whose_list_of_names_differs_is_refused(tmp_path: Path) -> None:
    values = {name: packed(image(name)) for name in NAMES}
    refused(write_database(tmp_path / "short", values, NAMES[:-1]), tmp_path, "__keys__", NAMES[-1])
    refused(write_database(tmp_path / "long", values, [*NAMES, "zebra.npz"]), tmp_path, "__keys__", "zebra.npz")


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda path: None, None, "no such file or folder"),
        (lambda path: path.mkdir(), None, "expected a folder with data.mdb"),
        (lambda path: path.mkdir(), "npz", "no images in it"),
        (lambda path: path.mkdir(), "uniter-lmdb", "can't be opened"),
        (lambda path: path.mkdir(), "lxmert-tsv", "not a file"),
        (lambda path: path.write_bytes(b""), None, "no images in it"),
        (lambda path: path.write_bytes(b"hello\n"), None, "1 columns, expected the 10"),
        (lambda path: write_database(path / "feat_numbb36", {}), None, "name one of its databases"),
        (lambda path: write_database(path, {}), None, "no images in it"),
    ],
)
def test_a_source_of_no_known_kind_is_named(
    tmp_path: Path, make: Callable[[Path], object], kind: str | None, says: str
) -> None:
    make(tmp_path / "mine")
    refused(tmp_path / "mine", tmp_path, says, kind=kind)


def test_an_unknown_kind_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'lxmert-tsv'"):
        import_regions(tmp_path, tmp_path / "out", "lxmrt-tsv")


# A stopped import

KILLED = """
import sys, time
from pathlib import Path
from vltickets.data import import_regions
import_regions(Path(sys.argv[1]), Path(sys.argv[2]), tell=lambda done, total: time.sleep(0.02))
"""


def test_a_killed_import_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    source = tmp_path / "val.tsv"
    source.write_bytes(b"".join(tsv_line(NAMES[0], img_id=str(number).encode()) for number in range(120)))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source), str(tmp_path / "out")], env={**os.environ, "PYTHONPATH": str(SRC)}
    )
    journal = tmp_path / "out.partial" / "journal.jsonl"
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 10):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    stored = journal.read_bytes().count(b"\n")
    assert 10 <= stored < 120
    import_regions(source, tmp_path / "out")
    import_regions(source, tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_a_store_begun_from_another_source_is_not_continued(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = make_npz(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_regions(source, tmp_path / "out", tell=stop)
    before = (tmp_path / "out.partial" / "journal.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"out.partial was begun otherwise"):
        import_regions(make_lxmert(tmp_path), tmp_path / "out")
    assert (tmp_path / "out.partial" / "journal.jsonl").read_bytes() == before
    assert import_regions(source, tmp_path / "out") == 5


# Whatever is in a file


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes cut off, or with some replaced, or with others put in."""
    place = int(rng.integers(len(content)))
    if rng.random() < 0.3:
        return content[:place]
    junk = rng.integers(0, 256, size=int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
    return content[:place] + junk + content[place + len(junk) * int(rng.random() < 0.8) :]


def refusal(act: Callable[[], object]) -> str | None:
    """Act; return the one line of the refusal, or None where all was well."""
    try:
        act()
    except UserError as error:
        said = str(error)
        return said if "\n" not in said else pytest.fail(f"more than a line: {said!r}")
    return None


def use(store: Path) -> None:
    read_regions(store).features.padded(np.arange(5))
    verify_store(store)


@pytest.mark.parametrize("form", MAKERS)
def test_no_bytes_of_a_source_raise_anything_but_a_user_error(tmp_path: Path, form: str) -> None:
    source = MAKERS[form](tmp_path)
    files = [source] if source.is_file() else [path for path in sorted(source.iterdir()) if path.name != "lock.mdb"]
    rng, refusals = stream("fuzz regions", form), 0
    for number in range(80):
        path = files[int(rng.integers(len(files)))]
        whole = path.read_bytes()
        path.write_bytes(damaged(whole, rng))
        out = tmp_path / f"out{number}"
        said = refusal(lambda out=out: import_regions(source, out))  # type: ignore[misc]
        if said is None:
            verify_store(out)
        else:
            refusals += 1
            assert not [left for left in tmp_path.iterdir() if left.name.startswith(out.name)]
        path.write_bytes(whole)
    assert refusals > 20


def test_no_change_in_a_page_of_a_database_raises_anything_but_a_user_error(tmp_path: Path) -> None:
    """Numbers of pages, nodes and sizes are where a careless reader would leave the file, or never end."""
    names = [f"{number:05d}.npz" for number in range(200)]
    source = write_database(tmp_path / "feat_numbb36", {name: packed(image(f"00{name}")) for name in names})
    whole = (source / "data.mdb").read_bytes()
    heads = [place for place in range(0, len(whole), 4096) if any(whole[place : place + 4096])]
    rng, refusals = stream("fuzz pages"), 0
    for _ in range(150):
        content = bytearray(whole)
        place = heads[int(rng.integers(len(heads)))] + int(rng.integers(64))
        content[place : place + 2] = rng.integers(0, 256, size=2, dtype=np.uint8).tobytes()
        (source / "data.mdb").write_bytes(content)
        refusals += refusal(lambda: [found.read() for found in find_source(source).images()]) is not None
    assert refusals > 30


def test_no_bytes_of_a_native_store_raise_anything_but_a_user_error(tmp_path: Path) -> None:
    import_regions(make_npz(tmp_path), tmp_path / "out")
    rng, refusals = stream("fuzz store"), 0
    files = sorted((tmp_path / "out").iterdir())
    for _ in range(200):
        path = files[int(rng.integers(len(files)))]
        whole = path.read_bytes()
        path.write_bytes(damaged(whole[:256], rng) + whole[256:] if rng.random() < 0.5 else damaged(whole, rng))
        refusals += refusal(lambda: use(tmp_path / "out")) is not None
        path.write_bytes(whole)
    assert refusals > 150
