"""A user's folder of data: which layout it has, its vocabulary, and the fingerprint of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, cast

from vltickets.data.captions import flickr8k_captions
from vltickets.data.packed import photo_files, photo_texts
from vltickets.data.vocabulary import Vocabulary, build_vocabulary, read_vocabulary
from vltickets.errors import UserError, unknown

Layout = Literal["official", "flickr8k", "photos"]
LAYOUTS = ("official", "flickr8k", "photos")
TASK_FOLDERS = (
    *("captions", "vqa", "nlvr2", "gqa", "vcr", "snli_ve", "refcoco", "flickr30k"),
    *("visual_genome", "conceptual_captions", "sbu"),  # corpora of pre-training, beside captions
)
LEAST_COUNT = 3  # a word of a packed folder's vocabulary stands at least this often in its training texts


def find_layout(folder: Path) -> Layout:
    """Return which layout a folder has: `flickr8k`, or `official` (task folders beside a vocab.txt).

    The root of all packings has the layout `flickr8k` unless `photos` is asked for: recorded results are of that one.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if (folder / "flickr8k").is_dir() and (folder / "features" / "flickr8k").is_dir():
        return "flickr8k"
    if any((folder / part).is_dir() for part in TASK_FOLDERS):
        return "official"
    raise UserError(
        f"{folder} has neither flickr8k/ and features/flickr8k/, nor any of {'/, '.join(TASK_FOLDERS)}/ "
        "beside a vocab.txt"
    )


def checked_layout(folder: Path, layout: str | None) -> Layout:
    """Return the layout asked for, or the one found where none is; an unknown one is a `UserError`."""
    if layout is None:
        return find_layout(folder)
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return cast(Layout, layout)


def folder_files(folder: Path, layout: str) -> list[Path]:
    """Return the files whose bytes are the data; what is still being written (`.partial`) is not among them."""
    if layout == "flickr8k":
        return [path for part in ("flickr8k", "features/flickr8k") for path in (folder / part).glob("*.parquet")]
    if layout == "photos":
        return photo_files(folder)
    found = [
        path for part in (*TASK_FOLDERS, "regions", "pictures") for path in (folder / part).rglob("*") if path.is_file()
    ]
    whole = [path for path in found if not any(name.endswith(".partial") for name in path.relative_to(folder).parts)]
    return [folder / "vocab.txt", *whole]


def file_states(folder: Path, layout: str) -> dict[str, list[int]]:
    """Return size and time of change of each file: whether the bytes behind a fingerprint may have changed."""
    found = {str(path.relative_to(folder)): path.stat() for path in folder_files(folder, layout) if path.exists()}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in sorted(found.items())}


def fingerprint(folder: Path, layout: str) -> str:
    """Return a hash of the files' names and bytes."""
    total = hashlib.sha256()
    for path in sorted(folder_files(folder, layout)):
        total.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:20]


def folder_vocabulary(folder: Path, layout: str) -> Vocabulary:
    """Return the official folder's vocab.txt, or the common words of a packed folder's training texts."""
    if layout == "official":
        return read_vocabulary(folder / "vocab.txt")
    if layout == "photos":
        return build_vocabulary(photo_texts(folder), least=LEAST_COUNT)
    _, captions = flickr8k_captions(folder, "train")
    return build_vocabulary((text for texts in captions for text in texts), least=LEAST_COUNT)
