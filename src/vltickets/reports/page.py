"""A study as one offline HTML page: no network, no script; its numbers are the store's, each with the run behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from vltickets.reports import wording
from vltickets.reports.figures import figure_svg, learning_svg
from vltickets.reports.finding import finding, warnings
from vltickets.reports.results import Results, Row
from vltickets.reports.style import inline
from vltickets.store import write_file


@dataclass(frozen=True)
class Cost:
    """What one baseline took: its finished runs that no baseline above it already counts, and their seconds."""

    baseline: str
    runs: int
    seconds: float


def write_page(results: Results, path: Path) -> None:
    """Write the page; the file appears whole or not at all."""
    write_file(path, page_html(results).encode())


def page_html(results: Results) -> str:
    """Return the page. Everything that comes from the store is escaped; only our own figures are taken as markup."""
    template = page_template("page.html")
    learning = learning_svg(results)
    costs = list(_costs(results))
    return template.render(
        css=page_css(),
        results=results,
        study=results.study,
        wording=wording,
        finding=finding(results),
        warnings=warnings(results),
        figure=Markup(inline(figure_svg(results))),
        learning=None if learning is None else Markup(inline(learning)),
        metric_names=sorted({name for row in results.rows for name in row.metrics}),
        costs=costs,
        total=sum(cost.seconds for cost in costs),
        count=sum(cost.runs for cost in costs),
        machines=_machines(results),
        groups=_groups(results),
        recipe=list(flat(results.study.get("recipe") or {})),
        baselines={row.baseline: text for row in results.rows if (text := wording.baseline(row.baseline))},
        metric_text=wording.metric,
    )


def page_template(name: str) -> Template:
    """Return a page's template. Everything that is put in is escaped unless it is marked as ours."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "score": wording.score,
        "percent": wording.percent,
        "duration": wording.duration,
    }
    return environment.from_string(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def page_css() -> Markup:
    """Return the style that all pages share."""
    return Markup(resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8"))


def _costs(results: Results) -> Iterator[Cost]:
    counted: set[str] = set()
    for name, chosen in (("pre-training", "train"), ("pruning and other masks", "")):
        seconds = [record.seconds for record in results.ancestors if (record.kind == "train") == bool(chosen)]
        if seconds:
            yield Cost(name, len(seconds), sum(seconds))
    for baseline in dict.fromkeys(row.baseline for row in results.rows if row.runs):
        digests = {run.digest for row in results.rows_of(baseline) for run in row.runs if run.digest in results.records}
        new = digests - counted
        counted |= new
        yield Cost(baseline, len(new), sum(results.records[digest].seconds for digest in sorted(new)))


def _machines(results: Results) -> list[tuple[str, int]]:
    """Return every machine that did a run, with the number of its runs."""
    counts: dict[str, int] = {}
    for record in results.records.values():
        name = ", ".join(f"{key} {value}" for key, value in sorted(record.machine.items())) or "not recorded"
        counts[name] = counts.get(name, 0) + 1
    return sorted(counts.items())


def _groups(results: Results) -> list[tuple[Row, list[dict[str, Any]]]]:
    """Return the runs of each row. A run that stands in two rows is written out in the first and linked from there."""
    written: set[str] = set()
    groups = []
    for row in results.rows:
        entries = []
        for run in row.runs:
            record = results.records.get(run.digest)
            entries.append(
                {
                    "run": run,
                    "first": run.digest not in written,
                    "record": record,
                    "spec": json.dumps(record.spec, indent=1, sort_keys=True, ensure_ascii=False) if record else None,
                }
            )
            written.add(run.digest)
        if entries:
            groups.append((row, entries))
    return groups


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a nested configuration as dotted names and values, as `--set` takes them."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
