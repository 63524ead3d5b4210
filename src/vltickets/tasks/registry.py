"""The one place where tasks are listed: from a task's spec to the task."""

from __future__ import annotations

from vltickets.data import Source
from vltickets.errors import UserError
from vltickets.specs import (
    BackboneSpec,
    Gqa,
    Lxmert,
    Matching,
    Nlvr1,
    Nlvr2,
    Pretraining,
    Refcoco,
    Retrieval,
    SnliVe,
    TaskSpec,
    Vcr,
    Vqa,
)
from vltickets.tasks.answering import AnswerHead, LxmertAnswerHead
from vltickets.tasks.gqa import GqaTask
from vltickets.tasks.matching import MatchingTask
from vltickets.tasks.nlvr1 import Nlvr1Task
from vltickets.tasks.nlvr2 import LxmertNlvr2Task, Nlvr2Task
from vltickets.tasks.pretraining import PretrainingTask
from vltickets.tasks.protocol import Task
from vltickets.tasks.refcoco import RefcocoTask
from vltickets.tasks.retrieval import RetrievalTask
from vltickets.tasks.snli_ve import SnliVeTask
from vltickets.tasks.vcr import VcrTask
from vltickets.tasks.vqa import VqaTask


def build_task(spec: TaskSpec, source: Source, backbone: BackboneSpec, labels: dict[str, str] | None = None) -> Task:
    """Return the task over a source of data, with the heads of the backbone's kind.

    `labels` are a trained model's own, where it is scored elsewhere.
    """
    check_task(spec, backbone)
    lxmert = isinstance(backbone, Lxmert)
    answer_head = LxmertAnswerHead if lxmert else AnswerHead
    given = (labels or {}).get("answers")
    answers = None if given is None else given.split("\n")
    match spec:
        case Vqa():
            return VqaTask(spec, source, answers, answer_head)
        case Gqa():
            return GqaTask(spec, source, answers, answer_head)
        case Vcr():
            return VcrTask(spec, source)
        case Nlvr2():
            return (LxmertNlvr2Task if lxmert else Nlvr2Task)(spec, source, backbone.heads)
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
            return PretrainingTask(spec, source, tied_features=not lxmert)


def check_task(spec: TaskSpec, backbone: BackboneSpec) -> None:
    """Refuse a task that a backbone of this kind can't do, with `UserError`."""
    if not isinstance(backbone, Lxmert):
        return
    if isinstance(spec, Vcr):
        raise UserError("the task vcr needs 4 token types, and LXMERT has 2; use a UNITER for it")
    if isinstance(spec, Nlvr2) and spec.head == "triplet":
        raise UserError(
            "NLVR2's head 'triplet' needs region types to tell its two images apart, and LXMERT has none; leave `head` "
            "out: LXMERT has its own, over two passes"
        )
