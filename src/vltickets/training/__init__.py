"""One loop over any task and any backbone, with hooks around the optimiser's step. Knows no masks."""

from vltickets.training import processes
from vltickets.training.checkpoint import Checkpoint
from vltickets.training.loop import Diverged, Hook, Progress, build_optimizer, evaluate, train
from vltickets.training.schedule import learning_rate

__all__ = [
    "Checkpoint",
    "Diverged",
    "Hook",
    "Progress",
    "build_optimizer",
    "evaluate",
    "learning_rate",
    "processes",
    "train",
]
