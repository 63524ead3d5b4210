"""Kill a small study at random places and moments, many times, and compare its bits with an uninterrupted one's.

`python tests/helpers/torture.py --kills 500 --seed 0`, or `make torture`. Each life is a fork of this process, which
has torch imported and the data read, and goes on where the last one died. A third of them end at a random moment, from
outside, the others by themselves before a random line of a chosen place. Every fifth has a second invocation beside
it on the same store, which is killed at a random moment too. After every death, all that is visible must be right.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

from smallest import bits, run_smallest
from vltickets.store import sha256
from vltickets.training import loop

PLACES = ("training", "pruning", "writing", "leasing")
ELSEWHERE = len(PLACES)
FILES = (
    ("vltickets/training/loop.py", "training"),
    ("vltickets/training/checkpoint.py", "training"),
    ("vltickets/tickets/pruning.py", "pruning"),
    ("vltickets/store/atomic.py", "writing"),
    ("filelock/_api.py", "leasing"),
    ("filelock/_unix.py", "leasing"),
)
FUNCTIONS = {"lease": "leasing", "run_leased": "leasing", "_run_mask": "pruning", "finish": "writing"}
SHARE = 0.4  # of an uninterrupted run, the longest that a life may last


class Watch:
    """Follows which place the process is in, and counts, or dies before, the lines of one place."""

    def __init__(self, where: mmap.mmap, place: int | None = None, line: int = 0) -> None:
        self.where, self.place, self.left = where, place, line
        self.lines: Counter[int] = Counter()
        self._known: dict[CodeType, int | None] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code not in self._known:
            self._known[code] = _place(code)
        place = self._known[code]
        if place is None:
            return None
        before, self.where[0] = self.where[0], place

        def step(frame: FrameType, event: str, argument: object) -> Any:
            if event == "return":
                self.where[0] = before
            elif event == "line":
                self.where[0] = place
                self.lines[place] += 1
                if place == self.place:
                    self.left -= 1
                    if self.left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
            return step

        return step


def _place(code: CodeType) -> int | None:
    """Return the number of the place that a function belongs to; None for all other code."""
    if "vltickets" in code.co_filename and code.co_name in FUNCTIONS:
        return PLACES.index(FUNCTIONS[code.co_name])
    return next((PLACES.index(place) for file, place in FILES if code.co_filename.endswith(file)), None)


def live(root: Path, watch: Watch) -> int:
    """Fork a process that runs what is left of the study in a store; return its id."""
    watch.where[0] = ELSEWHERE
    child = os.fork()
    if child:
        return child
    try:
        sys.settrace(watch)
        run_smallest(root)
        sys.settrace(None)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class Torture:
    """A study's uninterrupted bits, and the stores in which others are killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.deaths: Counter[tuple[str, str]] = Counter()
        self.finished = 0
        run_smallest(folder / "first")  # reads the data, which all forks then have
        self.whole = self._fresh("whole")
        started = time.monotonic()
        watch = Watch(mmap.mmap(-1, 1))
        sys.settrace(watch)
        run_smallest(self.whole)
        sys.settrace(None)
        self.seconds, self.lines = time.monotonic() - started, watch.lines
        self.bits = bits(self.whole)

    def _fresh(self, name: str) -> Path:
        """Return a new store that has the world's files already."""
        root = self.folder / name
        shutil.copytree(self.folder / "first" / "data", root / "data")
        shutil.copy(self.folder / "first" / "store.json", root)
        return root

    def run(self, kills: int) -> None:
        """Kill so many times; a study that got through is compared, and the next one begun."""
        root = self._fresh("0")
        while sum(self.deaths.values()) < kills:
            if self._live_and_die(root):
                self._compare(root)
                self.finished += 1
                root = self._fresh(str(self.finished))
        self._compare(root)
        self.finished += 1

    def _live_and_die(self, root: Path) -> bool:
        """Let a process live until it is killed, or two; return whether one got through the study instead."""
        fates = [self._fate()]
        if self.draw.random() < 0.2:
            fates.append(self._moment())
        started, done = time.monotonic(), False
        alive = {live(root, watch): (watch, limit) for watch, limit in fates}
        while alive:
            for child, (watch, limit) in list(alive.items()):
                late = limit is not None and time.monotonic() - started > limit
                if late:
                    os.kill(child, signal.SIGKILL)
                dead, status = os.waitpid(child, 0 if late else os.WNOHANG)
                if not dead:
                    continue
                del alive[child]
                done |= status == 0
                if status == signal.SIGKILL:
                    place = (*PLACES, "elsewhere")[watch.where[0]]
                    self.deaths[place, "moment" if late else "line"] += 1
                elif status:
                    self._fail(root, "a life ended with an error, see above")
            time.sleep(0.002)
        if not bits(root).items() <= self.bits.items():
            self._fail(root, "something visible is not right")
        return done

    def _fate(self) -> tuple[Watch, float | None]:
        """Return a way to die: at a random line of a random place, or at a moment, given in seconds."""
        if self.draw.random() < 1 / 3:
            return self._moment()
        place = self.draw.randrange(len(PLACES))
        line = self.draw.randint(1, max(int(SHARE * self.lines[place]), 1))
        return Watch(mmap.mmap(-1, 1), place, line), None

    def _moment(self) -> tuple[Watch, float]:
        return Watch(mmap.mmap(-1, 1)), self.draw.uniform(0, SHARE * self.seconds)

    def _compare(self, root: Path) -> None:
        run_smallest(root)  # what is left, and cleaning up after the dead
        if bits(root) != self.bits:
            self._fail(root, "the finished study has other bits")
        if left := list((root / "work").glob("*")):
            self._fail(root, f"the finished study left {left[0]}")
        shutil.rmtree(root)

    def _fail(self, root: Path, what: str) -> NoReturn:
        kept = Path(tempfile.mkdtemp(prefix="torture-")) / "store"
        shutil.copytree(root, kept)
        sys.exit(f"after {sum(self.deaths.values())} kills: {what}; the store is kept in {kept}")

    def log(self) -> str:
        """Return what was done, a line for each place."""
        total = sum(self.deaths.values())
        rows = [f"{'place':<10} {'at a line':>10} {'at a moment':>12}"]
        for place in (*PLACES, "elsewhere"):
            rows.append(f"{place:<10} {self.deaths[place, 'line']:>10} {self.deaths[place, 'moment']:>12}")
        hashes = sha256(json.dumps(self.bits, sort_keys=True).encode())[:16]
        rows.append(f"{total} kills, {self.finished} studies of {len(self.bits)} results; all have the bits {hashes}")
        return "\n".join(rows)


def main() -> None:
    """Parse, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    loop.CHECKPOINT_SECONDS = 0.0  # a checkpoint at every step
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), given.seed)
        torture.run(given.kills)
        print(torture.log())
    print(f"seed {given.seed}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
