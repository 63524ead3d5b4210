"""What a study needs done, in an order in which it can be done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from vltickets.specs import Node, OneShot, Prune, Rewound, Shuffled, Start, Train, Trained, changed, parents
from vltickets.store import Store


@dataclass(frozen=True)
class Cell:
    """One number of a study: which baseline, at which sparsity, for which seed, and the training that gives it.

    Where a study has several tasks, `task` says which one is scored, `baseline` where its mask comes from, and
    `artefacts` which tables and figures show it; `adversarial`: fine-tuned that way. A cell may also be a mask alone.
    """

    baseline: str
    sparsity: float
    seed: int
    node: Node
    task: str = ""
    adversarial: bool = False
    artefacts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """One node to run, and the digests of those to run before it."""

    node: Node
    after: tuple[str, ...]


def plan(nodes: Iterable[Node], store: Store, *, weights: Collection[str] = ()) -> list[Work]:
    """Return the work that is left for these nodes' results, parents first; the same node once.

    `weights` are the digests of those whose weights are wanted too, not only their records.

    A finished record counts as done. A node whose weights another one starts from is run again where only its record
    is here (it was imported): the record stays, the weights are made.
    """
    wanted: dict[str, bool] = {}
    order: list[Node] = []
    stack: list[tuple[Node, bool, bool]] = [(node, node.digest in weights, False) for node in nodes][::-1]
    while stack:
        node, need_weights, expanded = stack.pop()
        if expanded:
            order.append(node)
            continue
        if _done(node, store, need_weights) or (node.digest in wanted and wanted[node.digest] >= need_weights):
            continue
        first = node.digest not in wanted
        wanted[node.digest] = need_weights or wanted.get(node.digest, False)
        if first:
            stack.append((node, need_weights, True))
            weighty = _weights_needed(node)
            stack.extend((parent, parent.digest in weighty, False) for parent in parents(node)[::-1])
    return _with_edges(order)


def closure(nodes: Iterable[Node]) -> dict[str, Node]:
    """Return these nodes and all that they need, by digest, whatever is done."""
    found: dict[str, Node] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node.digest not in found:
            found[node.digest] = node
            stack.extend(parents(node))
    return found


def _with_edges(order: Sequence[Node]) -> list[Work]:
    """Return the work with what each node waits for. A whole run waits for its own θᵢ, and goes on from it."""
    listed = {node.digest: node for node in order}
    stopped: dict[str, Node] = {}
    for node in order:
        if isinstance(node, Train) and node.until is not None:
            stopped[changed(node, until=None).digest] = node
    done: dict[str, Work] = {}

    def after(node: Node) -> list[Node]:
        needed = [parent for parent in parents(node) if parent.digest in listed]
        return [*needed, *([stopped[node.digest]] if node.digest in stopped else [])]

    stack = list(order)[::-1]
    while stack:
        node = stack.pop()
        missing = [parent for parent in after(node) if parent.digest not in done]
        if missing:
            stack += [node, *missing]
        elif node.digest not in done:
            done[node.digest] = Work(node, tuple(parent.digest for parent in after(node)))
    return list(done.values())


def steps_of(node: Train) -> int:
    """Return how many optimiser steps a training takes."""
    return node.recipe.steps if node.until is None else node.until


def _done(node: Node, store: Store, need_weights: bool) -> bool:
    return store.has(node) and (not need_weights or store.has_weights(node))


def _weights_needed(node: Node) -> set[str]:
    """Return the digests of the parents whose weights, not only records, the node needs."""
    if isinstance(node, Train):
        return _start_weights(node.start)
    if isinstance(node, Prune):
        return {node.train.digest}
    return _start_weights(node.start) if isinstance(node, OneShot) else set()


def _start_weights(start: Start) -> set[str]:
    if isinstance(start, Shuffled):
        return _start_weights(start.start)
    return {start.train.digest} if isinstance(start, Trained | Rewound) else set()
