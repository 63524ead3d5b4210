"""What a run costs on a machine: seconds a step, seconds once, bytes. From the best evidence there is; runs nothing.

Two runs of one shape cost the same: their backbone, task and the part of the recipe that decides the work of a step are
the same. Start, mask, seed and learning rate differ.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vltickets.errors import UserError
from vltickets.specs import BackboneSpec, Node, Prune, Rewound, Train, canonical, hash_json
from vltickets.store import Record, Store, check_format, write_file
from vltickets.studies.graph import steps_of

KEPT_TASKS = 8  # tasks whose data a process keeps between its runs

FORMAT = 1
RECORDS_READ = 12  # of one shape: their mean hardly moves with more
OTHERS_READ = 2000  # records of other studies that are looked at for shapes of which this one has none
WITHOUT_WORK = {  # fields that change what is learnt, not how long it takes
    "task": ("blind",),
    "recipe": (
        "steps",
        "learning_rate",
        "head_multiplier",
        "warmup",
        "hold",
        "weight_decay",
        "betas",
        "epsilon",
        "clip",
    ),
    "backbone": ("prunable", "vocabulary", "region_width"),
}


@dataclass(frozen=True)
class Cost:
    """What a run of one shape takes: seconds a step, seconds of the rest (setup, scoring, writing), bytes on the disk.

    Beyond that, `read_seconds` is reading the task's data, which a process keeps for its next runs, and `once_seconds`
    making the world's files. Both are 0 where records are the evidence: their `setup` has them, spread over the runs.
    `busy` is how much longer than its own processor time a run took while it was measured: about 1 on an idle machine.
    `evidence` says what the figures rest on.
    """

    step_seconds: float
    rest_seconds: float
    weights_bytes: float
    record_bytes: float
    read_seconds: float = 0.0
    once_seconds: float = 0.0
    busy: float = 1.0
    evidence: str = ""

    def seconds(self, node: Node) -> float:
        """Return what a node of this shape takes, in seconds."""
        if not isinstance(node, Train):
            return self.rest_seconds
        rewound_to = (node.start.train.until or 0) if isinstance(node.start, Rewound) else 0
        return self.rest_seconds + self.step_seconds * (steps_of(node) - rewound_to)


class Shapes:
    """The shapes of nodes, by name. Thousands of nodes share few parts, so each part is looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], str] = {}

    def of(self, node: Node) -> str:
        """Return the name of a node's shape."""
        parts: tuple[str, ...] = (node.kind, _backbone(node).digest)
        if isinstance(node, Train):
            parts += (node.task.digest, node.recipe.digest)
        if parts not in self._known:
            self._known[parts] = shape_name(shape(node))
        return self._known[parts]


def _backbone(node: Node) -> BackboneSpec:
    return node.train.backbone if isinstance(node, Prune) else node.backbone


def shape(node: Node) -> dict[str, Any]:
    """Return what a node's cost depends on, as plain JSON."""
    if not isinstance(node, Train):
        return {"kind": node.kind, "backbone": _working("backbone", canonical(_backbone(node)))}
    return shape_of_training(canonical(node))


