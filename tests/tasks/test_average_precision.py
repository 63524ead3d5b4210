"""Average precision by hand: each case is one that can be counted on paper."""

from __future__ import annotations

import numpy as np
import pytest

from vltickets.tasks.average_precision import Boxes, average_precision, overlaps

HERE, THERE, AWAY = [0.0, 0, 10, 10], [20.0, 20, 30, 30], [50.0, 50, 60, 60]


def true(*corners: list[float], classes: list[int] | None = None) -> Boxes:
    return Boxes(np.array(corners).reshape(-1, 4), np.array(classes or [0] * len(corners)))


def found(*corners: list[float], scores: list[float], classes: list[int] | None = None) -> Boxes:
    return Boxes(np.array(corners).reshape(-1, 4), np.array(classes or [0] * len(corners)), np.array(scores))


def test_all_found_and_nothing_else_is_one() -> None:
    assert average_precision([found(THERE, HERE, scores=[0.9, 0.8])], [true(HERE, THERE)]) == {
        "AP": 1.0,
        "AP50": 1.0,
        "AP75": 1.0,
    }


def test_a_box_that_overlaps_by_six_tenths_counts_at_three_of_ten_overlaps() -> None:
    score = average_precision([found([0.0, 0, 10, 6], scores=[0.9])], [true(HERE)])
    assert score == pytest.approx({"AP": 0.3, "AP50": 1.0, "AP75": 0.0})  # 0.50, 0.55, 0.60


def test_a_surer_false_box_halves_the_precision_and_a_less_sure_one_does_nothing() -> None:
    before = average_precision([found(AWAY, HERE, scores=[0.9, 0.8])], [true(HERE)])
    behind = average_precision([found(HERE, AWAY, scores=[0.9, 0.8])], [true(HERE)])
    assert (before["AP"], behind["AP"]) == (pytest.approx(0.5), 1.0)


def test_a_missed_box_leaves_the_recalls_it_would_have_given() -> None:
    score = average_precision([found(HERE, scores=[0.9])], [true(HERE, THERE)])
    assert score["AP"] == pytest.approx(51 / 101)  # recalls 0.00 to 0.50


def test_precision_is_the_best_at_this_recall_or_a_higher_one() -> None:
    # right, wrong, right: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1
    score = average_precision([found(HERE, AWAY, THERE, scores=[0.9, 0.8, 0.7])], [true(HERE, THERE)])
    assert score["AP"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_true_box_is_found_once() -> None:
    # the second detection of HERE is false, and stands before THERE's
    score = average_precision([found(HERE, HERE, THERE, scores=[0.9, 0.8, 0.7])], [true(HERE, THERE)])
    assert score["AP"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_detection_takes_the_box_it_overlaps_most() -> None:
    near = [0.0, 2, 10, 12]  # overlaps HERE by 80 / 120
    score = average_precision([found(HERE, near, scores=[0.9, 0.8])], [true(near, HERE)])
    assert score["AP"] == 1.0


def test_pictures_do_not_mix_but_scores_do() -> None:
    wrong_picture = average_precision([found(scores=[]), found(HERE, scores=[0.9])], [true(HERE), true(THERE)])
    assert wrong_picture["AP"] == 0.0
    sure_and_wrong = [found(HERE, scores=[0.5]), found(AWAY, scores=[0.9])]
    assert average_precision(sure_and_wrong, [true(HERE), true(THERE)])["AP"] == pytest.approx(51 / 101 / 2)


def test_classes_are_scored_apart_and_those_without_true_boxes_not_at_all() -> None:
    guesses = found(HERE, THERE, AWAY, scores=[0.9, 0.9, 0.9], classes=[0, 0, 7])
    score = average_precision([guesses], [true(HERE, THERE, classes=[0, 1])])
    assert score["AP"] == pytest.approx((1.0 + 0.0) / 2)


def test_overlaps_by_hand() -> None:
    found = overlaps(np.array([HERE, [0.0, 0, 0, 0]]), np.array([HERE, [5.0, 0, 15, 10], [10.0, 0, 20, 10]]))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0], [0, 0, 0]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no true box"):
        average_precision([found(HERE, scores=[0.9])], [true()])
    with pytest.raises(ValueError, match="with scores"):
        average_precision([true(HERE)], [true(HERE)])
    with pytest.raises(ValueError, match="corners"):
        Boxes(np.zeros((2, 4)), np.zeros(1))
