"""What a plan will take: time on some workers, the longest chain, core-hours, disk; group by group. Runs nothing."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vltickets.specs import TASK_KINDS, Node, Train, World
from vltickets.store import Store
from vltickets.studies.costs import KEPT_TASKS, Cost, Shapes
from vltickets.studies.graph import Cell, Work, closure
from vltickets.studies.run import Planned, merged

WORLD_PARTS = {"retrieval": "flickr30k", "matching": "captions", "pretraining": "captions"}
WORLD_PARTS |= {"lxmert_pretraining": "captions"}


@dataclass(frozen=True, order=True)
class Label:
    """How runs are told apart for a reader: what they are, on which task, for which baseline."""

    kind: str
    task: str
    baseline: str


@dataclass(frozen=True)
class Group:
    """The runs of one label: how many in all, done, shared between artefacts or baselines, and left to do.

    `seconds` are those of the runs left, one process each; None where nothing is known of them.
    """

    label: Label
    runs: int
    done: int
    shared: int
    left: int
    seconds: float | None
    evidence: str


@dataclass(frozen=True)
class Forecast:
    """A plan's costs. `waiting` are the runs that are left, `seconds` has those of which something is known, by digest.

    `wall` is the time on `workers` processes, `idle_wall` the same on a machine that does nothing else (the figures may
    be of a busier one), `chain` the longest one of runs that wait for each other. `processor` is the processor time of
    each run in seconds, of all its threads; where a GPU does the work, the run's time. `disk` is in bytes, by what
    takes it.
    `apart` is how many runs there would be if artefacts (or baselines) shared none with each other.
    """

    groups: tuple[Group, ...]
    labels: Mapping[str, Label]
    waiting: frozenset[str]
    seconds: Mapping[str, float]
    workers: int
    wall: float
    idle_wall: float
    chain: tuple[str, ...]
    processor: Mapping[str, float]
    disk: Mapping[str, float]
    runs: int
    done: int
    apart: int
    more: str

    @property
    def left(self) -> int:
        """Runs that are left to do."""
        return len(self.waiting)

    @property
    def unknown(self) -> int:
        """Runs that are left and of which nothing is known."""
        return self.left - len(self.seconds)

    @property
    def chain_seconds(self) -> float:
        """What the longest chain takes, however many workers there are."""
        return sum(self.seconds[digest] for digest in self.chain)


def forecast(
    plans: Sequence[Planned], store: Store, costs: Mapping[str, Cost], workers: int, only: Collection[str] = ()
) -> Forecast:
    """Return what is left of one or more planned studies, what they share counted once. `workers` 0 is one process.

    `only` are the artefacts that were planned, if not all.
    """
    by_part = _by_part(plans, only)
    cells = [cell for part in by_part.values() for cell in part]
    nodes = closure(cell.node for cell in cells)
    work = parents_first(merged(plans))
    labels, parts = _labels(cells, nodes), [closure(cell.node for cell in part) for part in by_part.values()]
    shared = Counter(digest for part in parts for digest in part)
    shapes = Shapes()
    cost_of = {item.node.digest: cost for item in work if (cost := costs.get(shapes.of(item.node))) is not None}
    seconds = _seconds(work, cost_of, store, max(workers, 1))
    alone = {digest: value / cost_of[digest].busy for digest, value in seconds.items()}
    threads = {item.node.digest: item.node.recipe.threads if isinstance(item.node, Train) else 1 for item in work}
    left = {item.node.digest for item in work}
    done = {digest for digest, node in nodes.items() if digest not in left and store.has(node)}
    return Forecast(
        groups=tuple(_groups(labels, left, done, shared, seconds, cost_of)),
        labels=labels,
        waiting=frozenset(left),
        seconds=seconds,
        workers=max(workers, 1),
        wall=side_by_side(work, seconds, max(workers, 1)),
        idle_wall=side_by_side(work, alone, max(workers, 1)),
        chain=longest_chain(work, seconds),
        processor={digest: value * threads[digest] for digest, value in alone.items()},
        disk=_disk(work, cost_of, max(workers, 1)),
        runs=len(nodes),
        done=len(done),
        apart=sum(map(len, parts)),
        more="; ".join(planned.more for planned in plans if planned.more),
    )


def parents_first(work: Sequence[Work]) -> list[Work]:
    """Return the work in an order in which it can be done: that of several studies together need not be one."""
    items = {item.node.digest: item for item in work}
    out: dict[str, Work] = {}
    for start in items:
        stack = [start]
        while stack:
            digest = stack.pop()
            if digest in out:
                continue
            missing = [parent for parent in items[digest].after if parent in items and parent not in out]
            if missing:
                stack += [digest, *missing]
            else:
                out[digest] = items[digest]
    return list(out.values())


def side_by_side(work: Sequence[Work], seconds: Mapping[str, float], workers: int) -> float:
    """Return the time that workers take when the start of the longest chain goes first, as `executors` does it."""
    children, waits, lengths = _edges(work)
    ready = [(-lengths[digest], number, digest) for number, digest in enumerate(waits) if not waits[digest]]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now, number = 0.0, len(waits)
    while ready or running:
        while ready and len(running) < workers:
            digest = heapq.heappop(ready)[2]
            heapq.heappush(running, (now + seconds.get(digest, 0.0), digest))
        now, finished = heapq.heappop(running)
        for child in children[finished]:
            waits[child] -= 1
            if not waits[child]:
                heapq.heappush(ready, (-lengths[child], number, child))
                number += 1
    return now


def longest_chain(work: Sequence[Work], seconds: Mapping[str, float]) -> tuple[str, ...]:
    """Return the runs of the chain that takes longest, first to last: no number of workers is faster than that."""
    until: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for item in work:  # parents come first
        digest = item.node.digest
        last = max(item.after, key=lambda parent: until.get(parent, 0.0), default=None)
        before[digest] = last
        until[digest] = seconds.get(digest, 0.0) + (until.get(last, 0.0) if last is not None else 0.0)
    chain: list[str] = []
    at = max(until, key=until.__getitem__, default=None)
    while at is not None and at in until:
        chain.append(at)
        at = before[at]
    return tuple(digest for digest in chain[::-1] if digest in seconds)


def _edges(work: Sequence[Work]) -> tuple[dict[str, list[str]], dict[str, int], dict[str, int]]:
    """Return the children of each run, how many runs it waits for, and how many follow one another from it on."""
    listed = {item.node.digest for item in work}
    children: dict[str, list[str]] = {digest: [] for digest in listed}
    waits: dict[str, int] = {}
    for item in work:
        needed = [parent for parent in item.after if parent in listed]
        waits[item.node.digest] = len(needed)
        for parent in needed:
            children[parent].append(item.node.digest)
    lengths: dict[str, int] = {}
    for item in reversed(work):
        lengths[item.node.digest] = 1 + max((lengths[child] for child in children[item.node.digest]), default=0)
    return children, waits, lengths


def _seconds(work: Sequence[Work], cost_of: Mapping[str, Cost], store: Store, workers: int) -> dict[str, float]:
    """Return what each run takes, its share of reading and making its task's data included."""
    runs = Counter((item.node.task.digest, item.node.backbone.digest) for item in work if isinstance(item.node, Train))
    out: dict[str, float] = {}
    absent: dict[str, bool] = {}
    for item in work:
        node, cost = item.node, cost_of.get(item.node.digest)
        if cost is None:
            continue
        total = cost.seconds(node)
        if isinstance(node, Train):
            count = runs[node.task.digest, node.backbone.digest]
            total += cost.read_seconds * (min(workers, count) / count if len(runs) <= KEPT_TASKS else 1.0)
            if node.task.digest not in absent:
                absent[node.task.digest] = _world_is_absent(node, store)
            total += cost.once_seconds / count if absent[node.task.digest] else 0.0
        out[node.digest] = total
    return out