def shape_of_training(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same from the canonical JSON of a training."""
    return {"kind": "train", **{part: _working(part, spec[part]) for part in WITHOUT_WORK}}


def shape_name(shape: Mapping[str, Any]) -> str:
    """Return the digest that names a shape."""
    return hash_json(shape)


def _working(part: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name not in WITHOUT_WORK[part]}


# Measured figures, in a store or in a file of a device


@dataclass(frozen=True)
class Figures:
    """Measured costs on one machine, by shape. `of` keeps what each shape is, for a reader of the file."""

    machine: dict[str, str]
    costs: dict[str, Cost]
    of: dict[str, dict[str, Any]]

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        values = {name: {"of": self.of[name], **asdict(cost)} for name, cost in self.costs.items()}
        content = {"format": FORMAT, "machine": self.machine, "costs": values}
        write_file(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode())

    def with_more(self, other: Figures) -> Figures:
        """Return these figures with others of the same machine, the others' where both have one."""
        return Figures(self.machine, self.costs | other.costs, self.of | other.of)


def read_figures(path: Path) -> Figures:
    """Return the figures of a file; a missing, newer or damaged one is a `UserError`."""
    try:
        value = json.loads(path.read_bytes())
        check_format(value, str(path))
        of = {name: entry.pop("of") for name, entry in value["costs"].items()}
        return Figures(value["machine"], {name: Cost(**entry) for name, entry in value["costs"].items()}, of)
    except OSError as error:
        raise UserError(
            f"{path}: can't be read ({error.strerror}); `vltickets study plan … --save-device FILE` writes such a file"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no file of a device's figures ({error}); delete it, and measure again") from None


def figures_path(store: Store, machine: Mapping[str, str]) -> Path:
    """Return where a store keeps what was measured on a machine."""
    return store.root / "calibration" / f"{hash_json(machine)}.json"


# Finished records: the best evidence


def costs_from_records(
    wanted: Iterable[str], done: Sequence[Node], store: Store, machine: Mapping[str, str]
) -> dict[str, Cost]:
    """Return the cost of each wanted shape of which records of this machine are in the store.

    `done` are this study's own finished nodes. Other studies' records are looked at, as far as `OTHERS_READ`, where a
    wanted shape is not among those. Records of earlier versions lack all but the steps' seconds: there `rest_seconds`
    is not a number.
    """
    shapes, found = Shapes(), defaultdict[str, list[Record]](list)
    missing = set(wanted)
    for node in done:
        name = shapes.of(node)
        if name in missing and len(found[name]) < RECORDS_READ:
            _take(store.record(node.digest), found[name], machine)
    missing -= {name for name, records in found.items() if records}
    if missing:
        own = {node.digest for node in done}
        for record in _others(store, own):
            name = shape_name(shape_of_training(record.spec)) if record.kind == "train" else ""
            if name in missing and len(found[name]) < RECORDS_READ:
                _take(record, found[name], machine)
    return {name: _cost(records, store) for name, records in found.items() if records}


def _take(record: Record, into: list[Record], machine: Mapping[str, str]) -> None:
    """Keep a record of the same processor and device. A rewound training's seconds are of fewer steps than it says."""
    rewound = record.kind == "train" and record.spec["start"]["kind"] == "rewound"
    if not rewound and all(record.machine.get(part) == machine.get(part) for part in ("cpu", "device")):
        into.append(record)


def _others(store: Store, own: set[str]) -> Iterable[Record]:
    paths = (path for path in (store.root / "runs").glob("*/record.json") if path.parent.name not in own)
    for path, _ in zip(paths, range(OTHERS_READ), strict=False):
        if not path.parent.name.startswith("."):
            yield store.record(path.parent.name)


def _cost(records: Sequence[Record], store: Store) -> Cost:
    seconds = sum(record.seconds for record in records)
    weights = [path.stat().st_size for record in records if (path := _weights(store, record)).exists()]
    kept = [sum(path.stat().st_size for path in (store.root / "runs" / record.digest).iterdir()) for record in records]
    evidence = f"{len(records)} record{'s' if len(records) > 1 else ''}"
    if records[0].kind != "train":
        return Cost(0.0, seconds / len(records), 0.0, _mean(kept), busy=_busy(records), evidence=evidence)
    steps = sum(record.spec.get("until", record.spec["recipe"]["steps"]) for record in records)
    rests = [sum(record.phases.values()) for record in records if record.phases]
    return Cost(
        step_seconds=seconds / steps if steps else float("nan"),
        rest_seconds=_mean(rests),
        weights_bytes=_mean(weights),
        record_bytes=_mean(kept),
        busy=_busy(records),
        evidence=evidence,
    )


def _busy(records: Sequence[Record]) -> float:
    """Return time over processor time of one thread."""
    known = [record for record in records if record.processor_seconds]
    threads = known[0].spec.get("recipe", {}).get("threads", 1) if known else 1
    processor = sum(record.processor_seconds for record in known)
    return max(threads * sum(map(spent, known)) / processor, 1.0) if processor else 1.0


def spent(record: Record) -> float:
    """Return all the seconds of a finished run that are known: records of earlier versions have no phases."""
    return record.seconds + sum(record.phases.values())


def _weights(store: Store, record: Record) -> Path:
    return store.root / "weights" / record.digest / "weights.safetensors"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def joined(best: Mapping[str, Cost], measured: Mapping[str, Cost]) -> dict[str, Cost]:
    """Return the best cost of each shape: a record's figures, and a measured one where a record has none."""
    out = dict(measured)
    for name, cost in best.items():
        values, other = asdict(cost), measured.get(name)
        lacking = unknown(cost)
        if lacking and other is not None:
            values |= {key: getattr(other, key) for key in (*lacking, "read_seconds", "once_seconds")}
            values["evidence"] = f"{cost.evidence} + {other.evidence}"
        elif "step_seconds" in lacking:
            continue  # of runs without a step
        elif lacking:
            values |= dict.fromkeys(lacking, 0.0)
            values["evidence"] = f"{cost.evidence}, steps alone"
        out[name] = Cost(**values)
    return out


def unknown(cost: Cost) -> list[str]:
    """Return the figures of a cost that its evidence does not give."""
    return [name for name, value in asdict(cost).items() if value != value]
