"""The table of a study at the terminal. The console is passed in, and nothing depends on colour."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vltickets.reports import wording
from vltickets.reports.finding import finding, warnings
from vltickets.reports.results import Results, Row

WIDE = 98  # columns from which the paper's own rule has room
STYLES = {"winning": "bold green", "relaxed": "green", "not": "red", "undecided": "yellow"}


def print_table(results: Results, console: Console) -> None:
    """Print the rows, the finding, and what to be careful about. Scores are in per cent, differences in points."""
    wide = console.width >= WIDE
    padding = (0, 2, 0, 0) if wide else (0, 1, 0, 0)
    table = Table(title=Text(_title(results)), box=None, pad_edge=False, padding=padding, title_justify="left")
    table.add_column("baseline", no_wrap=True)
    table.add_column("sparsity", justify="right", no_wrap=True)
    table.add_column("mean ± std", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("of full", justify="right", no_wrap=True)
    table.add_column("minus 99 %", justify="right", no_wrap=True)
    if wide:
        table.add_column("mean ≥ 99 %", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    previous = ""
    for row in results.rows:
        table.add_row(*_cells(row, results, repeated=row.baseline == previous, wide=wide))
        previous = row.baseline
    console.print(table)
    console.print(Text("minus 99 %: 95 % interval, in points, of the score minus 99 % of full's", style="dim"))
    console.print()
    for sentence in finding(results):
        console.print(Text(sentence))
    for sentence in warnings(results):
        console.print(Text(f"Note: {sentence}"))


def _title(results: Results) -> str:
    return f"{results.title} – {results.metric} in %, {results.study.get('split', 'test')} split"


def _cells(row: Row, results: Results, *, repeated: bool, wide: bool) -> list[Text]:
    share = results.share_of_full(row)
    label = row.label or "–"
    ruling = [Text(wording.rule(row.verdict if row.sparsity > 0 else None))] if wide else []
    return [
        Text("" if repeated else row.baseline),
        Text(wording.percent(row.sparsity)),
        Text(wording.mean_and_std(row.mean, row.std), style="dim" if row.mean is None else ""),
        Text(wording.seeds(row.seeds, row.missing)),
        Text("–" if share is None else wording.percent(share, 1)),
        Text(wording.interval(row.verdict)),
        *ruling,
        Text(label, style=STYLES.get(label, "")),
    ]
