"""How the command line speaks: errors with exit code 2, progress with time left, plain lines off a terminal."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vltickets.specs import Train
from vltickets.studies.executors import Event, Listener
from vltickets.studies.graph import Work, steps_of

if TYPE_CHECKING:
    from vltickets.studies.run import Planned

PLAIN_SECONDS = 15.0
WIDTH = 160  # of tables off a terminal


def screen(*, to_stderr: bool = False) -> Console:
    """Return a console; it drops colour by itself off a terminal and under NO_COLOR. Nothing in a text is markup."""
    console = Console(stderr=to_stderr, highlight=False, markup=False)  # names may have square brackets
    if not console.is_terminal:
        console.width = WIDTH
    return console


def typed() -> str:
    """Return the command as it was typed, to be kept with what it made."""
    return "vltickets " + shlex.join(sys.argv[1:])


def duration(seconds: float) -> str:
    """Return a time as 45 s, 3 min 20 s or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Pace:
    """Time left, from the optimiser steps done since the start and those still to do."""

    def __init__(self, work: Sequence[Work]) -> None:
        self.steps = {item.node.digest: steps_of(item.node) for item in work if isinstance(item.node, Train)}
        self.total = sum(self.steps.values())
        self.done: dict[str, int] = {}
        self.resumed: dict[str, int] = {}
        self.started = time.monotonic()

    def take(self, event: Event) -> None:
        """Take in an event."""
        if event.state == "step":
            self.resumed.setdefault(event.digest, event.step - 1)
            self.done[event.digest] = event.step
        elif event.state == "finished" and event.digest in self.steps:
            self.done[event.digest] = self.steps[event.digest]

    def left(self) -> float | None:
        """Return the seconds left, or None before anything is known."""
        done = sum(self.done.values())
        fresh = done - sum(self.resumed.values())
        if fresh <= 0:
            return None
        return (self.total - done) * (time.monotonic() - self.started) / fresh


@contextmanager
def following(plans: Sequence[Planned], console: Console) -> Iterator[Listener]:
    """Show the progress of studies on a console: a bar on a terminal, a line now and then elsewhere."""
    from vltickets.studies.run import merged

    work = merged(plans)
    pace = Pace(work)
    total = len(work)
    finished = 0
    names = _names(plans, work)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as bar:
            task = bar.add_task("runs", total=total, left="")

            def on_bar(event: Event) -> None:
                _on_bar(event, pace, bar, task)

            yield on_bar
        return

    told = 0.0

    def on_line(event: Event) -> None:
        nonlocal finished, told
        pace.take(event)
        finished += event.state == "finished"
        last = event.state == "finished" and finished == total
        problem = _problem(event)
        if problem or last or time.monotonic() - told > PLAIN_SECONDS:
            told = time.monotonic()
            left = pace.left()
            rest = "" if left is None or last else f", about {duration(left)} left"
            what = names.get(event.digest, event.digest)
            console.print(f"{finished}/{total} runs done{rest} ({what}{problem})", soft_wrap=True, markup=False)

    yield on_line


@contextmanager
def counting(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show how many images are done and the time left: a bar on a terminal, a line now and then elsewhere."""
    started = told = time.monotonic()
    first: int | None = None

    def left(done: int, total: int) -> str:
        """Return the time left; images of an earlier run say nothing of the pace."""
        nonlocal first
        first = done if first is None else first
        if done in (first, total):
            return ""
        return f"about {duration((time.monotonic() - started) / (done - first) * (total - done))} left"

    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[left]}"), console=console) as bar:
            task = bar.add_task("images", total=None, left="")
            yield lambda done, total: bar.update(task, completed=done, total=total, left=left(done, total))
        return

    def on_line(done: int, total: int) -> None:
        nonlocal told
        rest = left(done, total)
        if time.monotonic() - told > PLAIN_SECONDS:
            told = time.monotonic()
            console.print(f"{done}/{total} images done{', ' if rest else ''}{rest}", soft_wrap=True)

    yield on_line


def _on_bar(event: Event, pace: Pace, bar: Progress, task: TaskID) -> None:
    pace.take(event)
    left = pace.left()
    bar.update(task, left="" if left is None else f"about {duration(left)} left")
    if event.state == "finished":
        bar.advance(task)
    elif problem := _problem(event):
        bar.console.print(f"run {event.digest}{problem}", soft_wrap=True, markup=False)


def _problem(event: Event) -> str:
    """Return what went wrong, to be put behind the run's name."""
    told = {
        "failed": f" FAILED: {event.message}",
        "retried": f" diverged and is trained again: {event.message}",
        "lost": f" lost its worker ({event.message}) and goes on with another",
    }
    return told.get(event.state, "")


def _names(plans: Sequence[Planned], work: Sequence[Work]) -> dict[str, str]:
    names = {
        item.node.digest: f"train {item.node.task.kind}" if isinstance(item.node, Train) else item.node.kind
        for item in work
    }
    for cell in (cell for planned in plans for cell in planned.cells):
        level = f" {cell.sparsity:.0%}" if cell.sparsity else ""
        where = f" on {cell.task}" if cell.task else ""
        how = ", adversarial" if cell.adversarial else ""
        names[cell.node.digest] = f"{cell.baseline}{level}{where} seed {cell.seed}{how}"
    return names


def fail(message: str) -> None:
    """Say what is wrong, in one sentence, on the standard error."""
    print(f"vltickets: {message}", file=sys.stderr)
