"""Table 1: each task's ticket at the highest sparsity it holds, beside random masks and other initial weights."""

from __future__ import annotations

from collections.abc import Sequence

from vltickets.reports import wording
from vltickets.reports.paper_results import FULL, RANDOM, Column, Key, PaperResults, Score
from vltickets.reports.published import published
from vltickets.reports.quoted import quoted
from vltickets.reports.tables import OTHER_STARTS, Table, named, runs_table
from vltickets.studies.verdicts import Verdict, judge

TITLE = "Table 1: tickets at the highest sparsity that keeps 99 % of the full accuracy"
SHARE = 0.99
OTHERS = (RANDOM, "text-only", "shuffled-within")
Chosen = Sequence[tuple[Column, float | None]]


def tables(results: PaperResults) -> list[Table]:
    """Return the paper's table, what the ticket is worth above the other rows, every level's verdict, and the runs."""
    columns, levels = results.columns("table1"), results.levels("table1")
    chosen = [(column, results.highest(column, levels)) for column in columns]
    keys = [Key(FULL, 0.0), Key("full-2x", 0.0)]
    for column, level in chosen:
        keys += [Key(source, level) for source in (column.task, *OTHERS)] if level else []
    return [
        _table(results, chosen),
        _differences(results, chosen),
        _verdicts(results, columns, levels),
        published("table1"),
        runs_table(results, columns, list(dict.fromkeys(keys))),
    ]


def _table(results: PaperResults, chosen: Chosen) -> Table:
    full = [results.score(column, Key(FULL, 0.0), fresh=True) for column, _ in chosen]
    rows = [
        ["sparsity", *("–" if level is None else _picked(results, column, level) for column, level in chosen)],
        ["full", *(score.text for score in full)],
        [
            "× 99 %",
            *("–" if score.mean is None else quoted(wording.score(SHARE * score.mean), score) for score in full),
        ],
    ]
    twice = [results.score(column, Key("full-2x", 0.0)) for column, _ in chosen]
    if any(score.values or score.missing for score in twice):
        rows.append([OTHER_STARTS["full-2x"], *(score.text for score in twice)])
    for source in (None, *OTHERS):
        texts = [
            results.score(one, Key(source or one.task, level), fresh=True).text if level else "–"
            for one, level in chosen
        ]
        rows.append(["ticket" if source is None else named(Key(source, 0.0)), *texts])
    rows.append(["verdict by interval", *(_verdict(results, *one) for one in chosen)])
    fresh = sorted(set(results.seeds) - set(results.search_seeds))
    if fresh:
        rows.append(["full, fresh seeds alone", *(_fresh(results, one, Key(FULL, 0.0), fresh) for one, _ in chosen)])
        tickets = (_fresh(results, one, Key(one.task, at), fresh) if at else "–" for one, at in chosen)
        rows.append(["ticket, fresh seeds alone", *tickets])
    picked = (
        f"Seeds {_list(fresh)} had no part in that; the other rows are of all seeds, but full at twice the steps."
        if fresh
        else "It is quoted on them too: that flatters it."
    )
    note = (
        "Scores in %, mean ± std over seeds. sparsity: the highest at which the ticket's mean, as at every lower "
        "level, reaches 99 % of the dense mean (0 %: not even the lowest does), picked on the seeds "
        f"{_list(results.search_seeds)}. {picked} Scored on {results.study.get('split')}. The verdict asks whether "
        "seeds and test items show it."
    )
    return Table(TITLE, ["", *(column.title for column, _ in chosen)], rows, note)


def _picked(results: PaperResults, column: Column, level: float) -> str:
    """Return the sparsity, and behind it the scores it was picked on."""
    keys = [Key(FULL, 0.0), *(Key(column.task, one) for one in results.levels("table1"))]
    return quoted(wording.percent(level), *(results.score(column, key) for key in keys))


def _verdict(results: PaperResults, column: Column, level: float | None) -> str:
    keys = [Key(column.task, level or 0.0), Key(FULL, 0.0)]
    text = wording.label(quoted_verdict(results, column, level))
    return quoted(text, *(results.score(column, key, fresh=True) for key in keys))


def quoted_verdict(results: PaperResults, column: Column, level: float | None) -> Verdict | None:
    """Return the verdict on the ticket at its quoted sparsity, over all seeds that have it.

    Levels of the same seeds share the spread over seeds, as in docs/protocol.md; one with fresh seeds has its own.
    """
    if not level:
        return None
    own = {one: results.items(column, Key(column.task, one), fresh=one == level) for one in results.levels("table1")}
    dense = results.items(column, Key(FULL, 0.0), fresh=True)
    return judge(dense, {one: items for one, items in own.items() if items}).get(level)


def _fresh(results: PaperResults, column: Column, key: Key, fresh: Sequence[int]) -> str:
    score = results.score(column, key, fresh=True)
    known = {seed: score.values[seed] for seed in fresh if seed in score.values}
    return Score(known, score.digests, len(fresh) - len(known), score.metric).text


def _differences(results: PaperResults, chosen: Chosen) -> Table:
    rows = []
    for source in OTHERS:
        cells = []
        for column, level in chosen:
            keys = [Key(column.task, level or 0.0), Key(source, level or 0.0)]
            text = wording.difference(worth(results, column, level, source))
            cells.append(quoted(text, *(results.score(column, key, fresh=True) for key in keys)))
        rows.append([f"ticket − {named(Key(source, 0.0))}", *cells])
    note = "In points at the sparsity above, with the 95 % interval, paired by seed and test item."
    return Table("What mask and initial weights are worth", ["", *(column.title for column, _ in chosen)], rows, note)


def worth(results: PaperResults, column: Column, level: float | None, source: str) -> Verdict | None:
    """Return what the ticket at its quoted sparsity is above another row of the table."""
    return results.compare(column, Key(column.task, level), Key(source, level), fresh=True) if level else None


def judged(results: PaperResults, column: Column, levels: Sequence[float]) -> dict[float, Verdict]:
    """Return the verdict on each level's own ticket, on the seeds of the search, the spread pooled along the curve."""
    found = {level: results.items(column, Key(column.task, level)) for level in levels}
    return judge(results.items(column, Key(FULL, 0.0)), {level: items for level, items in found.items() if items})


def _verdicts(results: PaperResults, columns: Sequence[Column], levels: Sequence[float]) -> Table:
    found = [judged(results, column, levels) for column in columns]
    rows = [
        [
            wording.percent(level),
            *(
                quoted(_judged(verdicts.get(level)), results.score(column, Key(column.task, level)))
                for column, verdicts in zip(columns, found, strict=True)
            ),
        ]
        for level in levels
    ]
    note = (
        "Mean in %; what the paper's rule on the means says (yes; lenient, with one standard deviation added; no); the "
        "verdict by the interval of ticket − 99 % of dense."
    )
    return Table("Every level's ticket", ["sparsity", *(column.title for column in columns)], rows, note)


def _judged(verdict: Verdict | None) -> str:
    if verdict is None:
        return wording.NOT_RUN
    return f"{wording.score(verdict.mean)}, {wording.rule(verdict)}, {verdict.label}"


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(str(seed) for seed in seeds)
