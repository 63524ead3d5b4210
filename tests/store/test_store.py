"""A result is there whole or not at all, is never overwritten, and is believed only where its hashes fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vltickets.errors import UserError
from vltickets.specs import Fresh, Node, Prune, Recipe, Train, Vqa, World, canonical, changed, hash_json, sized
from vltickets.store import Record, Store, export_records, import_records, tidy, write_file, write_folder

SRC = Path(__file__).resolve().parents[2] / "src"
DENSE = Train(
    backbone=sized("tiny"),
    task=Vqa(data=World(generator=1)),
    start=Fresh(),
    recipe=Recipe(steps=9, learning_rate=0.1),
)
PRUNED = Prune(train=DENSE, sparsity=0.1)
SECOND = changed(DENSE, mask=PRUNED)
SCORES = np.array([0.0, 0.5, 1.0], dtype=np.float16)
BITS = np.array([255, 7], dtype=np.uint8)


def record_of(node: Node, score: float = 0.5) -> Record:
    return Record(
        digest=node.digest,
        kind=node.kind,
        spec=canonical(node),
        metrics={"score": score},
        curve=[(3, 1.5), (9, 0.25)],
        seconds=2.5,
        machine={"cpu": "abacus"},
    )


def filled(store: Store) -> Store:
    store.finish(DENSE, record_of(DENSE), {"items": {"score": SCORES}})
    store.finish(PRUNED, record_of(PRUNED), {"mask": {"w": BITS}})
    store.finish(SECOND, record_of(SECOND), {"items": {"score": SCORES}})
    store.put_weights(DENSE, {"head.w": np.ones(3, dtype=np.float32)}, {"answers": "yes\nno"})
    store.put_study("first", {"cells": [DENSE.digest, SECOND.digest]})
    return store


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program in another process, and kill it at the end as `kill -9` does."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


# Whole or not at all


@given(content=st.binary(max_size=1 << 14), before=st.none() | st.binary(max_size=64))
def test_a_written_file_holds_what_was_written_and_nothing_lies_about(content: bytes, before: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "deep" / "file.bin"
        if before is not None:
            write_file(path, before)
        write_file(path, content)
        assert everything(Path(name)) == {"deep/file.bin": content}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    with pytest.raises(TypeError):
        write_file(tmp_path / "file", "not bytes")  # type: ignore[arg-type]
    assert everything(tmp_path) == {"file": b"old"}


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    assert write_folder(tmp_path / "a", {"x": b"1", "y": b"2"})
    assert not write_folder(tmp_path / "a", {"x": b"3"})
    assert everything(tmp_path) == {"a/x": b"1", "a/y": b"2"}


WRITE_FOREVER = """
import sys
from pathlib import Path
from vltickets.store import write_folder
root, files = Path(sys.argv[1]), {f"{n}.bin": bytes([n]) * 400_000 for n in range(12)}
print("ready", flush=True)
for number in range(10**9):
    write_folder(root / f"run-{number}", files)
"""
# What a writer without the rename would do: the kill test must catch it.
WRITE_IN_PLACE = WRITE_FOREVER.replace("write_folder(root / f'run-{number}', files)", "").replace(
    '    write_folder(root / f"run-{number}", files)',
    '    (root / f"run-{number}").mkdir()\n    [(root / f"run-{number}" / n).write_bytes(c) for n, c in files.items()]',
)


def torn_results(program: str, root: Path, kills: int) -> tuple[int, int]:
    """Kill a writer in the middle of its work, several times; return how many results there are, and how many torn."""
    found = torn = 0
    for kill in range(kills):
        folder = root / f"{kill}"
        folder.mkdir()
        with running(program, folder) as process:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + 20
            while len(list(folder.glob("run-*"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(0.004 * kill)
        for result in folder.glob("run-*"):
            found += 1
            whole = {f"{n}.bin": bytes([n]) * 400_000 for n in range(12)}
            torn += everything(result) != whole
    return found, torn


def test_a_killed_writer_leaves_whole_results_only(tmp_path: Path) -> None:
    found, torn = torn_results(WRITE_FOREVER, tmp_path, kills=5)
    assert found >= 5
    assert torn == 0


def test_mutant_a_writer_in_place_is_caught_by_the_kill(tmp_path: Path) -> None:
    assert WRITE_IN_PLACE != WRITE_FOREVER
    _, torn = torn_results(WRITE_IN_PLACE, tmp_path, kills=8)
    assert torn > 0


def test_a_store_with_the_leavings_of_a_killed_writer_works(store: Store) -> None:
    leavings = store.root / "runs" / f".{DENSE.digest}.abc"
    leavings.mkdir(parents=True)
    (leavings / "record.json").write_text("{")
    assert not store.has(DENSE)
    filled(store)
    assert [record.digest for record in store.records()] == sorted([DENSE.digest, PRUNED.digest, SECOND.digest])


PUT_CHAIN = """
import sys
from pathlib import Path
from vltickets.specs import *
from vltickets.store import Store
node = dense = Train(
    backbone=Uniter(), task=Vqa(data=World(generator=1)), start=Fresh(), recipe=Recipe(steps=9, learning_rate=0.1)
)
for number in range(400):
    node = changed(dense, mask=Prune(train=node, sparsity=(number + 1) / 500))
