"""A model card for a ticket on the Hugging Face Hub: what it is, what it came from, how it did. Runs nothing.

Every number comes from the ticket or from a store that has its run; what neither knows is left out.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from vltickets.errors import UserError
from vltickets.reports import wording
from vltickets.reports.wording import percent
from vltickets.specs import NAMED, BackboneSpec, Train, dense_of
from vltickets.store import Record, Store

# The Hub's names for tasks; a task it has no name for keeps ours.
HUB_TASKS = {"vqa": "visual-question-answering", "gqa": "visual-question-answering", "vcr": "visual-question-answering"}
FOUND_BY = {
    "prune": "iterative magnitude pruning with rewinding",
    "one-shot": "one-shot magnitude pruning of the initial weights",
    "random": "chance: a random mask",
}


@dataclass(frozen=True)
class CardTicket:
    """What a card says of a ticket itself. `tensors` is how many it covers, `provenance` as in the ticket file."""

    backbone: BackboneSpec | None
    mask: str
    pruned: int
    prunable: int
    tensors: int
    has_weights: bool
    provenance: Mapping[str, Any]

    @property
    def sparsity(self) -> float:
        """The share of the prunable weights that it prunes."""
        return self.pruned / self.prunable if self.prunable else 0.0


@dataclass(frozen=True)
class Line:
    """One metric: the ticket's own, and mean, standard deviation and seeds of its cell and of the dense model."""

    metric: str
    ticket: float | None
    cell: str
    dense: str


@dataclass(frozen=True)
class Known:
    """What a store knows of the ticket's run: records of its cell's seeds, and of the dense runs beside them."""

    cell: tuple[Record, ...] = ()
    dense: tuple[Record, ...] = ()
    study: str | None = None


