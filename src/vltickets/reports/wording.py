"""The words and number formats that the terminal, the page and Markdown share, so that all three say the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vltickets.studies.verdicts import Verdict

NOT_RUN = "not run"

# In the order of a report's rows. θ₀ are the pre-trained weights.
BASELINES: Mapping[str, str] = {
    "full": "The dense model: every weight, trained from the pre-trained weights θ₀.",
    "full-2x": "The dense model trained for twice the steps. A ticket that beats an under-trained dense model is no "
    "finding.",
    "imp": "Iterative magnitude pruning: train, remove the smallest weights, set the others back to θ₀, and again.",
    "random": "A uniformly random mask, from θ₀.",
    "random-layerwise": "A random mask with the IMP mask's density in each tensor, from θ₀.",
    "text-only": "The IMP mask on the text weights from which vision-language pre-training started.",
    "shuffled-within": "The IMP mask on θ₀ with each prunable tensor permuted within itself.",
    "shuffled-all": "The IMP mask on θ₀ with every tensor of the backbone permuted within itself.",
    "random-start": "The IMP mask on random initial weights.",
    "scratch": "The dense model from random initial weights: no pre-training.",
    "one-shot": "The smallest weights of θ₀ removed at once, without any training first.",
    "theta0": "The dense backbone at θ₀, not fine-tuned.",
    "ridge": "A linear model on the inputs.",
    "blind": "The dense model trained and tested without the picture: region features and boxes are zero.",
    "chance": "The best constant answer.",
    "oracle": "A reader of the embedded world's true structure: the most that can be reached.",
}

PATTERNED = re.compile(r"(imp|random)-(?:(\d+):(\d+)|block-(\d+)x(\d+))")  # rows of a study's `patterns`

VERDICTS: Mapping[str, str] = {
    "winning": "The whole interval of ticket − dense is at or above 0: trained alone, the ticket reaches the dense "
    "score.",
    "relaxed": "The whole interval of ticket − 99 % of dense is at or above 0, that of ticket − dense is not.",
    "not": "The whole interval of ticket − 99 % of dense is below 0.",
    "undecided": "The interval holds 0: these seeds and test items can't tell. One seed never can.",
}


def baseline(name: str) -> str | None:
    """Return what a row of a report is, or None where there is no row of that name."""
    found = PATTERNED.fullmatch(name)
    if found is None:
        return BASELINES.get(name)
    source, n, m, rows, columns = found.groups()
    kept = f"exactly {n} of each {m} neighbours in a row are kept" if m else f"blocks of {rows} × {columns} go whole"
    return f"{BASELINES[source]} With a pattern: {kept}{', found in one step' if m and source == 'imp' else ''}."


def place(name: str) -> tuple[int, str]:
    """Return a row's place in a table: the protocol's order, patterns after what they are of, unknown ones last."""
    known, found = list(BASELINES), PATTERNED.fullmatch(name)
    plain = name if found is None else found[1]
    return (known.index(plain) if plain in known else len(known), name)


def score(value: float) -> str:
    """Return a fraction in per cent, with two digits: 0.64312 → 64.31."""
    return f"{100 * value:.2f}"


def metric(name: str, value: float | None) -> str:
    """Return a metric as all reports show it: errors, distances and counts as they are, fractions in per cent."""
    if value is None:
        return "–"
    plain = name.endswith("_error") or name.startswith("transport/") or not 0 <= value <= 1
    return f"{value:.4g}" if plain else score(value)


def points(value: float) -> str:
    """Return a difference of fractions in signed points: −0.0123 → −1.23."""
    text = f"{100 * value:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def mean_and_std(mean: float | None, std: float | None) -> str:
    """Return "64.31 ± 0.52", without the spread where there is none, and "not run" where there is no mean."""
    if mean is None:
        return NOT_RUN
    return score(mean) if std is None else f"{score(mean)} ± {score(std)}"


def percent(value: float, digits: int = 0) -> str:
    """Return a share as "70 %", with more digits only where the number has them."""
    text = f"{100 * value:.{digits}f}"
    if digits == 0 and abs(float(text) - 100 * value) > 0.005:
        text = f"{100 * value:.2f}".rstrip("0")
    return f"{text} %"


def interval(verdict: Verdict | None, *, full: bool = False) -> str:
    """Return the interval in points, of the row minus 99 % of dense, or with `full` minus dense itself."""
    if verdict is None:
        return "–"
    low, high = (verdict.low_full, verdict.high_full) if full else (verdict.low, verdict.high)
    if low is None or high is None:
        return "one seed"
    return f"{points(low)} to {points(high)}"


def label(verdict: Verdict | None) -> str:
    """Return the verdict's word."""
    return "–" if verdict is None else verdict.label


def difference(verdict: Verdict | None) -> str:
    """Return a difference in points, with its interval: "−1.20 (−2.00 to −0.40)"."""
    if verdict is None or verdict.low_full is None or verdict.high_full is None:
        return "–"
    return f"{points((verdict.low_full + verdict.high_full) / 2)} ({interval(verdict, full=True)})"


def rule(verdict: Verdict | None) -> str:
    """Return what the paper's rule on the means says: yes, no, or lenient (with one standard deviation added)."""
    if verdict is None:
        return "–"
    return "yes" if verdict.plain else "lenient" if verdict.lenient else "no"


def seeds(finished: int, missing: int) -> str:
    """Return the number of finished seeds, of the planned ones where some are missing."""
    if missing:
        return f"{finished} of {finished + missing}"
    return str(finished) if finished else "–"


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 48 s, 12 min, 3 h 05 min."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