print("ready", flush=True)
Store(Path(sys.argv[1])).put_node(node)
"""


def test_a_node_that_is_known_after_a_kill_has_all_its_ancestors(store: Store) -> None:
    with running(PUT_CHAIN, store.root) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 20
        while len(list(store.root.glob("nodes/*.json"))) < 20 and time.monotonic() < deadline:
            time.sleep(0.001)
    known = sorted((store.root / "nodes").glob("[!.]*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert 20 <= len(known) < 800
    for path in known[-5:] + known[:5]:
        assert store.node(path.stem).digest == path.stem


# Finished results


def test_a_finished_result_comes_back_as_it_was(store: Store) -> None:
    filled(store)
    record = store.record(DENSE.digest)
    assert (record.metrics, record.curve) == ({"score": 0.5}, [(3, 1.5), (9, 0.25)])
    assert (record.seconds, record.machine) == (2.5, {"cpu": "abacus"})
    assert np.array_equal(store.arrays(DENSE.digest, "items")["score"], SCORES)
    assert np.array_equal(store.weights(DENSE.digest)["head.w"], np.ones(3))
    assert store.labels(DENSE.digest) == {"answers": "yes\nno"}
    assert store.study("first") == {"format": 1, "cells": [DENSE.digest, SECOND.digest]}
    assert Store(store.root).node(SECOND.digest) == SECOND


def test_a_finished_result_is_never_overwritten(store: Store) -> None:
    before = everything(filled(store).root)
    store.finish(DENSE, record_of(DENSE, score=0.9), {"items": {"score": SCORES[::-1].copy()}})
    store.put_weights(DENSE, {"head.w": np.zeros(3, dtype=np.float32)}, {})
    assert everything(store.root) == before
    assert store.record(DENSE.digest).metrics == {"score": 0.5}


def test_finishing_removes_the_checkpoints(store: Store) -> None:
    write_file(store.work(DENSE.digest) / "checkpoint.safetensors", b"x")
    filled(store)
    assert not store.work(DENSE.digest).exists()


def test_a_long_chain_of_nodes_comes_back_by_digest(store: Store) -> None:
    node = DENSE
    for number in range(50):
        node = changed(DENSE, mask=Prune(train=node, sparsity=(number + 1) / 200))
    store.put_node(node)
    assert Store(store.root).node(node.digest) == node


def test_a_folder_with_other_files_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not a store, and not empty"):
        Store(tmp_path)
    with pytest.raises(UserError, match="is not a store"):
        Store(tmp_path / "thesis.tex")
    assert everything(tmp_path) == {"thesis.tex": b"x"}


def test_a_store_of_a_newer_format_is_refused(store: Store) -> None:
    write_file(store.root / "store.json", b'{"format": 99}')
    with pytest.raises(UserError, match="has format 99, this vltickets reads up to 1; upgrade"):
        Store(store.root)


def run(name: str) -> Callable[[Store], Path]:
    return lambda store: store.root / "runs" / DENSE.digest / name


def edited(**fields: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | fields).encode()


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (run("record.json"), lambda content: content[: len(content) // 2], "is corrupted"),
        (run("record.json"), lambda _: b"", "is corrupted"),
        (run("record.json"), lambda _: b"[]", "is corrupted"),
        (run("record.json"), lambda _: b"\xff", "is corrupted"),
        (run("record.json"), edited(curve=None), "is corrupted"),
        (run("record.json"), edited(colour="red"), "is corrupted"),
        (run("record.json"), edited(format=2), "format 2, this vltickets reads up to 1"),
        (run("record.json"), edited(format=None), "no format number"),
        (run("record.json"), edited(spec=canonical(SECOND)), "its content is not what was written"),
        (run("record.json"), edited(digest=SECOND.digest), "its content is not what was written"),
        (run("record.json"), edited(metrics={"score": 0.99}), "its content is not what was written"),
    ],
)
def test_a_corrupted_record_is_one_sentence_and_changes_nothing(
    store: Store, path: Callable[[Store], Path], change: Callable[[bytes], bytes], says: str
) -> None:
    place = path(filled(store))
    place.write_bytes(change(place.read_bytes()))
    refused(store, says, lambda: store.record(DENSE.digest))


def refused(store: Store, says: str, act: Callable[[], object]) -> None:
    before = everything(store.root)
    with pytest.raises(UserError) as caught:
        act()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(store.root) == before


@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda _: b""])
def test_a_corrupted_array_is_refused(store: Store, change: Callable[[bytes], bytes]) -> None:
    filled(store)
    for act, path in (
        (lambda: store.arrays(DENSE.digest, "items"), store.root / "runs" / DENSE.digest / "items.safetensors"),
        (lambda: store.weights(DENSE.digest), store.root / "weights" / DENSE.digest / "weights.safetensors"),
    ):
        path.write_bytes(change(path.read_bytes()))
        refused(store, "its hash is not the recorded one", act)


def test_a_missing_result_says_how_to_get_it(store: Store) -> None:
    filled(store)
    lost = changed(DENSE, seed=8)
    refused(store, "is not finished", lambda: store.record(lost.digest))
    refused(store, "knows no run", lambda: store.node(lost.digest))
    refused(store, "has no weights", lambda: store.weights(SECOND.digest))
    refused(store, "has no study 'frist' (it has: first)", lambda: store.study("frist"))


def test_an_altered_node_is_refused(store: Store) -> None:
    path = filled(store).root / "nodes" / f"{DENSE.digest}.json"
    path.write_bytes(edited(seed=1)(path.read_bytes()))
    refused(store, "was altered", lambda: store.node(DENSE.digest))
    refused(store, "was altered", lambda: store.node(SECOND.digest))


@pytest.mark.parametrize("field", [{"colour": "red"}, {"version": 2}])
def test_a_node_of_another_version_is_refused(store: Store, field: dict[str, object]) -> None:
    foreign = canonical(DENSE) | field
    digest = hash_json(foreign)
    write_file(store.root / "nodes" / f"{digest}.json", json.dumps(foreign).encode())
    refused(store, f"run {digest} was planned by", lambda: store.node(digest))


# Leases

HOLD = """
import sys, time
from pathlib import Path
from vltickets.store import Store
with Store(Path(sys.argv[1])).lease(sys.argv[2]) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_lease_is_one_process_s_and_is_free_when_its_holder_is_killed(store: Store) -> None:
    with running(HOLD, store.root, DENSE.digest) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with store.lease(DENSE.digest) as mine:
            assert not mine
        with store.lease(SECOND.digest) as mine:
            assert mine
        with running(HOLD, store.root, DENSE.digest) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "False\n"
    with store.lease(DENSE.digest) as mine:
        assert mine


