"""VCR (pending: the reader)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vltickets.data.ragged import Ragged
from vltickets.data.regions import Regions


@dataclass(frozen=True)
class Choices:
    """Pending."""

    ids: list[str]
    questions: Ragged
    answers: Ragged
    rationales: Ragged
    answer_labels: np.ndarray
    rationale_labels: np.ndarray
    objects: Regions
    object_images: np.ndarray
    detected: Regions
    detected_images: np.ndarray
