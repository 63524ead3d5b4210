"""What pre-training did: its losses objective by objective, and the validation of θ₀ and of every round of pruning."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from matplotlib.figure import Figure

from vltickets.reports import wording
from vltickets.reports.paper_results import PaperResults
from vltickets.reports.quoted import Quoted, Reading
from vltickets.reports.style import GREY, drawing_style
from vltickets.reports.tables import Row, Table
from vltickets.store import Record

TITLE = "Pre-training"
BY_FOIL = "itm_accuracy/"
KINDS = ("pretraining", "lxmert_pretraining")
NAMES = {"mlm": "masked words", "mrfr": "features", "mrc": "classes", "mrc_kl": "classes (KL)", "itm": "matching"}


def tables(results: PaperResults) -> list[Table]:
    """Return the validation of every pre-training run, mean ± std over seeds."""
    grouped: dict[str, list[Record]] = {}
    for name, record in _runs(results):
        grouped.setdefault(name, []).append(record)
    metrics = sorted(
        {name for records in grouped.values() for record in records for name in record.metrics} - {"score"}
    )
    metrics = [name for name in metrics if not name.startswith(BY_FOIL)]
    rows = [
        [
            name,
            *(_cell(records, metric) for metric in metrics),
            Quoted(" ".join(f"`{r.digest[:8]}`" for r in records), [Reading(r.digest, "score") for r in records]),
        ]
        for name, records in sorted(grouped.items())
    ]
    note = (
        "Accuracies in %; mrfr_error is a mean squared error, features_error a mean smooth-L1, transport/… mean "
        "transport distances."
    )
    return [Table("Validation", ["run", *metrics, "runs"], rows, note), *_by_foil(grouped)] if rows else []


def _by_foil(grouped: dict[str, list[Record]]) -> list[Table]:
    """Return matching by what is false in the wrong caption, where the captions have foils."""
    known = {name for records in grouped.values() for record in records for name in record.metrics}
    metrics = sorted(name for name in known if name.startswith(BY_FOIL))
    if not metrics:
        return []
    rows = [
        [name, *(_cell(records, metric) for metric in metrics)]
        for name, records in sorted(grouped.items())
        if any(metric in record.metrics for record in records for metric in metrics)
    ]
    note = "Captions and false wordings of them, accuracy in %; 50 is chance. What stays there was not grounded."
    return [Table("Matching, by what is false", ["run", *(name.removeprefix(BY_FOIL) for name in metrics)], rows, note)]


def _cell(records: list[Record], metric: str) -> str:
    values = [record.metrics[metric] for record in records if metric in record.metrics]
    if not values:
        return "–"
    mean, std = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
    plain = f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
    text = wording.mean_and_std(mean, std) if "accuracy" in metric else plain
    return Quoted(text, [Reading(record.digest, metric) for record in records if metric in record.metrics])


def _runs(results: PaperResults) -> Iterator[tuple[str, Record]]:
    """Yield the name and the record of every finished training on the pre-training tasks."""
    for record in results.lineage.finished:
        if record.kind != "train" or record.spec["task"]["kind"] not in KINDS:
            continue
        if record.spec["task"].get("text_only"):
            yield "θ₀′ (words alone)", record
        elif "mask" not in record.spec and _made_theta0(results, record):
            yield "θ₀", record
        elif "mask" not in record.spec:
            yield "round under 0 %", record
        else:
            mask = results.lineage.record(record.spec["mask"]["node"])
            yield f"round under {wording.percent(round(mask.metrics['sparsity'], 3))}", record


def _made_theta0(results: PaperResults, record: Record) -> bool:
    """Did this pre-training make θ₀, from fresh, text-only or imported text weights? Else it is a first round."""
    start = record.spec["start"]
    if start["kind"] != "trained":
        return (results.study.get("recipe") or {}).get("start") != "imported"
    return bool(results.lineage.record(start["train"]["node"]).spec["task"].get("text_only"))


def rows(results: PaperResults) -> Iterator[Row]:
    """Yield every metric of every pre-training run."""
    for name, record in _runs(results):
        for metric, value in sorted(record.metrics.items()):
            seed = int(record.spec.get("seed", 0))
            yield "pretraining", name, "pre-training", seed, metric, value, record.digest


def figure(results: PaperResults) -> Figure | None:
    """Return the losses of θ₀'s pre-training, a panel for each objective."""
    record = next((record for name, record in _runs(results) if name == "θ₀"), None)
    curves = {} if record is None else {name: curve for name, curve in record.parts.items() if len(curve) > 1}
    if not curves:
        return None
    with drawing_style():
        figure = Figure(figsize=(2.4 * len(curves) + 0.4, 2.2), layout="constrained")
        for axes, (name, curve) in zip(
            figure.subplots(1, len(curves), squeeze=False).flat, curves.items(), strict=True
        ):
            axes.plot([step for step, _ in curve], [loss for _, loss in curve], color="#0072b2", linewidth=1.2)
            axes.set_title(NAMES.get(name, name), fontsize=10, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=3, width=0.7, labelsize=8)
            axes.grid(axis="y", color=GREY, alpha=0.18, linewidth=0.6)
            axes.set_xlabel("step", fontsize=8.5)
    return figure
