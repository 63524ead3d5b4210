"""The table of a study in Markdown, for the files under `results/`."""

from __future__ import annotations

from vltickets.reports import wording
from vltickets.reports.results import Results, Row

HEADER = (
    "baseline",
    "sparsity",
    "mean ± std",
    "seeds",
    "of full",
    "minus 99 % of full",
    "mean ≥ 99 %",
    "verdict",
    "runs",
)


def markdown_table(results: Results) -> str:
    """Return the rows as a Markdown table; scores are in per cent, differences in points, runs by their digests."""
    others = _other_metrics(results)
    header = (*HEADER[:3], *others, *HEADER[3:])
    lines = [
        f"| {' | '.join(header)} |",
        f"|{'|'.join('---' if name in ('baseline', 'verdict', 'runs') else '---:' for name in header)}|",
    ]
    lines += [f"| {' | '.join(escaped(cell) for cell in _cells(row, results, others))} |" for row in results.rows]
    return "\n".join(lines) + "\n"


def _other_metrics(results: Results) -> list[str]:
    """Return the metrics beside the headline, such as the mean reciprocal rank; not those of groups of items."""
    names = {name for row in results.rows for name in row.metrics if "/" not in name}
    return sorted(names - {"score", results.metric})


def _cells(row: Row, results: Results, others: list[str]) -> list[str]:
    share = results.share_of_full(row)
    return [
        row.baseline,
        wording.percent(row.sparsity),
        wording.mean_and_std(row.mean, row.std),
        *(wording.metric(name, row.metrics.get(name)) for name in others),
        wording.seeds(row.seeds, row.missing),
        "–" if share is None else wording.percent(share, 1),
        wording.interval(row.verdict),
        wording.rule(row.verdict if row.sparsity > 0 else None),
        row.label or "–",
        " ".join(f"`{run.digest[:8]}`" for run in row.runs if run.score is not None) or "–",
    ]


def escaped(cell: str) -> str:
    """A name with a bar or a line break must not make a new cell."""
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split())
