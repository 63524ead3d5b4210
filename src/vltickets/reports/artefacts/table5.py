"""Table 5: universal tickets, fine-tuned in the standard way and adversarially."""

from __future__ import annotations

from vltickets.reports import wording
from vltickets.reports.paper_results import PRETRAINING, Key, PaperResults
from vltickets.reports.published import published
from vltickets.reports.quoted import quoted
from vltickets.reports.tables import Table, runs_table

TITLE = "Table 5: adversarial fine-tuning of universal tickets"


def tables(results: PaperResults) -> list[Table]:
    """Return the scores both ways, and the interval of their difference."""
    columns, levels = results.columns("table5"), results.levels("table5")
    rows = []
    for level in levels:
        standard, adversarial = Key(PRETRAINING, level), Key(PRETRAINING, level, adversarial=True)
        for name, key in (("Std.", standard), ("Adv.", adversarial)):
            rows.append(
                [f"{wording.percent(level)} ({name})", *(results.score(column, key).text for column in columns)]
            )
        spans = []
        for column in columns:
            verdict = results.compare(column, adversarial, standard)
            known = verdict is not None and verdict.low_full is not None and verdict.high_full is not None
            span = wording.interval(verdict, full=True) if known else "–"
            spans.append(quoted(span, results.score(column, adversarial), results.score(column, standard)))
        rows.append([f"{wording.percent(level)}: Adv. − Std.", *spans])
    note = "Scores in %, mean ± std over seeds; differences in points, their 95 % interval, paired by seed and item."
    keys = [Key(PRETRAINING, level, way) for level in levels for way in (False, True)]
    header = ["sparsity", *(column.title for column in columns)]
    return [Table(TITLE, header, rows, note), published("table5"), runs_table(results, columns, keys)]
