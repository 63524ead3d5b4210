"""One training on several processes (torchrun's ranks): each computes some parts of every batch, all keep one model.

Gradients are added up after the backward passes, not inside a wrapper's, because tasks call a model's parts directly.
Rank 0 alone writes. Everywhere else a program is one process, and nothing here does anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from vltickets.errors import UserError
from vltickets.specs import Recipe

WAIT = timedelta(days=1)  # rank 0 scores alone for hours; torchrun sees a rank that died, and ends the others


def join() -> bool:
    """Join the other processes that torchrun or accelerate's launcher started; return whether there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "LOCAL_RANK" not in os.environ:
        return False
    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=WAIT)
    return True


def leave() -> None:
    """Part from the other processes."""
    torch.distributed.destroy_process_group()


def count() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if _several() else 1


def check_parts(recipe: Recipe, task: str) -> None:
    """Refuse a recipe whose batches have fewer parts than there are processes to share them, with a `UserError`."""
    if count() > recipe.accumulation:
        raise UserError(
            f"{count()} processes share the parts of a batch, and the recipe of {task} makes {recipe.accumulation} of "
            f"it: set its accumulation to {count()} or a multiple, or start fewer processes"
        )


def rank() -> int:
    """Return this process's number among them, from 0."""
    return torch.distributed.get_rank() if _several() else 0


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def added_up(model: nn.Module, loss: float) -> float:
    """Add up the gradients of all processes in place, and return the sum of their losses.

    A weight that has a gradient nowhere stays without one; one that has none here only gets the others'.
    """
    if count() == 1:
        return loss
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    device = weights[0].device
    known = torch.tensor([loss, *(weight.grad is not None for weight in weights)], dtype=torch.float32, device=device)
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = torch.cat([known, *(gradient.flatten() for gradient in gradients)])
    torch.distributed.all_reduce(flat)
    present = flat[1 : len(known)].tolist()
    summed = flat[len(known) :].split([weight.numel() for weight in weights])
    for weight, gradient, own, somewhere in zip(weights, gradients, summed, present, strict=True):
        if somewhere:
            weight.grad = gradient.copy_(own.view_as(weight))
    return float(flat[0])


def check_same(what: str, tensors: Iterable[torch.Tensor]) -> None:
    """Raise `RuntimeError` where the processes do not have the very same tensors, compared by their hash."""
    if count() == 1:
        return
    mine = hashlib.sha256()
    for tensor in tensors:
        mine.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    found: list[Any] = [None] * count()
    torch.distributed.all_gather_object(found, mine.hexdigest())
    if len(set(found)) > 1:
        raise RuntimeError(f"the processes have different {what} (SHA-256 by rank: {', '.join(found)})")


def tell(message: str | None) -> None:
    """Say something to the other processes, which wait for it with `hear`: rank 0's turn."""
    if count() > 1:
        torch.distributed.broadcast_object_list([message], src=0)


def hear() -> str | None:
    """Wait for what rank 0 says."""
    box: list[str | None] = [None]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
