"""Tasks: head, loss, metric and how an example becomes inputs; pre-training is one of them. Knows no tickets."""

from vltickets.tasks.protocol import Evaluation, Model, Task
from vltickets.tasks.registry import build_task

__all__ = ["Evaluation", "Model", "Task", "build_task"]
