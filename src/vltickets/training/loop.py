"""The one training loop: dense, sparse, pre-training and fine-tuning alike. It knows no mask; a mask enters as a hook.

What happens at a step depends on nothing but the step: its batch, its dropout and its learning rate are functions of
(seed, step). So a run that was killed goes on from its checkpoint with the same bits, and several processes that share
a batch's parts (`processes`) train what one would, but for rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import nn

from vltickets.data import stream_seed
from vltickets.specs import Recipe
from vltickets.tasks import Evaluation, Model, Task
from vltickets.training import processes
from vltickets.training.adversarial import adversary_of
from vltickets.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vltickets.training.feed import in_background, of_one_step, parts_of
from vltickets.training.schedule import learning_rate

CURVE_POINTS = 100
CHECKPOINT_SECONDS = 20.0

Progress = Callable[[int, int, float], None]  # step, last step, loss


class Hook(Protocol):
    """Work around the optimiser's step, such as holding pruned weights at zero."""

    def before_step(self, model: nn.Module) -> None:
        """Called with the gradients whole, before they are clipped."""

    def after_step(self, model: nn.Module) -> None:
        """Called with the weights moved."""


class Diverged(RuntimeError):
    """A loss, a gradient, a weight or a score is no longer a number; nothing after it would mean anything."""


def train(
    model: Model,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    first_step: int = 0,
    last_step: int | None = None,
    hooks: Sequence[Hook] = (),
    checkpoint: Path | None = None,
    handover: Path | None = None,
    progress: Progress | None = None,
    prefetch: bool | None = None,
) -> Checkpoint:
    """Train `model` in place from `first_step` to `last_step` (the recipe's end unless given).

    With a `checkpoint` path, the state is kept there every 20 seconds and a run that finds one goes on from it. At the
    end it is left at `handover`, unless one is there: a longer run of the same node goes on from θᵢ with the same bits.
    `prefetch` says whether batches are made in the background; unless given, where the model is on a GPU. Among several
    processes, all must make this call; rank 0 alone writes. Returns the last state: curve of (step, mean loss since the
    last point) and the seconds of all sittings. Raises `Diverged` when a loss, a gradient or a final weight is not
    finite.
    """
    processes.check_parts(recipe, task.name)
    ranks, rank = processes.count(), processes.rank()
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.set_num_threads(recipe.threads)
    optimizer = build_optimizer(model, recipe)
    accelerator.prepare_model(model, evaluation_mode=True)  # on its device, without a wrapper: see `processes`
    state = load_checkpoint(checkpoint, model, optimizer) if checkpoint else None
    state = state or Checkpoint(step=first_step)
    end = recipe.steps if last_step is None else last_step
    parts = parts_of(task, recipe, seed, range(state.step, end))
    if model.device.type == "cuda" if prefetch is None else prefetch:
        parts = in_background(parts, recipe.threads)
    # Not accelerate's own autocast: its precision is fixed for the whole process, a recipe's is not.
    autocast = partial(torch.autocast, model.device.type, torch.bfloat16, enabled=recipe.precision == "bf16")
    adversary = adversary_of(model, task, recipe, autocast, accelerator.backward)
    dropout = partial(stream_seed, task.name, seed, "dropout")
    # Clipped and moved by torch, not through accelerate's wrappers: the same bits, and no look for libraries each step.
    weights = list(model.parameters())
    point = max(recipe.steps // CURVE_POINTS, 1)
    started, kept = time.perf_counter() - state.seconds, time.monotonic()

    processes.check_same("weights before the training", model.parameters())
    model.train()
    for step in range(state.step, end):
        seed_torch(dropout(step))
        losses: list[float | torch.Tensor] = []
        for part in of_one_step(parts):
            if part.place % ranks != rank:
                continue
            if part.place:
                seed_torch(dropout(step, part.place))  # the same, whoever computes it
            if adversary is not None:
                losses.append(adversary.gradients(part.batch, part.share, step))
            else:
                with autocast():
                    loss = task.loss(model, part.batch) * part.share
                losses.append(loss.detach())  # read when all is under way: reading waits for the GPU
                accelerator.backward(loss)
        value = processes.added_up(model, sum(map(float, losses)))
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value} at step {step}; try a lower learning rate or a longer warm-up")
        for hook in hooks:
            hook.before_step(model)
        norm = nn.utils.clip_grad_norm_(weights, recipe.clip)
        if not math.isfinite(float(norm)):
            raise Diverged(f"the gradient is not finite at step {step}; try a lower learning rate or a longer warm-up")
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate(step, recipe)
        optimizer.step()
        for hook in hooks:
            hook.after_step(model)
        optimizer.zero_grad()

        state.note(step, value, point=point, end=recipe.steps, part=getattr(part.batch, "objective", None))
        state.seconds = time.perf_counter() - started
        if progress is not None:
            progress(step + 1, end, value)
        if checkpoint is not None and step + 1 < end and time.monotonic() - kept > CHECKPOINT_SECONDS and rank == 0:
            save_checkpoint(checkpoint, model, optimizer, state)
            kept = time.monotonic()
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise Diverged(f"a weight is not finite after step {end}; try a lower learning rate or a longer warm-up")
    processes.check_same("weights after the training", model.parameters())
    if handover is not None and not handover.exists() and rank == 0:
        save_checkpoint(handover, model, optimizer, state)
    return state


@torch.inference_mode()
def evaluate(model: Model, task: Task, split: str, *, threads: int = 1) -> Evaluation:
    """Score a model on a split, without dropout."""
    torch.set_num_threads(threads)
    model.eval()
    return task.evaluate(model, split)


def seed_torch(seed: int) -> None:
    """Seed the generators of the CPU and of GPUs in use, as `torch.manual_seed` does.

    That also notes a call stack for GPUs not yet in use, which costs a hundredth of a tiny model's step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def build_optimizer(model: Model, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW over θ and φ as officially: no weight decay on biases and `LayerNorm`, its own rate for the head.

    `img_layer_norm` and the norms inside heads do decay, as in the official code (official-models 9.9).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        exempt = name.endswith("bias") or name.endswith("LayerNorm.weight")
        rate = recipe.learning_rate * (recipe.head_multiplier if name.startswith("head.") else 1.0)
        groups.setdefault((rate, 0.0 if exempt else recipe.weight_decay), []).append(weight)
    return torch.optim.AdamW(
        [
            {"params": weights, "lr": rate, "base_lr": rate, "weight_decay": decay}
            for (rate, decay), weights in groups.items()
        ],
        betas=recipe.betas,
        eps=recipe.epsilon,
        fused=True,
    )
