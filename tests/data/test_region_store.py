"""The region store: what goes in comes out, a killed writer's store goes on, and a damaged one is named."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vltickets.data import Ragged, RegionWriter, read_regions, verify_store
from vltickets.data.ragged import JoinedRagged
from vltickets.data.regions import find_regions, geometry, join_regions
from vltickets.errors import UserError

SRC = Path(__file__).resolve().parents[2] / "src"
WIDTH, CLASSES = 5, 3


def image(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = 1 + seed % 4
    low = rng.random((count, 2)) * 0.5
    boxes = np.concatenate([low, low + 0.05 + rng.random((count, 2)) * 0.4], 1).astype(np.float32)
    features = rng.normal(size=(count, WIDTH)).astype(np.float16)
    return features, boxes, rng.random((count, CLASSES)).astype(np.float16), rng.random(count).astype(np.float16)


def write(path: Path, seeds: range, *, stop: int | None = None) -> None:
    with RegionWriter(path, width=WIDTH, classes=CLASSES) as writer:
        for seed in seeds:
            if seed == stop:
                raise KeyboardInterrupt
            if f"{seed}.npz" not in writer:
                writer.add(f"{seed}.npz", *image(seed))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "regions_dev", range(12))
    return tmp_path / "regions_dev"


def test_what_is_written_is_read(store: Path) -> None:
    regions = read_regions(store)
    assert (regions.width, regions.classes, len(regions.names)) == (WIDTH, CLASSES, 12)
    for seed in (0, 3, 11):
        row = regions.index(f"{seed}.npz", "the test")
        features, boxes, labels, _ = image(seed)
        assert torch.equal(regions.features.row(row), torch.from_numpy(features))
        assert torch.equal(regions.boxes.row(row), geometry(torch.from_numpy(boxes)))
        assert torch.equal(regions.soft_labels.row(row), torch.from_numpy(labels))
    assert verify_store(store) == {"images": 12, "regions": sum(1 + n % 4 for n in range(12)), "width": 5, "classes": 3}


def test_images_are_padded_with_zeros_in_any_order(store: Path) -> None:
    regions = read_regions(store)
    features, mask = regions.features.padded(np.array([3, 0, 3]))
    assert mask.tolist() == [[True] * 4, [True, False, False, False], [True] * 4]
    assert torch.equal(features[0], regions.features.row(3))
    assert torch.equal(features[0], features[2])
    assert features[1, 1:].abs().sum() == 0


def test_reading_leaves_the_files_as_they_are(store: Path) -> None:
    before = bytes_of(store)
    read_regions(store).features.row(0).add_(1)
    assert bytes_of(store) == before


def test_a_stopped_writer_leaves_nothing_under_the_name_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "whole", range(12))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "stopped", range(12), stop=7)
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(UserError, match="no such region store"):
        read_regions(tmp_path / "stopped")
    write(tmp_path / "stopped", range(12))
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")
    assert not (tmp_path / "stopped.partial").exists()


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from vltickets.data import RegionWriter
with RegionWriter(Path(sys.argv[1]), width=5, classes=3) as writer:
    for number in range(100000):
        if f"{number}.npz" not in writer:
            box = np.array([[0.0, 0.0, 0.5, 0.5]] * 3)
            writer.add(f"{number}.npz", np.full((3, 5), number % 1000), box, np.ones((3, 3)))
            time.sleep(0.0002)
"""


def test_a_writer_killed_at_any_moment_goes_on_after_its_last_whole_image(tmp_path: Path) -> None:
    path, partial = tmp_path / "store", tmp_path / "store.partial"
    known = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], env={**os.environ, "PYTHONPATH": str(SRC)}
        )
        journal = partial / "journal.jsonl"
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < known + 40):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        known = journal.read_bytes().count(b"\n")
    writer = RegionWriter(path, width=5, classes=3)
    assert len(writer.counts) >= known
    number = len(writer.counts)
    with writer:
        writer.add("last", np.ones((1, 5)), np.array([[0, 0, 1, 1]]), np.ones((1, 3)))
    regions = read_regions(path)
    assert regions.names == [*(f"{n}.npz" for n in range(number)), "last"]
    for row in range(number):
        assert (regions.features.row(row) == row % 1000).all()
    verify_store(path)


@given(cut=st.integers(0, 400), part=st.sampled_from(["features.npy", "boxes.npy", "scores.npy", "journal.jsonl"]))
def test_a_partial_store_cut_anywhere_is_continued_soundly(
    tmp_path_factory: pytest.TempPathFactory, cut: int, part: str
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    with pytest.raises(KeyboardInterrupt):
        write(folder / "store", range(12), stop=9)
    file = folder / "store.partial" / part
    os.truncate(file, max(file.stat().st_size - cut, 0))
    write(folder / "store", range(12))
    write(folder / "whole", range(12))
    assert bytes_of(folder / "store") == bytes_of(folder / "whole")


def replace(index: int, value: np.ndarray) -> Callable[[list[np.ndarray]], None]:
    def change(arrays: list[np.ndarray]) -> None:
        arrays[index] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (replace(0, np.full((4, WIDTH), np.nan)), "features has values that are not finite"),
        (replace(0, np.full((4, WIDTH), 1e6)), "features has values that are not finite in half precision"),
        (replace(0, np.zeros((4, WIDTH + 1))), rf"features has shape \(4, {WIDTH + 1}\), expected \(4, {WIDTH}\)"),
        (replace(0, np.zeros((0, WIDTH))), "no boxes, expected at least one"),
        (replace(1, np.tile([0, 0, 1.2, 1], (4, 1))), r"box 0 is \(0, 0, 1.2, 1\), expected"),
        (replace(1, np.tile([0.5, 0, 0.5, 1], (4, 1))), "with x1 < x2"),
        (replace(2, np.full((4, CLASSES), -0.1)), "a soft label is below 0"),
        (replace(2, np.zeros((3, CLASSES))), "soft_labels has shape"),
    ],
)
def test_a_broken_image_is_named_and_not_stored(
    tmp_path: Path, change: Callable[[list[np.ndarray]], None], says: str
) -> None:
    arrays = list(image(3))
    change(arrays)
    with RegionWriter(tmp_path / "store", width=WIDTH, classes=CLASSES) as writer:
        with pytest.raises(UserError, match=f"image 'x.npz': .*{says}"):
            writer.add("x.npz", *arrays)
        assert "x.npz" not in writer
        writer.add("y.npz", *image(3))
        with pytest.raises(UserError, match=r"'y\.npz' comes twice"):
            writer.add("y.npz", *image(3))
    assert read_regions(tmp_path / "store").names == ["y.npz"]


