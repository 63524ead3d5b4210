"""SNLI-VE in its official JSON-lines files: a photo, a sentence, and whether the one entails the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vltickets.data.questions import QuestionList, Questions, split_regions
from vltickets.data.records import field, read_json_lines, text_field
from vltickets.data.vocabulary import Vocabulary
from vltickets.errors import UserError
from vltickets.specs import Pixels

LABELS = ("contradiction", "entailment", "neutral")  # the official order (official-models 1.4)
LISTS = {
    "train": ("train", "train_val"),
    "dev": ("dev", "val", "train_val"),
    "test": ("test",),
}


def read_snli_ve(
    folder: Path, split: str, vocabulary: Vocabulary, longest: int, pixels: Pixels | None = None
) -> Questions:
    """Read `snli_ve_SPLIT.jsonl` and the split's regions; scores are one-hot in the order of `LABELS`.

    Pairs without a gold label ("-") are passed over, and where a list of the split's photos is there
    (`flickr30k_SPLIT.lst`, one id a line), pairs of other photos. `ids` are the official pair ids, `kinds` the labels.
    Raises `UserError` naming file, line and field.
    """
    path = folder / f"snli_ve_{split}.jsonl"
    found = QuestionList(split_regions(folder, [split, "val"] if split == "dev" else [split], pixels), training=False)
    listed = _listed(folder, split)
    for where, item in read_json_lines(path):
        label = field(item, "gold_label", str, where)
        if label == "-":
            continue
        if label not in LABELS:
            raise UserError(f"{where}: the field 'gold_label' is {label!r}, expected {', '.join(LABELS)} or '-'")
        number = flickr30k_number(_photo(item, where), where)
        if listed is not None and number not in listed:
            continue
        identity = text_field(item, "pairID", where)
        text = text_field(item, "sentence2", where)
        found.add(identity, text, flickr30k_image(number), {LABELS.index(label): 1.0}, label, where)
    return found.pack(len(LABELS), vocabulary, longest, path)


def _photo(item: Any, where: str) -> str:
    """Return the photo's name by either spelling of its field."""
    for name in ("Flickr30K_ID", "Flikr30kID"):
        if isinstance(item, dict) and name in item:
            return str(field(item, name, (str, int), where))
    return str(field(item, "Flickr30K_ID", str, where))


def flickr30k_number(name: str, where: str) -> int:
    """Return the number of a Flickr30k photo, from its id or its file's name."""
    digits = name.removesuffix(".jpg")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise UserError(f"{where}: the photo {name[:100]!r} is not a number with or without .jpg")
    return int(digits)


def flickr30k_image(number: int) -> str:
    """Return the name of a Flickr30k photo's regions (official-models 8.1)."""
    return f"flickr30k_{number:012d}.npz"


def _listed(folder: Path, split: str) -> frozenset[int] | None:
    for name in LISTS.get(split, (split,)):
        path = folder / f"flickr30k_{name}.lst"
        if path.exists():
            try:
                lines = path.read_text(encoding="utf-8").split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: not a text file in UTF-8 ({error})") from None
            return frozenset(
                flickr30k_number(line.strip(), f"{path}, line {number}")
                for number, line in enumerate(lines, 1)
                if line.strip()
            )
    return None
