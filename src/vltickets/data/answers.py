"""Answers of VQA in their normal form: what the official evaluation compares, and how answers become soft scores.

Source: the processing of the official VQA evaluation (punctuation, digit words, articles, contractions), rebuilt here
from what it does. Answer vocabularies (UNITER's 3,129) hold answers in that form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

# The official metric's leave-one-annotator-out averages of min(1, c / 3), for c of 10 annotators.
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset(("a", "an", "the"))
DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

_PROPER = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _contractions() -> dict[str, str]:
    """Return each contraction that lacks one of its apostrophes, and the proper one."""
    found = {
        word[:place] + word[place + 1 :]: word
        for word in _PROPER.split()
        for place, letter in enumerate(word)
        if letter == "'"
    }
    return found | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round


CONTRACTIONS = _contractions()
_LONE_PERIOD = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")


@lru_cache(maxsize=1 << 18)
def normal_answer(answer: str) -> str:
    """Return an answer as the official evaluation compares it: lower case, digits for number words, no articles.

    A punctuation mark beside a space is dropped, one between letters becomes a space; where a comma stands between
    digits, all marks are dropped. A period stays only before a digit.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    thousands = _THOUSANDS.search(text) is not None
    bare = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_space or thousands else " ")
    bare = _LONE_PERIOD.sub("", bare)
    words = (DIGITS.get(word, word) for word in bare.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_scores(answers: Iterable[str], label: Mapping[str, int]) -> dict[int, float]:
    """Return label -> soft score of one question's annotated answers.

    Answers count together where their normal form is one answer of the vocabulary; an answer whose normal form is not
    in it counts as it is written, so that a vocabulary with other spellings works too.
    """
    counts = Counter(normal if (normal := normal_answer(answer)) in label else answer for answer in answers)
    return {
        label[answer]: SOFT_SCORES[min(count, len(SOFT_SCORES) - 1)]
        for answer, count in counts.items()
        if answer in label
    }
