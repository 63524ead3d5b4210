"""VQA v2 in its official files: questions, annotations with ten answers each, and an answer vocabulary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vltickets.data.ragged import Ragged
from vltickets.data.records import field, read_json
from vltickets.data.regions import Regions, find_regions
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError

# The official metric's leave-one-annotator-out averages of min(1, c / 3), for c of 10 annotators.
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)


@dataclass(frozen=True)
class Questions:
    """One split. `scores` [questions, answers] float32: soft scores; `kinds`: the official answer types."""

    ids: list[int]
    texts: Ragged
    images: np.ndarray
    scores: np.ndarray
    kinds: list[str]
    regions: Regions


def read_answers(path: Path) -> list[str]:
    """Return the answers in label order from an `ans2label.json`."""
    labels = read_json(path)
    numbers = isinstance(labels, dict) and all(type(label) is int for label in labels.values())
    if not numbers or sorted(labels.values()) != list(range(len(labels))):
        raise UserError(f"{path}: expected an object that gives each answer a label from 0 up, none twice")
    return sorted(labels, key=labels.__getitem__)


def read_vqa(folder: Path, split: str, vocabulary: Vocabulary, answers: list[str], longest: int) -> Questions:
    """Read `v2_OpenEnded_mscoco_SPLIT_questions.json`, `v2_mscoco_SPLIT_annotations.json` and the split's regions.

    Raises `UserError` naming file, record and field where something is missing or of the wrong kind.
    """
    questions_path = folder / f"v2_OpenEnded_mscoco_{split}_questions.json"
    annotations_path = folder / f"v2_mscoco_{split}_annotations.json"
    questions = field(read_json(questions_path), "questions", list, str(questions_path))
    annotations = field(read_json(annotations_path), "annotations", list, str(annotations_path))
    regions = find_regions(folder, split)
    by_id = {
        field(item, "question_id", int, f"{annotations_path}, annotation {number}"): (number, item)
        for number, item in enumerate(annotations)
    }
    label = {answer: number for number, answer in enumerate(answers)}
    ids, texts, images, kinds = [], [], [], []
    scores = np.zeros((len(questions), len(answers)), dtype=np.float32)
    for number, item in enumerate(questions):
        where = f"{questions_path}, question {number}"
        identity = field(item, "question_id", int, where)
        if identity not in by_id:
            raise UserError(f"{annotations_path}: no annotation of question_id {identity} ({where})")
        place, annotation = by_id[identity]
        noted = f"{annotations_path}, annotation {place}"
        given = Counter(
            field(answer, "answer", str, f"{noted}, answer {rank}")
            for rank, answer in enumerate(field(annotation, "answers", list, noted))
        )
        for answer, count in given.items():
            if answer in label:
                scores[number, label[answer]] = SOFT_SCORES[min(count, len(SOFT_SCORES) - 1)]
        image = f"coco_{split}_{field(item, 'image_id', int, where):012d}.npz"
        ids.append(identity)
        texts.append(field(item, "question", str, where))
        images.append(regions.index(image, where))
        kinds.append(annotation.get("answer_type", "other"))
    coded = Ragged.from_rows(vocabulary.encode(texts, longest))
    return Questions(ids, coded, np.array(images, dtype=np.int64), scores, kinds, regions)
