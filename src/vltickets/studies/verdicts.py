"""Does a ticket train as well as the whole? A verdict with its interval. Numbers in, numbers out: no store, no torch.

The interval is for ticket − p · dense, paired by seed (both saw the same batches and the same fresh head) and by test
item. It is that of a two-way layout with random seeds and random items:

    variance = seed variance / seeds + item variance / items

- *Seed variance*: of the differences' means over the items, seed by seed; averaged over the levels of the curve,
  since two or three seeds alone say little. Levels that fell below 90 % of dense are averaged apart from the others:
  a collapsed network varies from seed to seed as no ticket does.
- *Item variance*: of the differences' means over the seeds, item by item; one for each level.
- Both hold the noise of a single item in a single run, and so count it twice. From four seeds on it is taken off the
  seed variance once (it is the layout's residual; what is left is at least 0). With two or three it stays in: the
  intervals are then wider than they need be, but a seed variance of so few seeds can be near 0 by chance.
- *Degrees of freedom*: Satterthwaite's for the sum. All levels of a seed share its dense run and one chain of masks,
  so the average over L levels is worth fewer than L · (seeds − 1): how many follows from the covariance C of the
  levels, (seeds − 1) · trace(C)² / trace(C²), between seeds − 1 (levels move as one; always so with two seeds) and
  L · (seeds − 1) (levels independent).

How often it errs, by simulation: right and wrong answers, tickets exactly at p · dense, 5 levels, seven settings of the
spread over seeds (none; 0.6 or 1.5 points for dense and for tickets; chained over the levels, mildly and hard; growing
with sparsity; one level collapsed). `pytest tests/studies/test_verdicts.py -s` prints the best and the worst setting:

    seeds  items  the interval covers   it lies too high  too low    half its width
    2      1000   98.0 to 99.4 %        at most 1.1 %     1.0 %      4.6 to 9.9 points
    2      4000   94.3 to 99.6 %        at most 2.1 %     3.6 %      2.2 to 10.8 points
    3      1000   97.2 to 99.5 %        at most 1.5 %     1.3 %      2.7 to 4.3 points
    3      4000   93.2 to 99.2 %        at most 3.1 %     3.6 %      1.4 to 3.9 points
    5      1000   94.8 to 96.4 %        at most 3.0 %     2.4 %      1.7 to 2.7 points
    5      4000   93.0 to 97.8 %        at most 4.0 %     3.0 %      0.8 to 2.4 points

Too high is a false winning or relaxed, too low a false not. With 3 seeds, 4,000 items and a spread of 0.4 points a
ticket at 106 % of dense is called winning in 99 % of cases, one at 103 % winning or relaxed in 84 %, one at 94 % not in
96 %; one that equals dense lies 0.6 points above the line and is mostly undecided.

The verdict is per level, not for the curve as a whole. It takes test items as independent: several questions on one
picture make the interval a little too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from scipy import stats

Label = Literal["winning", "relaxed", "not", "undecided"]
Scores = Mapping[int, np.ndarray]  # seed → one score for each test item
PASSES: tuple[Label, ...] = ("winning", "relaxed")
COLLAPSED = 0.9  # of the dense score
ENOUGH_SEEDS = 4  # to take the noise of single items off the seed variance


@dataclass(frozen=True)
class Verdict:
    """What the runs of one sparsity say, over the seeds that both ticket and dense have.

    `low` and `high` bound ticket − p · dense, `low_full` and `high_full` ticket − dense, in score units; they are None
    with one seed. `plain` is the paper's rule, mean ≥ p · dense mean; `lenient` adds one standard deviation first.
    """

    label: Label
    mean: float
    std: float | None
    seeds: int
    items: int
    share: float | None
    low: float | None
    high: float | None
    low_full: float | None
    high_full: float | None
    plain: bool
    lenient: bool

    @property
    def passes(self) -> bool:
        """Is the ticket shown to reach p · dense?"""
        return self.label in PASSES


def judge(
    dense: Scores, tickets: Mapping[float, Scores], *, p: float = 0.99, confidence: float = 0.95
) -> dict[float, Verdict]:
    """Return the verdict on each sparsity's tickets against the dense runs of the same seeds.

    winning: all of the interval of ticket − dense is ≥ 0. relaxed: all of that of ticket − p · dense is ≥ 0. not: all
    of it is < 0. undecided: anything else, and always with one seed. A sparsity that shares no seed with the dense
    runs is left out. All scores must be of the same test items in the same order; other lengths are a `ValueError`.
    """
    paired: dict[float, tuple[tuple[int, ...], np.ndarray, np.ndarray]] = {}
    for sparsity, runs in sorted(tickets.items()):
        seeds = tuple(sorted(set(runs) & set(dense)))
        if seeds:
            paired[sparsity] = (seeds, _stacked(runs, seeds), _stacked(dense, seeds))
    if (
        len({ticket.shape[1] for _, ticket, _ in paired.values()} | {whole.shape[1] for *_, whole in paired.values()})
        > 1
    ):
        raise ValueError("the scores are of different numbers of test items: they can't be paired")
    verdicts: dict[float, Verdict] = {}
    for level_sparsities in _pools(paired):
        tickets_of, dense_of = (np.stack([paired[level][part] for level in level_sparsities]) for part in (1, 2))
        relaxed = _intervals(tickets_of - p * dense_of, confidence)
        full = _intervals(tickets_of - dense_of, confidence)
        for place, sparsity in enumerate(level_sparsities):
            verdicts[sparsity] = _verdict(tickets_of[place], dense_of[place], relaxed[place], full[place], p)
    return dict(sorted(verdicts.items()))


def highest_sparsity(verdicts: Mapping[float, Verdict], *, plain: bool = False) -> float | None:
    """Return the largest sparsity at which every lower level passes too, or None where the lowest fails already.

    Passing is winning or relaxed; with `plain`, it is the paper's rule on the means alone.
    """
    highest = None
    for sparsity, verdict in sorted(verdicts.items()):
        if not (verdict.plain if plain else verdict.passes):
            break
        highest = sparsity
    return highest


def highest_by_means(
    dense: Mapping[int, float] | None, tickets: Mapping[float, Mapping[int, float] | None], *, p: float = 0.99
) -> float | None:
    """Return the largest sparsity at which the mean over seeds, as at every lower level, reaches p of the dense mean.

    Scores are by seed. 0 where not even the lowest level does; None where a score is missing to say so.
    """
    if not dense:
        return None
    line, highest = p * fmean(dense.values()), 0.0
    for sparsity, scores in sorted(tickets.items()):
        if not scores:
            return None
        if fmean(scores.values()) < line:
            break
        highest = sparsity
    return highest


def _stacked(runs: Scores, seeds: Iterable[int]) -> np.ndarray:
    """Return the scores as seeds × items, in double precision: items are stored in half."""
    rows = [np.asarray(runs[seed], dtype=np.float64).ravel() for seed in seeds]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("the scores are of different numbers of test items: they can't be paired")
    return np.stack(rows)


def _pools(paired: Mapping[float, tuple[tuple[int, ...], np.ndarray, np.ndarray]]) -> list[list[float]]:
    """Return the sparsities whose seed variances are averaged: the same seeds, and all collapsed or none."""
    pools: dict[tuple[tuple[int, ...], bool], list[float]] = {}
    for sparsity, (seeds, ticket, dense) in paired.items():
        pools.setdefault((seeds, bool(ticket.mean() < COLLAPSED * dense.mean())), []).append(sparsity)
    return list(pools.values())


def _intervals(differences: np.ndarray, confidence: float) -> list[tuple[float, float] | None]:
    """Return the interval of each level's mean; `differences` is levels × seeds × items."""
    _, seeds, items = differences.shape
    if seeds < 2 or items < 2:
        return [None] * len(differences)
    by_seed = differences.mean(axis=2)
    centred = by_seed - by_seed.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / (seeds - 1)
    trace = float(np.trace(covariance))
    of_seeds = estimate = trace / len(differences) / seeds
    if seeds >= ENOUGH_SEEDS:
        of_seeds = max(0.0, of_seeds - _noise(differences) / seeds)
    freedom_of_seeds = (seeds - 1) * _ratio(trace**2, float((covariance**2).sum()))
    of_items = differences.mean(axis=1).var(axis=1, ddof=1) / items
    out: list[tuple[float, float] | None] = []
    for mean, of_level in zip(by_seed.mean(axis=1), of_items, strict=True):
        variance = of_seeds + float(of_level)
        freedom = _ratio(variance**2, estimate**2 / freedom_of_seeds + float(of_level) ** 2 / (items - 1))
        half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
        out.append((float(mean) - half, float(mean) + half))
    return out


