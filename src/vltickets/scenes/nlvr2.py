"""Sentences on pairs of pictures in NLVR2's format, balanced so that a sentence by itself tells nothing.

A set has two sentences and four pairs of pictures, and each sentence is true of exactly two pairs: one pair makes both
true, one makes both false, and two make one of them true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import draw
from vltickets.scenes.files import write_json_lines, write_pictures, write_regions
from vltickets.scenes.grammar import MAX_WORDS, draw_wording, say_of_pair
from vltickets.scenes.pairs import PICTURES, ComparePictures, InPictures, PairStatement, TotalIs
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import any_object, describe, true_relation
from vltickets.scenes.statements import COMPARISONS, CountIs, Description, Exists, value_name
from vltickets.scenes.world import (
    MAX_OBJECTS,
    SHAPE,
    Scene,
    below,
    edited_scene,
    random_stream,
    sample_scenes,
    shuffled,
)

SENTENCES_PER_SET = 2
PAIRS_PER_SET = 4
EXAMPLES_PER_SET = SENTENCES_PER_SET * PAIRS_PER_SET
CANDIDATE_PAIRS = 24
SECOND_SENTENCE_TRIES = 8

ScenePair = tuple[Scene, Scene]


@dataclass(frozen=True, slots=True)
class PairSet:
    """Two sentences, four pairs of scenes, and for each sentence its truth of each pair."""

    sentences: tuple[str, ...]
    pairs: tuple[ScenePair, ...]
    truths: tuple[tuple[bool, ...], ...]


def write_nlvr2(folder: Path, split: str, *, seed: int, examples: int, pictures: bool = False) -> None:
    """Write `nlvr2/<split>.json` and `nlvr2/regions_<split>/` under `folder`.

    Scenes have 2 to 5 objects. Identifiers are `<split>-<set>-<pair>-<sentence>`: the same set and sentence with
    another pair is the same sentence, so consistency can be counted. The last set may be cut short.
    """
    if examples < 1:
        raise ValueError(f"examples must be at least 1, not {examples}")
    rng = random_stream(seed, split, "nlvr2/sets")
    rows: list[dict[str, object]] = []
    names: list[str] = []
    scenes: list[Scene] = []
    for index in range(-(-examples // EXAMPLES_PER_SET)):
        drawn = sample_set(rng)
        new = set_rows(drawn, split, index, rng)[: examples - len(rows)]
        rows += new
        used = {int(str(row["identifier"]).split("-")[-2]) for row in new}
        for pair in sorted(used):
            scenes += drawn.pairs[pair]
            names += [f"nlvr2_{split}-{index}-{pair}-img{side}.npz" for side in range(2)]
    where = folder / "nlvr2"
    write_json_lines(where / f"{split}.json", rows)
    regions = detect_all(scenes, random_stream(seed, split, "nlvr2/regions"))
    write_regions(where / f"regions_{split}", names, regions)
    if pictures:
        write_pictures(where / f"pictures_{split}", names, [draw(scene) for scene in scenes])


def sample_set(rng: np.random.Generator) -> PairSet:
    """Return a set whose four pairs make its two sentences true in all four combinations, in random order."""
    while True:
        pool = related_scenes(rng)
        pairs = _candidate_pairs(pool, rng)
        first = _useful_sentence(pool, pairs, rng)
        for _ in range(SECOND_SENTENCE_TRIES):
            second = _useful_sentence(pool, pairs, rng)
            if first is None or second is None or first[0] == second[0]:
                continue
            chosen = _one_pair_of_each_kind(first[1], second[1])
            if chosen is not None:
                chosen = shuffled(rng, chosen)
                truths = tuple(tuple(truth[index] for index in chosen) for _, truth in (first, second))
                return PairSet((first[0], second[0]), tuple(pairs[index] for index in chosen), truths)


def set_rows(drawn: PairSet, split: str, index: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """Return the set's examples in the official fields, true and false in turn, so that a cut set stays balanced."""
    writer, *validators = (str(number) for number in rng.permutation(200)[:6].tolist())
    subject = value_name(SHAPE, drawn.pairs[0][0].objects[0].values[SHAPE])
    rows: list[dict[str, object]] = []
    for sentence, (text, truths) in enumerate(zip(drawn.sentences, drawn.truths, strict=True)):
        true, false = ([pair for pair, truth in enumerate(truths) if truth is wanted] for wanted in (True, False))
        for pair in (true[0], false[0], true[1], false[1]):
            label = str(truths[pair])
            rows.append(
                {
                    "validation": {validators[0]: label},
                    "sentence": text,
                    "left_url": f"world://nlvr2/{split}/{index}/{pair}/0",
                    "writer": writer,
                    "label": label,
                    "right_url": f"world://nlvr2/{split}/{index}/{pair}/1",
                    "synset": subject,
                    "query": f"some {subject} pictures{index}",
                    "identifier": f"{split}-{index}-{pair}-{sentence}",
                    "extra_validations": dict.fromkeys(validators[1:], label),
                }
            )
    return rows


