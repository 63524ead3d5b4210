"""A training step of UNITER-base under a 70 % mask on a realistic mix of lengths, against Hugging Face's way.

`eager, prune`: transformers' BertModel of the same shape on UNITER's embeddings, padded, attention "eager", masks by
`torch.nn.utils.prune`, AdamW as torch makes it. `padded` and `packed`: the steps of the training loop, `HoldZeros` and
fused AdamW, without and with `packed`; `compiled` (--compile): packed, and `torch.compile` of the layers. All do
forward, backward, clip and the optimiser's step, under autocast to bfloat16 with `--precision bf16`.

Lengths: [CLS], [SEP], one word and Poisson(9) more; regions uniform in 36 to 100; seed 0. The batches are those of the
training loop: `--batch-tokens` counts longest × examples. The variants take turns on each batch, and ratios are taken
within a turn. `share_of_peak`: the arithmetic of valid tokens alone (6 per weight of the encoder's matrices and token,
12 · layers · width · length² a row of attention) over time, over what one large square matmul reaches in the same turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from masked_step import ANSWERS, WIDTH, WORDS
from rows import median_and_spread, show_and_keep
from torch import nn
from torch.nn.utils import prune as torch_prune
from transformers import BertConfig, BertModel

from vltickets.backbones import UniterBackbone, build_backbone, initialise_module
from vltickets.data import Inputs, batch_plan
from vltickets.specs import Recipe, Uniter
from vltickets.tasks import Model
from vltickets.tasks.answering import AnswerHead, answer_loss
from vltickets.tickets import HoldZeros, Mask, prune, random_scores
from vltickets.training import build_optimizer
from vltickets.training.feed import pinned

BASE, SPARSITY, EXAMPLES = Uniter(), 0.7, 20_000
RIVAL = "eager, prune"
Batch = tuple[Inputs, torch.Tensor]
Step = Callable[[Batch], None]


class Rival(nn.Module):
    """UNITER's embeddings and head around transformers' encoder, with eager attention over padded rows."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self.trunk = _uniter()
        self.bert = BertModel(BertConfig(attn_implementation="eager"))  # its defaults are the base size
        self.bert.embeddings.word_embeddings = nn.Embedding(1, BASE.hidden)  # never looked up
        del self.trunk.encoder, self.trunk.pooler
        self.head = AnswerHead(BASE.hidden, ANSWERS)
        for name in mask:
            module, _, weight = name.rpartition(".")  # UNITER's names are BERT's
            torch_prune.custom_from_mask(self.bert.get_submodule(module), weight, mask[name])

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """Return logits [b, answers]."""
        text = self.trunk.embeddings(inputs.tokens, inputs.token_types)
        joint = torch.cat([text, self.trunk.embed_regions(inputs)], dim=1)
        mask = torch.cat([inputs.token_mask, inputs.region_mask], dim=1)
        pooled = self.bert(inputs_embeds=joint, attention_mask=mask.long()).pooler_output
        logits: torch.Tensor = self.head(pooled)
        return logits


def rival_step(mask: Mask, device: torch.device, autocast: Callable[[], AbstractContextManager[Any]]) -> Step:
    """Return a step of the usual loop."""
    model = Rival(mask).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)

    def step(batch: Batch) -> None:
        with autocast():
            logits = model(batch[0].to(device))
        answer_loss(logits.float(), batch[1].to(device)).sum(-1).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def own_steps(
    mask: Mask, device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], compiled: bool
) -> dict[str, Step]:
    """Return the steps of the training loop, all on one model but the compiled one."""

    def made(packed: bool, model: Model, optimizer: torch.optim.Optimizer, hold: HoldZeros) -> Step:
        def step(batch: Batch) -> None:
            model.backbone.packed = packed  # type: ignore[attr-defined]
            with autocast():
                logits = model.head(model.backbone(batch[0].to(device)).pooled)
            answer_loss(logits.float(), batch[1].to(device, non_blocking=True)).sum(-1).mean().backward()
            hold.before_step(model)
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimizer.step()
            hold.after_step(model)
            optimizer.zero_grad()

        return step

    steps: dict[str, Step] = {}
    for names in (("padded", "packed"), ("compiled",))[: 1 + compiled]:
        model = Model(_uniter(), AnswerHead(BASE.hidden, ANSWERS)).to(device).train()
        if names == ("compiled",):
            model.backbone.compile_layers()  # type: ignore[attr-defined]
        optimizer = build_optimizer(model, Recipe(steps=1000, learning_rate=5e-5))
        hold = HoldZeros(model, mask, zero_stays=True)
        steps |= {name: made(name != "padded", model, optimizer, hold) for name in names}
    return steps


def _uniter() -> UniterBackbone:
    backbone = build_backbone(BASE, vocabulary=WORDS, region_width=WIDTH, dropout=0.1)
    assert isinstance(backbone, UniterBackbone)
    generator = torch.Generator().manual_seed(0)
    for module in backbone.modules():
        initialise_module(module, generator, 0.02)
    return backbone


