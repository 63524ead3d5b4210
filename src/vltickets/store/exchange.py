"""Finished records in one small file, to carry between stores: specs, numbers, items, packed masks, no weights."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from vltickets.errors import UserError
from vltickets.specs import hash_json
from vltickets.store.atomic import sha256, write_file, write_folder
from vltickets.store.store import FORMAT, Store, check_format, unsealed

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date: the same records make the same file


def export_records(store: Store, digests: Iterable[str], path: Path, *, studies: Iterable[str] = ()) -> int:
    """Write the finished ones of `digests`, and the named studies' cells, into one file; return how many runs.

    The specifications of their ancestors go along, so that the importing store knows every node by its digest.
    """
    entries: dict[str, bytes] = {}
    finished = sorted({digest for digest in digests if (store.root / "runs" / digest / "record.json").exists()})
    for digest in finished:
        record = store.record(digest)
        for name in ("record.json", *record.files):
            entries[f"runs/{digest}/{name}"] = (store.root / "runs" / digest / name).read_bytes()
    for digest in store.with_ancestors(finished):
        entries[f"nodes/{digest}.json"] = (store.root / "nodes" / f"{digest}.json").read_bytes()
    for name in studies:
        store.study(name)
        entries[f"studies/{name}.json"] = (store.root / "studies" / f"{name}.json").read_bytes()
    # The list says when damage to the archive's own directory hides an entry: each by itself would still look whole.
    entries["export.json"] = json.dumps({"format": FORMAT, "entries": sorted(entries)}).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(entries.items()):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    write_file(path, buffer.getvalue())
    return len(finished)


def import_records(store: Store, path: Path) -> tuple[int, int]:
    """Take an exported file's records into the store; return (new, already there).

    Everything is checked before anything is written: each record against its digest, each array against its hash. A
    record that is already there is left as it is.
    """
    nodes, runs, studies = _read(path)
    store.prepare()
    for digest, content in nodes.items():
        target = store.root / "nodes" / f"{digest}.json"
        if not target.exists():
            write_file(target, content)
    new = sum(write_folder(store.root / "runs" / digest, files) for digest, files in runs.items())
    for name, content in studies.items():
        target = store.root / "studies" / f"{name}.json"
        if not target.exists():
            write_file(target, content)
    return new, len(runs) - new


def _read(path: Path) -> tuple[dict[str, bytes], dict[str, dict[str, bytes]], dict[str, bytes]]:
    nodes: dict[str, bytes] = {}
    runs: dict[str, dict[str, bytes]] = {}
    studies: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        about = json.loads(content.pop("export.json"))
        check_format(about, str(path))
        if lost := sorted(set(about.get("entries", content)) ^ set(content)):  # older files have no list
            raise ValueError(f"its list of entries and its content differ in {lost[0]!r}")
        for name, data in content.items():
            match name.split("/"):
                case ["nodes", file] if file.endswith(".json"):
                    nodes[file.removesuffix(".json")] = data
                case ["runs", digest, file] if not file.startswith("."):
                    runs.setdefault(digest, {})[file] = data
                case ["studies", file] if file.endswith(".json") and not file.startswith("."):
                    studies[file.removesuffix(".json")] = data
                case _:
                    raise ValueError(f"unexpected entry {name!r}")
        for digest, data in nodes.items():
            if hash_json(json.loads(data)) != digest:
                raise ValueError(f"the specification {digest} does not have the hash in its name")
        for digest, files in runs.items():
            _check_run(digest, files)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path} is not an exported file, or damaged ({error}); nothing was changed") from None
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{path} can't be imported: {error}; nothing was changed") from None
    return nodes, runs, studies


def _check_run(digest: str, files: dict[str, bytes]) -> None:
    record = json.loads(files["record.json"])
    check_format(record, f"the record {digest}")
    record = unsealed(record)
    if record["digest"] != digest or hash_json(record["spec"]) != digest:
        raise ValueError(f"the record {digest} is of another run")
    if set(record["files"]) != set(files) - {"record.json"}:
        raise ValueError(f"the record {digest} lacks files or has too many")
    for name, expected in record["files"].items():
        if sha256(files[name]) != expected:
            raise ValueError(f"{name} of the record {digest} does not have the recorded hash")
