"""From a data spec to readable files: the embedded world is made where missing, a user's folder is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from vltickets import scenes
from vltickets.data.captions import Captions, flickr8k_captions, read_coco_captions, read_flickr8k
from vltickets.data.nlvr2 import Pairs, read_nlvr2
from vltickets.data.vocabulary import Vocabulary, build_vocabulary, read_vocabulary
from vltickets.data.vqa import Questions, read_answers, read_vqa
from vltickets.errors import UserError, unknown
from vltickets.specs import DataSpec, Folder, World, changed
from vltickets.store import Store, write_file

LONGEST_TEXT = 60  # word pieces with specials; the official limit of UNITER's tasks
WORLD_SPLITS = ("train", "dev", "test")
HELD_OUT_SCENES = 1500  # caption scenes in each of dev and test, on which pre-training is watched
LEAST_COUNT = 3  # a word of the Flickr8k vocabulary stands at least this often in its training captions


@dataclass(frozen=True)
class Source:
    """A folder of data and how to read it. `make` brings a split's part into being where the world is the source."""

    folder: Path
    layout: str
    vocabulary: Vocabulary
    make: Callable[[str, str], None] = lambda part, split: None

    def captions(self, split: str) -> Captions:
        """Read a split's images with captions."""
        self.make("captions", split)
        if self.layout == "flickr8k":
            return read_flickr8k(self.folder, split, self.vocabulary, LONGEST_TEXT)
        return read_coco_captions(self.folder / "captions", split, self.vocabulary, LONGEST_TEXT)

    def answers(self) -> list[str]:
        """Return the answer vocabulary of VQA, in label order."""
        self.make("vqa", "train")
        return read_answers(self.folder / "vqa" / "ans2label.json")

    def vqa(self, split: str, answers: list[str]) -> Questions:
        """Read a split of VQA; `answers` gives the labels."""
        self.make("vqa", split)
        return read_vqa(self.folder / "vqa", split, self.vocabulary, answers, LONGEST_TEXT)

    def nlvr2(self, split: str) -> Pairs:
        """Read a split of NLVR2."""
        self.make("nlvr2", split)
        return read_nlvr2(self.folder / "nlvr2", split, self.vocabulary, LONGEST_TEXT)


@lru_cache(maxsize=4)
def open_source(spec: DataSpec, store: Store) -> Source:
    """Return the source of a spec: the world's files are made in the store, a folder is where it was registered."""
    if isinstance(spec, World):
        return _world(spec, store.root / "data" / spec.digest)
    note = store.root / "data" / f"{spec.digest}.json"
    if not note.exists():
        raise UserError(f"the data of this run (fingerprint {spec.fingerprint}) is not known here; name it with --data")
    known = json.loads(note.read_text())
    folder = Path(known["folder"])
    if _states(folder, spec.layout) != known["files"]:
        raise UserError(
            f"the files in {folder} changed since this study was planned; plan it again with --data {folder}"
        )
    return open_folder(folder, spec.layout, read_vocabulary(store.root / "data" / f"{spec.digest}.vocab.txt"))


def open_folder(folder: Path, layout: str | None = None, vocabulary: Vocabulary | None = None) -> Source:
    """Return the source of any folder in a known layout; the vocabulary is the folder's own unless given."""
    layout = layout or find_layout(folder)
    if vocabulary is None:
        vocabulary = _folder_vocabulary(folder, layout)
    return Source(folder, layout, vocabulary)


def check_folder(folder: Path) -> None:
    """Raise `UserError` where a folder has no known layout or no vocabulary; write nothing."""
    _folder_vocabulary(folder, find_layout(folder))


def find_layout(folder: Path) -> str:
    """Return which layout a folder has: `flickr8k`, or `official` (captions/, vqa/, nlvr2/ beside a vocab.txt)."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if (folder / "flickr8k").is_dir() and (folder / "features" / "flickr8k").is_dir():
        return "flickr8k"
    if any((folder / part).is_dir() for part in ("captions", "vqa", "nlvr2")):
        return "official"
    raise UserError(
        f"{folder} has neither flickr8k/ and features/flickr8k/, nor any of captions/, vqa/, nlvr2/ beside a vocab.txt"
    )


def register_folder(folder: Path, store: Store, *, vocabulary: str | None = None) -> Folder:
    """Return the spec of a user's folder, whose bytes make the fingerprint, and note in the store where it lies.

    `vocabulary` is the text of a `vocab.txt` that takes the place of the folder's own: that of imported weights.
    """
    layout = find_layout(folder)
    files = sorted(_files(folder, layout))
    total = hashlib.sha256()
    for path in files:
        total.update(str(path.relative_to(folder)).encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    spec = Folder(layout="flickr8k" if layout == "flickr8k" else "official", fingerprint=total.hexdigest()[:20])
    if vocabulary is not None:
        spec = changed(spec, vocabulary=hashlib.sha256(vocabulary.encode()).hexdigest()[:20])
    text = _folder_vocabulary(folder, layout).text() if vocabulary is None else vocabulary
    about = {"folder": str(folder.resolve()), "files": _states(folder, layout)}
    write_file(store.root / "data" / f"{spec.digest}.vocab.txt", text.encode())
    write_file(store.root / "data" / f"{spec.digest}.json", json.dumps(about).encode())
    return spec


def _states(folder: Path, layout: str) -> dict[str, list[int]]:
    """Return size and time of change of each file: whether the bytes behind a fingerprint may have changed."""
    found = {str(path.relative_to(folder)): path.stat() for path in _files(folder, layout) if path.exists()}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in sorted(found.items())}


def _files(folder: Path, layout: str) -> list[Path]:
    if layout == "flickr8k":
        return [path for part in ("flickr8k", "features/flickr8k") for path in (folder / part).glob("*.parquet")]
    parts = [path for part in ("captions", "vqa", "nlvr2") for path in (folder / part).rglob("*") if path.is_file()]
    return [folder / "vocab.txt", *parts]


def _folder_vocabulary(folder: Path, layout: str) -> Vocabulary:
    if layout == "official":
        return read_vocabulary(folder / "vocab.txt")
    _, captions = flickr8k_captions(folder, "train")
    return build_vocabulary((text for texts in captions for text in texts), least=LEAST_COUNT)


def _world(spec: World, folder: Path) -> Source:
    if spec.generator != scenes.WORLD_VERSION:
        raise UserError(
            f"this run is of the embedded world's generator {spec.generator}, this vltickets has {scenes.WORLD_VERSION}"
        )

    def make(part: str, split: str) -> None:
        if split not in WORLD_SPLITS:
            raise unknown("split of the embedded world", split, WORLD_SPLITS)
        marker = folder / part / f".{split}.whole"
        if marker.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{part}-{split}.lock"):  # another process may be making it right now
            if marker.exists():
                return
            training = split == "train"
            if part == "captions":
                scenes.write_captions(
                    folder, split, seed=spec.seed, scenes=spec.scenes if training else HELD_OUT_SCENES
                )
            elif part == "vqa":
                count = spec.examples if training else spec.heldout
                scenes.write_vqa(folder, split, seed=spec.seed, questions=count)
            else:
                count = spec.examples if training else spec.heldout
                scenes.write_nlvr2(folder, split, seed=spec.seed, examples=count)
            write_file(marker, b"")

    if not (folder / "vocab.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenes.write_vocabulary(folder)
    return Source(folder, "official", read_vocabulary(folder / "vocab.txt"), make)
