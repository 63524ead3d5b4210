"""A masked training step against a dense one, at UNITER-base size on the CPU: forward, backward, clip, AdamW.

All variants take turns on one model, so that whatever else the machine does falls on all of them alike; the ratio is
taken within each turn. `weights`: pruned weights zeroed after the step, nothing else. `held`: what the training loop
does, `HoldZeros(zero_stays=True)`: their gradients zeroed before the step, which under AdamW holds the weights as well,
and a look at the weights after steps 1, 2, 4, 8 …. `both`: gradients zeroed before, weights after, for any optimiser.
"""

from __future__ import annotations

import argparse
import time

import torch
from rows import median_and_spread, show_and_keep
from torch import nn

from vltickets.backbones import build_backbone, initialise_module
from vltickets.data import Inputs
from vltickets.specs import Recipe, Uniter
from vltickets.tasks import Model
from vltickets.tasks.answering import AnswerHead, answer_loss
from vltickets.tickets import HoldZeros, Mask, prune, random_scores
from vltickets.training import build_optimizer

WORDS, WIDTH, ANSWERS = 28_996, 2048, 3129
SHAPES = {"4x64": (4, 28, 36), "1x32": (1, 14, 18)}  # examples, words, regions
VARIANTS = ("dense", "weights", "held", "both")


def inputs_of(batch: int, words: int, regions: int) -> Inputs:
    """Return random inputs without padding."""
    return Inputs(
        tokens=torch.randint(5, WORDS, (batch, words)),
        token_mask=torch.ones(batch, words, dtype=torch.bool),
        features=torch.randn(batch, regions, WIDTH),
        boxes=torch.rand(batch, regions, 7),
        region_mask=torch.ones(batch, regions, dtype=torch.bool),
        region_types=torch.ones(batch, regions, dtype=torch.int64),
    )


def step(
    model: Model, optimizer: torch.optim.Optimizer, inputs: Inputs, holds: dict[str, HoldZeros], variant: str
) -> float:
    """Do one step as the training loop does, and return its seconds."""
    hold = holds.get(variant)
    if hold is not None:  # the turns before left pruned weights and their moments somewhere: not part of the step
        forget(optimizer, hold)
    targets = torch.rand(len(inputs.tokens), ANSWERS)
    started = time.perf_counter()
    answer_loss(model.head(model.backbone(inputs).pooled), targets).sum(-1).mean().backward()
    if hold is not None and variant != "weights":
        hold.before_step(model)
    nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
    if hold is not None:
        hold.after_step(model)
    optimizer.zero_grad()
    return time.perf_counter() - started


def forget(optimizer: torch.optim.Optimizer, hold: HoldZeros) -> None:
    """Set pruned weights and their moments to 0, as they are all through a training of one variant alone."""
    with torch.no_grad():
        for weight, mask in zip(hold.weights, hold.masks, strict=True):
            moments = [value for key, value in optimizer.state[weight].items() if key != "step"]
            for tensor in (weight, *moments):
                tensor.mul_(mask)


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    backbone = build_backbone(Uniter(), vocabulary=WORDS, region_width=WIDTH, dropout=0.1)
    model = Model(backbone, AnswerHead(768, ANSWERS))
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        initialise_module(module, generator, 0.02)
    shapes = {name: tuple(weight.shape) for name, weight in backbone.prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), arguments.sparsity)
    holds = {
        "weights": HoldZeros(model, mask),
        "held": HoldZeros(model, mask, zero_stays=True),
        "both": HoldZeros(model, mask),
    }
    optimizer = build_optimizer(model, Recipe(steps=1000, learning_rate=5e-5))
    rows = []
    for name, shape in SHAPES.items():
        inputs = inputs_of(*shape)
        for variant in VARIANTS:  # the optimiser's state, the allocator's memory
            step(model, optimizer, inputs, holds, variant)
        seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for turn in range(arguments.repeats):
            order = list(VARIANTS)
            order = order[turn % len(order) :] + order[: turn % len(order)]
            for variant in order:
                seconds[variant].append(step(model, optimizer, inputs, holds, variant))
        for variant, measured in seconds.items():
            median, spread = median_and_spread(measured)
            ratio, ratio_spread = median_and_spread([a / b for a, b in zip(measured, seconds["dense"], strict=True)])
            rows.append(
                {
                    "batch": name,
                    "variant": variant,
                    "sparsity": arguments.sparsity,
                    "threads": arguments.threads,
                    "repeats": arguments.repeats,
                    "seconds": median,
                    "seconds_spread": spread,
                    "ratio_to_dense": ratio,
                    "ratio_spread": ratio_spread,
                }
            )
    show_and_keep("masked_step", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
