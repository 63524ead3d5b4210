"""Words for statements, questions and pair sentences. Wording never depends on whether what is said is true.

A wording is one integer. It is read two bits at a time, each time there is a choice between paraphrases, so a statement
and its foil, which have the same structure, come out word for word alike except for what was corrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vltickets.scenes.pairs import ComparePictures, InPictures, PairStatement, TotalIs
from vltickets.scenes.questions import AskAttribute, AskCount, AskWhether, Question
from vltickets.scenes.statements import (
    Caption,
    CompareCounts,
    CountIs,
    Description,
    Exists,
    HasAttribute,
    Relation,
    SameAttribute,
    Statement,
)
from vltickets.scenes.world import ATTRIBUTES, COLOR, MATERIAL, SHAPE, SIZE

MAX_WORDS = 12
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Paraphrases come in ones, twos or fours, because two bits choose among them evenly.
VALUE_WORDS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("cube", "block"), ("ball", "sphere"), ("ring", "hoop"), ("cone",), ("cross",)),
    (("red",), ("green",), ("blue",), ("yellow", "golden"), ("purple", "violet"), ("cyan", "turquoise")),
    (("big", "large"), ("small", "tiny")),
    (("wood", "wooden"), ("metal",)),
)
ANY_OBJECT = ("object", "thing")
RELATION_WORDS = (
    ("left of", "to the left of"),
    ("right of", "to the right of"),
    ("above", "over"),
    ("below", "under"),
)
NUMBER_WORDS = ("no", "one", "two", "three", "four")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "exists": ("there is a {0}", "the picture shows a {0}", "the picture has a {0}", "you can see a {0}"),
    "count one": ("there is {0}", "the picture shows {0}", "the picture has {0}", "you can see {0}"),
    "count": ("there are {0}", "the picture shows {0}", "the picture has {0}", "you can see {0}"),
    "relation": ("a {0} is {1} a {2}", "there is a {0} {1} a {2}"),
    "has shape": ("the {0} is a {1}", "the shape of the {0} is a {1}"),
    "has color": ("the {0} is {1}", "the color of the {0} is {1}"),
    "has size": ("the {0} is {1}", "the size of the {0} is {1}"),
    "has material": ("the {0} is {1}", "the {0} is made of {1}"),
    "ask exists": ("is there a {0}", "does the picture show a {0}", "can you see a {0}", "is a {0} in the picture"),
    "ask relation": ("is a {0} {1} a {2}", "is there a {0} {1} a {2}"),
    "ask more": ("are there more {0} than {1}", "does the picture show more {0} than {1}"),
    "ask fewer": ("are there fewer {0} than {1}", "does the picture show fewer {0} than {1}"),
    "ask same": ("are there as many {0} as {1}", "does the picture show as many {0} as {1}"),
    "ask same attribute": ("is the {0} the same {2} as the {1}", "does the {0} have the same {2} as the {1}"),
    "ask count": ("how many {0} are there", "how many {0} can you see"),
    "ask shape": ("what shape is the {0}", "what is the shape of the {0}"),
    "ask color": ("what color is the {0}", "what is the color of the {0}"),
    "ask size": ("what size is the {0}", "how big is the {0}"),
    "ask material": ("what material is the {0}", "what is the {0} made of"),
    "in left": ("the left picture {shows} {0}", "the left image {shows} {0}"),
    "in right": ("the right picture {shows} {0}", "the right image {shows} {0}"),
    "in both": ("both pictures {show} {0}", "both images {show} {0}"),
    "in one": ("only one picture {shows} {0}", "only one image {shows} {0}"),
    "in neither": ("neither picture {shows} {0}", "neither image {shows} {0}"),
    "pair more": (
        "the left picture {shows} more {0} than the right picture",
        "there are more {0} in the left picture than the right",
    ),
    "pair fewer": (
        "the left picture {shows} fewer {0} than the right picture",
        "there are fewer {0} in the left picture than the right",
    ),
    "pair same": ("both pictures {show} the same number of {0}", "the two pictures {show} the same number of {0}"),
    "total one": ("there is {0} in total", "the pictures {show} {0} in total"),
    "total": ("there are {0} in total", "the pictures {show} {0} in total"),
}
VERBS = {"shows": ("shows", "contains"), "show": ("show", "contain")}
EXACTLY = "exactly"


def draw_wording(rng: np.random.Generator) -> int:
    """Return a random wording: enough bits for the longest sentence."""
    return int(rng.random() * 2**52)


def say(caption: Caption, wording: int) -> str:
    """Return the caption in words: lower case, single spaces, no punctuation."""
    words = Words(wording)
    if caption.listed:
        return " ".join(f"a {words.noun(s.description)}" for s in caption.statements if isinstance(s, Exists))
    return " and ".join(words.statement(statement) for statement in caption.statements)


def ask(question: Question, wording: int) -> str:
    """Return the question in words, without a question mark."""
    words = Words(wording)
    match question:
        case AskWhether(statement=statement):
            return words.whether(statement)
        case AskCount(description=description):
            return words.sentence("ask count", words.plural(description))
        case AskAttribute(description=description, attribute=attribute):
            return words.sentence(f"ask {ATTRIBUTES[attribute]}", words.noun(description))


def say_of_pair(statement: PairStatement, wording: int) -> str:
    """Return the sentence on a pair of pictures in words."""
    words = Words(wording)
    match statement:
        case InPictures(pictures=pictures, statement=said):
            return words.sentence(f"in {pictures}", words.shown(said))
        case ComparePictures(description=description, comparison=comparison):
            return words.sentence(f"pair {comparison}", words.plural(description))
        case TotalIs(description=description, number=number):
            return words.sentence("total one" if number == 1 else "total", words.counted(description, number))


def vocabulary() -> list[str]:
    """Return the special tokens and then every word of the grammar, sorted."""
    sources = [*_nested(VALUE_WORDS), *ANY_OBJECT, *_nested(RELATION_WORDS), *NUMBER_WORDS, *ATTRIBUTES, EXACTLY, "and"]
    sources += [_plural(word) for word in (*ANY_OBJECT, *_nested(VALUE_WORDS[SHAPE]))]
    sources += [*_nested(TEMPLATES.values()), *_nested(VERBS.values())]
    words = {word for source in sources for word in source.split() if not word.startswith("{")}
    return [*SPECIAL_TOKENS, *sorted(words)]


def value_synonyms(name: str) -> tuple[str, ...]:
    """Return the other words for an attribute value's canonical name."""
    return next((words[1:] for values in VALUE_WORDS for words in values if words[0] == name), ())


