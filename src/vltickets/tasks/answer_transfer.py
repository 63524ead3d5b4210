"""LXMERT's answer-table transfer: a head pre-trained on many answers starts the head of a task with its own answers.

Source: airsplay/lxmert, `--loadLXMERTQA` (official-models 4).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from vltickets.errors import UserError

ARTICLES = ("a ", "an ", "the ")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SAME = {word: str(number) for number, word in enumerate(NUMBERS, start=1)} | {"grey": "gray"}
FIRST_LAYERS = ("logit_fc.0.weight", "logit_fc.0.bias", "logit_fc.2.weight", "logit_fc.2.bias")
ANSWERS = ("logit_fc.3.weight", "logit_fc.3.bias")
Tensors = dict[str, torch.Tensor]


def normalised(answer: str) -> str:
    """Return an answer as LXMERT compares it: lower case, no final dot or leading article, numbers as digits.

    >>> normalised("The two."), normalised("grey")
    ('2', 'gray')
    """
    text = answer.lower()
    if text.endswith("."):
        text = text[:-1].strip()
    for article in ARTICLES:
        text = text.removeprefix(article).strip()
    return SAME.get(text, text)


def answer_table(tables: Iterable[list[str]]) -> list[str]:
    """Return all answers of several tasks, each once: what LXMERT takes for the same answer has one row.

    >>> answer_table([["two", "a dog"], ["dog", "2", "cat"]])
    ['two', 'a dog', 'cat']
    """
    rows: dict[str, str] = {}
    for answer in (answer for table in tables for answer in table):
        rows.setdefault(normalised(answer), answer)
    return list(rows.values())


def transferred_answers(head: Tensors, known: list[str], wanted: list[str]) -> tuple[Tensors, int]:
    """Return the tensors of an answer head for the `wanted` answers, and how many of them were known.

    `head` holds the pre-trained `logit_fc.{0,2,3}`, with or without `answer_head.` before it; its last layer has a row
    for each of the `known` answers. A known answer takes its row; the rows of the others are 0, as officially. Raises
    `UserError` where tensors are missing or the rows are not as many as the answers.
    """
    found = {name.removeprefix("answer_head."): value for name, value in head.items()}
    if missing := [name for name in (*FIRST_LAYERS, *ANSWERS) if name not in found]:
        raise UserError(f"the answer head lacks {missing[0]}; take the heads of a checkpoint pre-trained with answers")
    if len(found[ANSWERS[0]]) != len(known):
        raise UserError(
            f"the answer head has {len(found[ANSWERS[0]])} rows, and {len(known)} answers are named; give the list it "
            "was pre-trained with, in its order"
        )
    rows = {normalised(answer): row for row, answer in reversed(list(enumerate(known)))}
    places = [(place, rows[text]) for place, text in enumerate(map(normalised, wanted)) if text in rows]
    new, old = [place for place, _ in places], [row for _, row in places]
    out = {name: found[name].clone() for name in FIRST_LAYERS}
    for name in ANSWERS:
        out[name] = found[name].new_zeros(len(wanted), *found[name].shape[1:])
        out[name][new] = found[name][old]
    return out, len(places)


def fill_answers(head: nn.Module, pretrained: Tensors, known: list[str], wanted: list[str]) -> int:
    """Fill an answer head (`logit_fc`) from the `answer_head.` among pre-trained tensors; return how many were known.

    Where there is none, or it knows no answer that is wanted, the head stays as it is.
    """
    table = {name: value for name, value in pretrained.items() if name.startswith("answer_head.")}
    if not table or not known:
        return 0
    tensors, count = transferred_answers(table, known, wanted)
    if count:
        head.load_state_dict(tensors)
    return count
