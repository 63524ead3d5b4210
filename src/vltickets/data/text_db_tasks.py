"""The tasks' examples from UNITER's text databases (`data/text_db.py`), in the classes of the public files' readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vltickets.data.captions import Captions
from vltickets.data.nlvr2 import Pairs
from vltickets.data.questions import QuestionList, Questions, split_regions
from vltickets.data.ragged import Ragged
from vltickets.data.records import field, number_field, read_json, shown, text_field
from vltickets.data.refcoco import ExpressionList, Expressions, box_field, boxes_of, by_id, place_of, size_fields
from vltickets.data.regions import find_regions
from vltickets.data.snli_ve import LABELS
from vltickets.data.text_db import TextDatabase, find_databases, open_database
from vltickets.data.vcr import ChoiceList, Choices, choice_label
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

# Which databases are a split. VQA's are trained on together, with Visual Genome's questions, as officially.
SPLITS = {
    "vqa": {"train": ["train", "trainval", "vg"], "dev": ["dev", "devval"], "test": ["test"]},
    "nlvr2": {"train": ["train"], "dev": ["dev"], "test": ["test", "test1"]},
    "refcoco": {"train": ["train"], "dev": ["dev", "val"], "test": ["test", "testA"]},
}
OTHERS = {"train": ["train"], "dev": ["dev", "val"], "test": ["test"]}


def databases_of(task: str, folder: Path, split: str, vocabulary: Vocabulary) -> list[TextDatabase]:
    """Return the split's databases in a task's folder, opened; none where the folder has none."""
    names = SPLITS.get(task, OTHERS).get(split, [split])
    return [open_database(path, vocabulary) for path in find_databases(folder, names)]


def database_questions(
    databases: list[TextDatabase],
    folder: Path,
    split: str,
    answers: int,
    longest: int,
    training: bool,
    pixels: Pixels | None = None,
) -> Questions:
    """Return VQA's or SNLI-VE's split: `target` has `labels` and `scores` by the numbers of the answer vocabulary."""
    found = QuestionList(split_regions(folder, [split], pixels), training=training)
    coded: list[list[int]] = []
    for database in databases:
        for where, identity, record in database.records():
            before = len(found.ids)
            scores = _target(record, answers, where)
            kind = record.get("answer_type")
            if answers == len(LABELS) and scores:
                kind = LABELS[max(scores, key=scores.__getitem__)]
            number = int(identity) if identity.isascii() and identity.isdigit() and len(identity) < 19 else identity
            image = database.image(identity, where)
            found.add(number, "", image, scores, kind if isinstance(kind, str) else "other", where)
            if len(found.ids) > before:
                coded.append(database.coded(record, longest, where))
    return found.pack_coded(answers, coded, databases[0].path)


def _target(record: Any, answers: int, where: str) -> dict[int, float]:
    if "target" not in record:
        raise UserError(f"{where}: no field 'target': examples without answers can be neither trained on nor scored")
    target = field(record, "target", dict, where)
    labels, scores = field(target, "labels", list, where), field(target, "scores", list, where)
    if len(labels) != len(scores):
        raise UserError(f"{where}: the field 'target' has {len(labels)} labels but {len(scores)} scores")
    for label, score in zip(labels, scores, strict=True):
        if type(label) is not int or not 0 <= label < answers:
            raise UserError(f"{where}: the label {shown(label)} is not one of the {answers} answers")
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise UserError(f"{where}: the score {shown(score)} is not from 0 to 1")
    return {label: float(score) for label, score in zip(labels, scores, strict=True) if score > 0}


def database_pairs(
    databases: list[TextDatabase], folder: Path, split: str, longest: int, pixels: Pixels | None = None
) -> Pairs:
    """Return NLVR2's split."""
    regions = split_regions(folder, [split, "test1"] if split == "test" else [split], pixels)
    identifiers, coded, images, labels = [], [], [], []
    for database in databases:
        for where, identity, record in database.records():
            label = field(record, "target", int, where)
            if label not in (0, 1):
                raise UserError(f"{where}: the field 'target' is {label}, expected 0 or 1")
            identifiers.append(text_field(record, "identifier", where) if "identifier" in record else identity)
            coded.append(database.coded(record, longest, where))
            images.append([regions.index(name, where) for name in database.image_pair(identity, where)])
            labels.append(label)
    pairs = np.array(images, dtype=np.int64).reshape(-1, 2)
    return Pairs(identifiers, Ragged.from_rows(coded), pairs, np.array(labels, dtype=np.int64), regions)


def database_choices(databases: list[TextDatabase], folder: Path, split: str, longest: int) -> Choices:
    """Return VCR's split; each text is cut to `longest` - 2 pieces."""
    found = ChoiceList(folder, split)
    questions: list[list[int]] = []
    answers: list[list[int]] = []
    rationales: list[list[int]] = []
    for database in databases:
        for where, identity, record in database.records():
            questions.append(database.pieces(record, "input_ids", where)[: longest - 2])
            answers += [text[: longest - 2] for text in database.four(record, "input_ids_as", where)]
            rationales += [text[: longest - 2] for text in database.four(record, "input_ids_rs", where)]
            labels = choice_label(record, "qa_target", where), choice_label(record, "qar_target", where)
            found.add(identity, labels, database.image_pair(identity, where), None, where)
    return found.pack(*(Ragged.from_rows(texts) for texts in (questions, answers, rationales)))


def database_captions(
    databases: list[TextDatabase], folder: Path, split: str, longest: int, pixels: Pixels | None = None
) -> Captions:
    """Return a split of images with captions, for retrieval."""
    regions = split_regions(folder, ["all", split], pixels)
    coded, images = [], []
    for database in databases:
        for where, identity, record in database.records():
            coded.append(database.coded(record, longest, where))
            images.append(regions.index(database.image(identity, where), where))
    return Captions(Ragged.from_rows(coded), np.array(images, dtype=np.int64), None, regions)


def database_expressions(databases: list[TextDatabase], folder: Path, boxes: str, longest: int) -> Expressions:
    """Return RefCOCO+'s split; `images.json` beside the examples gives sizes and the annotations' order."""
    name, prefix = boxes_of(boxes)
    found = ExpressionList(find_regions(folder, name))
    coded: list[list[int]] = []
    for database in databases:
        path = database.path / "images.json"
        images = by_id({"images": read_json(path)}, "images", path)
        for where, identity, record in database.records():
            image = number_field(record, "image_id", where)
            if image not in images:
                raise UserError(f"{path} has no image {image}, which {where} needs")
            noted, item = images[image]
            row = found.regions.index(f"{prefix}_{image:012d}.npz", where)
            target = -1
            if boxes == "true":
                ordered, annotation = field(item, "ann_ids", list, noted), number_field(record, "ann_id", where)
                target = place_of(annotation, ordered, int(found.regions.features.lengths[row]), where)
            sentence = number_field(record, "sent_id", where) if "sent_id" in record else _number(identity, where)
            found.add(sentence, row, target, box_field(record, where), size_fields(item, noted))
            coded.append(database.coded(record, longest, where))
    return found.pack(coded)


def _number(identity: str, where: str) -> int:
    if not (identity.isascii() and identity.isdigit() and len(identity) < 19):
        raise UserError(f"{where}: no field 'sent_id', and its id is no number")
    return int(identity)