def related_scenes(rng: np.random.Generator) -> list[Scene]:
    """Return twelve scenes: three fresh ones and edits of them, so that most pictures of a set are near misses."""
    pool = sample_scenes(rng, rng.integers(2, MAX_OBJECTS + 1, 3).tolist())
    while len(pool) < 12:
        pool.append(edited_scene(pool[below(rng, len(pool))], rng))
    return pool


def sample_pair_statement(pool: Sequence[Scene], rng: np.random.Generator) -> PairStatement | None:
    """Return something that one may say of two pictures of the pool, true or not."""
    scene = pool[below(rng, len(pool))]
    kind = rng.random()
    description = describe(rng, any_object(rng, scene), 1 + below(rng, 2))
    if kind < 0.2:
        return ComparePictures(description, COMPARISONS[below(rng, len(COMPARISONS))])
    if kind < 0.35:
        return TotalIs(description, 1 + below(rng, 4))
    pictures = PICTURES[below(rng, len(PICTURES))]
    if kind < 0.55:
        return InPictures(pictures, CountIs(description, 1 + below(rng, 3)))
    if kind < 0.75:
        relation = true_relation(rng, scene)
        return InPictures(pictures, relation) if relation else None
    return InPictures(pictures, Exists(_richer(rng, scene, description)))


def _richer(rng: np.random.Generator, scene: Scene, description: Description) -> Description:
    """Return a description of two or three attributes: with one only, nearly every picture would match."""
    return describe(rng, any_object(rng, scene), 1 + len(description.attributes))


def _candidate_pairs(pool: Sequence[Scene], rng: np.random.Generator) -> list[ScenePair]:
    size = len(pool)
    lefts = rng.integers(0, size, CANDIDATE_PAIRS)
    rights = (lefts + rng.integers(1, size, CANDIDATE_PAIRS)) % size
    return [(pool[left], pool[right]) for left, right in zip(lefts.tolist(), rights.tolist(), strict=True)]


def _useful_sentence(
    pool: Sequence[Scene], pairs: Sequence[ScenePair], rng: np.random.Generator
) -> tuple[str, list[bool]] | None:
    """Return a sentence and its truth of each pair, or None unless it is true of at least two and false of two."""
    statement = sample_pair_statement(pool, rng)
    if statement is None:
        return None
    truths = [statement.holds(left, right) for left, right in pairs]
    text = say_of_pair(statement, draw_wording(rng))
    return (text, truths) if 2 <= sum(truths) <= len(pairs) - 2 and text.count(" ") < MAX_WORDS else None


def _one_pair_of_each_kind(first: Sequence[bool], second: Sequence[bool]) -> list[int] | None:
    """Return the index of a pair for each of the four combinations of truths, or None if one does not occur."""
    by_kind = {kind: index for index, kind in enumerate(zip(first, second, strict=True))}
    return list(by_kind.values()) if len(by_kind) == PAIRS_PER_SET else None
