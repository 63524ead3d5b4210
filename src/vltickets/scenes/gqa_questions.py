"""GQA's questions as structures that know their answer, their words and their official record."""

from __future__ import annotations

from dataclasses import dataclass

from vltickets.scenes.grammar import Words
from vltickets.scenes.located import Located, Phrase, say_phrase
from vltickets.scenes.statements import RELATIONS, Description, stands_in_relation, value_name
from vltickets.scenes.world import ATTRIBUTES, SHAPE, VALUE_NAMES, Scene, SceneObject

GQA_ANSWERS = tuple(sorted(["yes", "no", *RELATIONS, *(name for names in VALUE_NAMES for name in names)]))
"""Every answer, sorted; the position is the answer's label."""

GQA_TEMPLATES: dict[str, tuple[str, ...]] = {
    "query 0": ("what is the {0}", "what shape is the {0}"),
    "query 1": ("what color is the {0}", "what is the color of the {0}"),
    "query 2": ("what size is the {0}", "how big is the {0}"),
    "query 3": ("what material is the {0}", "what is the {0} made of"),
    "verify 0": ("is the {0} a {1}",),
    "verify": ("is the {0} {1}",),
    "both": ("is the {0} {1} and {2}",),
    "exist": ("is there a {0} and a {1}", "can you see a {0} and a {1}"),
    "compare": ("is the {0} the same {2} as the {1}", "does the {0} have the same {2} as the {1}"),
    "choose": ("how is the {0} to the {1}",),
}


@dataclass(frozen=True, slots=True)
class Query:
    """Which value of the attribute has the object?"""

    phrase: Phrase
    attribute: int

    def answer(self, scene: Scene) -> str | None:
        """Return the value's name, or None where not exactly one object is meant."""
        thing = only(self.phrase, scene)
        return value_name(self.attribute, thing.values[self.attribute]) if thing else None


@dataclass(frozen=True, slots=True)
class Verify:
    """Has the object this value?"""

    phrase: Phrase
    attribute: int
    value: int

    def answer(self, scene: Scene) -> str | None:
        """Return "yes" or "no", or None where not exactly one object is meant."""
        thing = only(self.phrase, scene)
        return _yes_no(thing.values[self.attribute] == self.value) if thing else None


@dataclass(frozen=True, slots=True)
class VerifyBoth:
    """Has the object both these values?"""

    phrase: Phrase
    attributes: tuple[int, int]
    values: tuple[int, int]

    def answer(self, scene: Scene) -> str | None:
        """Return "yes" or "no", or None where not exactly one object is meant."""
        thing = only(self.phrase, scene)
        pairs = zip(self.attributes, self.values, strict=True)
        return _yes_no(all(thing.values[attribute] == value for attribute, value in pairs)) if thing else None


@dataclass(frozen=True, slots=True)
class ExistBoth:
    """Are there objects as described first and as described second?"""

    first: Description
    second: Description

    def answer(self, scene: Scene) -> str | None:
        """Return "yes" or "no"."""
        return _yes_no(self.first.count(scene) > 0 and self.second.count(scene) > 0)


@dataclass(frozen=True, slots=True)
class Compare:
    """Do two objects agree in the attribute?"""

    first: Phrase
    second: Phrase
    attribute: int

    def answer(self, scene: Scene) -> str | None:
        """Return "yes" or "no", or None where the phrases do not single out two objects."""
        first, second = only(self.first, scene), only(self.second, scene)
        if first is None or second is None or first is second:
            return None
        return _yes_no(first.values[self.attribute] == second.values[self.attribute])


@dataclass(frozen=True, slots=True)
class Choose:
    """How does the first object stand to the second?"""

    first: Description
    second: Description

    def answer(self, scene: Scene) -> str | None:
        """Return the one relation's name, or None where the objects are not two or stand in none or two."""
        first, second = only(self.first, scene), only(self.second, scene)
        if first is None or second is None or first is second:
            return None
        held = [name for index, name in enumerate(RELATIONS) if stands_in_relation(first, index, second)]
        return held[0] if len(held) == 1 else None


GqaQuestion = Query | Verify | VerifyBoth | ExistBoth | Compare | Choose


def only(phrase: Phrase, scene: Scene) -> SceneObject | None:
    """Return the one object that the phrase means, or None."""
    found = phrase.find(scene)
    return found[0] if len(found) == 1 else None


