from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vltickets.scenes import detect, sample_scene
from vltickets.scenes.regions import CLASSES_BY_VALUES, DUPLICATE_SHARE, MISSING_SHARE, Regions, detect_all
from vltickets.scenes.world import VALUE_COUNTS, Scene, sample_scenes


@pytest.fixture(scope="module")
def single() -> tuple[list[Scene], Regions]:
    rng = np.random.default_rng(0)
    scenes = sample_scenes(rng, [1] * 6000)
    return scenes, detect_all(scenes, rng)


@given(seed=st.integers(0, 2**32), objects=st.integers(1, 5))
def test_one_scene_has_one_to_six_regions(seed: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    regions = detect(sample_scene(rng, objects), rng)
    assert 1 <= len(regions.features) <= 6
    assert regions.offsets.tolist() == [0, len(regions.features)]


def test_regions_lie_on_their_objects_and_mostly_name_them(single: tuple[list[Scene], Regions]) -> None:
    scenes, regions = single
    first = regions.offsets[:-1]
    things = [scene.objects[0] for scene in scenes]
    middles = (regions.boxes[first, :2] + regions.boxes[first, 2:]) / 2
    assert np.abs(middles - [(thing.x, thing.y) for thing in things]).max() < 0.08
    true = CLASSES_BY_VALUES[tuple(np.array([thing.values for thing in things]).T)]
    right = regions.soft_labels[first].argmax(axis=1) == true
    assert right.mean() == pytest.approx(0.98**4, abs=0.015)
    assert regions.scores[first][right].min() > regions.scores[first][~right].mean()


def test_duplicates_and_misses_come_at_their_rates(single: tuple[list[Scene], Regions]) -> None:
    assert len(single[1].scores) / 6000 == pytest.approx(1 + DUPLICATE_SHARE, abs=0.015)
    rng = np.random.default_rng(0)
    many = detect_all(sample_scenes(rng, [3] * 6000), rng)
    assert len(many.scores) / 18000 == pytest.approx((1 - MISSING_SHARE) * (1 + DUPLICATE_SHARE), abs=0.015)


def test_row_order_says_nothing_about_the_object(single: tuple[list[Scene], Regions]) -> None:
    rng = np.random.default_rng(1)
    regions = detect_all(sample_scenes(rng, [5] * 3000), rng)
    areas = (regions.boxes[:, 2:] - regions.boxes[:, :2]).prod(axis=1)
    last = areas[regions.offsets[1:] - 1].mean()
    assert areas[regions.offsets[:-1]].mean() == pytest.approx(last, rel=0.1)


def test_features_tell_every_attribute_despite_the_noise(single: tuple[list[Scene], Regions]) -> None:
    scenes, regions = single
    first = regions.offsets[:-1]
    inputs = np.c_[regions.features[first].astype(np.float64), np.ones(len(first))]
    values = np.array([scene.objects[0].values for scene in scenes])
    for attribute, count in enumerate(VALUE_COUNTS):
        fitted = np.linalg.lstsq(inputs[:4000], np.eye(count)[values[:4000, attribute]], rcond=None)[0]
        assert (np.argmax(inputs[4000:] @ fitted, axis=1) == values[4000:, attribute]).mean() > 0.95
