"""A number's text together with the runs it was made of.

A `Quoted` is a string, so Markdown, the terminal and LaTeX take it as it is; the page makes its runs fold out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, unquote

SCHEME = "runs:"


@dataclass(frozen=True)
class Reading:
    """One metric of one run: what a number is made of."""

    digest: str
    metric: str


class Read(Protocol):
    """What was read from runs, such as a score over seeds."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The metrics of the runs it was made of."""


class Quoted(str):
    """A text, and the readings behind it."""

    readings: tuple[Reading, ...]

    def __new__(cls, text: str, readings: Iterable[Reading] = ()) -> Quoted:
        """Make a text that knows its readings; the same one counts once."""
        self = super().__new__(cls, text)
        self.readings = tuple(dict.fromkeys(readings))
        return self

    def bold(self) -> Quoted:
        """Return it in Markdown's bold."""
        return Quoted(f"**{self}**", self.readings)


def quoted(text: str, *sources: Read) -> Quoted:
    """Return the text of a number that was worked out from these scores."""
    return Quoted(text, (reading for source in sources for reading in source.readings))


Point = tuple[str, tuple[Reading, ...]]  # where on the curve, as text, and what was read there


def series_url(points: Sequence[tuple[float, Read]]) -> str:
    """Return a drawn curve's points as an address, which a page turns into a link to them; sparsities are fractions."""
    values = [[f"{100 * level:g} %", [[r.digest, r.metric] for r in read.readings]] for level, read in points]
    return SCHEME + quote(json.dumps(values))


def series_of(url: str) -> tuple[Point, ...]:
    """Return the points that `series_url` wrote into an address."""
    values = json.loads(unquote(url.removeprefix(SCHEME)))
    return tuple((str(place), tuple(Reading(*reading) for reading in readings)) for place, readings in values)
