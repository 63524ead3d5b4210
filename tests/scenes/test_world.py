from __future__ import annotations

import subprocess
import sys
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vltickets.scenes import Scene, SceneObject, draw, sample_scene
from vltickets.scenes.statements import RELATION_MARGIN
from vltickets.scenes.world import VALUE_COUNTS, edited_scene, random_stream, sample_scenes


@given(seed=st.integers(0, 2**32), objects=st.integers(1, 5))
def test_scenes_have_valid_objects_inside_the_unit_square(seed: int, objects: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), objects)
    assert len(scene.objects) == objects
    for thing in scene.objects:
        assert all(0 <= value < count for value, count in zip(thing.values, VALUE_COUNTS, strict=True))
        assert 0 < thing.x < 1
        assert 0 < thing.y < 1


@given(seed=st.integers(0, 2**32))
def test_objects_stand_clear_of_each_other_and_of_the_margin_of_relations(seed: int) -> None:
    for first, second in combinations(sample_scene(np.random.default_rng(seed), 5).objects, 2):
        distances = abs(first.x - second.x), abs(first.y - second.y)
        assert max(distances) > RELATION_MARGIN
        assert all(abs(distance - RELATION_MARGIN) > 0.05 for distance in distances)


@pytest.mark.parametrize("objects", [0, 6])
def test_a_scene_of_a_size_the_world_has_not_is_refused(objects: int) -> None:
    with pytest.raises(ValueError, match="1 to 5 objects"):
        sample_scene(np.random.default_rng(0), objects)


def test_copies_make_objects_that_share_three_attributes_common() -> None:
    scenes = sample_scenes(np.random.default_rng(0), [2] * 4000)
    shared = [
        sum(a == b for a, b in zip(*(thing.values for thing in scene.objects), strict=True)) >= 3 for scene in scenes
    ]
    # 40 % are copies; of the others, few agree by chance.
    assert 0.40 < np.mean(shared) < 0.52


@given(seed=st.integers(0, 2**32), objects=st.integers(2, 5))
def test_an_edit_changes_the_scene_in_one_thing(seed: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, objects)
    edited = edited_scene(scene, rng)
    kept = set(scene.objects) & set(edited.objects)
    assert edited != scene
    assert len(scene.objects) - len(kept) <= 2
    assert len(edited.objects) >= 2


def test_streams_differ_by_seed_split_and_part_and_not_by_process() -> None:
    def first(seed: int, split: str, part: str) -> float:
        return float(random_stream(seed, split, part).random())

    draws = {first(*key) for key in product((0, 1), ("train", "val"), ("a", "b"))}
    assert len(draws) == 8
    program = "from vltickets.scenes.world import random_stream as r; print(r(0, 'train', 'a').random())"
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert float(done.stdout) == first(0, "train", "a")


def test_every_combination_of_attributes_looks_different() -> None:
    pictures = {
        draw(Scene((SceneObject(values, 0.5, 0.5),))).tobytes()  # type: ignore[arg-type]
        for values in product(*map(range, VALUE_COUNTS))
    }
    assert len(pictures) == 120


@given(seed=st.integers(0, 2**32), side=st.sampled_from([36, 72, 144]))
def test_pictures_have_a_black_ground_and_show_every_object(seed: int, side: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), 4)
    picture = draw(scene, side=side)
    assert (picture.mode, picture.size) == ("RGB", (side, side))
    pixels = np.asarray(picture)
    assert (pixels.max(axis=2) == 0).mean() > 0.4
    for thing in scene.objects:
        half = thing.extent / 2
        rows = slice(max(int((thing.y - half) * side), 0), int((thing.y + half) * side) + 1)
        columns = slice(max(int((thing.x - half) * side), 0), int((thing.x + half) * side) + 1)
        assert pixels[rows, columns].any()
