"""The caption corpus in COCO's format: true captions, each with a foil in the same wording, and detected regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import PICTURE_SIDE, draw
from vltickets.scenes.files import write_json, write_pictures, write_regions
from vltickets.scenes.grammar import MAX_WORDS, draw_wording, say
from vltickets.scenes.names import first_image_id, image_stem
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import (
    COUNTED_ATTRIBUTES,
    counted_description,
    describe,
    false_version,
    true_attribute,
    true_exists,
    true_relation,
)
from vltickets.scenes.statements import Caption, CountIs, Exists, Statement
from vltickets.scenes.world import MAX_OBJECTS, WORLD_VERSION, Scene, below, random_stream, sample_scenes, shuffled

LIST_SHARE = 0.5
# Scenes of one object come first among equals: with nothing to confuse it with, a word finds its region's attribute.
OBJECT_SHARES = (0.3, 0.25, 0.2, 0.15, 0.1)
# Kinds of statement in the sentences: existence, relation, attribute, count.
KIND_SHARES = (0.15, 0.4, 0.15, 0.3)
TRIES_PER_KIND = 4
SECOND_STATEMENT_SHARE = 0.4
# How often each number is tried. Higher ones fit fewer scenes, so they are tried more often and come out evenly: were
# three rare in true captions, foils would give themselves away by it.
NUMBER_TRIES = (0.045, 0.155, 0.80)


_KIND_STEPS = np.cumsum(KIND_SHARES)[:-1]


def write_captions(
    folder: Path, split: str, *, seed: int, scenes: int, captions_per_scene: int = 3, pictures: bool = False
) -> None:
    """Write `captions/captions_<split>.json` and `captions/regions_<split>/` under `folder`.

    Scenes have 1 to 5 objects. Each annotation has, beside COCO's fields, `foil`: the same caption with one thing
    changed so that it is false; and `foil_kind`: which ("shape", "color", "size", "material", "count", "relation").
    With `pictures`, the drawn scenes are written too, as `captions/pictures_<split>/`; so in all tasks.
    """
    if scenes < 1 or captions_per_scene < 1:
        raise ValueError(f"scenes and captions_per_scene must be at least 1, not {scenes} and {captions_per_scene}")
    rng = random_stream(seed, split, "captions/scenes")
    worlds = sample_scenes(rng, (1 + rng.choice(MAX_OBJECTS, scenes, p=OBJECT_SHARES)).tolist())
    rng = random_stream(seed, split, "captions/text")
    first = first_image_id("captions", split)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index, scene in enumerate(worlds):
        image = {"id": first + index, "file_name": f"{image_stem(split, first + index)}.jpg"}
        images.append({**image, "width": PICTURE_SIDE, "height": PICTURE_SIDE})
        for _ in range(captions_per_scene):
            text, foil, kind = caption_and_foil(scene, rng)
            identity = {"id": first + len(annotations), "image_id": first + index}
            annotations.append({**identity, "caption": text, "foil": foil, "foil_kind": kind})
    info = {"description": f"vltickets world captions, {split}", "version": str(WORLD_VERSION), "seed": seed}
    where = folder / "captions"
    write_json(where / f"captions_{split}.json", {"info": info, "images": images, "annotations": annotations})
    names = [f"{image_stem(split, first + index)}.npz" for index in range(scenes)]
    regions = detect_all(worlds, random_stream(seed, split, "captions/regions"))
    write_regions(where / f"regions_{split}", names, regions)
    if pictures:
        write_pictures(where / f"pictures_{split}", names, [draw(scene) for scene in worlds])


def caption_and_foil(scene: Scene, rng: np.random.Generator) -> tuple[str, str, str]:
    """Return a true caption of the scene, a false one that differs in one thing only, and what that thing is."""
    listed = rng.random() < LIST_SHARE
    while True:
        caption = _sample_list(scene, rng) if listed else _sample_sentences(scene, rng)
        corrupted = corrupt_caption(caption, scene, rng)
        if corrupted is None:
            continue
        foil, kind = corrupted
        wording = draw_wording(rng)
        text = say(caption, wording)
        if text.count(" ") < MAX_WORDS:
            return text, say(foil, wording), kind


def corrupt_caption(caption: Caption, scene: Scene, rng: np.random.Generator) -> tuple[Caption, str] | None:
    """Return the caption with one statement turned false, and what was changed; None if that cannot be done."""
    index = below(rng, len(caption.statements))
    found = false_version(rng, caption.statements[index], scene)
    if found is None:
        return None
    statements = list(caption.statements)
    statements[index], kind = found
    return Caption(tuple(statements), caption.listed), kind


def _sample_list(scene: Scene, rng: np.random.Generator) -> Caption:
    # Up to twelve words: three objects with two attributes each, or two with up to all four.
    number = 1 + below(rng, min(3, len(scene.objects)))
    things = shuffled(rng, scene.objects)[:number]
    most = 2 if number == 3 else 4
    return Caption(tuple(Exists(describe(rng, thing, 2 + below(rng, most - 1))) for thing in things), listed=True)


def _sample_sentences(scene: Scene, rng: np.random.Generator) -> Caption:
    first = _sample_statement(scene, rng)
    second = _sample_statement(scene, rng) if rng.random() < SECOND_STATEMENT_SHARE else first
    return Caption((first,) if second == first else (first, second))


def _sample_statement(scene: Scene, rng: np.random.Generator) -> Statement:
    """Return a true statement of a random kind; a kind is given up for another only when it does not fit the scene."""
    while True:
        kind = int(np.searchsorted(_KIND_STEPS, rng.random()))
        for _ in range(TRIES_PER_KIND):
            statement = _sample_kind(kind, scene, rng)
            if statement is not None:
                return statement


def _sample_kind(kind: int, scene: Scene, rng: np.random.Generator) -> Statement | None:
    if kind == 0:
        return true_exists(rng, scene, 2 + below(rng, 2))
    if kind == 1:
        return true_relation(rng, scene)
    if kind == 2:
        return true_attribute(rng, scene)
    return _sample_count(scene, rng)


def _sample_count(scene: Scene, rng: np.random.Generator) -> Statement | None:
    draw = rng.random()
    number = 1 if draw < NUMBER_TRIES[0] else 2 if draw < NUMBER_TRIES[0] + NUMBER_TRIES[1] else 3
    attributes = COUNTED_ATTRIBUTES[below(rng, len(COUNTED_ATTRIBUTES))]
    description = counted_description(rng, scene, number, attributes)
    return CountIs(description, number) if description else None
