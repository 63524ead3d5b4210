"""Visual questions in VQA v2's format, with answers as evenly spread as the world allows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import draw
from vltickets.scenes.files import write_json, write_pictures, write_regions
from vltickets.scenes.grammar import MAX_WORDS, ask, draw_wording, value_synonyms
from vltickets.scenes.names import first_image_id, image_stem
from vltickets.scenes.questions import ANSWERS, AskAttribute, AskCount, AskWhether, Question, answer_type
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import (
    COUNTED_ATTRIBUTES,
    MAX_TRIES,
    any_object,
    counted_description,
    false_version,
    true_exists,
    true_relation,
    unique_description,
)
from vltickets.scenes.statements import (
    COMPARISONS,
    MAX_NUMBER,
    CompareCounts,
    Description,
    SameAttribute,
    Statement,
    value_name,
)
from vltickets.scenes.world import (
    ATTRIBUTES,
    MAX_OBJECTS,
    VALUE_COUNTS,
    VALUE_NAMES,
    WORLD_VERSION,
    Scene,
    below,
    random_stream,
    sample_scenes,
    shuffled,
)

QUESTIONS_PER_IMAGE = 3
LOOK_AHEAD = 12
ANNOTATORS = 10
MOST_DISSENTERS = 3
NO_ANSWER = "not sure"
# Shares in percent. Questions with two possible answers (size, material) are few: they are half won by guessing.
KIND_SHARES = {
    "exists": 14,
    "relation": 14,
    "compare": 8,
    "same": 6,
    "count": 24,
    "shape": 12,
    "color": 14,
    "size": 4,
    "material": 4,
}
# The official question types that this grammar's questions begin with.
QUESTION_TYPES = (
    "are there",
    "can you",
    "does the",
    "how",
    "how many",
    "is a",
    "is the",
    "is there a",
    "what color is the",
    "what is the",
    "what",
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A question wanted next: its kind, its answer, and a detail that only some kinds use.

    The detail is the comparison (an index into `COMPARISONS`), the attribute that is compared, or the attributes of a
    count (an index into `COUNTED_ATTRIBUTES`). It is fixed together with the answer, so it gives no hint of it.
    """

    kind: str
    answer: str
    detail: int = 0


