"""NLVR v1: is the sentence true of a picture of three boxes? One picture, so no pairs; accuracy.

Not a task of the paper: it stands in for NLVR2 where only NLVR v1 can be had. The answer head with two answers.
"""

from __future__ import annotations

from vltickets.data import Source
from vltickets.specs import Nlvr1
from vltickets.tasks.answering import AnsweringTask


class Nlvr1Task(AnsweringTask):
    """True or false of one picture."""

    def __init__(self, spec: Nlvr1, source: Source) -> None:
        super().__init__("nlvr1", spec.split, spec.blind, ["false", "true"], source.statements)
