"""Region features of others come out of the store as they went into their own files; broken ones are named."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vltickets.data import read_regions, verify_store
from vltickets.data.region_import import count_images, find_kind, import_regions
from vltickets.data.regions import geometry
from vltickets.errors import UserError

lmdb = pytest.importorskip("lmdb")
msgpack = pytest.importorskip("msgpack")

NAMES = [f"coco_train2014_{n:012d}.npz" for n in (7, 3, 9, 4)]
WIDTH, CLASSES = 6, 5


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = 2 + seed
    low = rng.random((count, 2)) * 0.5
    corners = np.concatenate([low, low + 0.1 + rng.random((count, 2)) * 0.4], 1)
    sides = corners[:, 2:] - corners[:, :2]
    return {
        "features": rng.normal(size=(count, WIDTH)).astype(np.float16),
        "norm_bb": np.concatenate([corners, sides], 1).astype(np.float16),
        "conf": rng.random((count, 1)).astype(np.float16),
        "soft_labels": rng.random((count, CLASSES)).astype(np.float16),
    }


def packed(array: np.ndarray) -> dict[bytes, Any]:
    """An array in msgpack-numpy's layout."""
    return {
        b"nd": True,
        b"type": array.dtype.str.encode(),
        b"kind": b"",
        b"shape": list(array.shape),
        b"data": array.tobytes(),
    }