def card(ticket: CardTicket, name: str, *, store: Store | None = None, base_model: str | None = None) -> str:
    """Return the card, Markdown with the YAML header that the Hub reads.

    `name` is the repository's; `base_model` the Hub's name of the weights it was found from, where there is one.
    `store` adds other seeds of the same cell and the dense model, where it has the ticket's run.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {"json": _yaml, "code": _code}
    template = environment.from_string(resources.files(__package__).joinpath("card.md").read_text(encoding="utf-8"))
    known = Known() if store is None else read_known(store, str(ticket.provenance.get("train", "")))
    task = str(_field(ticket.provenance, "task", "kind"))
    return template.render(
        ticket=ticket,
        metric=wording.metric,
        name=name,
        short=name.rstrip("/").rpartition("/")[2] or "ticket",
        base_model=base_model,
        tags=["lottery-ticket", "pruning", "sparsity", "pytorch", *([ticket.backbone.kind] if ticket.backbone else [])],
        what="a random mask"
        if "random" in (_field(ticket.provenance, "found_by"), _field(ticket.provenance, "criterion"))
        else "a lottery ticket",
        backbone=_backbone(ticket.backbone),
        sparsity=percent(ticket.sparsity),
        rows=[(what, text) for what, text in _rows(ticket, known) if text],
        lines=list(_lines(ticket, known)),
        metrics=_numbers(ticket.provenance.get("metrics")),
        task=task,
        hub_task=HUB_TASKS.get(task, task),
        data=_data(ticket.provenance),
        known=known,
    )


def read_known(store: Store, digest: str) -> Known:
    """Return what a store has of a training: nothing where it does not have it.

    Other seeds are those of the same cell of a study; the dense runs have the same task, start, recipe and seed.
    """
    if not digest or not _finished(store, digest):
        return Known()
    cells, study = _cell(store, digest)
    digests = [one for one in cells if _finished(store, one)]
    nodes = [store.node(one) for one in digests]
    beside = [dense_of(node) for node in nodes if isinstance(node, Train)]
    dense = [store.record(node.digest) for node in beside if store.has(node)]
    return Known(tuple(store.record(one) for one in digests), tuple(dense), study)


def _cell(store: Store, digest: str) -> tuple[list[str], str | None]:
    """Return the runs of a training's cell in the study that has most of them, by seed, and the study's name."""
    best: tuple[list[str], str | None] = ([digest], None)
    for name in store.studies():
        cells = store.study(name)["cells"]
        for own in (cell for cell in cells if cell["node"] == digest):
            same = [cell for cell in cells if _but_seed(cell) == _but_seed(own)]
            nodes = list(dict.fromkeys(cell["node"] for cell in sorted(same, key=lambda cell: cell["seed"])))
            if best[1] is None or len(nodes) > len(best[0]):
                best = (nodes, name)
    return best


def _but_seed(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name not in ("seed", "node", "artefacts")}


def _finished(store: Store, digest: str) -> bool:
    return (store.root / "runs" / digest / "record.json").exists()


def _rows(ticket: CardTicket, known: Known) -> Iterable[tuple[str, str | None]]:
    """Yield what it is, a row each; None where it is not known."""
    of = ticket.provenance
    yield "Backbone", _backbone(ticket.backbone) or "a module of its author's own"
    yield "Sparsity", f"{percent(ticket.sparsity)}: {ticket.pruned:,} of {ticket.prunable:,} prunable weights are 0"
    yield "Weights it covers", f"{ticket.tensors} tensors"
    yield "In the file", "the mask and trained weights" if ticket.has_weights else "the mask alone, one bit a weight"
    yield "Found by", _found_by(of)
    yield "Schedule", _levels(of.get("levels"))
    yield "Found on", _field(of, "found_on", "kind") and _code(_field(of, "found_on", "kind"))
    yield "Tested on", _field(of, "task", "kind") and f"{_code(_field(of, 'task', 'kind'))}, {_data(of)}"
    yield "Training", _training(of)
    yield "Seed", _seeds(of, known)
    yield "Starts from", _start(of)
    yield "Mask", f"{_code(ticket.mask)} (hash of its names, shapes and bits)"
    yield "Found by node", _code(of["mask"]) if "mask" in of else None
    yield "Tested by run", _code(of["train"]) if "train" in of else None


def _levels(levels: Any) -> str | None:
    """Return the schedule, where it is one: provenance is whatever a file says."""
    known = isinstance(levels, list) and all(type(level) in (int, float) and 0 <= level < 1 for level in levels)
    return ", ".join(percent(level) for level in levels) or None if known else None


def _found_by(of: Mapping[str, Any]) -> str | None:
    if "criterion" in of:
        search = "iterative pruning" if of.get("found_by") == "find_ticket" else "pruning without training"
        return f"{search}; criterion {_code(of['criterion'])}, pattern {_code(of.get('pattern', 'unstructured'))}"
    how = of.get("found_by")
    under = f"; pattern {_code(of['pattern'])}" if "pattern" in of else ""
    return None if how is None else FOUND_BY.get(str(how), _code(how)) + under


def _training(of: Mapping[str, Any]) -> str | None:
    recipe = of.get("recipe")
    if not isinstance(recipe, dict):
        return None
    names = {"steps": "steps", "learning_rate": "learning rate"}
    return ", ".join(f"{said} {_code(recipe[name])}" for name, said in names.items() if name in recipe) or None


def _seeds(of: Mapping[str, Any], known: Known) -> str | None:
    if type(of.get("seed")) is not int:
        return None
    seeds = sorted({record.spec.get("seed", 0) for record in known.cell} - {of["seed"]})
    return _code(of["seed"]) + (f"; beside it {', '.join(map(str, seeds))} in the results below" if seeds else "")


def _start(of: Mapping[str, Any]) -> str | None:
    start = of.get("start")
    if not isinstance(start, dict):
        return None
    name = f" {_code(start['name'])}" if "name" in start else ""
    digest = start.get("sha256") or _field(start, "train", "node") or _field(start, "start", "sha256")
    return f"{_code(start.get('kind', 'weights'))}{name}" + (f", {_code(digest)}" if digest else "")


def _data(of: Mapping[str, Any]) -> str:
    kind = _field(of, "task", "data", "kind")
    if kind == "world":
        return "the embedded world of vltickets (procedural scenes)"
    fingerprint = _field(of, "task", "data", "fingerprint")
    return (
        f"a data folder with fingerprint {_code(fingerprint)}" if fingerprint else "data that the ticket does not name"
    )


def _lines(ticket: CardTicket, known: Known) -> Iterable[Line]:
    own = _numbers(ticket.provenance.get("metrics"))
    names = {*own, *(name for record in (*known.cell, *known.dense) for name in record.metrics)}
    for name in sorted(names, key=lambda name: (name != "score", name)):
        yield Line(name, own.get(name), _over_seeds(known.cell, name), _over_seeds(known.dense, name))


def _over_seeds(records: Iterable[Record], metric: str) -> str:
    """Return mean and standard deviation of a metric, with the number of seeds."""
    values = [record.metrics[metric] for record in records if metric in record.metrics]
    if not values:
        return "–"
    if len(values) == 1:
        return f"{wording.metric(metric, values[0])} (1 seed)"
    mean, std = (wording.metric(metric, value) for value in (statistics.fmean(values), statistics.stdev(values)))
    return f"{mean} ± {std} ({len(values)} seeds)"


def _numbers(metrics: Any) -> dict[str, float]:
    """Return the metrics of a ticket that are numbers; others are no measurement."""
    found = metrics.items() if isinstance(metrics, dict) else ()
    numbers = {str(name): value for name, value in found if type(value) in (int, float)}
    return {name: value for name, value in numbers.items() if type(value) is float or abs(value) < 2**53}


def _backbone(backbone: BackboneSpec | None) -> str | None:
    if backbone is None:
        return None
    name = next((name for name, spec in NAMED.items() if spec == backbone), backbone.kind)
    sizes = [f"{what.replace('_', ' ')} {size}" for what, size in backbone.model_dump().items() if type(size) is int]
    if backbone.prunable != type(backbone).model_fields["prunable"].default:
        sizes.append(f"prunable: {', '.join(backbone.prunable)}")
    return f"{name} ({', '.join(sizes)})"


def _field(value: Any, *path: str) -> Any:
    """Return a nested value, or the empty string where it is not there: provenance is whatever a file says."""
    for name in path:
        value = value.get(name, "") if isinstance(value, dict) else ""
    return value


def _code(value: Any) -> str:
    """Return a value as Markdown code that can neither end its own cell nor its own quotes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "`" + " ".join(text.replace("`", "'").replace("|", "/").split()) + "`"


def _yaml(value: Any) -> str:
    """Return a value as YAML on one line: JSON is YAML."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise UserError(f"the ticket's metrics hold {value}, which is not a number; find and test it again") from None
