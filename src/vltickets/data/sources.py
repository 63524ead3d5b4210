"""From a data spec to readable files: the embedded world is made where missing, a user's folder is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vltickets.data.captions import Captions, read_coco_captions, read_flickr8k
from vltickets.data.corpora import CORPORA, read_corpus
from vltickets.data.folders import (
    checked_layout,
    file_states,
    find_layout,
    fingerprint,
    folder_vocabulary,
)
from vltickets.data.gqa import read_gqa
from vltickets.data.karpathy import read_karpathy
from vltickets.data.nlvr1 import read_nlvr1
from vltickets.data.nlvr2 import Pairs, read_nlvr2
from vltickets.data.packed import daquar_answers, read_daquar, read_pairs
from vltickets.data.questions import Questions
from vltickets.data.records import first_file
from vltickets.data.refcoco import Expressions, read_refcoco
from vltickets.data.snli_ve import LABELS, read_snli_ve
from vltickets.data.text_db_tasks import (
    database_captions,
    database_choices,
    database_expressions,
    database_pairs,
    database_questions,
    databases_of,
)
from vltickets.data.vcr import Choices, read_vcr
from vltickets.data.vocabulary import Vocabulary, read_vocabulary
from vltickets.data.vqa import read_answers, read_vqa
from vltickets.data.world import world_folder, world_maker
from vltickets.errors import UserError, unknown
from vltickets.scenes import CLASS_COLORS
from vltickets.specs import DataSpec, Folder, Pixels, World, changed
from vltickets.store import Store, write_file

__all__ = ["Source", "check_folder", "find_layout", "open_folder", "open_source", "register_folder"]

LONGEST_TEXT = 60  # word pieces with specials; the official limit of UNITER's tasks
# Files of answer vocabularies, the first that is there: UNITER's, then LXMERT's two.
ANSWER_FILES = ("ans2label.json", "trainval_label2ans.json", "trainval_ans2label.json")


@dataclass(frozen=True)
class Source:
    """A folder of data and how to read it. `make` brings a split's part into being where the world is the source.

    In the layout `official`, a task's text databases of UNITER's go before its public files. A task that a layout does
    not have is a `UserError`. With `pixels`, images are read as patches of their pixels, not as regions.
    Texts are cut to `longest` word pieces.
    `class_attributes` is the attribute that each of the detector's classes means, -1 for none: the world's color.
    """

    folder: Path
    layout: str
    vocabulary: Vocabulary
    make: Callable[[str, str, bool], None] = lambda part, split, pictures: None
    pixels: Pixels | None = None
    longest: int = LONGEST_TEXT
    class_attributes: tuple[int, ...] = ()

    def captions(self, split: str, corpus: str | None = None) -> Captions:
        """Read a split's images with captions: those of one of `CORPORA` where it is named (layout `official`)."""
        if corpus is not None and corpus not in CORPORA:
            raise unknown("corpus of captions", corpus, CORPORA)
        if corpus in (None, "coco"):
            self._make("captions", split)
        if corpus is not None:
            return read_corpus(
                self._task(CORPORA[corpus].folder), corpus, split, self.vocabulary, self.longest, self.pixels
            )
        if self.layout != "official":
            return read_flickr8k(self.folder, split, self.vocabulary, self.longest, self.pixels)
        return read_coco_captions(self.folder / "captions", split, self.vocabulary, self.longest, self.pixels)

    def retrieval(self, split: str) -> Captions:
        """Read a split of image-text retrieval: five captions an image."""
        self._make("flickr30k", split)
        if self.layout != "official":
            return read_flickr8k(self.folder, split, self.vocabulary, self.longest, self.pixels)
        folder = self.folder / "flickr30k"
        if databases := databases_of("flickr30k", folder, split, self.vocabulary):
            return database_captions(databases, folder, split, self.longest, self.pixels)
        path = first_file(folder, ("dataset_flickr30k.json", "dataset_coco.json"))
        return read_karpathy(path, split, self.vocabulary, self.longest, self.pixels)

    def answers(self, task: str = "vqa") -> list[str]:
        """Return the answer vocabulary of `vqa` or `gqa`, in label order."""
        if task not in ("vqa", "gqa"):
            raise unknown("task with an answer vocabulary", task, ("vqa", "gqa"))
        self._make(task, "train")
        if self.layout == "photos" and task == "vqa":
            return daquar_answers(self.folder)
        names = ANSWER_FILES if task == "vqa" else ANSWER_FILES[1:]
        return read_answers(first_file(self._task(task), names))

    def vqa(self, split: str, answers: list[str]) -> Questions:
        """Read a split of VQA; `answers` gives the labels."""
        self._make("vqa", split)
        if self.layout == "photos":
            return read_daquar(self.folder, split, self.vocabulary, answers, self.longest, self.pixels)
        folder = self._task("vqa")
        if databases := databases_of("vqa", folder, split, self.vocabulary):
            return database_questions(
                databases, folder, split, len(answers), self.longest, split == "train", self.pixels
            )
        return read_vqa(folder, split, self.vocabulary, answers, self.longest, self.pixels)

    def gqa(self, split: str, answers: list[str]) -> Questions:
        """Read a split of GQA; `answers` gives the labels, scores are one-hot."""
        self._make("gqa", split)
        return read_gqa(self._task("gqa"), split, self.vocabulary, answers, self.longest, self.pixels)

    def entailment(self, split: str) -> Questions:
        """Read a split of visual entailment: scores one-hot over contradiction, entailment, neutral."""
        self._make("snli_ve", split)
        if self.layout == "photos":
            return read_pairs(self.folder, split, self.vocabulary, self.longest, self.pixels)
        folder = self._task("snli_ve")
        if databases := databases_of("snli_ve", folder, split, self.vocabulary):
            return database_questions(
                databases, folder, split, len(LABELS), self.longest, split == "train", self.pixels
            )
        return read_snli_ve(folder, split, self.vocabulary, self.longest, self.pixels)

    def statements(self, split: str) -> Questions:
        """Read a split of NLVR v1, sentences about one picture: scores one-hot over false, true (layout `photos`)."""
        if self.layout != "photos":
            raise UserError(f"{self.folder}: the layout {self.layout} has no NLVR v1; the layout photos has it")
        return read_nlvr1(self.folder, split, self.vocabulary, self.longest, self.pixels)

    def vcr(self, split: str) -> Choices:
        """Read a split of VCR."""
        self._regions_only("vcr")
        self._make("vcr", split)
        folder = self._task("vcr")
        if databases := databases_of("vcr", folder, split, self.vocabulary):
            return database_choices(databases, folder, split, self.longest)
        return read_vcr(folder, split, self.vocabulary, self.longest)

    def nlvr2(self, split: str) -> Pairs:
        """Read a split of NLVR2."""
        self._make("nlvr2", split)
        folder = self._task("nlvr2")
        if databases := databases_of("nlvr2", folder, split, self.vocabulary):
            return database_pairs(databases, folder, split, self.longest, self.pixels)
        return read_nlvr2(folder, split, self.vocabulary, self.longest, self.pixels)

    def expressions(self, split: str, boxes: str) -> Expressions:
        """Read a split of RefCOCO+ (test is testA) with the `true` or the `detected` boxes of its images."""
        self._regions_only("refcoco")
        self._make("refcoco", split)
        folder = self._task("refcoco")
        if databases := databases_of("refcoco", folder, split, self.vocabulary):
            return database_expressions(databases, folder, boxes, self.longest)
        return read_refcoco(folder, split, boxes, self.vocabulary, self.longest)

    def seen_as(self, pixels: Pixels) -> Source:
        """Return the same source with its images read as patches."""
        return replace(self, pixels=pixels)

    def for_places(self, positions: int) -> Source:
        """Return the same source with its texts cut to what a backbone has places for (ViLT: 40, officially)."""
        return self if positions >= self.longest else replace(self, longest=positions)

    def _make(self, part: str, split: str) -> None:
        self.make(part, split, self.pixels is not None)

    def _regions_only(self, task: str) -> None:
        if self.pixels is not None:
            raise UserError(f"the task {task} is about regions, and this backbone takes patches; use another backbone")

    def _task(self, name: str) -> Path:
        """Return a task's folder; only the layout `official` has one."""
        if self.layout != "official":
            raise UserError(f"{self.folder}: the layout {self.layout} has no {name}; lay its files as in docs/data.md")
        return self.folder / name


