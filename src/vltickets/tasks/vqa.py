"""VQA: soft accuracy against ten annotators."""

from __future__ import annotations

from vltickets.data import Source
from vltickets.specs import Vqa
from vltickets.tasks.answering import AnswerHead, AnswerHeads, AnsweringTask


class VqaTask(AnsweringTask):
    """Visual question answering over a fixed answer vocabulary."""

    def __init__(
        self,
        spec: Vqa,
        source: Source,
        answers: list[str] | None = None,
        make_head: AnswerHeads = AnswerHead,
    ) -> None:
        known = source.answers("vqa") if answers is None else answers
        super().__init__("vqa", spec.split, spec.blind, known, lambda split: source.vqa(split, known), make_head)
