"""Region features of others into the native store: UNITER's image databases, LXMERT's TSV files, folders of npz files.

Where each comes from: official-models 8.1 (UNITER) and 4.1 (LXMERT).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vltickets.data.records import read_json
from vltickets.data.region_sources import KINDS, RegionSource, StoredImage, find_kind, find_source
from vltickets.data.region_store import RegionWriter, remove_partial
from vltickets.errors import UserError
from vltickets.store import write_file

__all__ = ["KINDS", "count_images", "find_kind", "import_regions"]

Tell = Callable[[int, int], None]  # images done, images in all (an estimate where only the end tells)


def import_regions(
    source: Path,
    out: Path,
    kind: str | None = None,
    tell: Tell = lambda done, total: None,
    *,
    threshold: float | None = None,
) -> int:
    """Import `source` into the store `out`, whole or not at all, and return the number of images.

    `kind` is one of `KINDS`, seen unless given; `threshold` cuts images to their surer regions, see `find_source`.
    A run that was killed is continued by the same call. Raises `UserError` naming file and record where one is broken;
    then nothing is left of the import. `out` must not exist.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it, or name another")
    opened = find_source(source, kind, threshold)
    note = out.with_name(out.name + ".import.json")
    _same_as_begun(note, out, opened)
    try:
        count = _imported(opened, out, tell)
    except UserError:
        remove_partial(out)  # it is this import's: the note says so
        note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)
    return count


def count_images(source: Path) -> dict[str, Any]:
    """Return what can be said of region features before they are imported, from the first image and the side file."""
    opened = find_source(source)
    about: dict[str, Any] = {"kind": opened.kind}
    images = opened.images()
    first = next(images, None)
    about["images"] = opened.total(1) if first is not None else 0
    if first is not None:
        found = first.read()
        about |= {
            "width": found.features.shape[1],
            "classes": found.soft_labels.shape[1],
            "first image": first.name,
            "regions of the first image": len(found.features),
        }
    if counts := opened.counts():
        about |= {
            "regions of an image, fewest": min(counts),
            "regions of an image, mean": round(sum(counts) / len(counts), 2),
            "regions of an image, most": max(counts),
        }
    return about | {"megabytes": round(opened.size() / 1e6, 1)}


def _imported(source: RegionSource, out: Path, tell: Tell) -> int:
    images = source.images()
    first = next(images, None)
    if first is None:
        raise UserError(f"{source.path}: no images in it")
    shape = first.read()
    width, classes = shape.features.shape[1], shape.soft_labels.shape[1]
    seen: set[str] = set()
    with RegionWriter(out, width=width, classes=classes) as writer:
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
            tell(len(seen), source.total(len(seen)))
        return len(writer.counts)


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