def npz(content: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    return buffer.getvalue()


def msgpacked(content: dict[str, np.ndarray]) -> bytes:
    return bytes(msgpack.packb({name: packed(array) for name, array in content.items()}))


def write_lmdb(folder: Path, values: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as writing:
        for name, value in values.items():
            writing.put(name.encode(), value)
        writing.put(b"__keys__", json.dumps(list(values)).encode())
    return folder


def base64_of(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def tsv_row(seed: int, name: str) -> list[str]:
    content = arrays(seed)
    count = len(content["features"])
    boxes = content["norm_bb"][:, :4].astype(np.float32) * np.array([640, 480, 640, 480], dtype=np.float32)
    numbers = [
        base64_of(np.arange(count, dtype=np.int64)),
        base64_of(content["conf"].astype(np.float32).ravel()),
        base64_of(np.zeros(count, dtype=np.int64)),
        base64_of(np.zeros(count, dtype=np.float32)),
    ]
    features = base64_of(content["features"].astype(np.float32))
    return [name, "480", "640", *numbers, str(count), base64_of(boxes), features]


def check(out: Path, *, counts: dict[str, int] | None = None) -> None:
    regions = read_regions(out)
    assert sorted(regions.names) == sorted(NAMES)
    for seed, name in enumerate(NAMES):
        content = arrays(seed)
        count = (counts or {}).get(name, len(content["features"]))
        row = regions.index(name, "the test")
        assert torch.equal(regions.features.row(row), torch.from_numpy(content["features"][:count]))
        expected = geometry(torch.from_numpy(content["norm_bb"][:count, :4].astype(np.float32)))
        assert torch.equal(regions.boxes.row(row), expected)
        assert torch.equal(regions.soft_labels.row(row), torch.from_numpy(content["soft_labels"][:count]))
    verify_store(out)


@pytest.mark.parametrize("value", [msgpacked, npz])
def test_uniter_s_lmdb_is_imported_in_both_its_forms(tmp_path: Path, value: Callable[..., bytes]) -> None:
    source = write_lmdb(tmp_path / "all", {name: value(arrays(seed)) for seed, name in enumerate(NAMES)})
    assert find_kind(source) == "uniter-lmdb"
    assert count_images(source)["images"] == 4
    assert import_regions(source, tmp_path / "out") == 4
    check(tmp_path / "out")


def test_the_side_file_cuts_images_to_their_first_boxes(tmp_path: Path) -> None:
    source = write_lmdb(
        tmp_path / "feat_th0.2_max100_min10", {name: msgpacked(arrays(seed)) for seed, name in enumerate(NAMES)}
    )
    counts = dict(zip(NAMES, (1, 2, 3, 1), strict=True))
    (tmp_path / "nbb_th0.2_max100_min10.json").write_text(json.dumps(counts))
    import_regions(source, tmp_path / "out")
    check(tmp_path / "out", counts=counts)


def test_a_folder_of_npz_files_is_imported(tmp_path: Path) -> None:
    source = tmp_path / "npz"
    source.mkdir()
    for seed, name in enumerate(NAMES):
        (source / name).write_bytes(npz(arrays(seed)))
    import_regions(source, tmp_path / "out")
    check(tmp_path / "out")


def test_lxmert_s_tsv_is_imported_with_boxes_as_shares_and_classes_as_labels(tmp_path: Path) -> None:
    source = tmp_path / "train2014_obj36.tsv"
    source.write_text("".join("\t".join(tsv_row(seed, f"COCO_{seed}")) + "\n" for seed in range(3)))
    assert count_images(source)["width"] == WIDTH
    assert import_regions(source, tmp_path / "out") == 3
    regions = read_regions(tmp_path / "out")
    assert regions.names == ["coco_0.npz", "coco_1.npz", "coco_2.npz"]  # as the reader of LXMERT's questions asks
    assert regions.classes == 1601
    content = arrays(2)
    assert torch.allclose(regions.boxes.row(2)[:, :4], torch.from_numpy(content["norm_bb"][:, :4]).float(), atol=1e-6)
    labels = regions.soft_labels.row(2).float()
    assert torch.allclose(labels.sum(1), torch.ones(4), atol=1e-3)
    confidence = torch.from_numpy(content["conf"]).float().ravel()
    assert torch.allclose(labels[torch.arange(4), torch.arange(4) + 1], confidence, atol=1e-3)


def test_an_import_that_was_killed_goes_on(tmp_path: Path) -> None:
    source = write_lmdb(tmp_path / "all", {name: msgpacked(arrays(seed)) for seed, name in enumerate(NAMES)})

    def stop(done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_regions(source, tmp_path / "out", tell=stop)
    assert not (tmp_path / "out").exists()
    assert import_regions(source, tmp_path / "out") == 4
    check(tmp_path / "out")


class Marks:
    """A pickle that would leave a file behind if it were read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


OBJECTS = {b"nd": True, b"type": b"O", b"kind": b"O", b"shape": [1], b"data": b""}


def broken(**changes: np.ndarray) -> bytes:
    return msgpacked({**arrays(1), **changes})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"\xc1", "not a msgpack record"),
        (msgpack.packb([1, 2]), "expected a map of arrays"),
        (
            msgpack.packb({"features": OBJECTS}),
            "no objects",
        ),
        (msgpack.packb({"features": "text"}), "expected a numeric array"),
        (msgpacked({"features": np.zeros((2, WIDTH), np.float16)}), "'norm_bb' is missing"),
        (broken(features=np.full((3, WIDTH), np.nan, np.float16)), "not finite"),
        (broken(features=np.zeros((3, WIDTH + 1), np.float16)), "features has shape"),
        (broken(norm_bb=np.full((3, 6), 1.5, np.float16)), "box 0 is"),
        (broken(features=np.zeros((0, WIDTH), np.float16)), "no boxes"),
        (npz(arrays(1))[:80], "not an .npz file"),
    ],
)
def test_a_broken_record_is_named_and_nothing_is_left(tmp_path: Path, value: bytes, says: str) -> None:
    source = write_lmdb(tmp_path / "all", {"a.npz": msgpacked(arrays(0)), "b.npz": value})
    with pytest.raises(UserError, match=rf"all.*b\.npz.*{says}"):
        import_regions(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all"]


def test_an_npz_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    source = tmp_path / "npz"
    source.mkdir()
    mark = tmp_path / "was-run"
    np.savez(source / "a.npz", features=np.array([Marks(mark)], dtype=object))
    assert b"touch" in (source / "a.npz").read_bytes()
    with pytest.raises(UserError, match=r"a\.npz: not an \.npz file of plain arrays"):
        import_regions(source, tmp_path / "out")
    (source / "a.npz").write_bytes(pickle.dumps(Marks(mark)))
    with pytest.raises(UserError, match=r"a\.npz: not an \.npz file of plain arrays"):
        import_regions(source, tmp_path / "out")
    assert not mark.exists()


def test_a_truncated_lmdb_is_refused(tmp_path: Path) -> None:
    values = {f"{n}.npz": msgpacked(arrays(n % 4)) for n in range(60)}
    source = write_lmdb(tmp_path / "all", values)
    content = (source / "data.mdb").read_bytes()
    (source / "data.mdb").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"data\.mdb"):
        import_regions(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (1, "tall", "img_h is 'tall'"),
        (7, "0", "num_boxes is '0'"),
        (9, "AAAA", "features is not base64 of 4 rows"),
        (8, "?", "boxes is not base64"),
        (3, base64_of(np.full(4, 1600)), "objects_id has a class outside"),
    ],
)
def test_a_broken_line_of_a_tsv_is_named(tmp_path: Path, column: int, value: str, says: str) -> None:
    row = tsv_row(2, "b")
    row[column] = value
    source = tmp_path / "a.tsv"
    source.write_text("\t".join(tsv_row(0, "a")) + "\n" + "\t".join(row) + "\n")
    with pytest.raises(UserError, match=rf"a\.tsv, line 2: {says}"):
        import_regions(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv"]


@given(place=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans(), tsv=st.booleans())
def test_damage_anywhere_is_a_sentence_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, place: float, byte: int, cut: bool, tsv: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    if tsv:
        file = source = folder / "a.tsv"
        content = ("\t".join(tsv_row(1, "a")) + "\n").encode()
    else:
        source, file = folder / "npz", folder / "npz" / "a.npz"
        source.mkdir()
        content = npz(arrays(1))
    at = min(int(place * len(content)), len(content) - 1)
    file.write_bytes(content[:at] if cut else content[:at] + bytes([byte]) + content[at + 1 :])
    try:
        import_regions(source, folder / "out")
    except UserError:
        assert not (folder / "out").exists()
    else:
        verify_store(folder / "out")
