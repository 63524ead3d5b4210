"""K tickets of one seed trained at once, their parameters stacked, against one by one: a tiny UNITER in the world.

Tickets of one seed see the same batches and start from the same head; only their masks differ. `one by one`: the loop's
step for each model in turn, each making its own batch. `stacked`: one batch, then `torch.func.vmap` over the task's own
loss with parameters [K, ...]; clipping and masks by member, one optimiser. torch has no batching rule for its attention
on the CPU and would go member by member, so members are folded into the attention's batch here. `scores`: the logits
of an evaluation batch. Seconds are CPU seconds of this thread on a CPU, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rows import median_and_spread, show_and_keep
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from vltickets.data import batch_plan, open_source, stream
from vltickets.scenes import WORLD_VERSION
from vltickets.specs import TASK_KINDS, Recipe, Train, World, sized
from vltickets.store import Store
from vltickets.studies.work import build_model
from vltickets.tasks import Model, Task, build_task
from vltickets.tasks.protocol import evaluation_batches
from vltickets.tickets import HoldZeros, Mask, initialise, prune, random_scores, shipped
from vltickets.training import build_optimizer

WARM = 20  # steps before the first that is measured; the losses of both ways are compared over them
TOKENS = {"vqa": 640, "snli_ve": 640, "nlvr2": 1280}  # a batch, as in paper-tiny
attend = F.scaled_dot_product_attention


class FoldedAttention(torch.autograd.Function):
    """Attention whose members, under `vmap`, become more rows of one batch."""

    @staticmethod
    def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend without members."""
        return attend(query, key, value, attn_mask=bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: the gradient is that of the folded call."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Attend [K, b, heads, j, d] as [K·b, heads, j, d]; the bias [b, 1, 1, j] is the same for all members."""
        *states, bias = tensors
        folded = [state.movedim(at, 0).flatten(0, 1) for state, at in zip(states, in_dims, strict=False)]
        out = attend(*folded, attn_mask=bias.repeat(info.batch_size, 1, 1, 1))
        return out.unflatten(0, (info.batch_size, -1)), 0


def folded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    """Return what `scaled_dot_product_attention` does, without dropout."""
    out: torch.Tensor = FoldedAttention.apply(query, key, value, attn_mask)
    return out


class Answering(nn.Module):
    """A model as a function of a batch: its loss, or its logits."""

    def __init__(self, model: Model, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Any, scores: bool) -> torch.Tensor:
        """Return the mean loss, or the logits."""
        out: torch.Tensor = self.task.logits(self.model, batch) if scores else self.task.loss(self.model, batch)  # type: ignore[attr-defined]
        return out


class Stack:
    """K models with stacked parameters, masks and one optimiser."""

    def __init__(self, models: list[Model], task: Task, masks: list[Mask], recipe: Recipe) -> None:
        members = [Answering(model, task) for model in models]
        self.shape = members[0]
        self.weights, _ = stack_module_state(members)  # type: ignore[arg-type]
        self.masks = {
            f"model.backbone.{name}": torch.stack([mask[name] for mask in masks]).to(models[0].device, torch.float32)
            for name in masks[0]
        }
        self.clip = recipe.clip
        groups = build_optimizer(models[0], recipe).param_groups
        own = {id(weight): f"model.{name}" for name, weight in models[0].named_parameters()}
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [self.weights[own[id(weight)]] for weight in group["params"]],
                    **{key: group[key] for key in ("lr", "weight_decay", "betas", "eps")},
                }
                for group in groups
            ],
            fused=True,
        )

    def out(self, batch: Any, *, scores: bool = False) -> torch.Tensor:
        """Return the losses [K], or the logits [K, ...]."""
        with patch.object(F, "scaled_dot_product_attention", folded):
            out: torch.Tensor = vmap(lambda weights: functional_call(self.shape, weights, (batch, scores)))(
                self.weights
            )
        return out

    def step(self, batch: Any) -> list[float]:
        """Do a step of all members; return their losses."""
        losses = self.out(batch)
        found: list[float] = losses.tolist()
        losses.sum().backward()
        gradients = {name: weight.grad for name, weight in self.weights.items() if weight.grad is not None}
        for name in self.masks.keys() & gradients.keys():  # NLVR2's head does not use the pooler
            gradients[name].mul_(self.masks[name])
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients.values()]).norm(dim=0)
        scale = (self.clip / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(scale.view(-1, *(1,) * (gradient.dim() - 1)))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return found


class Alone:
    """One model with its mask and optimiser."""

    def __init__(self, model: Model, task: Task, mask: Mask, recipe: Recipe) -> None:
        self.model, self.task, self.clip = model, task, recipe.clip
        self.hold = HoldZeros(model, mask, zero_stays=True)
        self.optimizer = build_optimizer(model, recipe)
        self.weights = list(model.parameters())

    def step(self, batch: Any) -> float:
        """Do a step as the training loop does; return the loss."""
        loss = self.task.loss(self.model, batch)
        value = loss.item()
        loss.backward()
        self.hold.before_step(self.model)
        float(nn.utils.clip_grad_norm_(self.weights, self.clip))
        self.optimizer.step()
        self.hold.after_step(self.model)
        self.optimizer.zero_grad()
        return value


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Return how long some work takes: CPU seconds of this thread, or wall seconds of a GPU."""
    if device.type == "cpu":
        started = time.thread_time()
        work()
        return time.thread_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def start(name: str, store: Store, device: torch.device) -> tuple[Task, Recipe, Model]:
    """Return a task over a small world, paper-tiny's recipe for it, and a model as a ticket's training starts."""
    data = World(generator=WORLD_VERSION, scenes=1, examples=2000, heldout=1000)
    recipe = Recipe(steps=1000, learning_rate=1e-3, batch_tokens=TOKENS[name], dropout=0.0, clip=1.0)
    spec = TASK_KINDS[name](data=data, split="test")  # type: ignore[call-arg]
    node = Train(backbone=sized("tiny"), task=spec, start=shipped("theta0"), recipe=recipe)
    source = open_source(data, store)
    task = build_task(node.task, source, node.backbone)
    model = build_model(node.backbone, recipe, task, source)
    initialise(model, task, node, store)
    return task, recipe, model.to(device).train()


def measure(name: str, count: int, repeats: int, store: Store, device: torch.device) -> list[dict[str, object]]:
    """Return the rows of one task and one number of members."""
    task, recipe, model = start(name, store, device)
    shapes = {weight: tuple(value.shape) for weight, value in model.backbone.prunable().items()}
    levels = np.linspace(0.1, 0.9, count)
    masks = [prune(random_scores(0, shapes), Mask.dense(shapes), float(level)) for level in levels]
    singles = [Alone(deepcopy(model), task, mask, recipe) for mask in masks]
    stack = Stack([single.model for single in singles], task, masks, recipe)
    plan = batch_plan(task.lengths(), tokens=recipe.batch_tokens, task=task.name, seed=0)
    large = task.batch(next(evaluation_batches(task.lengths())), np.random.default_rng(0))  # type: ignore[arg-type]

    def batch(step: int) -> Any:
        return task.batch(plan(step), stream(task.name, 0, "batch", step))

    def alone(step: int) -> list[float]:
        return [single.step(batch(step)) for single in singles]

    def stacked(step: int) -> list[float]:
        return stack.step(batch(step))

    def scores_alone(_: int) -> list[torch.Tensor]:
        with torch.inference_mode():
            return [task.logits(single.model, large) for single in singles]  # type: ignore[attr-defined]

    def scores_stacked(_: int) -> torch.Tensor:
        with torch.no_grad():
            return stack.out(large, scores=True)

    apart = max(abs(a - b) / a for step in range(WARM) for a, b in zip(alone(step), stacked(step), strict=True))
    rows: list[dict[str, object]] = []
    for what, first, second in (("step", alone, stacked), ("scores", scores_alone, scores_stacked)):
        pairs = [
            (seconds_of(partial(first, step), device), seconds_of(partial(second, step), device))
            for step in range(WARM, WARM + repeats)
        ]
        (single, single_spread), (own, own_spread) = (median_and_spread(side) for side in zip(*pairs, strict=True))
        ratio, ratio_spread = median_and_spread([a / b for a, b in pairs])
        rows.append(
            {
                "task": name,
                "what": what,
                "members": count,
                "device": str(device),
                "repeats": repeats,
                "ms_one_by_one": single / count * 1e3,  # a member's
                "ms_stacked": own / count * 1e3,
                "one_by_one_spread": single_spread / count * 1e3,
                "stacked_spread": own_spread / count * 1e3,
                "times_faster": ratio,
                "times_spread": ratio_spread,
                "loss_difference": apart,
            }
        )
    return rows


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tuple(TOKENS), default=["vqa", "nlvr2"])
    parser.add_argument("--members", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.prepare()
        for name in arguments.tasks:
            for count in arguments.members:
                rows += measure(name, count, arguments.repeats, store, torch.device(arguments.device))
    show_and_keep("stacked", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
