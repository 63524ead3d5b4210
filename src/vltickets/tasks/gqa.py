"""GQA: compositional questions with one answer each; exact match.

No GQA code of UNITER was released (official-models 9.1): this is VQA's head over GQA's own answers.
"""

from __future__ import annotations

from vltickets.data import Source
from vltickets.specs import Gqa
from vltickets.tasks.answering import AnswerHead, AnswerHeads, AnsweringTask


class GqaTask(AnsweringTask):
    """Compositional question answering; the one answer has score 1, so accuracy is exact match."""

    def __init__(
        self,
        spec: Gqa,
        source: Source,
        answers: list[str] | None = None,
        make_head: AnswerHeads = AnswerHead,
    ) -> None:
        known = source.answers("gqa") if answers is None else answers
        super().__init__("gqa", spec.split, spec.blind, known, lambda split: source.gqa(split, known), make_head)