def batches(count: int, tokens: int, pin: bool) -> list[Batch]:
    """Return so many batches of the mix, in host memory."""
    rng = np.random.default_rng(0)
    words, regions = 3 + rng.poisson(9, EXAMPLES), rng.integers(36, 101, EXAMPLES)
    plan = batch_plan(words + regions, tokens=tokens, task="train-step", seed=0)
    torch.manual_seed(0)
    made = []
    for examples in map(plan, range(count)):
        token_mask, region_mask = (
            torch.from_numpy(np.arange(lengths[examples].max()) < lengths[examples, None])
            for lengths in (words, regions)
        )
        inputs = Inputs(
            tokens=torch.randint(5, WORDS, token_mask.shape) * token_mask,
            token_mask=token_mask,
            features=torch.randn(*region_mask.shape, WIDTH) * region_mask[..., None],
            boxes=torch.rand(*region_mask.shape, 7),
            region_mask=region_mask,
            region_types=torch.ones_like(region_mask, dtype=torch.int64),
        )
        batch = (inputs, torch.rand(len(examples), ANSWERS))
        made.append(pinned(batch) if pin else batch)
    return made


def arithmetic(batch: Batch) -> tuple[int, float]:
    """Return a batch's valid tokens, and the floating-point operations that a step on them needs."""
    lengths = batch[0].token_mask.sum(1) + batch[0].region_mask.sum(1)
    weights = BASE.layers * (4 * BASE.hidden**2 + 2 * BASE.hidden * BASE.intermediate)
    attention = 12 * BASE.layers * BASE.hidden * float((lengths.double() ** 2).sum())
    return int(lengths.sum()), 6.0 * weights * int(lengths.sum()) + attention


def seconds_of(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Return the seconds of some work, its end on the device included."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    started = clock()
    work()
    wait()
    return clock() - started


def peak(device: torch.device, precision: str, clock: Callable[[], float]) -> float:
    """Return the operations a second of one large square matmul, the best of a few."""
    size, repeats = (8192, 10) if device.type == "cuda" else (2048, 3)
    a, b = (torch.randn(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    return 2.0 * size**3 / min(seconds_of(lambda: a @ b, device, clock) for _ in range(repeats))


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="bf16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--batch-tokens", type=int, default=10240 if torch.cuda.is_available() else 1024)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: the process's own, where it is busy"
    )
    parser.add_argument("--compile", action="store_true", help="measure the compiled layers too")
    parser.add_argument("--json", action="store_true", help="print JSON on the standard output, nothing else")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, clock = torch.device(options.device), CLOCKS[options.clock]
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=options.precision == "bf16")
    shapes = {name: tuple(weight.shape) for name, weight in _uniter().prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), SPARSITY)
    steps = {RIVAL: rival_step(mask, device, autocast), **own_steps(mask, device, autocast, options.compile)}
    made = batches(options.repeats, options.batch_tokens, device.type == "cuda")
    for step in steps.values():  # the optimiser's state, the allocator's memory, compiling
        for batch in made[: 3 if options.compile else 1]:  # a second length makes the graph one for all
            step(batch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks = []
    for turn, batch in enumerate(made):
        peaks.append(peak(device, options.precision, clock))
        first = turn % len(steps)
        for name in (*list(steps)[first:], *list(steps)[:first]):
            seconds[name].append(seconds_of(partial(steps[name], batch), device, clock))
    rows = rows_of(seconds, peaks, made, options)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        show_and_keep("train_step", rows, keep=not options.no_csv)
    if options.json:
        print(json.dumps(rows))


def rows_of(
    seconds: dict[str, list[float]], peaks: list[float], made: list[Batch], options: argparse.Namespace
) -> list[dict[str, object]]:
    """Return a row a variant: medians of what was taken within each turn."""
    tokens, operations = zip(*map(arithmetic, made), strict=True)
    places = [sum(mask.numel() for mask in (inputs.token_mask, inputs.region_mask)) for inputs, _ in made]
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "cpu"
    rows = []
    for variant, measured in seconds.items():
        ratio, spread = median_and_spread([a / b for a, b in zip(seconds[RIVAL], measured, strict=True)])
        shares = [work / own / top for work, own, top in zip(operations, measured, peaks, strict=True)]
        rows.append(
            {
                "variant": variant,
                "device": name,
                "precision": options.precision,
                "threads": options.threads,
                "clock": options.clock,
                "batch_tokens": options.batch_tokens,
                "repeats": options.repeats,
                "padding": 1 - sum(tokens) / sum(places),
                "seconds": median_and_spread(measured)[0],
                "tokens_a_second": median_and_spread([n / own for n, own in zip(tokens, measured, strict=True)])[0],
                "peak_tflops": median_and_spread(peaks)[0] / 1e12,
                "share_of_peak": median_and_spread(shares)[0],
                "times_rival": ratio,
                "times_spread": spread,
            }
        )
    return rows


if __name__ == "__main__":
    main()
