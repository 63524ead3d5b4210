"""The one place where tasks are listed: from a task's spec to the task."""

from __future__ import annotations

from vltickets.data import Source
from vltickets.specs import Matching, Nlvr2, Pretraining, TaskSpec, Uniter, Vqa
from vltickets.tasks.matching import MatchingTask
from vltickets.tasks.nlvr2 import Nlvr2Task
from vltickets.tasks.pretraining import PretrainingTask
from vltickets.tasks.protocol import Task
from vltickets.tasks.vqa import VqaTask


def build_task(spec: TaskSpec, source: Source, backbone: Uniter, labels: dict[str, str] | None = None) -> Task:
    """Return the task over a source of data. `labels` are a trained model's own, where it is scored elsewhere."""
    match spec:
        case Vqa():
            answers = (labels or {}).get("answers")
            return VqaTask(spec, source, None if answers is None else answers.split("\n"))
        case Nlvr2():
            return Nlvr2Task(spec, source, backbone.heads)
        case Matching():
            return MatchingTask(spec, source)
        case Pretraining():
            return PretrainingTask(spec, source)
