"""The sheets of a page that fold out from a number or a curve: the runs behind it, and each run once, by its digest.

A link to a sheet shows it (`:target` in the style), without any script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from vltickets.reports import wording
from vltickets.reports.page import flat
from vltickets.reports.paper_results import SOURCES, Papers
from vltickets.reports.quoted import Point, Reading
from vltickets.reports.tables import named
from vltickets.store import Record

WIDTH, HEIGHT, POINTS = 100, 24, 25  # of a small curve: its box, and how many points it is drawn with


@dataclass(frozen=True)
class Line:
    """A run in the sheet of a number: `href` leads to the run's own sheet."""

    digest: str
    name: str
    seed: str
    value: str
    has_curve: bool


@dataclass(frozen=True)
class RunSheet:
    """A run as it is shown. `curve` is the path of its loss in a box of WIDTH x HEIGHT, or empty."""

    digest: str
    name: str
    seed: str
    metrics: str
    curve: str
    losses: str
    seconds: float
    machine: int
    settings: int
    mask: str | None
    parents: tuple[str, ...]


class Sheets:
    """Gathers what a page's numbers need; ids are in the order in which numbers ask for them."""

    def __init__(self, results: Papers) -> None:
        self.records = results.lineage.records
        self._parents = results.lineage.parents
        self._names = {cell.digest: f"{SOURCES.get(cell.task, cell.task)}, {named(cell.key)}" for cell in results.cells}
        self._seeds = {cell.digest: str(cell.seed) for cell in results.cells}
        self.numbers: dict[tuple[Reading, ...], int] = {}
        self.series: dict[tuple[Point, ...], int] = {}
        self.machines: dict[str, int] = {}
        self.settings: dict[str, int] = {}

    def number(self, readings: tuple[Reading, ...]) -> int:
        """Return the place of the sheet of a number made of these readings, counted from 1."""
        return self.numbers.setdefault(readings, len(self.numbers) + 1)

    def curve(self, points: tuple[Point, ...]) -> int:
        """Return the place of the sheet of a drawn curve, counted from 1; its points get sheets too."""
        for _, readings in points:
            self.number(readings)
        return self.series.setdefault(points, len(self.series) + 1)

    def values(self, readings: Sequence[Reading]) -> list[str]:
        """Return what was read, as text."""
        return [self._value(reading) for reading in readings]

    def point_text(self, readings: Sequence[Reading]) -> str:
        """Return mean ± std of what was read."""
        found = [self.records[r.digest].metrics[r.metric] for r in readings if r.digest in self.records]
        return wording.mean_and_std(fmean(found) if found else None, stdev(found) if len(found) > 1 else None)

    def lines(self, readings: Sequence[Reading]) -> list[Line]:
        """Return a line for each reading."""
        return [self._line(reading) for reading in readings if reading.digest in self.records]

    def runs(self) -> list[RunSheet]:
        """Return every finished run behind the study, in the order of the digests."""
        return [self._run(self.records[digest]) for digest in sorted(self.records)]

    def recipes(self) -> list[tuple[int, list[tuple[str, str]]]]:
        """Return the settings that runs share, as dotted names and values."""
        return [(place, list(flat(json.loads(text)))) for text, place in self.settings.items()]

    def _value(self, reading: Reading) -> str:
        record = self.records.get(reading.digest)
        return wording.metric(reading.metric, None if record is None else record.metrics.get(reading.metric))

    def _line(self, reading: Reading) -> Line:
        record = self.records[reading.digest]
        name = self._name(record)
        return Line(record.digest, name, self._seed(record), self._value(reading), len(record.curve) > 1)

    def _name(self, record: Record) -> str:
        if record.digest in self._names:
            return self._names[record.digest]
        if record.kind == "train":
            kind = str(record.spec["task"]["kind"])
            return f"{SOURCES.get(kind, kind)}{' under a mask' if 'mask' in record.spec else ''}"
        return f"mask of {wording.percent(round(record.metrics.get('sparsity', 0.0), 3))}, {record.kind}"

    def _seed(self, record: Record) -> str:
        found = self._seeds.get(record.digest)
        return str(record.spec.get("seed", "–" if record.kind != "train" else 0)) if found is None else found

    def _run(self, record: Record) -> RunSheet:
        mask = record.spec.get("mask")
        parents = [name for name in dict.fromkeys(self._parents[record.digest]) if name in self.records]
        shown = [f"{name} {wording.metric(name, value)}" for name, value in record.metrics.items() if "/" not in name]
        own = {name: value for name, value in record.spec.items() if name not in ("seed", "mask", "train", "sparsity")}
        machine = ", ".join(f"{name} {value}" for name, value in sorted(record.machine.items())) or "not recorded"
        return RunSheet(
            digest=record.digest,
            name=self._name(record),
            seed=self._seed(record),
            metrics=", ".join(shown),
            curve=small_curve(record.curve),
            losses=_losses(record.curve),
            seconds=record.seconds,
            machine=self.machines.setdefault(machine, len(self.machines) + 1),
            settings=self.settings.setdefault(json.dumps(own, sort_keys=True), len(self.settings) + 1),
            mask=_mask(mask),
            parents=tuple(parents),
        )


def _mask(mask: Mapping[str, Any] | None) -> str | None:
    """Return the digest of the mask that a training was under."""
    return None if mask is None else str(mask.get("node", ""))


def _losses(curve: Sequence[tuple[int, float]]) -> str:
    if len(curve) < 2:
        return ""
    return f"loss {curve[0][1]:.3g} → {curve[-1][1]:.3g}, {curve[-1][0]} steps"


def small_curve(curve: Sequence[tuple[int, float]]) -> str:
    """Return the SVG path of a loss curve of (step, loss) in a box of WIDTH x HEIGHT, neighbouring points averaged."""
    if len(curve) < 2:
        return ""
    each = -(-len(curve) // POINTS)
    parts = [curve[place : place + each] for place in range(0, len(curve), each)]
    losses = [sum(loss for _, loss in part) / len(part) for part in parts]
    last, low, high = curve[-1][0], min(losses), max(losses)
    span, first = (high - low) or 1.0, curve[0][0]
    places = [round(WIDTH * (part[-1][0] - first) / max(last - first, 1)) for part in parts]
    heights = [round(HEIGHT * (high - loss) / span) for loss in losses]
    return "M" + " ".join(f"{x},{y}" for x, y in zip(places, heights, strict=True))
