"""Retrieval in Flickr30k's format (Karpathy's splits): five captions an image, and near copies of most images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vltickets.scenes.drawing import draw
from vltickets.scenes.files import write_json, write_pictures, write_regions
from vltickets.scenes.grammar import draw_wording, say
from vltickets.scenes.names import first_image_id
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import describe
from vltickets.scenes.statements import RELATIONS, Caption, Exists, Relation, stands_in_relation
from vltickets.scenes.world import MAX_OBJECTS, Scene, below, edited_scene, random_stream, sample_scenes, shuffled

SPLITS = ("train", "val", "test")
CAPTIONS_PER_IMAGE = 5
COPIES = 3
"""Images of a group: one scene and edits of it, each of which differs in one attribute or in two objects' places."""
TRIES = 16
MAX_RETRIEVAL_WORDS = 16


@dataclass(frozen=True, slots=True)
class Captioned:
    """A scene with its captions, in structure and in words."""

    scene: Scene
    captions: tuple[Caption, ...]
    texts: tuple[str, ...]


def write_retrieval(folder: Path, *, seed: int, train: int, heldout: int, pictures: bool = False) -> None:
    """Write `flickr30k/dataset_flickr30k.json` and the regions of all its images under `folder`.

    `train` and `heldout` count images: those of `train`, and those of `val` and again of `test`; each has five
    captions. Raises `ValueError` where a number is below one.
    """
    rows: list[dict[str, object]] = []
    scenes: list[Scene] = []
    names: list[str] = []
    for split in SPLITS:
        first = first_image_id("flickr30k", split)
        for index, item in enumerate(sample_captioned(seed, split, train if split == "train" else heldout)):
            image, start = len(rows), CAPTIONS_PER_IMAGE * len(rows)
            sentences = [
                {"tokens": text.split(), "raw": text, "imgid": image, "sentid": start + place}
                for place, text in enumerate(item.texts)
            ]
            identity = {"sentids": [start + place for place in range(len(sentences))], "imgid": image}
            rows.append({**identity, "sentences": sentences, "split": split, "filename": f"{first + index}.jpg"})
            scenes.append(item.scene)
            names.append(f"flickr30k_{first + index:012d}.npz")
    where = folder / "flickr30k"
    write_json(where / "dataset_flickr30k.json", {"images": rows, "dataset": "flickr30k"})
    regions = detect_all(scenes, random_stream(seed, "all", "flickr30k/regions"))
    write_regions(where / "regions_all", names, regions)
    if pictures:
        write_pictures(where / "pictures_all", names, [draw(scene) for scene in scenes])


def sample_captioned(seed: int, split: str, images: int) -> list[Captioned]:
    """Return `images` scenes of 3 to 5 objects with their captions, near copies next to one another."""
    if images < 1:
        raise ValueError(f"images must be at least 1, not {images}")
    rng = random_stream(seed, split, "flickr30k/captions")
    drawn: list[Captioned] = []
    for base in sample_scenes(rng, rng.integers(3, MAX_OBJECTS + 1, -(-images // COPIES)).tolist()):
        group = [base]
        while len(group) < COPIES:
            copy = edited_scene(base, rng)
            # With an object taken away, everything said of the copy would be true of the original too.
            if copy not in group and len(copy.objects) == len(base.objects):
                group.append(copy)
        drawn += [_captioned(scene, [other for other in group if other is not scene], rng) for scene in group]
    return drawn[:images]


def _captioned(scene: Scene, copies: Sequence[Scene], rng: np.random.Generator) -> Captioned:
    """Return the scene with five different captions, most of them false of its near copies."""
    captions: list[Caption] = []
    texts: list[str] = []
    while len(captions) < CAPTIONS_PER_IMAGE:
        best = _sample_caption(scene, rng)
        for _ in range(TRIES):
            if not any(best.holds(copy) for copy in copies):
                break
            other = _sample_caption(scene, rng)
            if sum(other.holds(copy) for copy in copies) < sum(best.holds(copy) for copy in copies):
                best = other
        text = next(
            (
                text
                for text in (say(best, draw_wording(rng)) for _ in range(TRIES))
                if text.count(" ") < MAX_RETRIEVAL_WORDS
            ),
            "",
        )
        if text and text not in texts:
            captions.append(best)
            texts.append(text)
    return Captioned(scene, tuple(captions), tuple(texts))


def _sample_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Return a true caption that says much: two or three objects with most attributes, or two and their relation."""
    things = shuffled(rng, scene.objects)
    kind = below(rng, 3)
    held = [relation for relation in range(len(RELATIONS)) if stands_in_relation(things[0], relation, things[1])]
    if kind == 0 and held:
        sides = [describe(rng, thing, 4) for thing in things[:2]]
        return Caption((Relation(sides[0], held[below(rng, len(held))], sides[1]),))
    number = 2 if kind == 1 else 3
    return Caption(tuple(Exists(describe(rng, thing, 4)) for thing in things[:number]), listed=True)


def retrieval_ceiling(seed: int, split: str, images: int) -> tuple[float, float]:
    """Return `recall_at_one` of the split that `write_retrieval` writes."""
    return recall_at_one(sample_captioned(seed, split, images))


def recall_at_one(items: Sequence[Captioned]) -> tuple[float, float]:
    """Return the recall at one of a reader of the structures: of images by caption, and of captions by image.

    By caption it guesses among the images that the caption is true of; by image it takes, of the captions true of it,
    one that is true of the fewest images.
    """
    captions = [(owner, caption) for owner, item in enumerate(items) for caption in item.captions]
    truths = np.array([[caption.holds(item.scene) for item in items] for _, caption in captions])
    own = np.array([owner for owner, _ in captions])[:, None] == np.arange(len(items))
    fits = truths.sum(axis=1)
    rank = np.where(truths, fits[:, None], len(items) + 1)
    best = rank == rank.min(axis=0)
    return float((1.0 / fits).mean()), float(((best & own).sum(axis=0) / best.sum(axis=0)).mean())
