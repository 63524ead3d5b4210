"""The paper's seven questions, answered in words from the numbers of a store. What is not run is said to be so."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vltickets.reports import wording
from vltickets.reports.artefacts import figure2, figure3, figure5, table1, table2
from vltickets.reports.paper_results import PRETRAINING, SOURCES, Column, Key, PaperResults, Papers, rewound
from vltickets.reports.tables import named
from vltickets.studies.verdicts import Verdict

NOT_YET = "Not run yet."
NOTHING_DECIDED = "What is run so far gives no answer: an interval needs two seeds, each with both runs of a pair."


@dataclass(frozen=True)
class Answer:
    """A question of the paper, and what the runs say to it. `shown_by` names the artefacts to look at."""

    question: str
    sentences: tuple[str, ...]
    shown_by: str


def answers(papers: Papers) -> list[Answer]:
    """Return the answers to the questions that a study's artefacts bear on, in the paper's order."""
    out = []
    for question, artefact, shown_by, answer in QUESTIONS:
        parts = [part for part in papers.parts if artefact in part.artefacts]
        if artefact == "table3":
            parts = [part for part in papers.parts if {"table3", "table4"} & set(part.artefacts)]
        if parts:
            sentences = answer(papers) if artefact == "table3" else answer(parts[0])  # type: ignore[arg-type]
            out.append(Answer(question, tuple(sentences) or (_nothing(parts, artefact),), shown_by))
    return out


def _nothing(parts: Sequence[PaperResults], artefact: str) -> str:
    """Return why there is no answer: nothing is run, or what is run gives none."""
    run = any(cell.record is not None for part in parts for cell in part.of(artefact))
    return NOTHING_DECIDED if run else NOT_YET


def are_there_tickets(results: PaperResults) -> list[str]:
    """Q1: the highest sparsities by the paper's rule, and what the intervals say of them."""
    chosen = _highest(results, "table1")
    if not chosen:
        return []
    held = [(column, level) for column, level in chosen if level]
    told = f"By the paper's rule on the means, {len(held)} of {len(chosen)} columns have tickets that keep 99 % of full"
    sentences = [f"{told}: {_at(held)}." if held else f"{told}."]
    if len(held) < len(chosen):
        sentences.append(f"None, not even at the lowest level, on {_names(c for c, level in chosen if not level)}.")
    labels: dict[str, list[Column]] = {}
    for column, level in held:
        verdict = table1.quoted_verdict(results, column, level)
        if verdict is not None:
            labels.setdefault(verdict.label, []).append(column)
    for label, meaning in (
        ("winning", "the interval shows the full accuracy"),
        ("relaxed", "the interval shows 99 % of it"),
        ("undecided", "these seeds and test items can't tell"),
        ("not", "the interval lies below 99 %"),
    ):
        if label in labels:
            sentences.append(f"{label.capitalize()} ({meaning}): {_names(labels[label])}.")
    return sentences + _unfinished(results, "table1", len(chosen))


def do_mask_and_start_matter(results: PaperResults) -> list[str]:
    """Q2: what the ticket is worth above random masks and other initial weights, at its own sparsity."""
    chosen = _highest(results, "table1")
    held = [(column, level) for column, level in chosen if level]
    sentences = [] if held or not chosen else ["No column has a ticket to compare."]
    for source in table1.OTHERS:
        found = [(column, table1.worth(results, column, level, source)) for column, level in held]
        known = [(column, verdict) for column, verdict in found if _decides(verdict)]
        if known:
            above = [column for column, verdict in known if _side(verdict) > 0]
            middles = [_middle(verdict) for _, verdict in known]
            sentences.append(
                f"Above {named(Key(source, 0.0))}: {wording.points(statistics.fmean(middles))} points on average over"
                f" {len(known)} columns ({wording.points(min(middles))} to {wording.points(max(middles))}); the"
                f" interval lies above 0 on {len(above)} of {len(known)}{_except(known, above)}."
            )
    return sentences


def does_rewinding_help(results: PaperResults) -> list[str]:
    """Q3: rewound tickets against those that start from θ₀, level by level."""
    sentences = []
    for column in results.columns("figure2"):
        found: list[tuple[float, float, Verdict]] = []
        for share in figure2.shares(results, column):
            for level in results.levels("figure2"):
                verdict = results.compare(column, Key(rewound(column.task, share), level), Key(column.task, level))
                if verdict is not None and _decides(verdict):
                    found.append((share, level, verdict))
        if not found:
            continue
        better, worse = (sum(_side(verdict) == side for *_, verdict in found) for side in (1, -1))
        share, level, most = max(found, key=lambda one: _middle(one[2]))
        sentences.append(
            f"{column.title}: of {len(found)} rewound tickets, the interval says better than from θ₀ of {better} and "
            f"worse of {worse}; the most is {wording.difference(most)} points, at {wording.percent(level)} rewound to "
            f"{wording.percent(share)} of the steps."
        )
    return sentences


def does_the_universal_ticket_transfer(results: PaperResults) -> list[str]:
    """Q4: the share of the full accuracy that the pre-training ticket keeps, and how far it is behind own tickets."""
    columns, sentences = results.columns("table2"), []
    some = [column for column in columns if column.task != table2.VCR]
    for level in results.levels("table2"):
        kept = table2.kept(results, columns, level)
        if kept == wording.NOT_RUN:
            continue
        without = f" ({table2.kept(results, some, level)} % without VCR)" if len(some) < len(columns) else ""
        behind = [(c, results.compare(c, Key(PRETRAINING, level), Key(c.task, level))) for c in columns]
        known = [(column, verdict) for column, verdict in behind if _decides(verdict)]
        below = sum(_side(verdict) < 0 for _, verdict in known)
        own = f"; shown to be behind the task's own ticket on {below} of {len(known)} columns" if known else ""
        sentences.append(f"At {wording.percent(level)} it keeps {kept} % of full on average{without}{own}.")
    return sentences


