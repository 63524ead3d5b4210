"""RefCOCO+ (pending: the reader)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vltickets.data.ragged import Ragged
from vltickets.data.regions import Regions


@dataclass(frozen=True)
class Expressions:
    """Pending."""

    ids: list[int]
    texts: Ragged
    images: np.ndarray
    targets: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    regions: Regions
