"""Tasks: head, loss, metric and how an example becomes inputs; pre-training is one of them. Knows no tickets."""

from vltickets.tasks.protocol import Evaluation, LogitTask, Model, TakesAnswers, Task, examples_at_once
from vltickets.tasks.registry import build_task, check_task

__all__ = [
    "Evaluation",
    "LogitTask",
    "Model",
    "TakesAnswers",
    "Task",
    "build_task",
    "check_task",
    "examples_at_once",
]
