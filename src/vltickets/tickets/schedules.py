"""The sparsities of the rounds of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from vltickets.errors import UserError, unknown


def linear(rate: float = 0.1, until: float = 0.9) -> tuple[float, ...]:
    """Return the levels that prune `rate` of the *original* weights a round: 0.1, 0.2, …, 0.9.

    The paper says "10 % of non-zero weights", but only this reading gives the levels it shows (official-models 7.2).
    The last level is `until`, a smaller step away where `rate` does not divide it.
    """
    _check(rate, until)
    steps = (round(rate * number, 10) for number in range(1, math.ceil(until / rate) + 1))
    return (*(level for level in steps if level < until), until)


def geometric(rate: float = 0.1, until: float = 0.9) -> tuple[float, ...]:
    """Return the levels that prune `rate` of the *remaining* weights a round, as far as the last that stays within
    `until` and one more that reaches it: 0.1, 0.19, 0.271, …"""
    _check(rate, until)
    levels: list[float] = []
    while not levels or levels[-1] < until:
        levels.append(1 - (1 - rate) ** (len(levels) + 1))
    levels[-1] = min(levels[-1], until)
    return tuple(levels)


def one_shot(until: float = 0.9) -> tuple[float, ...]:
    """Return the one level of a search that prunes everything at once, after one training."""
    _check(until, until)
    return (until,)


SCHEDULES: dict[str, Callable[[float], tuple[float, ...]]] = {
    "linear": lambda until: linear(until=until),
    "geometric": lambda until: geometric(until=until),
    "one-shot": one_shot,
}


def schedule_levels(schedule: str, until: float) -> tuple[float, ...]:
    """Return the levels of a schedule by name, at its usual rate of 10 % a round, up to the sparsity `until`."""
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule](until)


def custom(levels: Iterable[float]) -> tuple[float, ...]:
    """Return any levels of one's own, checked: some, and none below the one before; else a `UserError`."""
    levels = tuple(levels)
    if not levels or list(levels) != sorted(levels):
        raise UserError(f"the levels {levels} must be some, and rise: pruned weights do not come back")
    return levels


def _check(rate: float, until: float) -> None:
    if not 0 < rate < 1 or not 0 < until < 1:
        raise UserError(f"a schedule needs a rate and an end inside (0, 1), not {rate} and {until}")