class Words:
    """Reads one wording from its low bits upwards; every method that chooses takes two bits for each choice."""

    def __init__(self, wording: int) -> None:
        self._bits = wording

    def choose(self, options: Sequence[str]) -> str:
        """Return one of one, two or four options."""
        chosen = options[(self._bits & 3) % len(options)]
        self._bits >>= 2
        return chosen

    def sentence(self, template: str, *pieces: str) -> str:
        # The template's and verb's bits come after the pieces', so the order is the same for a statement and its foil.
        chosen = self.choose(TEMPLATES[template])
        if "{show" in chosen:
            return chosen.format(*pieces, **{verb: self.choose(options) for verb, options in VERBS.items()})
        return chosen.format(*pieces)

    def noun(self, description: Description, inflect: Callable[[str], str] = str) -> str:
        """Return the description in words, without an article."""
        values = description.values
        words = [self.value(attribute, values[attribute]) for attribute in (SIZE, COLOR, MATERIAL)]
        noun = self.choose(ANY_OBJECT) if values[SHAPE] is None else self.value(SHAPE, values[SHAPE])
        return " ".join([word for word in words if word] + [inflect(noun)])

    def plural(self, description: Description) -> str:
        return self.noun(description, _plural)

    def value(self, attribute: int, value: int | None) -> str:
        """Return a word for an attribute's value, none for None."""
        return "" if value is None else self.choose(VALUE_WORDS[attribute][value])

    def counted(self, description: Description, number: int) -> str:
        return f"{NUMBER_WORDS[number]} {self.noun(description) if number == 1 else self.plural(description)}"

    def statement(self, statement: Statement) -> str:
        match statement:
            case Exists(description=description):
                return self.sentence("exists", self.noun(description))
            case CountIs(description=description, number=number):
                return self.sentence("count one" if number == 1 else "count", self.counted(description, number))
            case Relation():
                return self.sentence("relation", *self._related(statement))
            case HasAttribute(description=description, attribute=attribute, value=value):
                return self.sentence(
                    f"has {ATTRIBUTES[attribute]}", self.noun(description), self.value(attribute, value)
                )
        raise TypeError(f"no words to state a {type(statement).__name__}: it is only asked")

    def whether(self, statement: Statement) -> str:
        match statement:
            case Exists(description=description):
                return self.sentence("ask exists", self.noun(description))
            case Relation():
                return self.sentence("ask relation", *self._related(statement))
            case CompareCounts(first=first, comparison=comparison, second=second):
                return self.sentence(f"ask {comparison}", self.plural(first), self.plural(second))
            case SameAttribute(first=first, second=second, attribute=attribute):
                return self.sentence("ask same attribute", self.noun(first), self.noun(second), ATTRIBUTES[attribute])
        raise TypeError(f"no words to ask about a {type(statement).__name__}")

    def shown(self, statement: Exists | CountIs | Relation) -> str:
        match statement:
            case Exists(description=description):
                return f"a {self.noun(description)}"
            case CountIs(description=description, number=number):
                return f"{EXACTLY} {self.counted(description, number)}"
            case Relation():
                first, relation, second = self._related(statement)
                return f"a {first} {relation} a {second}"

    def _related(self, statement: Relation) -> tuple[str, str, str]:
        first = self.noun(statement.first)
        return first, self.choose(RELATION_WORDS[statement.relation]), self.noun(statement.second)


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def _nested(groups: object) -> list[str]:
    """Return the strings of a nested collection, depth first."""
    if isinstance(groups, str):
        return [groups]
    return [text for group in groups for text in _nested(group)]  # type: ignore[attr-defined]
