"""The sparsities of the rounds of a search."""

from __future__ import annotations

import math

from vltickets.errors import UserError


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


def _check(rate: float, until: float) -> None:
    if not 0 < rate < 1 or not 0 < until < 1:
        raise UserError(f"a schedule needs a rate and an end inside (0, 1), not {rate} and {until}")
