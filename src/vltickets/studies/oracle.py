"""What a reader of the embedded world's true structure would score: the ceiling beside each task's scores.

By construction a label *is* the answer that the structure gives, so most ceilings are 1. They are not where ten noisy
annotators share a question, where no detected box fits the object meant, and where a caption is true of several images.
"""

from __future__ import annotations

import numpy as np

from vltickets.scenes import retrieval_ceiling
from vltickets.specs import World
from vltickets.tasks import Task
from vltickets.tasks.answering import AnsweringTask
from vltickets.tasks.refcoco import RefcocoTask
from vltickets.tasks.retrieval import RetrievalTask


def oracle_score(task: Task, world: World, split: str) -> float:
    """Return the headline score, on a split of the world, of a reader of the true structure."""
    if isinstance(task, AnsweringTask):
        return float(task.questions(split).scores.max(1).mean())
    if isinstance(task, RefcocoTask):
        return float(np.mean([fits.any() for fits in task.fitting(split)]))
    if isinstance(task, RetrievalTask):
        images = len(np.unique(task.scored(split).images))  # the split's first: those that are drawn first
        return retrieval_ceiling(world.seed, "val" if split == "dev" else split, images)[0]
    return 1.0