def edited(store: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (store / name).write_bytes(change((store / name).read_bytes()))


def manifest(**values: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | values).encode()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("manifest.json", manifest(format="vltickets-regions-9"), "format 'vltickets-regions-9', expected .*newer"),
        ("manifest.json", manifest(regions="many"), "'regions' should be int"),
        ("manifest.json", lambda content: content[:-20], "not valid JSON"),
        ("features.npy", lambda content: content[:-1], "bytes, expected .*damaged"),
        ("features.npy", lambda content: b"\x80" * len(content), r"not an \.npy file"),
        ("boxes.npy", lambda content: content.replace(b"<f4", b"<i4"), "int32"),
        ("offsets.npy", lambda content: content[:-8] + bytes(8), "should rise from 0"),
        ("names.json", lambda content: content.replace(b'"1.npz"', b'"0.npz"'), "different names"),
    ],
)
def test_a_damaged_store_is_named(store: Path, name: str, change: Callable[[bytes], bytes], says: str) -> None:
    edited(store, name, change)
    with pytest.raises(UserError, match=f"regions_dev.*{says}"):
        read_regions(store)


def test_verifying_finds_one_changed_bit_that_reading_can_t_see(store: Path) -> None:
    edited(store, "features.npy", lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    read_regions(store)
    with pytest.raises(UserError, match=r"features.npy: the checksum differs"):
        verify_store(store)


def test_stores_beside_the_task_are_read_as_one(tmp_path: Path) -> None:
    write(tmp_path / "regions" / "first", range(3))
    write(tmp_path / "regions" / "second", range(3, 8))
    both = find_regions(tmp_path / "vqa", "train")
    assert both.names == [f"{n}.npz" for n in range(8)]
    rows = np.array([6, 0, 4, 3])
    features, mask = both.features.padded(rows)
    boxes, _ = both.boxes.padded(rows)
    assert mask.sum(1).tolist() == [1 + n % 4 for n in rows]
    for place, row in enumerate(rows):
        count = 1 + row % 4
        assert torch.equal(features[place, :count], torch.from_numpy(image(int(row))[0]))
        assert torch.equal(boxes[place, :count], both.boxes.row(int(row)))
        assert features[place, count:].abs().sum() == 0


def test_a_store_travels_to_another_process_as_its_path(tmp_path: Path) -> None:
    write(tmp_path / "regions" / "first", range(3))
    write(tmp_path / "regions" / "second", range(3, 300))
    both = find_regions(tmp_path / "vqa", "train")
    sent = pickle.dumps(both)
    assert len(sent) < 1000
    arrived = pickle.loads(sent)
    assert arrived.names == both.names
    assert torch.equal(arrived.features.padded(np.array([299, 0]))[0], both.features.padded(np.array([299, 0]))[0])


def test_rows_are_padded_in_the_type_that_is_asked_for(store: Path) -> None:
    features = read_regions(store).features
    stored, mask = features.padded(np.array([3, 0, 7]))
    wide, same = features.padded(np.array([3, 0, 7]), torch.float32)
    assert (stored.dtype, wide.dtype) == (torch.float16, torch.float32)
    assert torch.equal(stored.float(), wide)
    assert torch.equal(mask, same)


def test_an_image_in_two_stores_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", range(3))
    write(tmp_path / "b", range(2, 5))
    with pytest.raises(UserError, match=r"'2.npz' stands in .*a and in .*b"):
        join_regions([read_regions(tmp_path / "a"), read_regions(tmp_path / "b")], where="here")


def test_a_task_without_regions_says_where_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vqa/regions_train: no such region store, and no stores in .*/regions either"):
        find_regions(tmp_path / "vqa", "train")


@given(
    parts=st.lists(st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4), min_size=1, max_size=3),
    data=st.data(),
)
def test_joined_rows_are_the_rows_of_their_parts(parts: list[list[list[int]]], data: st.DataObject) -> None:
    rows = [row for part in parts for row in part]
    joined = JoinedRagged([Ragged.from_rows(part) for part in parts])
    asked = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6)))
    values, mask = joined.padded(asked)
    for place, row in enumerate(asked):
        assert values[place][mask[place]].tolist() == rows[row] == joined.row(int(row)).tolist()
        assert values[place][~mask[place]].abs().sum() == 0
