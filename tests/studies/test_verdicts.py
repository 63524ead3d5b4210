"""The verdict's error rate, found by simulation, and its rules on cases that can be checked by eye.

`pytest tests/studies/test_verdicts.py -s` prints the rates that the module's docstring quotes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from vltickets.studies.verdicts import Verdict, highest_sparsity, judge

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
REPETITIONS = 100
DENSE = 0.6
P = 0.99
SPREAD_OF_ITEMS = 1.5  # of an item's difficulty, shared by all runs, beside the noise of 1 in a single run


@dataclass(frozen=True)
class Spread:
    """Standard deviations over seeds, as shares of the score: the dense run's, and the tickets' own and shared ones."""

    dense: float = 0.0
    own: float = 0.0
    chain: float = 0.0  # one draw for all levels of a seed: they share the batches and a chain of masks
    growth: float = 1.0  # of `own`, from the lowest level to the highest
    collapsed: bool = False  # the highest level lost a fifth of the score, and varies ten times as much


SPREADS = {
    "none": Spread(),
    "0.6 points": Spread(dense=0.006, own=0.006),
    "1.5 points": Spread(dense=0.015, own=0.015),
    "chained": Spread(dense=0.006, own=0.004, chain=0.006),
    "chained hard": Spread(dense=0.012, own=0.003, chain=0.012),
    "growing": Spread(dense=0.004, own=0.004, growth=2.5),
    "collapsed": Spread(dense=0.006, own=0.006, collapsed=True),
}


def probit(mean: float | np.ndarray, variance: float | np.ndarray) -> np.ndarray:
    """The threshold at which a normal variable of this variance gives this share of ones."""
    return np.asarray(stats.norm.ppf(mean) * np.sqrt(variance))


def simulate(
    rng: np.random.Generator, means: np.ndarray, spread: Spread, seeds: int, items: int
) -> tuple[dict[int, np.ndarray], dict[float, dict[int, np.ndarray]]]:
    """Draw right and wrong answers of dense and tickets whose true scores are DENSE and `means`."""
    noise = 1 + SPREAD_OF_ITEMS**2
    unit = np.sqrt(noise) / stats.norm.pdf(stats.norm.ppf(DENSE))  # turns a share of the score into the latent scale
    own = spread.own * np.linspace(1, spread.growth, len(means))
    if spread.collapsed:
        own[-1] *= 10
    difficulty = np.float32(SPREAD_OF_ITEMS) * rng.standard_normal(items, dtype=np.float32)
    of_dense = unit * rng.normal(0, 1, (seeds, 1)) * spread.dense
    shared = unit * rng.normal(0, 1, (1, seeds, 1)) * spread.chain
    of_tickets = unit * rng.normal(0, 1, (len(means), seeds, 1)) * own[:, None, None] + shared
    line = probit(means, noise + unit**2 * (own**2 + spread.chain**2))
    single = rng.standard_normal((1 + len(means), seeds, items), dtype=np.float32)
    single += difficulty
    dense = single[0] > -(probit(DENSE, noise + (unit * spread.dense) ** 2) + of_dense).astype(np.float32)
    tickets = single[1:] > -(line[:, None, None] + of_tickets).astype(np.float32)
    return dict(enumerate(dense)), {level: dict(enumerate(runs)) for level, runs in zip(LEVELS, tickets, strict=True)}


@dataclass
class Rates:
    """How often intervals missed the truth on either side, over the levels whose truth is the boundary."""

    below: float
    above: float
    half: float


def rates(spread: Spread, seeds: int, items: int, *, boundary: float) -> Rates:
    """Simulate tickets that reach exactly `boundary` of dense, and count."""
    rng = np.random.default_rng([seeds, items, int(100 * boundary)])
    means = np.full(len(LEVELS), boundary * DENSE)
    if spread.collapsed:
        means[-1] *= 0.8
    levels = LEVELS[:-1] if spread.collapsed else LEVELS
    # Levels that move as one are one draw, not five: it takes more of them to know a rate as well.
    repetitions = REPETITIONS * (4 if spread.chain > spread.own else 1)
    found = [judge(*simulate(rng, means, spread, seeds, items)) for _ in range(repetitions)]
    bounds = np.array([[_bounds(verdicts[level], boundary) for level in levels] for verdicts in found])
    low, high = bounds[..., 0], bounds[..., 1]
    labels = [verdicts[level].label for verdicts in found for level in levels]
    wrong = labels.count("winning") + (labels.count("relaxed") if boundary == P else 0)
    assert wrong == (low >= 0).sum()
    return Rates(float((low >= 0).mean()), float((high < 0).mean()), float((high - low).mean() / 2))


def _bounds(verdict: Verdict, boundary: float) -> tuple[float, float]:
    pair = (verdict.low, verdict.high) if boundary == P else (verdict.low_full, verdict.high_full)
    assert pair[0] is not None
    assert pair[1] is not None
    return pair[0], pair[1]


@pytest.mark.parametrize("items", [1000, 4000])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, items: int) -> None:
    found = {name: rates(spread, seeds, items, boundary=P) for name, spread in SPREADS.items()}
    covers = {name: 1 - rate.below - rate.above for name, rate in found.items()}
    halves = [100 * rate.half for rate in found.values()]
    below, above = (max(getattr(rate, side) for rate in found.values()) for side in ("below", "above"))
    print(
        f"\n{seeds} seeds {items} items: it covers {100 * min(covers.values()):.1f}"
        f" to {100 * max(covers.values()):.1f} %,"
        f" too high at most {100 * below:.1f} %, too low at most {100 * above:.1f} %,"
        f" ± {min(halves):.1f} to {max(halves):.1f} points"
    )
    # 93 % and 4 % a side are what is asked for; half a point more is left to the luck of a few hundred draws.
    assert min(covers.values()) >= 0.925
    assert below <= 0.045  # winning or relaxed, said of a ticket at the line
    assert above <= 0.045  # not, said of a ticket at the line


def test_winning_is_seldom_said_of_a_ticket_that_only_equals_dense() -> None:
    for seeds in (2, 3, 5):
        found = rates(SPREADS["0.6 points"], seeds, 1000, boundary=1.0)
        assert found.below <= 0.04
        assert found.above <= 0.04


def test_mutant_an_interval_without_the_seeds_spread_misses_too_often() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        dense, tickets = simulate(rng, np.full(5, P * DENSE), SPREADS["1.5 points"], 3, 4000)
        difference = np.mean([tickets[0.5][seed] - P * dense[seed] for seed in dense], axis=0)
        missed += abs(difference.mean()) > 1.96 * difference.std() / np.sqrt(len(difference))
    assert missed > 0.2 * 200


@pytest.mark.parametrize(("share", "label"), [(1.06, "winning"), (1.03, "relaxed"), (0.94, "not")])
def test_a_clear_case_is_recognised_most_of_the_time_with_3_seeds_and_4000_items(share: float, label: str) -> None:
    rng = np.random.default_rng(7)
    spread = Spread(dense=0.004, own=0.004)
    found = [judge(*simulate(rng, np.full(5, share * DENSE), spread, 3, 4000)) for _ in range(100)]
    wanted = ("winning", "relaxed") if label == "relaxed" else (label,)
    power = np.mean([verdicts[level].label in wanted for verdicts in found for level in LEVELS])
    print(f"\na ticket at {100 * share:.0f} % of dense is called {' or '.join(wanted)} in {100 * power:.0f} % of cases")
    assert power > 0.6


def test_one_seed_is_undecided_and_has_no_interval() -> None:
    verdict = judge({0: np.ones(100)}, {0.5: {0: np.ones(100)}})[0.5]
    assert (verdict.label, verdict.low, verdict.high, verdict.std, verdict.seeds) == ("undecided", None, None, None, 1)
    assert verdict.plain
    assert verdict.share == 1


def test_a_ticket_that_answers_every_item_as_dense_does_is_winning() -> None:
    items = np.random.default_rng(0).integers(0, 2, (3, 500)).astype(np.float16)
    runs = dict(enumerate(items))
    verdict = judge(runs, {0.5: runs})[0.5]
    assert (verdict.label, verdict.low_full, verdict.high_full) == ("winning", 0.0, 0.0)


def test_only_seeds_that_both_have_are_compared() -> None:
    dense = {0: np.ones(10), 1: np.ones(10), 2: np.zeros(10)}
    verdicts = judge(dense, {0.5: {1: np.ones(10), 0: np.ones(10), 9: np.zeros(10)}, 0.7: {9: np.ones(10)}})
    assert list(verdicts) == [0.5]
    assert (verdicts[0.5].seeds, verdicts[0.5].mean, verdicts[0.5].share) == (2, 1.0, 1.0)


def test_the_plain_and_the_lenient_rule_follow_the_means() -> None:
    dense = {0: np.full(100, 0.5), 1: np.full(100, 0.5)}
    low = judge(dense, {0.5: {0: np.full(100, 0.48), 1: np.full(100, 0.50)}})[0.5]
    assert (low.plain, low.lenient) == (False, True)
    assert low.std == pytest.approx(0.02 / np.sqrt(2))


def test_scores_of_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of test items"):
        judge({0: np.ones(10)}, {0.5: {0: np.ones(11)}})


def test_the_highest_sparsity_needs_every_lower_level() -> None:
    def verdict(label: str, *, plain: bool) -> Verdict:
        return Verdict(label, 0.5, None, 3, 10, 1.0, 0.0, 0.1, 0.0, 0.1, plain, plain)  # type: ignore[arg-type]

    curve = {
        0.7: verdict("relaxed", plain=True),
        0.1: verdict("winning", plain=True),
        0.5: verdict("undecided", plain=True),
        0.3: verdict("relaxed", plain=True),
        0.9: verdict("not", plain=False),
    }
    assert highest_sparsity(curve) == 0.3
    assert highest_sparsity(curve, plain=True) == 0.7
    assert highest_sparsity({0.1: verdict("undecided", plain=False)}) is None
