"""SNLI-VE: does the image entail the sentence, contradict it, or neither? Accuracy."""

from __future__ import annotations

from vltickets.data import Source
from vltickets.specs import SnliVe
from vltickets.tasks.answering import AnsweringTask

LABELS = ["contradiction", "entailment", "neutral"]  # the official order


class SnliVeTask(AnsweringTask):
    """Visual entailment: officially VQA's head with three answers, and its loss, no soft-max (official-models 1.4)."""

    def __init__(self, spec: SnliVe, source: Source) -> None:
        super().__init__("snli_ve", spec.split, spec.blind, LABELS, source.entailment)
