"""What a study found, in one or two plain sentences made from the verdicts, and what to be careful about."""

from __future__ import annotations

from vltickets.reports import wording
from vltickets.reports.results import DENSE, Results, Row

NOTABLE = 1.01  # of the dense score: as far above it as a relaxed ticket may lie below
UNSTABLE = 0.05  # of the dense score, one standard deviation over seeds


def finding(results: Results) -> list[str]:
    """Return the finding: how far IMP's tickets go, with seeds and interval, and what the other masks did there."""
    full, tickets = results.row(DENSE), [row for row in results.rows_of("imp") if row.sparsity > 0]
    if full is None or full.mean is None:
        return ["Nothing can be said yet: the dense model, to which all is compared, is not run."]
    finished = [row for row in tickets if row.mean is not None]
    if not finished:
        return [f"No ticket is trained yet. The dense model reaches {wording.score(full.mean)} % {results.metric}."]
    highest, plain = results.highest(), results.highest(plain=True)
    sentences = [_passing(results, highest) if highest else _failing(results, finished)]
    random = results.row("random", highest.sparsity) if highest else None
    if random is not None and random.mean is not None:
        sentences.append(
            f"A random mask of {wording.percent(random.sparsity)} sparsity trains to"
            f" {wording.mean_and_std(random.mean, random.std)} % (verdict: {random.label or 'none'})."
        )
    if plain is not highest:
        sentences.append(_by_the_plain_rule(plain))
    return sentences


def warnings(results: Results) -> list[str]:
    """Return what a careful reader must know besides the finding; an empty list is the best case."""
    checks = (_unfinished, _few_seeds, _under_trained, _beats_dense, _random_passes, _blind_as_good)
    return [*results.diverged] + [
        text for check in (*checks, _gate_linear, _gate_theta0, _unstable_dense) if (text := check(results))
    ]


def _passing(results: Results, row: Row) -> str:
    verdict, full = row.verdict, results.row(DENSE)
    assert verdict is not None  # a row that passes has one
    assert full is not None
    kind = "winning" if verdict.label == "winning" else "relaxed winning"
    bound = "dense" if verdict.label == "winning" else "99 % of dense"
    return (
        f"Iterative magnitude pruning found {kind} tickets: with {wording.percent(row.sparsity)} of the prunable"
        f" weights removed, the network trains to {wording.mean_and_std(row.mean, row.std)} % {results.metric},"
        f" {wording.percent(verdict.share or 0.0, 1)} of the dense model's"
        f" {wording.mean_and_std(full.mean, full.std)} % ({_basis(row, bound)})."
    )


def _failing(results: Results, finished: list[Row]) -> str:
    lowest = finished[0]
    best = max(finished, key=lambda row: results.share_of_full(row) or 0.0)
    if lowest.label == "not":
        start = f"No ticket was found: already at {wording.percent(lowest.sparsity)} sparsity"
        return (
            f"{start} the network trains to {wording.mean_and_std(lowest.mean, lowest.std)} % {results.metric},"
            f" shown to be below 99 % of dense ({_basis(lowest, '99 % of dense')})."
        )
    share = results.share_of_full(best)
    reached = "" if share is None else f", {wording.percent(share, 1)} of dense"
    return (
        f"Undecided: no ticket is shown to reach 99 % of the dense score, and the one of the lowest sparsity run,"
        f" {wording.percent(lowest.sparsity)}, is not shown to miss it. The best mean is at"
        f" {wording.percent(best.sparsity)} sparsity: {wording.mean_and_std(best.mean, best.std)} %"
        f" {results.metric}{reached} ({_basis(best, '99 % of dense')})."
    )


def _basis(row: Row, bound: str) -> str:
    """Return the seeds, the test items and the interval that a claim rests on."""
    verdict = row.verdict
    if verdict is None:
        return f"{_count(row.seeds, 'seed')}, no scores per test item"
    if verdict.low is None:
        return f"{_count(verdict.seeds, 'seed')}: no interval"
    span = wording.interval(verdict, full=bound == "dense")
    return (
        f"{_count(verdict.seeds, 'seed')}, {verdict.items:,} test items;"
        f" 95 % interval of ticket − {bound}: {span} points"
    )


