"""GQA in its official files: an object of questions by id, one answer each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vltickets.data.questions import QuestionList, Questions, split_regions
from vltickets.data.records import field, read_json, shown, text_field
from vltickets.data.vocabulary import Vocabulary
from vltickets.data.vqa import lxmert_scores
from vltickets.errors import UserError
from vltickets.specs import Pixels

# As LXMERT: the balanced questions of train and val are trained on, and testdev is what is reported. The official test
# file has no answers, so a testdev file goes before it.
FILES = {"train": (("train", "val"),), "dev": (("testdev",), ("dev",)), "test": (("testdev",), ("test",))}


def read_gqa(
    folder: Path, split: str, vocabulary: Vocabulary, answers: list[str], longest: int, pixels: Pixels | None = None
) -> Questions:
    """Read `SPLIT_balanced_questions.json` (train: and val's, where it is there) and the split's regions.

    The official testdev, where it is there, is dev and test. Where no balanced file is there, all questions are read
    (`SPLIT_all_questions.json`, or a folder `SPLIT_all_questions/` of parts), then `SPLIT.json` in LXMERT's form.
    Scores are one-hot; a question whose answer is not in the vocabulary keeps zeros, and is left out in training.
    `kinds` are the structural types. Raises `UserError` naming file, record and field.
    """
    label = {answer: number for number, answer in enumerate(answers)}
    names = [split, "testdev"] if split in ("dev", "test") else [split]
    found = QuestionList(split_regions(folder, names, pixels), training=split == "train")
    paths = gqa_files(folder, split)
    for path in paths:
        records = read_json(path)
        if isinstance(records, list):
            _read_lxmert(path, records, found, label)
        elif isinstance(records, dict):
            for identity, item in records.items():
                _add(identity, item, f"{path}, question {identity!r}", found, label)
        else:
            raise UserError(f"{path}: expected an object of questions by id, found {type(records).__name__}")
    return found.pack(len(answers), vocabulary, longest, paths[0])


def gqa_files(folder: Path, split: str) -> list[Path]:
    """Return the files whose questions together are a split; where there are none, the one that is missed."""
    for kind in ("balanced", "all"):
        for names in FILES.get(split, ((split,),)):
            found = [_parts(folder, f"{name}_{kind}_questions") for name in names]
            if found[0]:
                return [path for parts in found for path in parts]
    lxmert = folder / f"{split}.json"
    return [lxmert if lxmert.exists() else folder / f"{split}_balanced_questions.json"]


def _parts(folder: Path, stem: str) -> list[Path]:
    if (folder / f"{stem}.json").exists():
        return [folder / f"{stem}.json"]
    # Part 10 stands behind part 9.
    return sorted(
        (folder / stem).glob("*.json"), key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.name)]
    )


def _add(identity: str, item: Any, where: str, found: QuestionList, label: dict[str, int]) -> None:
    if isinstance(item, dict) and "answer" not in item:
        raise UserError(f"{where}: no field 'answer': a test file without answers can be neither trained on nor scored")
    answer = field(item, "answer", str, where)
    image = str(field(item, "imageId", (str, int), where))
    types = item.get("types")
    kind = types.get("structural") if isinstance(types, dict) else None
    found.add(
        int(identity) if identity.isascii() and identity.isdigit() and len(identity) < 19 else identity,
        text_field(item, "question", where),
        f"vg_{image}.npz",
        {label[answer]: 1.0} if answer in label else {},
        kind if isinstance(kind, str) else "other",
        where,
    )


def _read_lxmert(path: Path, records: list[Any], found: QuestionList, label: dict[str, int]) -> None:
    for number, item in enumerate(records):
        where = f"{path}, question {number}"
        image = field(item, "img_id", str, where)
        if not image:
            raise UserError(f"{where}: the field 'img_id' is {shown(image)}, expected an image's id")
        identity = field(item, "question_id", (int, str), where)
        scores = lxmert_scores(item, label, where)
        found.add(identity, text_field(item, "sent", where), f"vg_{image}.npz", scores, "other", where)
