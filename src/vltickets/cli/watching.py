"""How `study status` speaks: a few plain lines, the same again and again on a terminal, or values for a program."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from vltickets.cli.console import PLAIN_SECONDS, duration

if TYPE_CHECKING:
    from vltickets.studies.status import Status, Watch

LOOK_SECONDS = 2.0


def diverged(watch: Watch) -> list[str]:
    """Return what the study's trainings that diverged mean for its cells, in sentences."""
    if not (watch.store.root / "diverged").exists():
        return []  # without loading all that draws reports
    from vltickets import reports

    return reports.diverged_cells(watch.store, watch.cells)


def status_json(watch: Watch) -> dict[str, Any]:
    """Return a status as plain values."""
    status = watch.look()
    return {
        "study": status.study,
        "cells": status.cells,
        "done": status.done,
        "missing": _missing(status),
        "artefacts": {name: {"done": done, "cells": cells} for name, (done, cells) in status.artefacts.items()},
        "running": [
            {"run": one.digest, "name": name, "step": one.step, "steps": one.steps, "seconds_left": one.seconds_left}
            for name, one in status.running
        ],
        "diverged": diverged(watch),
        "runs_left": status.runs_left,
        "seconds_left": status.seconds_left,
    }


def status_lines(status: Status, diverged: Sequence[str]) -> Iterator[str]:
    """Yield a status as lines: all cells, each artefact, each run under way, what diverged, and the time left."""
    yield f"{status.study}: {status.done} of {status.cells} cells done; missing: {_missing(status) or 'none'}"
    for name, (done, cells) in status.artefacts.items():
        yield f"  {name}: {done} of {cells} cells done"
    for name, one in status.running:
        left = "scoring" if one.step == one.steps else "" if one.seconds_left is None else _about(one.seconds_left)
        yield f"  running: {name}, step {one.step} of {one.steps}{left and f', {left}'} ({one.digest[:8]})"
    yield from (f"  {sentence}" for sentence in diverged)
    if status.runs_left:
        side = f" with {len(status.running)} at once" if status.running else ", nothing is running"
        rest = "" if status.seconds_left is None else f", {_about(status.seconds_left)}{side}"
        yield f"  {status.runs_left} trainings left{rest}"


def follow(watched: Sequence[Watch], console: Console) -> None:
    """Show the studies until all their cells are done: in place on a terminal, line after line elsewhere."""
    with suppress(KeyboardInterrupt):
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    found, lines = _looked(watched)
                    live.update(Text("\n".join(lines)), refresh=True)
                    if _all_done(found):
                        return
                    time.sleep(LOOK_SECONDS)
        while True:
            found, lines = _looked(watched)
            for line in lines:
                console.print(line, soft_wrap=True, markup=False)
            if _all_done(found):
                return
            time.sleep(PLAIN_SECONDS)


def _looked(watched: Sequence[Watch]) -> tuple[list[Status], list[str]]:
    found = [watch.look() for watch in watched]
    pairs = zip(watched, found, strict=True)
    return found, [line for watch, status in pairs for line in status_lines(status, diverged(watch))]


def _all_done(found: Sequence[Status]) -> bool:
    return all(one.done == one.cells for one in found)


def _about(seconds: float) -> str:
    return f"about {duration(seconds)} left"


def _missing(status: Status) -> str:
    return ", ".join(f"{count} {baseline}" for baseline, count in status.missing.items())