def _by_the_plain_rule(plain: Row | None) -> str:
    if plain is None:
        return "By the paper's rule on the means alone, no sparsity passes."
    return f"By the paper's rule on the means alone, tickets go up to {wording.percent(plain.sparsity)} sparsity."


def _unfinished(results: Results) -> str:
    missing = sum(row.missing for row in results.rows)
    planned = sum(len(row.runs) for row in results.rows)
    return f"{missing} of {planned} runs are not run yet; all this may still change." if missing else ""


def _few_seeds(results: Results) -> str:
    seeds = [row.seeds for row in results.rows_of("imp") if row.seeds and row.sparsity > 0]
    if not seeds or min(seeds) >= 3:
        return ""
    return (
        f"Tickets have as few as {_count(min(seeds), 'seed')}: an interval of one or two seeds is missing or very wide."
        " Five decide far more."
    )


def _under_trained(results: Results) -> str:
    longer = results.row("full-2x")
    if longer is None or longer.mean is None:
        return (
            "There is no dense run of twice the steps, so it is not known whether the dense model was trained enough."
        )
    share = results.share_of_full(longer)
    reached = f"{wording.mean_and_std(longer.mean, longer.std)} %"
    if longer.verdict is not None and longer.verdict.low_full is not None and longer.verdict.low_full > 0:
        return (
            f"The dense model is under-trained at these steps: with twice as many it reaches {reached}"
            f" (95 % interval of the difference: {wording.interval(longer.verdict, full=True)} points)."
            " Everything here compares at equal steps; that a ticket reaches the best of the dense model is not said."
        )
    if share is not None and share > NOTABLE:
        return (
            f"The dense model may be under-trained at these steps: with twice as many it reaches {reached},"
            f" {wording.percent(share, 1)} of its score here. Everything here compares at equal steps."
        )
    return ""


def _beats_dense(results: Results) -> str:
    better = [
        r for r in results.rows_of("imp") if r.verdict and r.verdict.low_full is not None and r.verdict.low_full > 0
    ]
    if not better:
        return ""
    levels = ", ".join(wording.percent(row.sparsity) for row in better if row.sparsity > 0)
    return (
        f"Tickets score above the dense model at equal steps (sparsity {levels}): a dense model trained longer may too."
    )


def _random_passes(results: Results) -> str:
    highest = results.highest()
    random = results.row("random", highest.sparsity) if highest else None
    if random is None or random.verdict is None or not random.verdict.passes:
        return ""
    return "A random mask passes at that sparsity too, so which weights are kept does not matter there."


def _blind_as_good(results: Results) -> str:
    full, blind = results.row(DENSE), results.row("blind")
    if full is None or blind is None or not full.mean or blind.mean is None or blind.mean < 0.99 * full.mean:
        return ""
    return "The blind model scores as well as the dense one: this task, as trained here, does not need the picture."


def _gate_linear(results: Results) -> str:
    """A dense model that a linear one beats is no ground for tickets."""
    full, linear = results.row(DENSE), results.row("ridge")
    if full is None or linear is None or full.mean is None or linear.mean is None:
        return ""
    reached = "reached" if full.mean > linear.mean else "missed"
    return (
        f"Gate {reached}: the dense model scores {wording.mean_and_std(full.mean, full.std)} %,"
        f" a linear model on the same items {wording.score(linear.mean)} %."
    )


def _gate_theta0(results: Results) -> str:
    """Where fine-tuning adds nothing, the task mostly asks whether θ₀ survives pruning and can be repaired."""
    full, start = results.row(DENSE), results.row("theta0")
    if full is None or start is None or full.mean is None or start.mean is None:
        return ""
    scores = f"{wording.mean_and_std(full.mean, full.std)} % after fine-tuning, {wording.score(start.mean)} % before"
    if full.mean > start.mean:
        return f"Gate reached: fine-tuning adds something over θ₀ ({scores})."
    return (
        f"Gate missed: fine-tuning adds nothing over θ₀ ({scores}),"
        " so this task mostly asks whether θ₀ survives pruning and can be repaired."
    )


def _unstable_dense(results: Results) -> str:
    full = results.row(DENSE)
    if full is None or not full.mean or full.std is None or full.std < UNSTABLE * full.mean:
        return ""
    return (
        f"The dense model is not stable over seeds ({wording.mean_and_std(full.mean, full.std)} %):"
        " the protocol looks for no tickets on such a task, because its table is seed noise."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