def _noise(differences: np.ndarray) -> float:
    """Return what the noise of single items adds to the variance of a seed's mean: residual mean square / items."""
    _, seeds, items = differences.shape
    squares = np.einsum("lsi,lsi->l", differences, differences)
    squares -= items * (differences.mean(axis=2) ** 2).sum(axis=1) + seeds * (differences.mean(axis=1) ** 2).sum(axis=1)
    squares += seeds * items * differences.mean(axis=(1, 2)) ** 2
    squares /= (seeds - 1) * (items - 1)
    return float(squares.mean() / items)


def _ratio(above: float, below: float) -> float:
    """Return the quotient; without any variance there is nothing to divide, and 1 is the most careful answer."""
    return above / below if below > 0 else 1.0


def _verdict(
    ticket: np.ndarray,
    dense: np.ndarray,
    relaxed: tuple[float, float] | None,
    full: tuple[float, float] | None,
    p: float,
) -> Verdict:
    by_seed = ticket.mean(axis=1)
    mean, whole = float(by_seed.mean()), float(dense.mean())
    std = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return Verdict(
        label=_label(relaxed, full),
        mean=mean,
        std=std,
        seeds=len(by_seed),
        items=ticket.shape[1],
        share=mean / whole if whole else None,
        low=relaxed[0] if relaxed else None,
        high=relaxed[1] if relaxed else None,
        low_full=full[0] if full else None,
        high_full=full[1] if full else None,
        plain=mean >= p * whole,
        lenient=mean + (std or 0.0) >= p * whole,
    )


def _label(relaxed: tuple[float, float] | None, full: tuple[float, float] | None) -> Label:
    if relaxed is None or full is None:
        return "undecided"
    if full[0] >= 0:
        return "winning"
    if relaxed[0] >= 0:
        return "relaxed"
    return "not" if relaxed[1] < 0 else "undecided"