def do_tickets_transfer(results: PaperResults) -> list[str]:
    """Q5: which source is best for each target, and how far other sources are from the task's own ticket."""
    sentences = []
    for level in results.levels("figure3"):
        best = figure3.best_sources(results, level)
        if not best:
            continue
        ahead = [column for column, _, difference in best if difference <= 0]
        mean = statistics.fmean(difference for *_, difference in best)
        sides = [_side(results.compare(c, Key(source, level), Key(c.task, level))) for c, source, _ in best]
        (name, times), *_ = Counter(source for _, source, _ in best).most_common(1)
        sentences.append(
            f"At {wording.percent(level)} a task's own ticket is the best on {len(ahead)} of {len(best)} columns"
            f"; the best other one is {wording.points(mean)} points from it on average, and most often that of "
            f"{SOURCES[name]} ({times} of {len(best)}). By the interval it is behind the own ticket on "
            f"{sum(side < 0 for side in sides)} and ahead on {sum(side > 0 for side in sides)}; it is picked on the "
            "seeds it is compared on, which flatters it."
        )
    return sentences


def do_models_differ(papers: Papers) -> list[str]:
    """Q6: the highest sparsities of every backbone on the tasks it has."""
    sentences = []
    for artefact, name in (("table1", "UNITER"), ("table3", "LXMERT"), ("table4", "ViLT")):
        for part in papers.parts:
            chosen = _highest(part, artefact) if artefact in part.artefacts else []
            if chosen:
                sentences.append(f"{name}: {_at((column, level or 0.0) for column, level in chosen)}.")
    if sentences:
        sentences[0] = f"Highest sparsity by the paper's rule. {sentences[0]}"
    return sentences


def can_they_play_adversarially(results: PaperResults) -> list[str]:
    """Q7: the sparsity gained by finding and fine-tuning adversarially."""
    levels, sentences = results.levels("figure5"), []
    for column in results.columns("figure5"):
        pairs = figure5.pairs(results, column, levels)
        if pairs:
            standard, other = (wording.percent(statistics.fmean(values)) for values in zip(*pairs, strict=True))
            gained = figure5.interval([second - first for first, second in pairs])
            sentences.append(
                f"{column.title}: {standard} in the standard way, {other} adversarially; gained, in points of sparsity:"
                f" {gained}, {len(pairs)} of {len(results.search_seeds)} seeds."
            )
    return sentences


Question = tuple[str, str, str, Callable[[PaperResults], list[str]] | Callable[[Papers], list[str]]]
QUESTIONS: Sequence[Question] = (
    ("Q1: Are there winning tickets in UNITER?", "table1", "Table 1", are_there_tickets),
    (
        "Q2: Are winning tickets better than randomly pruned or initialised subnetworks?",
        "table1",
        "Table 1",
        do_mask_and_start_matter,
    ),
    ("Q3: Does rewinding improve performance?", "figure2", "Figure 2", does_rewinding_help),
    (
        "Q4: Do winning tickets found on pre-training tasks transfer?",
        "table2",
        "Table 2, Figure 2",
        does_the_universal_ticket_transfer,
    ),
    (
        "Q5: Do winning tickets found on downstream tasks transfer?",
        "figure3",
        "Figures 3 and 6",
        do_tickets_transfer,
    ),
    ("Q6: Do different models behave differently?", "table3", "Tables 1, 3 and 4", do_models_differ),
    ("Q7: Can they play lottery tickets adversarially?", "figure5", "Figure 5", can_they_play_adversarially),
)


def _highest(results: PaperResults, artefact: str) -> list[tuple[Column, float]]:
    """Return the columns that are done, each with its highest sparsity by the paper's rule."""
    levels = results.levels(artefact)
    found = ((column, results.highest(column, levels)) for column in results.columns(artefact))
    return [(column, level) for column, level in found if level is not None]


def _unfinished(results: PaperResults, artefact: str, done: int) -> list[str]:
    missing = len(results.columns(artefact)) - done
    return [f"{missing} more columns are not whole yet."] if missing else []


def _at(chosen: Iterable[tuple[Column, float]]) -> str:
    return ", ".join(f"{column.title} {wording.percent(level)}" for column, level in chosen)


def _names(columns: Iterable[Column]) -> str:
    return ", ".join(column.title for column in columns)


def _except(known: Sequence[tuple[Column, Verdict | None]], above: Sequence[Column]) -> str:
    left = [column for column, _ in known if column not in above]
    return f" (not on {_names(left)})" if left and above else ""


def _side(verdict: Verdict | None) -> int:
    """Return on which side of 0 the whole interval of a difference lies: 1 above, -1 below, 0 neither or unknown."""
    if verdict is None or verdict.low_full is None or verdict.high_full is None:
        return 0
    return int(verdict.low_full > 0) - int(verdict.high_full < 0)


def _decides(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.low_full is not None and verdict.high_full is not None


def _middle(verdict: Verdict | None) -> float:
    assert verdict is not None
    assert verdict.low_full is not None
    assert verdict.high_full is not None
    return (verdict.low_full + verdict.high_full) / 2