def _world_is_absent(node: Train, store: Store) -> bool:
    data, kind = node.task.data, node.task.kind
    return isinstance(data, World) and not (store.root / "data" / data.digest / WORLD_PARTS.get(kind, kind)).exists()


def _disk(work: Sequence[Work], cost_of: Mapping[str, Cost], workers: int) -> dict[str, float]:
    """Return the bytes that the work adds to the store; checkpoints go when their run is done."""
    sizes = {"weights": 0.0, "records and items": 0.0, "masks": 0.0}
    largest = 0.0
    for item in work:
        cost = cost_of.get(item.node.digest)
        if cost is None:
            continue
        train = isinstance(item.node, Train)
        sizes["records and items" if train else "masks"] += _known(cost.record_bytes)
        sizes["weights"] += _known(cost.weights_bytes)
        largest = max(largest, _known(cost.weights_bytes))
    # A checkpoint holds the weights and the optimiser's two moments.
    return sizes | {"checkpoints, while it runs": 3 * largest * min(workers, len(work))}


def _known(value: float) -> float:
    return value if value == value else 0.0


def _groups(
    labels: Mapping[str, Label],
    left: set[str],
    done: set[str],
    shared: Mapping[str, int],
    seconds: Mapping[str, float],
    cost_of: Mapping[str, Cost],
) -> Iterable[Group]:
    members: dict[Label, list[str]] = defaultdict(list)
    for digest, label in labels.items():
        members[label].append(digest)
    for label, digests in sorted(members.items()):
        waiting = [digest for digest in digests if digest in left]
        known = [digest for digest in waiting if digest in seconds]
        evidence = sorted({cost_of[digest].evidence for digest in known})
        if len(known) < len(waiting):
            evidence.append(f"nothing of {len(waiting) - len(known)}" if known else "nothing")
        yield Group(
            label=label,
            runs=len(digests),
            done=sum(digest in done for digest in digests),
            shared=sum(shared[digest] > 1 for digest in digests),
            left=len(waiting),
            seconds=sum(seconds[digest] for digest in known) if known or not waiting else None,
            evidence=" / ".join(evidence),
        )