def write_vqa(folder: Path, split: str, *, seed: int, questions: int, pictures: bool = False) -> None:
    """Write a split's questions, annotations and regions, and `ans2label.json`, to `vqa/` under `folder`.

    Scenes have 2 to 5 objects; three questions are asked of most. Question ids are image id * 1000 + 0, 1, 2.
    """
    if questions < 1:
        raise ValueError(f"questions must be at least 1, not {questions}")
    asked = sample_questions(random_stream(seed, split, "vqa/questions"), questions)
    rng = random_stream(seed, split, "vqa/answers")
    first = first_image_id("vqa", split)
    question_rows, annotation_rows = [], []
    for index, (scene, batch) in enumerate(asked):
        image_id = first + index
        for number, (question, text) in enumerate(batch):
            question_id = image_id * 1000 + number
            question_rows.append({"image_id": image_id, "question": text, "question_id": question_id})
            identity = {"image_id": image_id, "question_id": question_id}
            annotation_rows.append({**annotation(question, text, scene, rng), **identity})
    info = {"description": f"vltickets world questions, {split}", "version": str(WORLD_VERSION), "seed": seed}
    head = {"info": info, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": split}
    where = folder / "vqa"
    write_json(where / f"v2_OpenEnded_mscoco_{split}_questions.json", {**head, "questions": question_rows})
    write_json(where / f"v2_mscoco_{split}_annotations.json", {**head, "annotations": annotation_rows})
    write_json(where / "ans2label.json", {answer: label for label, answer in enumerate(ANSWERS)})
    names = [f"{image_stem(split, first + index)}.npz" for index in range(len(asked))]
    regions = detect_all([scene for scene, _ in asked], random_stream(seed, split, "vqa/regions"))
    write_regions(where / f"regions_{split}", names, regions)
    if pictures:
        write_pictures(where / f"pictures_{split}", names, [draw(scene) for scene, _ in asked])


def sample_questions(rng: np.random.Generator, number: int) -> list[tuple[Scene, list[tuple[Question, str]]]]:
    """Return scenes with the questions asked of each, in structure and in words, `number` questions in all.

    Answers are wished for first, in even numbers, and scenes are drawn until each wish is met: an answer that few
    scenes give is as frequent as one that most give.
    """
    wishes = deque(sample_wishes(rng, number))
    asked = []
    for scene in _endless_scenes(rng):
        batch: list[tuple[Question, str]] = []
        put_off: list[Wish] = []
        while wishes and len(batch) < QUESTIONS_PER_IMAGE and len(put_off) < LOOK_AHEAD:
            wish = wishes.popleft()
            found = _worded(rng, meet(wish, scene, rng))
            if found is None or found in batch:
                put_off.append(wish)
            else:
                batch.append(found)
        wishes.extendleft(reversed(put_off))
        if batch:
            asked.append((scene, batch))
        if not wishes:
            break
    return asked


def sample_wishes(rng: np.random.Generator, number: int) -> list[Wish]:
    """Return `number` wishes in random order: each kind has its share, and its answers and details come evenly."""
    wishes: list[Wish] = []
    total, reached = sum(KIND_SHARES.values()), 0
    for kind, share in KIND_SHARES.items():
        reached += share
        wanted = number * reached // total - len(wishes)
        options = shuffled(rng, _options(kind))
        wishes += [options[index % len(options)] for index in range(wanted)]
    return shuffled(rng, wishes)


def meet(wish: Wish, scene: Scene, rng: np.random.Generator) -> Question | None:
    """Return a question of the scene as wished for, or None when the scene offers none at the first try."""
    if wish.kind == "count":
        attributes = COUNTED_ATTRIBUTES[wish.detail]
        description = counted_description(rng, scene, int(wish.answer), attributes)
        return AskCount(description) if description else None
    if wish.kind in ATTRIBUTES:
        return _ask_attribute(scene, ATTRIBUTES.index(wish.kind), wish.answer, rng)
    statement: Statement | None
    if wish.kind == "compare":
        statement = _comparison(scene, COMPARISONS[wish.detail], rng)
    elif wish.kind == "same":
        statement = _same_attribute(scene, wish.detail, rng)
    else:
        exists = wish.kind == "exists"
        statement = true_exists(rng, scene, 2 + below(rng, 2)) if exists else true_relation(rng, scene)
        if statement and wish.answer == "no":
            found = false_version(rng, statement, scene)
            statement = found[0] if found else None
    if statement is None or statement.holds(scene) != (wish.answer == "yes"):
        return None
    return AskWhether(statement)


def annotation(question: Question, text: str, scene: Scene, rng: np.random.Generator) -> dict[str, object]:
    """Return an official annotation, without its ids: ten people's answers, at least seven of them the true one."""
    truth = question.answer(scene)
    if truth is None:
        raise ValueError(f"the scene has no answer to {text!r}")
    kind = answer_type(question)
    answers = [truth] * ANNOTATORS
    for index in range(below(rng, MOST_DISSENTERS + 1)):
        answers[index] = _dissent(truth, rng)
    rows = [
        {"answer": answer, "answer_confidence": "yes" if rng.random() < 0.9 else "maybe", "answer_id": place}
        for place, answer in enumerate(shuffled(rng, answers), start=1)
    ]
    return {
        "question_type": max((start for start in QUESTION_TYPES if text.startswith(start)), key=len),
        "multiple_choice_answer": truth,
        "answers": rows,
        "answer_type": kind,
    }


def _options(kind: str) -> list[Wish]:
    if kind == "count":
        numbers = range(MAX_NUMBER + 1)
        return [Wish(kind, str(number), detail) for detail in range(len(COUNTED_ATTRIBUTES)) for number in numbers]
    if kind in ATTRIBUTES:
        return [Wish(kind, name) for name in VALUE_NAMES[ATTRIBUTES.index(kind)]]
    details = {"compare": len(COMPARISONS), "same": len(ATTRIBUTES)}.get(kind, 1)
    return [Wish(kind, answer, detail) for detail in range(details) for answer in ("yes", "no")]


def _endless_scenes(rng: np.random.Generator) -> Iterator[Scene]:
    while True:
        yield from sample_scenes(rng, rng.integers(2, MAX_OBJECTS + 1, 500).tolist())


def _worded(rng: np.random.Generator, question: Question | None) -> tuple[Question, str] | None:
    """Return the question with words for it that are few enough, or None."""
    for _ in range(MAX_TRIES if question else 0):
        text = ask(question, draw_wording(rng)) if question else ""
        if text.count(" ") < MAX_WORDS:
            return (question, text) if question else None
    return None


def _ask_attribute(scene: Scene, attribute: int, answer: str, rng: np.random.Generator) -> Question | None:
    thing = any_object(rng, scene)
    if value_name(attribute, thing.values[attribute]) != answer:
        return None
    description = unique_description(rng, scene, thing, without=attribute)
    return AskAttribute(description, attribute) if description else None


def _comparison(scene: Scene, comparison: str, rng: np.random.Generator) -> Statement:
    """Return a comparison of the objects with two values of one attribute; at least one of the two occurs."""
    attribute = below(rng, len(ATTRIBUTES))
    first = any_object(rng, scene).values[attribute]
    second = (first + 1 + below(rng, VALUE_COUNTS[attribute] - 1)) % VALUE_COUNTS[attribute]
    sides = [Description((None,) * 4).changed(attribute, value) for value in shuffled(rng, (first, second))]
    return CompareCounts(sides[0], comparison, sides[1])


def _same_attribute(scene: Scene, attribute: int, rng: np.random.Generator) -> Statement | None:
    things = list(islice(shuffled(rng, scene.objects), 2))
    sides = [unique_description(rng, scene, thing, without=attribute) for thing in things]
    return SameAttribute(sides[0], sides[1], attribute) if sides[0] and sides[1] else None


def _dissent(truth: str, rng: np.random.Generator) -> str:
    """Return another word for the true answer, or no answer.

    Never another answer of the vocabulary: by the official soft score one dissenter alone gives that answer 0.3, and a
    blind model would gain from guessing.
    """
    synonyms = value_synonyms(truth)
    return synonyms[0] if synonyms and rng.random() < 0.5 else NO_ANSWER
