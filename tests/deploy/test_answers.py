"""What `deploy run --check` says of two models' answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vltickets.deploy.answers import Answered, differ
from vltickets.tasks import Evaluation


def answered(*logits: float) -> Answered:
    evaluation = Evaluation("accuracy", {"accuracy": 1.0}, np.ones(1), "test", answers=[("a", 0)])
    return Answered(evaluation, 0.1, 0.1, [torch.tensor(logits)])


def test_the_largest_difference_of_logits_is_found() -> None:
    found = differ(answered(1.0, 2.5), answered(1.0, 2.0))
    assert (found.answers, found.scores, found.logit, found.largest) == (0, 0, 0.5, 2.0)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_logits_that_are_no_numbers_differ_from_those_that_are(odd: float) -> None:
    assert differ(answered(1.0, odd), answered(1.0, 2.0)).logit == math.inf
    assert differ(answered(1.0, odd), answered(1.0, odd)).logit == 0.0
