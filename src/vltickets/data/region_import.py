"""Region features of others into the native store: UNITER's image databases, LXMERT's TSV files, folders of npz files.

Where each comes from: official-models 8.1 (UNITER) and 4.1 (LXMERT).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vltickets.data.records import read_json
from vltickets.data.region_sources import RegionSource, StoredImage, find_source
from vltickets.data.region_store import RegionWriter, remove_partial
from vltickets.errors import UserError
from vltickets.store import write_file

Progress = Callable[[int, int], None]  # images done, images in all (an estimate where only the end tells)


@dataclass(frozen=True)
class Imported:
    """What was imported; `resumed` images were stored by an earlier run that was stopped."""

    kind: str
    images: int
    regions: int
    width: int
    classes: int
    resumed: int


def import_regions(
    source: Path,
    out: Path,
    kind: str | None = None,
    progress: Progress | None = None,
    *,
    threshold: float | None = None,
) -> Imported:
    """Write the regions of `source` to the store `out`, whole or not at all.

    `kind` is "uniter" (LMDB), "lxmert" (TSV) or "npz", found out where it is None. `threshold`: see `find_source`.
    A run that was killed is continued by the same call. A broken record is a `UserError` that names file and record;
    nothing is left of such an import. `out` must not exist.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it, or name another")
    opened = find_source(source, kind, threshold)
    note = out.with_name(out.name + ".import.json")
    _same_as_begun(note, out, opened)
    try:
        done = _imported(opened, out, progress or (lambda done, total: None))
    except UserError:
        remove_partial(out)
        note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)
    return done


def _imported(source: RegionSource, out: Path, progress: Progress) -> Imported:
    images = source.images()
    first = next(images, None)
    if first is None:
        raise UserError(f"{source.path}: no image is in it")
    shape = first.read()
    width, classes = shape.features.shape[1], shape.soft_labels.shape[1]
    seen: set[str] = set()
    with RegionWriter(out, width=width, classes=classes) as writer:
        resumed = len(writer.counts)
        for image in _with_first(first, images):
            if image.name in seen:
                raise UserError(f"{image.where}: the image {image.name!r} comes twice")
            seen.add(image.name)
            if image.name not in writer:
                found = image.read()
                try:
                    writer.add(image.name, found.features, found.boxes, found.soft_labels, found.scores)
                except UserError as error:
                    raise UserError(f"{image.where}: {error}") from None
            progress(len(seen), source.total(len(seen)))
        if strange := writer.counts.keys() - seen:
            raise UserError(
                f"{writer.partial} has the image {min(strange)!r}, which {source.path} does not; it is removed"
            )
        counts = writer.counts
    return Imported(source.kind, len(counts), sum(counts.values()), width, classes, resumed)


def _with_first(first: StoredImage, rest: Iterator[StoredImage]) -> Iterator[StoredImage]:
    yield first
    yield from rest


def _same_as_begun(note: Path, out: Path, source: RegionSource) -> None:
    """Write down what is imported, or compare: a store must not be half of one source and half of another."""
    partial = out.with_name(out.name + ".partial")
    asked = {"kind": source.kind, "source": str(source.path.resolve()), "state": source.state()}
    if not partial.exists():
        write_file(note, json.dumps(asked, indent=1).encode())
    elif not note.exists() or read_json(note) != asked:
        raise UserError(
            f"{partial} was begun otherwise, or {source.path} changed since; remove it to begin again, or name another"
        )
