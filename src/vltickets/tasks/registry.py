"""The one place where tasks are listed: from a task's spec to the task."""

from __future__ import annotations

from vltickets.data import Source
from vltickets.specs import (
    Gqa,
    Matching,
    Nlvr1,
    Nlvr2,
    Pretraining,
    Refcoco,
    Retrieval,
    SnliVe,
    TaskSpec,
    Uniter,
    Vcr,
    Vqa,
)
from vltickets.tasks.gqa import GqaTask
from vltickets.tasks.matching import MatchingTask
from vltickets.tasks.nlvr1 import Nlvr1Task
from vltickets.tasks.nlvr2 import Nlvr2Task
from vltickets.tasks.pretraining import PretrainingTask
from vltickets.tasks.protocol import Task
from vltickets.tasks.refcoco import RefcocoTask
from vltickets.tasks.retrieval import RetrievalTask
from vltickets.tasks.snli_ve import SnliVeTask
from vltickets.tasks.vcr import VcrTask
from vltickets.tasks.vqa import VqaTask


def build_task(spec: TaskSpec, source: Source, backbone: Uniter, labels: dict[str, str] | None = None) -> Task:
    """Return the task over a source of data. `labels` are a trained model's own, where it is scored elsewhere."""
    given = (labels or {}).get("answers")
    answers = None if given is None else given.split("\n")
    match spec:
        case Vqa():
            return VqaTask(spec, source, answers)
        case Gqa():
            return GqaTask(spec, source, answers)
        case Vcr():
            return VcrTask(spec, source)
        case Nlvr2():
            return Nlvr2Task(spec, source, backbone.heads)
        case Nlvr1():
            return Nlvr1Task(spec, source)
        case SnliVe():
            return SnliVeTask(spec, source)
        case Refcoco():
            return RefcocoTask(spec, source)
        case Retrieval():
            return RetrievalTask(spec, source)
        case Matching():
            return MatchingTask(spec, source)
        case Pretraining():
            return PretrainingTask(spec, source)