def test_a_lease_is_free_after_its_work_however_that_ends(store: Store) -> None:
    def fail() -> None:
        with store.lease(DENSE.digest) as mine:
            raise ZeroDivisionError(mine)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="True"):
            fail()


# Carrying records between stores


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


@pytest.fixture
def exported(store: Store, tmp_path: Path) -> Path:
    path = tmp_path / "records.zip"
    assert export_records(filled(store), [SECOND.digest, PRUNED.digest, "0" * 20], path, studies=["first"]) == 2
    return path


def test_an_import_is_the_export_and_counts_as_done(store: Store, other: Store, exported: Path) -> None:
    assert import_records(other, exported) == (2, 0)
    assert import_records(other, exported) == (0, 2)
    assert other.has(SECOND)
    assert other.has(PRUNED)
    assert not other.has(DENSE)
    assert not other.has_weights(SECOND)
    assert other.record(SECOND.digest) == store.record(SECOND.digest)
    assert np.array_equal(other.arrays(PRUNED.digest, "mask")["w"], BITS)
    assert Store(other.root).node(SECOND.digest) == SECOND
    assert other.study("first") == store.study("first")


def test_the_same_records_make_the_same_file(store: Store, tmp_path: Path, exported: Path) -> None:
    export_records(store, [PRUNED.digest, SECOND.digest], tmp_path / "again.zip", studies=["first"])
    assert (tmp_path / "again.zip").read_bytes() == exported.read_bytes()


