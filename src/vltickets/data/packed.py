"""The layout `photos`: packings of small real data sets, all under one root (the fields are in its README).

`flickr8k/` (captions, retrieval), `snli_ve_flickr8k/` (entailment), `daquar/` (VQA), `nlvr1/` (statements of one
picture), and `features/` for the photos. The splits are train and dev.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vltickets.data.captions import flickr8k_captions, photo_regions
from vltickets.data.nlvr1 import nlvr1_sentences
from vltickets.data.questions import QuestionList, Questions
from vltickets.data.records import check_text, field, read_json_lines, text_field
from vltickets.data.snli_ve import LABELS
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

PARTS = ("flickr8k", "snli_ve_flickr8k", "daquar", "nlvr1", "features/flickr8k", "features/daquar")


def photo_files(folder: Path) -> list[Path]:
    """Return the files of the layout that are read."""
    return [path for part in PARTS for path in (folder / part).glob("*") if path.suffix in (".parquet", ".jsonl")]


def photo_texts(folder: Path) -> Iterator[str]:
    """Yield all training texts: captions, hypotheses, questions and sentences of the parts that are there."""
    if (folder / "flickr8k").is_dir():
        yield from (text for texts in flickr8k_captions(folder, "train")[1] for text in texts)
    if (folder / "snli_ve_flickr8k").is_dir():
        for where, item in read_json_lines(folder / "snli_ve_flickr8k" / "train.jsonl"):
            yield text_field(item, "hypothesis", where)
    if (folder / "daquar").is_dir():
        for where, item in read_json_lines(folder / "daquar" / "train.jsonl"):
            yield text_field(item, "question", where)
    if (folder / "nlvr1").is_dir():
        yield from nlvr1_sentences(folder / "nlvr1" / "train.parquet")


def read_pairs(
    folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Questions:
    """Read `snli_ve_flickr8k/SPLIT.jsonl`: a photo, a hypothesis, a label; scores as `data/snli_ve.py` has them.

    The premise, a caption of the photo, stays unread: the photo stands for it.
    """
    path = folder / "snli_ve_flickr8k" / f"{split}.jsonl"
    records = list(read_json_lines(path))
    found = QuestionList(photo_regions(folder, "flickr8k", split, pixels), training=False)
    for where, item in records:
        label = field(item, "label", str, where)
        if label not in LABELS:
            raise UserError(f"{where}: the field 'label' is {label!r}, expected {', '.join(LABELS)}")
        identity, image = text_field(item, "pair_id", where), field(item, "image_id", str, where)
        found.add(identity, text_field(item, "hypothesis", where), image, {LABELS.index(label): 1.0}, label, where)
    return found.pack(len(LABELS), vocabulary, longest, path)


def daquar_answers(folder: Path) -> list[str]:
    """Return the first answers of DAQUAR's training questions, commonest first."""
    counts = Counter(_first_answer(item, where) for where, item in read_json_lines(folder / "daquar" / "train.jsonl"))
    return sorted(counts, key=lambda answer: (-counts[answer], answer))


def read_daquar(
    folder: Path, split: str, vocabulary: Vocabulary, answers: list[str], longest: int, pixels: Pixels | None = None
) -> Questions:
    """Read `daquar/SPLIT.jsonl`. Score 1 for the first answer, none for any other: accuracy is its exact match.

    Some questions have several answers in any order ("pink, blue"); only the first one counts, in training too.
    `kinds`: list (several answers), number, other.
    """
    path = folder / "daquar" / f"{split}.jsonl"
    records = list(read_json_lines(path))
    label = {answer: number for number, answer in enumerate(answers)}
    regions = photo_regions(folder, "daquar", split, pixels)
    found = QuestionList(regions, training=split == "train")
    for where, item in records:
        answer = _first_answer(item, where)
        kind = "list" if len(item["answers"]) > 1 else "number" if answer.isdecimal() else "other"
        scores = {label[answer]: 1.0} if answer in label else {}
        identity, image = field(item, "question_id", (int, str), where), field(item, "image_id", str, where)
        found.add(identity, text_field(item, "question", where), image, scores, kind, where)
    return found.pack(len(answers), vocabulary, longest, path)


def _first_answer(item: Any, where: str) -> str:
    answers = field(item, "answers", list, where)
    if not answers:
        raise UserError(f"{where}: the field 'answers' is empty, expected a list of answers")
    return check_text(answers[0], f"{where}: the field 'answers', entry 0,")
