"""Where runs are done does not matter: invocations side by side, diverging trainings, a full disk."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from smallest import SMALLEST, bits, plan_smallest, run_smallest
from vltickets.errors import UserError
from vltickets.reports import read_results
from vltickets.specs import Train
from vltickets.store import divergence, divergence_path
from vltickets.studies.executors import Event, StudyFailed, execute

DIVERGING = "training.learning_rate=1e30"  # the first step's weights are past what float32 holds when squared


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the smallest study was run without interruption."""
    root = tmp_path_factory.mktemp("whole") / "store"
    run_smallest(root)
    assert len(bits(root)) == 14  # 5 trainings with their weights, 4 masks
    return root


def with_data(whole: Path, root: Path) -> Path:
    """Return a new store that has the world's files already."""
    shutil.copytree(whole / "data", root / "data")
    shutil.copy(whole / "store.json", root)
    return root


def invoke(root: Path, *more: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start `vltickets study run` on the smallest study. With a `limit`, no file may be larger, in bytes."""
    settings = [part for setting in SMALLEST for part in ("--set", setting)]
    command = [sys.executable, "-m", "vltickets", "study", "run", "smoke", "--store", str(root), "--workers", "0"]

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [*command, *settings, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limited
    )


# Two invocations

SIDE_BY_SIDE = """
import json, sys
from pathlib import Path
from smallest import run_smallest
print("ready", flush=True)
sys.stdin.readline()
run_smallest(Path(sys.argv[1]), listen=lambda event: print(event.state, event.digest, flush=True))
"""


def test_two_invocations_on_one_store_share_the_work_and_no_run_is_done_twice(whole: Path, tmp_path: Path) -> None:
    root = with_data(whole, tmp_path / "store")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SIDE_BY_SIDE, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:  # both have imported torch: they begin together
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    started = [[line.split()[1] for line in lines if line.startswith("started")] for lines in told]
    assert set(Counter(started[0] + started[1]).values()) == {1}
    assert len(started[0] + started[1]) == 9
    assert all(started)
    assert bits(root) == bits(whole)


# Diverging


def test_a_diverged_training_is_tried_once_more_then_marked_and_not_tried_for_ever(whole: Path, tmp_path: Path) -> None:
    root = with_data(whole, tmp_path / "store")
    told: list[Event] = []
    with pytest.raises(StudyFailed, match=r"7 of 9 runs could not be done: .*diverged 2 times with the same seed"):
        run_smallest(root, DIVERGING, listen=told.append)
    states = Counter(event.state for event in told)
    assert states["retried"] == states["failed"] == 3  # the dense run and two random tickets
    assert states["finished"] == 2
    planned, store = plan_smallest(root, DIVERGING)
    dense = planned.cells[0].node
    mark = divergence(store, dense.digest)
    assert mark is not None
    assert mark.times == 2
    assert "is nan" in mark.message or "not finite" in mark.message
    assert not store.work(dense.digest).exists()  # a second try starts from the start

    told.clear()
    with pytest.raises(StudyFailed, match="diverged 2 times"):
        execute(planned.work, store, workers=0, listen=told.append)
    assert Counter(event.state for event in told)["retried"] == 0  # known to diverge

    divergence_path(store, dense.digest).unlink()
    told.clear()
    with pytest.raises(StudyFailed):
        execute(planned.work, store, workers=0, listen=told.append)
    assert [event.digest for event in told if event.state == "retried"] == [dense.digest]


def test_a_try_that_a_kill_cut_off_counts(whole: Path, tmp_path: Path) -> None:
    root = with_data(whole, tmp_path / "store")
    planned, store = plan_smallest(root, DIVERGING)
    dense = next(item for item in planned.work if item.node == planned.cells[0].node)
    divergence_path(store, dense.node.digest).parent.mkdir()
    mark = {"digest": dense.node.digest, "times": 1, "message": "the loss is nan at step 1", "format": 1}
    divergence_path(store, dense.node.digest).write_text(json.dumps(mark))
    told: list[Event] = []
    with pytest.raises(StudyFailed, match="diverged 2 times"):
        execute([dense], store, workers=0, listen=told.append)
    assert [event.state for event in told if event.state != "step"] == ["started", "failed"]


def test_a_diverged_cell_is_named_and_never_averaged(whole: Path, tmp_path: Path) -> None:
    root = with_data(whole, tmp_path / "store")
    done = invoke(root, DIVERGING.join(("--set=", "")))
    out, err = done.communicate()
    assert done.returncode == 1
    assert err.startswith("vltickets: 7 of 9 runs could not be done")
    assert "not whole after" in out.splitlines()[-1]
    sentence = "imp 70 % seed 0 has no number: run "
    assert sentence in " ".join(out.split())
    page = (root / "smoke.html").read_text()
    assert "full seed 0 has no number: its training diverged 2 times with the same seed" in page
    results = read_results(plan_smallest(root, DIVERGING)[1], "smoke")
    assert [row.mean for row in results.rows if row.runs] == [None] * 5
    status = subprocess.run(
        [sys.executable, "-m", "vltickets", "study", "status", "--store", str(root), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(status.stdout)
    assert row["done"] == 0
    assert len(row["diverged"]) == 5


def test_weights_that_only_the_last_step_spoils_are_no_result(whole: Path, tmp_path: Path) -> None:
    """Its losses were all finite: without a look at the weights, a score of nothing would stand in the table."""
    root = with_data(whole, tmp_path / "store")
    planned, store = plan_smallest(root, "training.steps=1", "training.learning_rate=1e39", "training.warmup=0.0")
    dense = [item for item in planned.work if isinstance(item.node, Train) and item.node.mask is None]
    with pytest.raises(StudyFailed, match="a weight is not finite after step 1"):
        execute(dense, store, workers=0, listen=lambda event: None)


# A full disk


def temporary_files(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*.*") if len(path.name.rsplit(".", 1)[-1]) == 32]


def test_a_full_disk_is_one_sentence_leaves_nothing_half_and_the_study_goes_on(whole: Path, tmp_path: Path) -> None:
    """The system refuses every file above 200 kB, which are the weights."""
    root = with_data(whole, tmp_path / "store")
    done = invoke(root, limit=200_000)
    _, err = done.communicate()
    assert done.returncode == 2
    assert len(err.splitlines()) == 1
    assert err.startswith(f"vltickets: no room to write {root}/weights/")
    assert "free some space and give the same command again" in err
    assert bits(root).items() <= bits(whole).items()
    assert temporary_files(root) == []
    again = invoke(root)
    assert again.communicate()[1] == ""
    assert again.returncode == 0
    assert bits(root) == bits(whole)


FILLED = """
disk="$2" copy="$3"
mount -t tmpfs -o size=$1k none "$disk" || exit 77
cp -r "$4/data" "$4/store.json" "$disk"
shift 4
"$@"; echo "exit status $?"
cp -r "$disk" "$copy"
"""


def test_a_disk_that_fills_up_in_mid_run(whole: Path, tmp_path: Path) -> None:
    """A real one, of a few megabytes, where we may mount one."""
    folder, copy = tmp_path / "disk", tmp_path / "copy"
    folder.mkdir()
    settings = [part for setting in SMALLEST for part in ("--set", setting)]
    used = sum(path.stat().st_size for path in (whole / "data").rglob("*")) // 1024
    command = [sys.executable, "-m", "vltickets", "study", "run", "smoke", "--store", str(folder), "--workers", "0"]
    script = ["unshare", "-Urm", "sh", "-c", FILLED, "sh", str(used + 1500), str(folder), str(copy), str(whole)]
    try:
        done = subprocess.run([*script, *command, *settings], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("mounting a small disk is not permitted here")
    assert done.stdout.endswith("exit status 2\n")
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr
    assert 0 < len(bits(copy)) < len(bits(whole))
    assert bits(copy).items() <= bits(whole).items()
    assert temporary_files(copy) == []


def test_a_mistake_in_the_choice_of_an_executor_is_one_sentence(tmp_path: Path) -> None:
    from vltickets.cli.executor import Executor, place_to_run

    with pytest.raises(UserError, match="--executor ray"):
        place_to_run(None, None, "auto", None)
    with pytest.raises(UserError, match="CPUs say how many"):
        place_to_run(Executor.RAY, 2, None, None)
    with pytest.raises(UserError, match="leave one of them out"):
        place_to_run(Executor.PROCESS, 2, None, None)
    assert place_to_run(Executor.PROCESS, None, None, None) == (0, None)
    assert place_to_run(None, 3, None, None) == (3, None)
