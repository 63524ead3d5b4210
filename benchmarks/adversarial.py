"""An adversarial training step against a plain one, at UNITER-base size on the CPU: gradients, clip, AdamW.

All variants take turns on one model, so that whatever else the machine does falls on all of them alike; the ratio is
taken within each turn. With dropout, a pass is drawn anew each time: VILLA's form then needs 1 + K forward and 1 + K
backward passes. Without, its first step is the clean pass: K forward, K backward, and one to the inputs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import time

import torch
from masked_step import ANSWERS, WIDTH, WORDS, inputs_of
from rows import median_and_spread, show_and_keep
from torch import nn

from vltickets.backbones import build_backbone, initialise_module
from vltickets.specs import Adversarial, Recipe, Uniter, changed
from vltickets.tasks import Model
from vltickets.tasks.answering import AnswerBatch, AnswerHead, AnsweringTask
from vltickets.training import build_optimizer
from vltickets.training.adversarial import Adversary

GOALS = {"villa": 0.5, "paper": 2.3}  # at most K plus this
FORMS = {
    "villa": Adversarial(form="villa"),
    "paper": Adversarial(form="paper", step_size=0.05, bound=0.1),
}


def model_of(layers: int, dropout: float) -> Model:
    """Return a UNITER of base width with VQA's head, at random."""
    spec = changed(Uniter(), layers=layers)
    backbone = build_backbone(spec, vocabulary=WORDS, region_width=WIDTH, dropout=dropout)
    model = Model(backbone, AnswerHead(spec.hidden, ANSWERS))
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        initialise_module(module, generator, 0.02)
    return model.train()


def step(
    model: Model, task: AnsweringTask, optimizer: torch.optim.Optimizer, batch: AnswerBatch, adversary: Adversary | None
) -> float:
    """Do one step as the training loop does, and return its seconds."""
    started = time.perf_counter()
    if adversary is None:
        task.loss(model, batch).backward()
    else:
        adversary.gradients(batch, 1.0, 0)
    nn.utils.clip_grad_norm_(model.parameters(), 2.0)
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12, help="fewer than 12: base width, and less to wait for")
    parser.add_argument("--examples", type=int, default=4, help="of 28 words and 36 regions")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    batch = AnswerBatch(inputs_of(arguments.examples, 28, 36), torch.rand(arguments.examples, ANSWERS))
    task = AnsweringTask("vqa", "test", False, [str(answer) for answer in range(ANSWERS)], read=lambda split: None)
    rows = []
    for dropout in (0.0, 0.1):
        model = model_of(arguments.layers, dropout)
        optimizer = build_optimizer(model, Recipe(steps=1000, learning_rate=5e-5))
        variants: dict[tuple[str, int], Adversary | None] = {("plain", 0): None}
        for form, spec in FORMS.items():
            for k in (1, 2, 3):
                variants[form, k] = Adversary(
                    model, task, changed(spec, steps=k), dropout > 0, contextlib.nullcontext, torch.Tensor.backward
                )
        for adversary in list(variants.values())[:2]:  # the optimiser's state, the allocator's memory
            step(model, task, optimizer, batch, adversary)
        seconds: dict[tuple[str, int], list[float]] = {variant: [] for variant in variants}
        for _ in range(arguments.repeats):
            for variant, adversary in variants.items():
                seconds[variant].append(step(model, task, optimizer, batch, adversary))
        for (form, k), measured in seconds.items():
            median, spread = median_and_spread(measured)
            pairs = zip(measured, seconds["plain", 0], strict=True)
            ratio, ratio_spread = median_and_spread([mine / plain for mine, plain in pairs])
            rows.append(
                {
                    "form": form,
                    "K": k,
                    "dropout": dropout,
                    "layers": arguments.layers,
                    "examples": arguments.examples,
                    "threads": arguments.threads,
                    "repeats": arguments.repeats,
                    "seconds": median,
                    "seconds_spread": spread,
                    "ratio_to_plain": ratio,
                    "ratio_spread": ratio_spread,
                    "goal": k + GOALS[form] if form in GOALS else 1.0,
                }
            )
    show_and_keep("adversarial", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
