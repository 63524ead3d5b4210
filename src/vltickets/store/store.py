"""Results by the hash of their node: whole or not at all, never overwritten, checked when read. Knows no models.

Layout of a store: `nodes/DIGEST.json` what was asked for; `runs/DIGEST/` a finished result (`record.json` and arrays);
`weights/DIGEST/` a training's weights, which a record can do without; `work/DIGEST/` checkpoints of what is under way;
`imported/SHA256.safetensors` weights from elsewhere; `diverged/DIGEST.json` how often its training diverged;
`leases/DIGEST.lock` who runs it now; `studies/NAME.json` which node stands in which cell of a study;
`calibration/` and `plans/`: what runs are expected to take.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from vltickets.errors import UserError
from vltickets.specs import Node, canonical, hash_json, node_from_json, parents
from vltickets.store.atomic import room_for, sha256, write_file, write_folder

FORMAT = 1
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Record:
    """A finished result: the node's canonical JSON, its numbers, and the hashes of its files.

    `metrics` are fractions in [0, 1] unless the name says otherwise; `curve` holds (step, loss) pairs, `parts` those of
    each pre-training objective; `seconds` is the time spent in all sittings; `machine` says where. `phases` are the
    seconds of a training's last sitting that are not training: `setup` (data, model, start), `scoring`, `writing`.
    `processor_seconds` is the processor time of all threads; earlier sittings' is taken to be as the last's.
    """

    digest: str
    kind: str
    spec: dict[str, Any]
    metrics: dict[str, float]
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    processor_seconds: float = 0.0
    format: int = FORMAT


class Store:
    """A folder of results. Any number of processes may use one store at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs = os.fspath(root / "runs")
        marker = root / "store.json"
        if marker.exists():
            check_format(_read_json(marker), f"the store {root}")
        elif root.exists() and (not root.is_dir() or any(map(_is_foreign, root.iterdir()))):
            raise UserError(f"{root} is not a store, and not empty; name an empty or a new folder")

    def prepare(self) -> None:
        """Make the store's folder where it does not exist yet."""
        marker = self.root / "store.json"
        if not marker.exists():
            write_file(marker, json.dumps({"format": FORMAT}).encode())

    # What was asked for

    def put_node(self, node: Node) -> None:
        """Keep the node's specification, and those of its parents, so that any process can run it by digest."""
        pending = [(node, False)]
        while pending:  # parents first: a node that is there has all its ancestors, whenever the writer was killed
            item, ready = pending.pop()
            path = self.root / "nodes" / f"{item.digest}.json"
            if ready:
                write_file(path, _json_bytes(canonical(item)))
            elif not path.exists():
                pending.append((item, True))
                pending.extend((parent, False) for parent in parents(item))

    def node(self, digest: str) -> Node:
        """Return the node of a digest; an unknown or altered one is a `UserError`."""
        loaded: dict[str, Node] = {}
        stack = [digest]
        while stack:  # parents first, without recursion: a chain of rounds may be long
            current = stack[-1]
            value = self._node_json(current)
            missing = [name for name in references(value) if name not in loaded]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            loaded[current] = self._built(current, value, loaded)
        return loaded[digest]

    def _built(self, digest: str, value: dict[str, Any], loaded: Mapping[str, Node]) -> Node:
        try:
            node = node_from_json(value, loaded.__getitem__)
        except ValueError as error:  # pydantic's: a field this version does not know
            reason = str(error).splitlines()[0]
            raise UserError(f"run {digest} was planned by another version of vltickets ({reason}); upgrade") from None
        if node.digest != digest:
            raise UserError(f"run {digest} was planned by a vltickets whose specs mean something else; plan it anew")
        return node

    def spec(self, digest: str) -> dict[str, Any]:
        """Return a node's canonical JSON; an unknown or altered one is a `UserError`."""
        return self._node_json(digest)

    def parents_of(self, digest: str) -> list[str]:
        """Return the digests of the nodes that a node names."""
        return list(references(self._node_json(digest)))

    def with_ancestors(self, digests: Iterable[str]) -> list[str]:
        """Return these digests and those of all the nodes they need, sorted."""
        found: set[str] = set()
        pending = list(digests)
        while pending:
            digest = pending.pop()
            if digest not in found:
                found.add(digest)
                pending.extend(self.parents_of(digest))
        return sorted(found)

    def _node_json(self, digest: str) -> dict[str, Any]:
        path = self.root / "nodes" / f"{digest}.json"
        if not path.exists():
            raise UserError(f"{self.root} knows no run {digest!r}; `vltickets study status` lists what it has")
        value = _read_json(path)
        if hash_json(value) != digest:
            raise UserError(f"{path} was altered: its content no longer has the hash in its name; delete it")
        return value

    # Finished results

    def has(self, node: Node) -> bool:
        """Is the node's result finished?"""
        return os.path.exists(f"{self._runs}/{node.digest}/record.json")  # noqa: PTH110 (thousands are asked for)

    def finish(self, node: Node, record: Record, arrays: Mapping[str, Arrays]) -> None:
        """Make a result visible, whole; one that is already there stays as it is."""
        files = {f"{name}.safetensors": save_arrays(dict(content)) for name, content in arrays.items()}
        hashes = {name: sha256(content) for name, content in files.items()}
        whole = _json_bytes(sealed(asdict(record) | {"files": hashes}))
        self.put_node(node)
        folder = self.root / "runs" / node.digest
        if not write_folder(folder, {**files, "record.json": whole}) and not self.has(node):
            raise UserError(f"{folder} is there without a record; delete it to run {node.digest} again")
        self.end_work(node.digest)

    def record(self, digest: str) -> Record:
        """Return a finished record; a missing, newer or corrupted one is a `UserError` that says what to do."""
        path = self.root / "runs" / digest / "record.json"
        if not path.exists():
            raise UserError(f"run {digest} is not finished in {self.root}; `vltickets study run` goes on with it")
        value = _read_json(path)
        check_format(value, str(path))
        try:
            value = unsealed(value)
            record = Record(**value | {"curve": [(int(step), float(loss)) for step, loss in value["curve"]]})
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{path} is corrupted ({error}); delete the folder {path.parent} to run it again") from None
        if record.digest != digest or hash_json(record.spec) != digest:
            raise UserError(f"{path} is of another run than {digest}; delete the folder {path.parent} to run it again")
        return record

    def arrays(self, digest: str, name: str, record: Record | None = None) -> dict[str, np.ndarray]:
        """Return the arrays kept under `name` with a result, after checking them against the record's hash.

        `record` is the result's, for who has read it already.
        """
        path = self.root / "runs" / digest / f"{name}.safetensors"
        expected = (record or self.record(digest)).files.get(path.name)
        return _checked_arrays(path, expected)

    def records(self) -> Iterator[Record]:
        """Yield every finished record, in the order of the digests."""
        for path in sorted((self.root / "runs").glob("*/record.json")):
            if not path.parent.name.startswith("."):  # what a killed writer left
                yield self.record(path.parent.name)

    # Weights: needed by nodes that start from them, not by reports

    def has_weights(self, node: Node) -> bool:
        """Are the node's final weights here? A record imported from elsewhere has none."""
        return (self.root / "weights" / node.digest).exists()

    def put_weights(self, node: Node, weights: Arrays, labels: Mapping[str, str]) -> None:
        """Keep a training's final weights, with the texts a model needs to be scored elsewhere."""
        # One entry of metadata: the library writes several in an order that changes from run to run.
        content = save_arrays(dict(weights), {"labels": json.dumps(dict(labels), sort_keys=True)})
        sums = _json_bytes({"weights.safetensors": sha256(content)})
        write_folder(self.root / "weights" / node.digest, {"weights.safetensors": content, "sums.json": sums})

    def weights(self, digest: str) -> dict[str, np.ndarray]:
        """Return a training's final weights, checked against their hash."""
        path, expected = self._weights_path(digest)
        return _checked_arrays(path, expected)

    def labels(self, digest: str) -> dict[str, str]:
        """Return the texts kept with a training's weights."""
        path, _ = self._weights_path(digest)
        with safe_open(str(path), "numpy") as file:
            labels: dict[str, str] = json.loads((file.metadata() or {}).get("labels", "{}"))
            return labels

    def _weights_path(self, digest: str) -> tuple[Path, str | None]:
        folder = self.root / "weights" / digest
        if not folder.exists():
            raise UserError(f"{self.root} has no weights of run {digest}; `vltickets study run` makes them again")
        sums = _read_json(folder / "sums.json")
        return folder / "weights.safetensors", sums.get("weights.safetensors")

    # Initial weights from elsewhere

    def put_imported(self, path: Path) -> str:
        """Keep a copy of an imported weight file under its hash, and return the SHA-256."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); `vltickets weights import` makes it") from None
        digest = sha256(content)
        kept = self.imported_path(digest)
        if not kept.exists():
            write_file(kept, content)
        return digest

    def imported_path(self, digest: str) -> Path:
        """Return where a copy of the imported weights of this SHA-256 lies, or would lie."""
        return self.root / "imported" / f"{digest}.safetensors"

    def imported(self, digest: str) -> dict[str, np.ndarray]:
        """Return imported weights by name, checked against their hash."""
        path = self.imported_path(digest)
        if not path.exists():
            raise UserError(f"{self.root} has no imported weights {digest[:20]}; plan the study again with their file")
        return _checked_arrays(path, digest)

    # Work under way

    def work(self, digest: str) -> Path:
        """Return the folder for a run's checkpoints; it goes when the run is finished."""
        return self.root / "work" / digest

    def end_work(self, digest: str) -> None:
        """Remove a run's checkpoints."""
        shutil.rmtree(self.work(digest), ignore_errors=True)

    @contextmanager
    def lease(self, digest: str) -> Iterator[bool]:
        """Hold the right to run a node; yields False where another living process holds it.

        The operating system frees the lease when its holder dies, however it dies.
        """
        path = self.root / "leases" / f"{digest}.lock"
        lock = FileLock(path)
        try:
            with room_for(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    # Studies

    def put_study(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep which node stands in which cell of a study, for `report` and `study status`."""
        check_study_name(name)
        write_file(self.root / "studies" / f"{name}.json", _json_bytes({"format": FORMAT, **value}))

    def study(self, name: str) -> dict[str, Any]:
        """Return a study's cells as `put_study` kept them."""
        path = self.root / "studies" / f"{name}.json"
        if not path.exists():
            known = ", ".join(self.studies()) or "none yet"
            raise UserError(f"{self.root} has no study {name!r} (it has: {known}); `vltickets study run` makes it")
        value = _read_json(path)
        check_format(value, str(path))
        if not isinstance(value.get("cells"), list):
            raise UserError(f"{path} is corrupted: it has no list of cells; delete it and run the study again")
        return value

    def studies(self) -> list[str]:
        """Return the names of the studies that were planned in this store."""
        return sorted(path.stem for path in (self.root / "studies").glob("*.json"))


def _is_foreign(path: Path) -> bool:
    """Is this not what a writer leaves that was killed while it made the store?"""
    return not path.name.startswith(".store.json.")


def check_study_name(name: str) -> None:
    """Refuse a name that is no plain file name."""
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"a study can't be called {name!r}; use letters, digits, '-', '_' and '.'")


def check_format(value: Mapping[str, Any], where: str) -> None:
    """Refuse what a newer version wrote: its meaning can't be known here."""
    found = value.get("format")
    if not isinstance(found, int):
        raise UserError(f"{where} is corrupted: it has no format number")
    if found > FORMAT:
        raise UserError(f"{where} has format {found}, this vltickets reads up to {FORMAT}; upgrade vltickets")


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """Return a record's JSON with a hash of itself, so that a number changed by hand does not pass for a result."""
    return value | {"seal": hash_json(value)}


def unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sealed record's JSON without its seal; `ValueError` where the two do not agree."""
    content = {name: item for name, item in value.items() if name != "seal"}
    if value.get("seal") != hash_json(content):
        raise ValueError("its content is not what was written")
    return content


def references(value: Any) -> Iterator[str]:
    """Yield the digests of the nodes that a node's canonical JSON names."""
    if isinstance(value, Mapping):
        if set(value) == {"node"}:
            yield value["node"]
        else:
            for item in value.values():
                yield from references(item)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is corrupted ({error}); delete its folder to make it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is corrupted: expected a JSON object")
    return value


def _checked_arrays(path: Path, expected: str | None) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
        if expected is None or sha256(content) != expected:
            raise ValueError("its hash is not the recorded one")
        return dict(load_arrays(content))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is corrupted ({error}); delete the folder {path.parent} to make it again") from None
