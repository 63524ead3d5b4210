"""What optimal transport costs: its plan (IPOT, 50 iterations) as a share of an ITM + WRA step at UNITER-base size.

Each turn does one whole step (forward, both losses, backward, clip, AdamW) and, apart, the transport plan of the very
same shapes; the share is taken within each turn.
"""

from __future__ import annotations

import argparse
import time

import torch
from masked_step import WIDTH, WORDS, inputs_of
from rows import median_and_spread, show_and_keep
from torch import nn

from vltickets.backbones import build_backbone, initialise_module
from vltickets.data import Inputs
from vltickets.specs import Recipe, Uniter
from vltickets.tasks import Model
from vltickets.tasks.heads import PretrainingHead
from vltickets.tasks.pretraining import PretrainingBatch, alignment_loss, distances, objective_loss, predictions
from vltickets.tasks.transport import transport_plan
from vltickets.training import build_optimizer

SHAPES = {"4x64": (4, 28, 36), "32x48": (32, 12, 36)}  # examples, words, regions
CLASSES = 1601


def step(model: Model, optimizer: torch.optim.Optimizer, inputs: Inputs) -> float:
    """Do one step of image-text matching with word-region alignment, and return its seconds."""
    match = torch.arange(len(inputs.tokens)) % 2
    batch = PretrainingBatch("itm", inputs, match=match)
    started = time.perf_counter()
    outputs = model.backbone(inputs)
    loss = objective_loss(predictions(model, outputs, batch), batch)
    (loss + 0.1 * alignment_loss(distances(outputs, inputs), match)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def plan(inputs: Inputs) -> float:
    """Make one batch's transport plan, and return its seconds."""
    cost = torch.rand(len(inputs.tokens), inputs.tokens.shape[1], inputs.features.shape[1])
    started = time.perf_counter()
    transport_plan(cost, inputs.token_mask, inputs.region_mask, beta=0.5, iterations=50)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    backbone = build_backbone(Uniter(), vocabulary=WORDS, region_width=WIDTH, dropout=0.1)
    model = Model(backbone, PretrainingHead(768, WORDS, CLASSES, WIDTH))
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        initialise_module(module, generator, 0.02)
    optimizer = build_optimizer(model, Recipe(steps=1000, learning_rate=5e-5))
    rows = []
    for name, shape in SHAPES.items():
        inputs = inputs_of(*shape)
        step(model, optimizer, inputs), plan(inputs)
        turns = [(step(model, optimizer, inputs), plan(inputs)) for _ in range(arguments.repeats)]
        seconds, seconds_spread = median_and_spread([whole for whole, _ in turns])
        share, share_spread = median_and_spread([100 * part / whole for whole, part in turns])
        rows.append(
            {
                "batch": name,
                "threads": arguments.threads,
                "repeats": arguments.repeats,
                "step_seconds": seconds,
                "step_seconds_spread": seconds_spread,
                "plan_percent": share,
                "plan_percent_spread": share_spread,
            }
        )
    show_and_keep("transport", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