@lru_cache(maxsize=4)
def open_source(spec: DataSpec, store: Store) -> Source:
    """Return the source of a spec: the world's files are made in the store, a folder is where it was registered."""
    if isinstance(spec, World):
        folder = store.root / "data" / spec.digest
        world_folder(spec, folder)
        words, maker = read_vocabulary(folder / "vocab.txt"), world_maker(spec, folder)
        return Source(folder, "official", words, maker, class_attributes=CLASS_COLORS)
    note = store.root / "data" / f"{spec.digest}.json"
    if not note.exists():
        raise UserError(f"the data of this run (fingerprint {spec.fingerprint}) is not known here; name it with --data")
    known = json.loads(note.read_text())
    folder = Path(known["folder"])
    if file_states(folder, spec.layout) != known["files"]:
        raise UserError(
            f"the files in {folder} changed since this study was planned; plan it again with --data {folder}"
        )
    return open_folder(folder, spec.layout, read_vocabulary(store.root / "data" / f"{spec.digest}.vocab.txt"))


def open_folder(folder: Path, layout: str | None = None, vocabulary: Vocabulary | None = None) -> Source:
    """Return the source of any folder in a known layout; the vocabulary is the folder's own unless given."""
    layout = checked_layout(folder, layout)
    if vocabulary is None:
        vocabulary = folder_vocabulary(folder, layout)
    return Source(folder, layout, vocabulary)


