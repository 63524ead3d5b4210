"""Scoring something finished, a run or a ticket, on any folder of the same layout; and making a ticket of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vltickets.data import Source, Vocabulary, open_folder, open_source
from vltickets.deploy import read_ticket
from vltickets.errors import UserError
from vltickets.specs import (
    TASK_KINDS,
    UNSTRUCTURED,
    BackboneSpec,
    Node,
    Prune,
    Recipe,
    Train,
    canonical,
    dense_of,
    parse,
)
from vltickets.store import Store
from vltickets.studies.work import backbone_of, build_model, load_mask
from vltickets.tasks import Evaluation, Model, Task, build_task
from vltickets.tickets import Mask, Ticket
from vltickets.training import evaluate


def ticket_of(node: Train, store: Store) -> Ticket:
    """Return the ticket that a finished training tested: its mask, where it came from, and the trained weights."""
    if node.mask is None:
        raise UserError(f"run {node.digest} is dense: it has no mask to make a ticket of")
    record = store.record(node.digest)
    provenance: dict[str, Any] = {
        "train": node.digest,
        "mask": node.mask.digest,
        "found_by": node.mask.kind,
        "start": canonical(node.start),
        "task": canonical(node.task),
        "recipe": canonical(node.recipe),
        "seed": node.seed,
        "metrics": record.metrics,
    }
    dense = dense_of(node)
    if store.has(dense):
        provenance["dense"] = {"train": dense.digest, "score": store.record(dense.digest).metrics["score"]}
    if isinstance(node.mask, Prune):
        provenance["found_on"] = canonical(node.mask.train.task)
        provenance["levels"] = _levels(node.mask)
    if node.mask.pattern != UNSTRUCTURED:
        provenance["pattern"] = node.mask.pattern
    return Ticket(
        node.backbone, load_mask(node.mask, store), provenance, store.weights(node.digest), store.labels(node.digest)
    )


def _levels(mask: Prune) -> list[float]:
    """Return the sparsities of the search's rounds, up to the mask's own."""
    levels, step = [mask.sparsity], mask.train.mask
    while isinstance(step, Prune):
        levels.append(step.sparsity)
        step = step.train.mask
    return levels[::-1]


def find_run(prefix: str, store: Store) -> Node:
    """Return the node whose digest starts with `prefix`; none or several is a `UserError`."""
    if not re.fullmatch("[0-9a-f]+", prefix):
        raise UserError(f"{prefix!r} is neither a run's digest (hexadecimal) nor a ticket file")
    found = [path.stem for path in (store.root / "nodes").glob(f"{prefix}*.json")]
    if len(found) != 1:
        raise UserError(f"{len(found)} runs in {store.root} start with {prefix!r}; give more of the digest")
    return store.node(found[0])


def mask_of(prefix: str, store: Store) -> tuple[BackboneSpec, Mask]:
    """Return a finished mask, or the one that a finished training was held to, with the backbone it is for.

    `prefix` is the beginning of the node's digest; a dense training is a `UserError`.
    """
    node = find_run(prefix, store)
    mask = node.mask if isinstance(node, Train) else node
    if mask is None:
        raise UserError(f"run {node.digest} is dense: it has no mask; name a sparse training or a mask")
    return backbone_of(mask), load_mask(mask, store)


def score_run(node: Node, store: Store, folder: Path | None, split: str | None) -> Evaluation:
    """Score a finished training on a folder's split; its own data and split unless others are named."""
    if not isinstance(node, Train):
        raise UserError(f"{node.digest} is a mask, not a training; evaluate a training or a ticket file")
    weights, labels = store.weights(node.digest), store.labels(node.digest)
    return _scored(ready(node.backbone, node.task, weights, labels, store, folder, split))


def score_ticket(path: Path, store: Store | None, folder: Path | None, split: str | None) -> Evaluation:
    """Score the trained weights of a ticket file, or of a packed one, on a folder's split or the data of its test."""
    return _scored(ready_ticket(read_ticket(path), path, store, folder, split))


@dataclass(frozen=True)
class Ready:
    """Trained weights, and the task and the split that they are to be scored on."""

    backbone: BackboneSpec
    weights: dict[str, np.ndarray]
    source: Source
    task: Task
    split: str

    def model(self) -> Model:
        """Return the trained model; weights that do not fit the data are a `UserError`."""
        model = build_model(self.backbone, Recipe(steps=1, learning_rate=1.0), self.task, self.source)
        try:
            model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in self.weights.items()})
        except RuntimeError as error:
            raise UserError(f"the weights do not fit this data: {str(error).splitlines()[-1].strip()}") from None
        return model


def ready_ticket(ticket: Ticket, path: Path, store: Store | None, folder: Path | None, split: str | None) -> Ready:
    """Open the data for a ticket that was read from `path`: a folder's split, or the data of its test."""
    if ticket.backbone is None:
        raise UserError(f"{path} is a ticket of a module of your own: score it in your own loop (load_ticket, apply_)")
    if not ticket.weights:
        raise UserError(f"{path} holds a mask without trained weights; find it again with `vltickets find`")
    values = ticket.provenance.get("task")
    if values is None or "vocabulary" not in ticket.labels:
        raise UserError(f"{path} does not say which task and vocabulary it is for; find it again with `vltickets find`")
    task = parse(TASK_KINDS[values["kind"]], values, f"{path}, task")
    return ready(ticket.backbone, task, ticket.weights, ticket.labels, store, folder, split)


def ready(
    backbone: BackboneSpec,
    spec: Any,
    weights: dict[str, np.ndarray],
    labels: dict[str, str],
    store: Store | None,
    folder: Path | None,
    split: str | None,
) -> Ready:
    """Open the data that weights of a task are to be scored on: a folder's split, or the data that `spec` names."""
    if folder is not None:
        words = labels["vocabulary"].split("\n")[:-1]
        source = open_folder(folder, vocabulary=Vocabulary(words, "the run's vocabulary"))
    elif store is not None:
        source = open_source(spec.data, store)
    else:
        raise UserError("name the data with --data DIR, or the store that has it with --store DIR")
    split = split or spec.split
    task = build_task(spec.model_copy(update={"split": split}), source, backbone, labels)
    return Ready(backbone, weights, source, task, split)


def _scored(what: Ready) -> Evaluation:
    return evaluate(what.model(), what.task, what.split)
