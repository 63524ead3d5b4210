"""Region features of many images, written into a native region store; goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from vltickets.backbones.detector import Detector, KeepRule
from vltickets.data.pictures import BrokenImage, Pictures, decode
from vltickets.data.region_store import RegionWriter
from vltickets.errors import UserError
from vltickets.store.atomic import write_file

Progress = Callable[[int, int], None]  # images done, images in all


@dataclass(frozen=True)
class Extraction:
    """What was done: images stored in all, those of an earlier run among them, and the broken ones with the reason."""

    stored: int
    resumed: int
    boxes: int  # written by this run
    broken: dict[str, str]


def extract_regions(pictures: Pictures, detector: Detector, out: Path, rule: KeepRule, tell: Progress) -> Extraction:
    """Detect the regions of all pictures and write them to the store `out`, whole or not at all.

    A run that was killed is continued by the same call: images stored already are not run again, and broken ones
    (`out`.broken.txt) not tried again. `out`.extraction.json says by which detector and rule the regions were made; a
    store begun otherwise is a `UserError`, as are a finished one and pictures that are all broken.
    """
    if out.exists():
        raise UserError(f"{out} is there already; name a new one with --out")
    record, listed, writing = (out.with_name(out.name + end) for end in (".extraction.json", ".broken.txt", ".partial"))
    if not writing.exists():  # nothing to be continued: what lies beside is an earlier store's, removed since
        record.unlink(missing_ok=True)
        listed.unlink(missing_ok=True)
    _same_as_begun(record, writing, pictures, detector, rule)
    broken = BrokenList(listed)
    boxes = 0
    with RegionWriter(out, width=detector.width, classes=detector.classes) as writer:
        wanted = {name for name in pictures.names if name not in writer and name not in broken.reasons}
        total = len(pictures.names)
        resumed = sum(name in writer for name in pictures.names)
        done = total - len(wanted)
        tell(done, total)
        for name, content in pictures.contents(wanted):
            try:
                found = detector.detect(decode(content), rule)
            except BrokenImage as error:
                broken.add(name, str(error))
            else:
                arrays = (found.features, found.boxes, found.soft_labels, found.scores)
                writer.add(name, *(array.numpy() for array in arrays))
                boxes += len(found.boxes)
            done += 1
            tell(done, total)
        if len(broken.reasons) >= total:
            raise UserError(
                f"{pictures.path}: all {total} images are broken ({_example(broken.reasons)}; the list is "
                f"{broken.path}); to try them again, remove {writing}"
            )
    return Extraction(total - len(broken.reasons), resumed, boxes, broken.reasons)


class BrokenList:
    """The text file of the images that can't be decoded, a line each: name, tab, reason."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reasons: dict[str, str] = {}
        if path.exists():
            whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
            for line in whole.splitlines():
                name, _, reason = line.partition("\t")
                self.reasons[name] = reason
            if torn:  # the writer died within this line: that image is tried again
                write_file(path, (whole + "\n" if whole else "").encode())

    def add(self, name: str, reason: str) -> None:
        """Append a line, on the disk before this returns."""
        self.reasons[name] = reason
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{name}\t{reason}\n")
            file.flush()
            os.fsync(file.fileno())


def _same_as_begun(record: Path, writing: Path, pictures: Pictures, detector: Detector, rule: KeepRule) -> None:
    """Write down how the store is made, or compare: a store half of one detector and half of another is worthless."""
    names = hashlib.sha256("\n".join(pictures.names).encode()).hexdigest()
    asked = {"keep": asdict(rule), "images": names, "detector": _digests(detector.folder)}
    if not record.exists():
        write_file(record, (json.dumps(asked, indent=2, sort_keys=True) + "\n").encode())
        return
    try:
        begun = json.loads(record.read_text(encoding="utf-8"))
        differing = sorted(key for key in asked if begun.get(key) != asked[key])
    except (ValueError, AttributeError):
        raise UserError(f"{record}: not the record of an extraction; remove {writing} to begin again") from None
    if differing:
        raise UserError(
            f"{writing} was begun with other settings: {' and '.join(differing)} differ from {record}; "
            "name a new --out, or remove that folder to begin again"
        )


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that makes the detector."""
    digests = {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _example(reasons: dict[str, str]) -> str:
    name, reason = next(iter(reasons.items()))
    return f"{name}: {reason}"