def test_an_import_leaves_what_is_there(other: Store, exported: Path) -> None:
    other.prepare()
    other.finish(SECOND, record_of(SECOND, score=0.75), {"items": {"score": SCORES}})
    assert import_records(other, exported) == (1, 1)
    assert other.record(SECOND.digest).metrics == {"score": 0.75}


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


RUN = f"runs/{SECOND.digest}"
TAMPERINGS: dict[str, Callable[[dict[str, bytes]], object]] = {
    "an array of other numbers": lambda e: e.update({f"{RUN}/items.safetensors": e[f"{RUN}/items.safetensors"][::-1]}),
    "a missing array": lambda e: e.pop(f"{RUN}/items.safetensors"),
    "a file too many": lambda e: e.update({f"{RUN}/more.safetensors": b""}),
    "no record": lambda e: e.pop(f"{RUN}/record.json"),
    "a record of another run": lambda e: e.update({f"{RUN}/record.json": e[f"runs/{PRUNED.digest}/record.json"]}),
    "a record that is no object": lambda e: e.update({f"{RUN}/record.json": b"[]"}),
    "a record of a newer format": lambda e: e.update({f"{RUN}/record.json": edited(format=9)(e[f"{RUN}/record.json"])}),
    "an altered node": lambda e: e.update({f"nodes/{DENSE.digest}.json": b"{}"}),
    "an export of a newer format": lambda e: e.update({"export.json": b'{"format": 9}'}),
    "an export that is no object": lambda e: e.update({"export.json": b"[]"}),
    "no export": lambda e: e.pop("export.json"),
    "a file outside": lambda e: e.update({"../evil": b"x"}),
    "a run outside": lambda e: e.update({"runs/../evil.json": b"x"}),
    "a file in a deeper folder": lambda e: e.update({f"{RUN}/deep/file": b"x"}),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_tampered_export_is_refused_and_changes_nothing(other: Store, exported: Path, name: str) -> None:
    def tamper(entries: dict[str, bytes]) -> None:
        entries["export.json"] = (
            b'{"format": 1}'  # as older files have it: without the list, which would find most of it
        )
        TAMPERINGS[name](entries)

    rewritten(exported, tamper)
    with pytest.raises(UserError) as caught:
        import_records(other, exported)
    assert "\n" not in str(caught.value)
    assert not other.root.exists()


def test_an_export_that_lost_whole_records_is_refused(other: Store, exported: Path) -> None:
    def lose(entries: dict[str, bytes]) -> None:
        for name in [name for name in entries if name.startswith(RUN)]:
            del entries[name]

    rewritten(exported, lose)
    with pytest.raises(UserError, match=r"its list of entries and its content differ in .*; nothing was changed"):
        import_records(other, exported)
    assert not other.root.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_another_file_is_no_export(other: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match="nothing was changed"):
        import_records(other, tmp_path / "x.zip")
    with pytest.raises(UserError, match="no such file"):
        import_records(other, tmp_path / "y.zip")
    assert not other.root.exists()


def test_a_flipped_byte_is_refused_or_changes_no_content(store: Store, tmp_path: Path, exported: Path) -> None:
    content = exported.read_bytes()
    for number, place in enumerate(range(0, len(content), max(len(content) // 150, 1))):
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        target = Store(tmp_path / f"target-{number}")
        try:
            import_records(target, damaged)
        except UserError:
            assert not target.root.exists()
        else:  # a byte that says nothing, such as a date
            assert target.record(SECOND.digest) == store.record(SECOND.digest)


# Leftovers


def test_leftovers_of_the_dead_go_and_nothing_of_the_living(store: Store) -> None:
    half, fresh = (store.root / "runs" / f".{digest}.0123" for digest in (DENSE.digest, SECOND.digest))
    begun, leased, weightless = (store.work(digest) for digest in ("a" * 20, "b" * 20, "c" * 20))
    for folder in (half, fresh, begun, leased, weightless):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"part")
    os.utime(half, (0, 0))
    for digest in ("b" * 20, "c" * 20, "d" * 20):
        write_folder(store.root / "runs" / digest, {"record.json": b"{}"})
    for digest in ("b" * 20, "d" * 20):
        write_folder(store.root / "weights" / digest, {"sums.json": b"{}"})
    done = store.work("d" * 20)
    done.mkdir()
    with store.lease("b" * 20):
        tidy(store)
    assert not half.exists()
    assert not done.exists()
    for folder in (fresh, begun, leased, weightless):
        assert (folder / "part").exists()
    tidy(store)
    assert not leased.exists()