def _by_part(plans: Sequence[Planned], only: Collection[str]) -> dict[tuple[str, str], list[Cell]]:
    """Return the cells of each artefact of the studies; of a study of one ticket, of each baseline."""
    found: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for planned in plans:
        for cell in planned.cells:
            for name in cell.artefacts or (cell.baseline,):
                if not only or name in only:
                    found[planned.name, name].append(cell)
    return found


def _labels(cells: Sequence[Cell], nodes: Mapping[str, Node]) -> dict[str, Label]:
    """Return every run's label: its first cell's baseline, or what it is for where no cell shows it."""
    out = {digest: _bare(node) for digest, node in nodes.items()}
    seen: set[str] = set()
    for cell in cells:
        if isinstance(cell.node, Train) and cell.node.digest not in seen:
            seen.add(cell.node.digest)
            out[cell.node.digest] = replace(out[cell.node.digest], baseline=_baseline(cell))
    return out


def _baseline(cell: Cell) -> str:
    """Return a cell's baseline; tickets of other tasks are one."""
    source = cell.baseline.removesuffix("-adversarial")
    if source == cell.task:
        return "imp"
    if cell.task and source.startswith(f"{cell.task}-rewound"):
        return "imp, rewound"
    return "transfer" if source in TASK_KINDS and source != "pretraining" else source


def _bare(node: Node) -> Label:
    if not isinstance(node, Train):
        return Label("mask", "", node.kind)
    kind = "train" if node.recipe.adversarial is None else "adversarial"
    if node.task.kind in ("pretraining", "lxmert_pretraining") and node.mask is None:
        return Label(kind, node.task.kind, "θ₀")
    return Label(kind, node.task.kind, "search")
