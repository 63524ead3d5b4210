"""VQA v2 in its official files: questions, annotations with ten answers each, and an answer vocabulary.

Official train2014 is train, val2014 is dev. Where `minidev.json` (a list of question ids) is there, those of val2014
are dev and the others train, as UNITER's `devval`; Visual Genome's questions, `question_answers.json`, join train.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vltickets.data.answers import normal_answer, soft_scores
from vltickets.data.questions import QuestionList, Questions, split_regions
from vltickets.data.records import check_text, field, number_field, read_json, shown, text_field
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

OFFICIAL = {"train": "train2014", "dev": "val2014", "test": "test2015"}
MINIDEV = "minidev.json"
GENOME = "question_answers.json"


@dataclass(frozen=True)
class Part:
    """The files of one official split, and which of its questions are taken."""

    folder: Path
    name: str
    only: frozenset[int] | None = None
    but: frozenset[int] = frozenset()

    @property
    def questions(self) -> Path:
        """Where the questions are."""
        return self.folder / f"v2_OpenEnded_mscoco_{self.name}_questions.json"

    @property
    def annotations(self) -> Path:
        """Where the answers are."""
        return self.folder / f"v2_mscoco_{self.name}_annotations.json"

    def takes(self, identity: int) -> bool:
        """Say whether a question is of this part."""
        return identity not in self.but and (self.only is None or identity in self.only)


def read_answers(path: Path) -> list[str]:
    """Return the answers in label order from an `ans2label.json` (answer -> label) or a `label2ans.json` (a list)."""
    labels = read_json(path)
    if isinstance(labels, list):
        # LXMERT's list holds the empty answer: it is a label like any other.
        if not labels or not all(isinstance(answer, str) for answer in labels) or len(set(labels)) != len(labels):
            raise UserError(f"{path}: expected a list of answers in label order, none twice")
        return labels
    numbers = isinstance(labels, dict) and all(type(label) is int for label in labels.values())
    if not numbers or sorted(labels.values()) != list(range(len(labels))):
        raise UserError(f"{path}: expected an object that gives each answer a label from 0 up, none twice")
    return sorted(labels, key=labels.__getitem__)


def read_answer_table(path: Path) -> list[str]:
    """Return the answers that LXMERT was pre-trained with, in the order of its head's rows.

    Of its `all_ans.json`, a list of objects with an answer `ans` each, or of any file that `read_answers` reads.
    """
    labels = read_json(path)
    if not isinstance(labels, list) or not labels or not isinstance(labels[0], dict):
        return read_answers(path)
    return [field(item, "ans", str, f"{path}, answer {number}") for number, item in enumerate(labels)]


def read_vqa(
    folder: Path, split: str, vocabulary: Vocabulary, answers: list[str], longest: int, pixels: Pixels | None = None
) -> Questions:
    """Read `v2_OpenEnded_mscoco_SPLIT_questions.json`, `v2_mscoco_SPLIT_annotations.json` and the split's regions.

    Where files of this name are not there, those of the official split are read (see the module); `SPLIT.json` in
    LXMERT's form is taken where no official file is there. Annotators' answers count in their normal form
    (`data/answers.py`). A question with no answer of the vocabulary keeps zero scores; in official training files it
    is left out. Raises `UserError` naming file, record and field where something is missing or of the wrong kind.
    """
    label = {answer: number for number, answer in enumerate(answers)}
    own, official = Part(folder, split), Part(folder, OFFICIAL.get(split, split))
    lxmert = folder / f"{split}.json"
    if own.questions.exists() or not (official.questions.exists() or lxmert.exists()):
        found = QuestionList(split_regions(folder, [split], pixels), training=False)
        _read_part(own, found, label)
    elif official.questions.exists():
        parts = _official_parts(folder, split)
        found = QuestionList(split_regions(folder, [split, official.name], pixels), training=split == "train")
        for part in parts:
            _read_part(part, found, label)
            if part.only is not None and (missing := part.only - set(found.ids)):
                raise UserError(f"{folder / MINIDEV}: question {min(missing)} is not in {part.questions}")
        if split == "train" and (folder / GENOME).exists():
            _read_genome(folder / GENOME, found, label)
    else:
        found = QuestionList(split_regions(folder, [split], pixels), training=split == "train")
        _read_lxmert(lxmert, found, label)
    return found.pack(len(answers), vocabulary, longest, own.questions if own.questions.exists() else folder)


def _official_parts(folder: Path, split: str) -> list[Part]:
    if split == "test":
        raise UserError(
            f"{folder}: the answers of test2015 were never published, so it can be neither trained on nor scored; "
            "take the split dev"
        )
    path = folder / MINIDEV
    if not path.exists():
        return [Part(folder, OFFICIAL[split])]
    listed = read_json(path)
    if not isinstance(listed, list) or not listed or not all(type(item) is int for item in listed):
        raise UserError(f"{path}: expected a list of question ids (whole numbers), found {shown(listed)}")
    minidev = frozenset(listed)
    if split == "dev":
        return [Part(folder, "val2014", only=minidev)]
    return [Part(folder, "train2014"), Part(folder, "val2014", but=minidev)]


def _read_part(part: Part, found: QuestionList, label: dict[str, int]) -> None:
    questions = field(read_json(part.questions), "questions", list, str(part.questions))
    annotations = field(read_json(part.annotations), "annotations", list, str(part.annotations))
    by_id = {
        field(item, "question_id", int, f"{part.annotations}, annotation {number}"): (number, item)
        for number, item in enumerate(annotations)
    }
    for number, item in enumerate(questions):
        where = f"{part.questions}, question {number}"
        identity = field(item, "question_id", int, where)
        if not part.takes(identity):
            continue
        if identity not in by_id:
            raise UserError(f"{part.annotations}: no annotation of question_id {identity} ({where})")
        place, annotation = by_id[identity]
        noted = f"{part.annotations}, annotation {place}"
        given = [
            field(answer, "answer", str, f"{noted}, answer {rank}")
            for rank, answer in enumerate(field(annotation, "answers", list, noted))
        ]
        kind = field(annotation, "answer_type", str, noted) if "answer_type" in annotation else "other"
        text = text_field(item, "question", where)
        image = f"coco_{part.name}_{number_field(item, 'image_id', where):012d}.npz"
        found.add(identity, text, image, soft_scores(given, label), kind, where)


def _read_genome(path: Path, found: QuestionList, label: dict[str, int]) -> None:
    """Take Visual Genome's questions: one answer each, with score 1 where the vocabulary has it."""
    images = read_json(path)
    if not isinstance(images, list):
        raise UserError(f"{path}: expected a list of images, found {type(images).__name__}")
    for number, item in enumerate(images):
        for rank, question in enumerate(field(item, "qas", list, f"{path}, image {number}")):
            where = f"{path}, image {number}, question {rank}"
            answer = normal_answer(field(question, "answer", str, where))
            scores = {label[answer]: 1.0} if answer in label else {}
            image = f"vg_{number_field(question, 'image_id', where)}.npz"
            text = text_field(question, "question", where)
            found.add(number_field(question, "qa_id", where), text, image, scores, "other", where)


def _read_lxmert(path: Path, found: QuestionList, label: dict[str, int]) -> None:
    """Take a list of questions in LXMERT's form, whose `label` gives each answer's score."""
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path}: expected a list of questions, found {type(records).__name__}")
    for number, item in enumerate(records):
        where = f"{path}, question {number}"
        image = f"{text_field(item, 'img_id', where).lower()}.npz"
        kind = field(item, "answer_type", str, where) if "answer_type" in item else "other"
        identity = field(item, "question_id", (int, str), where)
        found.add(identity, text_field(item, "sent", where), image, lxmert_scores(item, label, where), kind, where)


def lxmert_scores(item: Any, label: dict[str, int], where: str) -> dict[int, float]:
    """Return label -> score of a record in LXMERT's form; answers outside the vocabulary are passed over."""
    scores = {}
    for answer, score in field(item, "label", dict, where).items():
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise UserError(f"{where}: the score of {check_text(answer, where)!r} is {shown(score)}, expected 0 to 1")
        if answer in label and score > 0:
            scores[label[answer]] = float(score)
    return scores