def ask_gqa(question: GqaQuestion, wording: int) -> str:
    """Return the question in words, without a question mark."""
    words = Words(wording)
    match question:
        case Query(phrase=phrase, attribute=attribute):
            return _fill(words, f"query {attribute}", say_phrase(words, phrase))
        case Verify(phrase=phrase, attribute=attribute, value=value):
            template = "verify 0" if attribute == SHAPE else "verify"
            return _fill(words, template, say_phrase(words, phrase), words.value(attribute, value))
        case VerifyBoth(phrase=phrase, attributes=attributes, values=values):
            said = [words.value(attribute, value) for attribute, value in zip(attributes, values, strict=True)]
            return _fill(words, "both", say_phrase(words, phrase), *said)
        case ExistBoth(first=first, second=second):
            return _fill(words, "exist", words.noun(first), words.noun(second))
        case Compare(first=one, second=other, attribute=attribute):
            return _fill(words, "compare", say_phrase(words, one), say_phrase(words, other), ATTRIBUTES[attribute])
        case Choose(first=first, second=second):
            return _fill(words, "choose", words.noun(first), words.noun(second))


def record(question: GqaQuestion, text: str, scene: Scene, identity: str, image: str) -> dict[str, object]:
    """Return the question's official record. Raises `ValueError` where the scene has no answer to it."""
    answer = question.answer(scene)
    if answer is None:
        raise ValueError(f"the scene has no answer to {text!r}")
    structural, semantic, detailed = types(question)
    steps = program(question)
    return {
        "semantic": steps,
        "entailed": [],
        "equivalent": [identity],
        "question": text,
        "imageId": image,
        "isBalanced": True,
        "groups": {"global": None, "local": f"{len(steps)}-{detailed}"},
        "answer": answer,
        "semanticStr": "->".join(_step_text(step) for step in steps),
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"structural": structural, "semantic": semantic, "detailed": detailed},
        "fullAnswer": answer,
    }


def types(question: GqaQuestion) -> tuple[str, str, str]:
    """Return GQA's structural, semantic and detailed type."""
    match question:
        case Query(attribute=attribute):
            return ("query", "rel" if attribute == SHAPE else "attr", f"query{ATTRIBUTES[attribute].title()}")
        case Verify(attribute=attribute):
            return "verify", "attr", f"verify{ATTRIBUTES[attribute].title()}"
        case VerifyBoth():
            return "logical", "attr", "verifyAttrAnd"
        case ExistBoth():
            return "logical", "obj", "existAnd"
        case Compare(attribute=attribute):
            return "compare", "attr", f"two{'Same' if attribute else 'SameShape'}"
        case Choose():
            return "choose", "rel", "chooseRel"


def program(question: GqaQuestion) -> list[dict[str, object]]:
    """Return the question's functional program in GQA's form: steps with the indices of those they depend on."""
    steps: list[dict[str, object]] = []
    match question:
        case Query(phrase=phrase, attribute=attribute):
            _step(steps, "query", ATTRIBUTES[attribute], _select(steps, phrase))
        case Verify(phrase=phrase, attribute=attribute, value=value):
            _step(steps, f"verify {ATTRIBUTES[attribute]}", value_name(attribute, value), _select(steps, phrase))
        case VerifyBoth(phrase=phrase, attributes=attributes, values=values):
            meant = _select(steps, phrase)
            pairs = zip(attributes, values, strict=True)
            checks = [_step(steps, f"verify {ATTRIBUTES[a]}", value_name(a, value), meant) for a, value in pairs]
            _step(steps, "and", "", *checks)
        case ExistBoth(first=first, second=second):
            checks = [_step(steps, "exist", "?", _select(steps, side)) for side in (first, second)]
            _step(steps, "and", "", *checks)
        case Compare(first=one, second=other, attribute=attribute):
            _step(steps, f"same {ATTRIBUTES[attribute]}", "", _select(steps, one), _select(steps, other))
        case Choose(first=first, second=second):
            _step(steps, "choose rel", "|".join(RELATIONS), _select(steps, first), _select(steps, second))
    return steps


def _select(steps: list[dict[str, object]], phrase: Phrase) -> int:
    """Add the steps that find the phrase's object and return the index of the last."""
    if isinstance(phrase, Located):
        head, anchor = phrase.head, _select(steps, phrase.anchor)
        last = _step(steps, "relate", f"{_shape(head)},{RELATIONS[phrase.relation]},s", anchor)
    else:
        head = phrase
        last = _step(steps, "select", _shape(head))
    for attribute, value in enumerate(head.values):
        if attribute != SHAPE and value is not None:
            last = _step(steps, f"filter {ATTRIBUTES[attribute]}", value_name(attribute, value), last)
    return last


def _shape(head: Description) -> str:
    shape = head.values[SHAPE]
    return "_" if shape is None else value_name(SHAPE, shape)


def _step(steps: list[dict[str, object]], operation: str, argument: str, *dependencies: int) -> int:
    steps.append({"operation": operation, "dependencies": list(dependencies), "argument": argument})
    return len(steps) - 1


def _step_text(step: dict[str, object]) -> str:
    depends = f" {step['dependencies']}" if step["dependencies"] else ""
    return f"{step['operation']}: {step['argument']}{depends}"


def _fill(words: Words, template: str, *pieces: str) -> str:
    return words.choose(GQA_TEMPLATES[template]).format(*pieces)


def _yes_no(truth: bool) -> str:
    return "yes" if truth else "no"
