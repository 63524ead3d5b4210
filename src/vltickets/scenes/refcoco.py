"""Referring expressions in RefCOCO+'s format: one object is meant among others of its shape, not by absolute place."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import draw
from vltickets.scenes.files import write_json, write_pictures, write_regions
from vltickets.scenes.grammar import MAX_WORDS, Words, draw_wording
from vltickets.scenes.located import Phrase, say_phrase, single_location
from vltickets.scenes.names import first_image_id
from vltickets.scenes.regions import describe_all, detect_all
from vltickets.scenes.sampling import independent_scenes
from vltickets.scenes.statements import Description
from vltickets.scenes.world import (
    MAX_OBJECTS,
    SHAPE,
    VALUE_NAMES,
    Scene,
    SceneObject,
    below,
    random_stream,
    shuffled,
    with_value,
)
from vltickets.store import write_file

PHOTO_SIDE = 480
"""Width and height in pixels that the files state; boxes are in these."""
SPLITS = ("train", "val", "testA")
LOCATED_SHARE = 0.4
SAME_SHAPE_SHARE = 0.5
SECOND_SENTENCE_SHARE = 0.5
TRIES = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """One object of a scene (its place among the scene's), with one or two phrases that mean it, and their words."""

    scene: Scene
    target: int
    phrases: tuple[Phrase, ...]
    sentences: tuple[str, ...]


def write_refcoco(folder: Path, *, seed: int, train: int, heldout: int, pictures: bool = False) -> None:
    """Write RefCOCO+'s three files and the regions of true and of detected boxes to `refcoco/` under `folder`.

    `train` and `heldout` count sentences: those of `train`, and those of `val` and again of `testA`. Scenes have 2 to 5
    objects, one of them referred to. Raises `ValueError` where a number is below one.
    """
    refs: list[dict[str, object]] = []
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    order: dict[str, list[int]] = {}
    scenes: list[Scene] = []
    sentence = 0
    for split in SPLITS:
        drawn = sample_references(seed, split, train if split == "train" else heldout)
        first = first_image_id("refcoco", split)
        for index, reference in enumerate(drawn):
            image = first + index
            rows = [
                _annotation(thing, image, image * 10 + place) for place, thing in enumerate(reference.scene.objects)
            ]
            order[str(image)] = [image * 10 + place for place in range(len(rows))]
            refs.append(_ref(reference, len(refs), image, split, sentence))
            sentence += len(reference.sentences)
            name = f"COCO_train2014_{image:012d}.jpg"
            images.append({"id": image, "file_name": name, "width": PHOTO_SIDE, "height": PHOTO_SIDE})
            annotations += rows
            scenes.append(reference.scene)
    where = folder / "refcoco"
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(VALUE_NAMES[SHAPE])]
    write_file(where / "refs(unc).p", pickle.dumps(refs, protocol=2))
    write_json(where / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    write_json(where / "iid_to_ann_ids.json", order)
    names = [f"visual_grounding_coco_gt_{int(image):012d}.npz" for image in order]
    true = describe_all(scenes, random_stream(seed, "all", "refcoco/true"))
    write_regions(where / "regions_gt_all", names, true)
    names = [f"visual_grounding_det_coco_{int(image):012d}.npz" for image in order]
    detected = detect_all(scenes, random_stream(seed, "all", "refcoco/detected"))
    write_regions(where / "regions_det_all", names, detected)
    if pictures:
        names = [f"coco_train2014_{int(image):012d}.npz" for image in order]
        write_pictures(where / "pictures_all", names, [draw(scene) for scene in scenes])


def sample_references(seed: int, split: str, sentences: int) -> list[Reference]:
    """Return references with `sentences` sentences in all."""
    if sentences < 1:
        raise ValueError(f"the number of expressions must be at least 1, not {sentences}")
    rng = random_stream(seed, split, "refcoco/expressions")
    drawn: list[Reference] = []
    left = sentences
    while left:
        for scene in independent_scenes(rng, rng.integers(2, MAX_OBJECTS + 1, 500).tolist()):
            most = min(left, 2 if rng.random() < SECOND_SENTENCE_SHARE else 1)
            reference = _refer(rng, scene, most)
            if reference is not None:
                drawn.append(reference)
                left -= len(reference.sentences)
            if not left:
                break
    return drawn


def _refer(rng: np.random.Generator, drawn: Scene, most: int) -> Reference | None:
    """Return a reference to an object that shares its shape with another, or None where no phrase means it alone."""
    objects = list(drawn.objects)
    target = below(rng, len(objects))
    shape = objects[target].values[SHAPE]
    others = shuffled(rng, [index for index in range(len(objects)) if index != target])
    alike = 1 + int(np.count_nonzero(rng.random(len(others) - 1) < SAME_SHAPE_SHARE))
    for index in others[:alike]:
        objects[index] = replace(objects[index], values=with_value(objects[index].values, SHAPE, shape))
    scene = Scene(tuple(objects))
    found: dict[str, Phrase] = {}
    for _ in range(TRIES):
        phrase = _phrase(rng, scene, objects[target])
        text = say_phrase(Words(draw_wording(rng)), phrase) if phrase else ""
        if phrase and text.count(" ") < MAX_WORDS:
            found.setdefault(text, phrase)
        if len(found) == most:
            break
    return Reference(scene, target, tuple(found.values()), tuple(found)) if found else None


def _phrase(rng: np.random.Generator, scene: Scene, thing: SceneObject) -> Phrase | None:
    if rng.random() < LOCATED_SHARE:
        return single_location(rng, scene, thing)
    adjectives = shuffled(rng, (1, 2, 3))
    for size in (1, 2, 3):
        named = (SHAPE,) if rng.random() < 0.75 else ()
        description = Description.of(thing.values, (*named, *adjectives[:size]))
        if description.count(scene) == 1:
            return description
    return None


def box_in_pixels(thing: SceneObject) -> list[float]:
    """Return an object's box: x, y, width, height in pixels, with two digits after the point as COCO has them."""
    half = thing.extent / 2
    left, top = max(thing.x - half, 0.0), max(thing.y - half, 0.0)
    right, bottom = min(thing.x + half, 1.0), min(thing.y + half, 1.0)
    return [round(PHOTO_SIDE * number, 2) for number in (left, top, right - left, bottom - top)]


def _annotation(thing: SceneObject, image: int, identity: int) -> dict[str, object]:
    box = box_in_pixels(thing)
    return {
        "id": identity,
        "image_id": image,
        "category_id": thing.values[SHAPE] + 1,
        "bbox": box,
        "area": round(box[2] * box[3], 2),
        "iscrowd": 0,
        "segmentation": [],
    }


def _ref(reference: Reference, identity: int, image: int, split: str, first_sentence: int) -> dict[str, object]:
    annotation = image * 10 + reference.target
    sentences = [
        {"sent_id": first_sentence + place, "sent": text, "raw": text, "tokens": text.split()}
        for place, text in enumerate(reference.sentences)
    ]
    return {
        "ref_id": identity,
        "ann_id": annotation,
        "image_id": image,
        "category_id": reference.scene.objects[reference.target].values[SHAPE] + 1,
        "split": split,
        "file_name": f"COCO_train2014_{image:012d}_{annotation}.jpg",
        "sent_ids": [first_sentence + place for place in range(len(sentences))],
        "sentences": sentences,
    }


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return two boxes' (x, y, width, height in pixels) intersection over union, by RefCOCO's inclusive rule."""
    width = min(first[0] + first[2] - 1, second[0] + second[2] - 1) - max(first[0], second[0]) + 1
    height = min(first[1] + first[3] - 1, second[1] + second[3] - 1) - max(first[1], second[1]) + 1
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
