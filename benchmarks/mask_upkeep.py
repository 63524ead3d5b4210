"""What `ticket.held` costs in a loop that is not ours: UNITER-base on the CPU, forward, backward, clip, AdamW.

The variants take turns on one model, and the share is taken within each turn. `plain`: no hooks. `held`: the hooks
with `zero_stays=True`, which holds for AdamW: gradients are zeroed as they arise. `held, any optimizer`: the default,
which zeroes the weights after the step as well. Entering and leaving `with` is not part of a step. `--optimizer plain`
is AdamW as torch makes it on a CPU, one operation after another; `fused` is `AdamW(fused=True)`. `--clock cpu` counts
the process's own seconds, for a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from masked_step import ANSWERS, WIDTH, WORDS, forget, inputs_of
from rows import median_and_spread, show_and_keep
from torch import nn

from vltickets.backbones import build_backbone, initialise_module
from vltickets.data import Inputs
from vltickets.specs import Uniter
from vltickets.tasks import Model
from vltickets.tasks.answering import AnswerHead, answer_loss
from vltickets.tickets import HoldZeros, Mask, prune, random_scores

SHAPES = {"4x64": (4, 28, 36), "16x64": (16, 28, 36)}  # examples, words, regions
VARIANTS = ("plain", "held", "held, any optimizer")


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]


def step(model: Model, optimizer: torch.optim.Optimizer, inputs: Inputs, clock: Clock) -> float:
    """Do one step of a plain loop, and return its seconds."""
    targets = torch.rand(len(inputs.tokens), ANSWERS)
    started = clock()
    answer_loss(model.head(model.backbone(inputs).pooled), targets).sum(-1).mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
    optimizer.zero_grad()
    return clock() - started


def turn(model: Model, optimizer: torch.optim.Optimizer, inputs: Inputs, hold: HoldZeros | None, clock: Clock) -> float:
    """Do one step with or without the hooks, from weights and moments as they are in such a training."""
    if hold is not None and optimizer.state:
        forget(optimizer, hold)
    with nullcontext() if hold is None else hold.attached_to(optimizer):
        return step(model, optimizer, inputs, clock)


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--batches", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--optimizer", choices=("fused", "plain"), default="fused")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    torch.manual_seed(0)
    backbone = build_backbone(Uniter(), vocabulary=WORDS, region_width=WIDTH, dropout=0.1)
    model = Model(backbone, AnswerHead(768, ANSWERS))
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        initialise_module(module, generator, 0.02)
    shapes = {name: tuple(weight.shape) for name, weight in backbone.prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), arguments.sparsity)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=arguments.optimizer == "fused")
    held = HoldZeros(model, mask, zero_stays=True)
    held._steps = 1000  # in mid-training: the looks at the weights after steps 1, 2, 4, 8 … are behind it
    holds = {
        "plain": None,
        "held": held,
        "held, any optimizer": HoldZeros(model, mask),
    }
    rows = []
    for name in arguments.batches:
        inputs = inputs_of(*SHAPES[name])
        for variant in VARIANTS:  # the optimiser's state, the allocator's memory
            turn(model, optimizer, inputs, holds[variant], clock)
        seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for number in range(arguments.repeats):
            first = number % len(VARIANTS)
            for variant in (*VARIANTS[first:], *VARIANTS[:first]):
                seconds[variant].append(turn(model, optimizer, inputs, holds[variant], clock))
        for variant, measured in seconds.items():
            median, spread = median_and_spread(measured)
            shares = [own / plain - 1 for own, plain in zip(measured, seconds["plain"], strict=True)]
            share, share_spread = median_and_spread(shares)
            rows.append(
                {
                    "batch": name,
                    "variant": variant,
                    "optimizer": arguments.optimizer,
                    "clock": arguments.clock,
                    "sparsity": arguments.sparsity,
                    "threads": arguments.threads,
                    "repeats": arguments.repeats,
                    "seconds": median,
                    "seconds_spread": spread,
                    "share_of_step": share,
                    "share_spread": share_spread,
                }
            )
    show_and_keep("mask_upkeep", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
