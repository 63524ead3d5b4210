"""VCR in its official JSON-lines files: a question, four answers, four reasons, and the objects they speak of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.questions import split_regions
from vltickets.data.ragged import Ragged
from vltickets.data.records import check_text, field, first_file, read_json, read_json_lines, shown, text_field
from vltickets.data.regions import Regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError

CHOICES = 4


@dataclass(frozen=True)
class Choices:
    """One split. Texts are word pieces without [CLS] and [SEP]; item i has the answers and rationales 4i to 4i + 3.

    `questions` [items], `answers` and `rationales` [4·items]; `answer_labels`, `rationale_labels` int64 [items];
    `objects`: regions of the annotated objects, in the annotation's order, `object_images` int64 [items] the row of
    each item's image; `detected`, `detected_images`: the same of a detector's regions.
    """

    ids: list[str]
    questions: Ragged
    answers: Ragged
    rationales: Ragged
    answer_labels: np.ndarray
    rationale_labels: np.ndarray
    objects: Regions
    object_images: np.ndarray
    detected: Regions
    detected_images: np.ndarray


class ChoiceList:
    """Items as they are read, one by one; `pack` makes the arrays."""

    def __init__(self, folder: Path, split: str) -> None:
        names = [split, "val"] if split == "dev" else [split]
        self.objects = split_regions(folder, [f"gt_{name}" for name in names])
        self.detected = split_regions(folder, [f"det_{name}" for name in names])
        self.ids: list[str] = []
        self.labels: list[tuple[int, int]] = []
        self.images: list[tuple[int, int]] = []

    def add(
        self, identity: str, labels: tuple[int, int], image: tuple[str, str], objects: int | None, where: str
    ) -> None:
        """Take an item; `image` names the image among the annotated and the detected regions.

        `objects` is how many regions its annotation must have, or None.
        """
        row = self.objects.index(image[0], where)
        count = int(self.objects.features.lengths[row])
        if objects is not None and count != objects:
            raise UserError(
                f"{where}: the field 'objects' has {objects} entries, but {self.objects.where} has {count} regions of "
                f"{image[0]!r}; expected one each, in the same order"
            )
        self.ids.append(identity)
        self.labels.append(labels)
        self.images.append((row, self.detected.index(image[1], where)))

    def pack(self, questions: Ragged, answers: Ragged, rationales: Ragged) -> Choices:
        """Return the split, given its texts as numbers."""
        labels = np.array(self.labels, dtype=np.int64).reshape(-1, 2)
        images = np.array(self.images, dtype=np.int64).reshape(-1, 2)
        return Choices(
            self.ids, questions, answers, rationales, labels[:, 0], labels[:, 1],
            self.objects, images[:, 0], self.detected, images[:, 1],
        )  # fmt: skip


def read_vcr(folder: Path, split: str, vocabulary: Vocabulary, longest: int) -> Choices:
    """Read `SPLIT.jsonl` (dev: or val) and the regions `regions_gt_SPLIT` and `regions_det_SPLIT`.

    A token that is a list of objects becomes their class names. Each text is cut to `longest` - 2 pieces. Where an
    item's metadata is under `vcr1images/`, its boxes must be as many as the objects. Raises `UserError` naming file,
    line and field, also for a split without labels: it can be neither trained on nor scored.
    """
    path = first_file(folder, [f"{split}.jsonl", *(["val.jsonl"] if split == "dev" else [])])
    found = ChoiceList(folder, split)
    questions: list[str] = []
    answers: list[str] = []
    rationales: list[str] = []
    for where, item in read_json_lines(path):
        objects = _objects(item, where)
        _check_metadata(folder, item, len(objects), where)
        questions.append(_words(field(item, "question", list, where), objects, f"{where}: the field 'question'"))
        answers += _choices(item, "answer_choices", objects, where)
        rationales += _choices(item, "rationale_choices", objects, where)
        labels = choice_label(item, "answer_label", where), choice_label(item, "rationale_label", where)
        image = text_field(item, "img_id", where).replace("-", "_")
        names = (f"vcr_gt_{image}.npz", f"vcr_{image}.npz")
        found.add(text_field(item, "annot_id", where), labels, names, len(objects), where)
    if not found.ids:
        raise UserError(f"{path}: it holds no question")
    return found.pack(*(_coded(texts, vocabulary, longest) for texts in (questions, answers, rationales)))


def choice_label(item: Any, name: str, where: str) -> int:
    """Return which of the four choices is right."""
    if isinstance(item, dict) and name not in item:
        raise UserError(f"{where}: no field {name!r}: a test split without labels can be neither trained on nor scored")
    label: int = field(item, name, int, where)
    if not 0 <= label < CHOICES:
        raise UserError(f"{where}: the field {name!r} is {label}, expected 0 to {CHOICES - 1}")
    return label


def _objects(item: Any, where: str) -> list[str]:
    objects = field(item, "objects", list, where)
    return [check_text(name, f"{where}: the field 'objects', entry {place}") for place, name in enumerate(objects)]


def _choices(item: Any, name: str, objects: list[str], where: str) -> list[str]:
    choices = field(item, name, list, where)
    if len(choices) != CHOICES:
        raise UserError(f"{where}: the field {name!r} has {len(choices)} entries, expected {CHOICES}")
    return [_words(tokens, objects, f"{where}: the field {name!r}, choice {n}") for n, tokens in enumerate(choices)]


def _words(tokens: object, objects: list[str], what: str) -> str:
    """Return a text of its tokens; one that is a list of objects becomes their class names, one after another."""
    if not isinstance(tokens, list) or not tokens:
        raise UserError(f"{what} is {shown(tokens)}, expected a list of tokens")
    words: list[str] = []
    for token in tokens:
        if isinstance(token, list):
            for place in token:
                if type(place) is not int or not 0 <= place < len(objects):
                    raise UserError(f"{what} names the object {shown(place)} of {len(objects)}")
                words.append(objects[place])
        else:
            words.append(check_text(token, f"{what}: a token"))
    if not words:
        raise UserError(f"{what} is empty, expected a text")
    return " ".join(words)


def _check_metadata(folder: Path, item: Any, objects: int, where: str) -> None:
    name = field(item, "metadata_fn", str, where) if "metadata_fn" in item else ""
    path = folder / "vcr1images" / name
    inside = bool(name) and ".." not in path.parts and not Path(name).is_absolute()
    try:
        there = inside and path.is_file()
    except OSError:  # such as a name that is too long for the disk: no such file then
        there = False
    if there:
        boxes = field(read_json(path), "boxes", list, str(path))
        if len(boxes) != objects:
            raise UserError(f"{path}: {len(boxes)} boxes, but {where} has {objects} objects")


def _coded(texts: list[str], vocabulary: Vocabulary, longest: int) -> Ragged:
    return Ragged.from_rows([row[1:-1] for row in vocabulary.encode(texts, longest)])