def check_folder(folder: Path, layout: str | None = None) -> None:
    """Raise `UserError` where a folder has no known layout or no vocabulary; write nothing."""
    folder_vocabulary(folder, checked_layout(folder, layout))


def register_folder(
    folder: Path,
    store: Store,
    layout: str | None = None,
    *,
    vocabulary: str | None = None,
    noted: Store | None = None,
) -> Folder:
    """Return the spec of a user's folder, whose bytes make the fingerprint, and note in the store where it lies.

    The layout is found where it is not given: `photos` must be asked for, see `find_layout`. `vocabulary` is the
    text of a `vocab.txt` that takes the place of the folder's own: that of imported weights. Bytes are read again only
    where a file's size or time of change is not what the store, or the one `noted`, has noted.
    """
    known = checked_layout(folder, layout)
    where = {"folder": str(folder.resolve()), "layout": known, "files": file_states(folder, known)}
    found = _noted_fingerprint(noted or store, where) or fingerprint(folder, known)
    spec = Folder(layout=known, fingerprint=found)
    if vocabulary is not None:
        spec = changed(spec, vocabulary=hashlib.sha256(vocabulary.encode()).hexdigest()[:20])
    text = folder_vocabulary(folder, known).text() if vocabulary is None else vocabulary
    write_file(store.root / "data" / f"{spec.digest}.vocab.txt", text.encode())
    write_file(store.root / "data" / f"{spec.digest}.json", json.dumps(where | {"fingerprint": found}).encode())
    return spec


def _noted_fingerprint(store: Store, where: dict[str, Any]) -> str | None:
    for note in sorted((store.root / "data").glob("*.json")):
        try:
            about = json.loads(note.read_text())
        except ValueError:  # damaged, perhaps that of other data: the bytes can be read instead
            continue
        if where.items() <= about.items():
            return str(about["fingerprint"])
    return None
