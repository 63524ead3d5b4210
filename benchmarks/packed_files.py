"""Packed files of UNITER-base under random masks: their size, the seconds to write one, and from file to dense tensors.

Each reading is in a fresh process, as a program reads its model once, with the file in the system's cache (`cold`:
dropped from it before, as far as the system allows); the variants take turns, and ratios are taken within each turn.
`dense` reads a float32 safetensors file of the same model into tensors of its own and verifies nothing (safetensors
maps a file; numbers come when they are touched), `dense, verified` also hashes each tensor by SHA-256, as a packed file
is. `packed` reads and verifies a packed file, `packed, plain torch` the same without compiled code, `ticket` reads and
verifies a ticket file with dense weights. `first answer` goes on to the logits of one question, in a model built
before; for `dense` from the mapped file, without a copy of its own. CPU seconds of all threads stand beside, for a
machine that is busy.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from masked_step import inputs_of
from rows import median_and_spread, show_and_keep
from safetensors.torch import load_file, save_file
from ticket_apply import drop_from_cache

from vltickets.backbones import build_backbone
from vltickets.deploy import TrainedTicket, build_trained, load_packed, packed_file, save_packed
from vltickets.specs import Uniter
from vltickets.tasks import Model
from vltickets.tasks.answering import AnswerHead
from vltickets.tickets import Mask, Ticket, load_ticket, prune, random_scores, save_ticket

WORDS, WIDTH, ANSWERS = 28_996, 2048, 3129
FIRST, COLD, VERIFIED, PLAIN = ", first answer", ", cold", ", verified", ", plain torch"
DENSE = "dense.safetensors"
VARIANTS = (
    *("dense", "dense" + VERIFIED, "packed", "packed" + PLAIN, "ticket"),
    *(name + how for how in (COLD, FIRST) for name in ("dense", "packed")),
)
Row = dict[str, object]


def ticket_of(sparsity: float) -> Ticket:
    """Return a ticket of UNITER-base with random weights, a VQA head, and a random mask of this sparsity."""
    backbone = build_backbone(Uniter(), vocabulary=WORDS, region_width=WIDTH, dropout=0.0)
    backbone.initialise(torch.Generator().manual_seed(0), 0.02)
    shapes = {name: tuple(weight.shape) for name, weight in backbone.prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), sparsity)
    mask.apply_(backbone.prunable())
    state = Model(backbone, AnswerHead(768, ANSWERS)).state_dict()
    return Ticket(Uniter(), mask, {}, {name: value.numpy() for name, value in state.items()})


def read(variant: str, packed: Path, dense: Path, whole: Path, threads: int) -> tuple[float, float]:
    """Read in this process, which has read nothing before, and return wall and CPU seconds."""
    torch.set_num_threads(threads)
    from_file = variant.partition(",")[0]
    model = build_trained(ticket_of(0.0)) if variant.endswith(FIRST) else None
    if variant.endswith(PLAIN):
        packed_file.host_target = lambda: None
    for path in (packed, dense) if variant.endswith(COLD) else ():
        drop_from_cache(path)
    wall, cpu = time.perf_counter(), time.process_time()
    if from_file == "packed":
        weights = {name: torch.from_numpy(array) for name, array in load_packed(packed).weights.items()}
    elif from_file == "ticket":
        weights = {name: torch.from_numpy(array) for name, array in load_ticket(whole).weights.items()}
    else:
        weights = load_file(dense)
        if variant.endswith(VERIFIED):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(digest, weights.values()))
        if model is None:
            weights = {name: value.clone() for name, value in weights.items()}
    if model is not None:
        answer(model, weights)
    return time.perf_counter() - wall, time.process_time() - cpu


def digest(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def encoder_share(ticket: Ticket, value_bytes: int) -> float:
    """Return bits and kept values of the encoder's matrices, as a share of their dense float32 bytes."""
    names = [name for name in ticket.mask if name.startswith("encoder.")]
    total = sum(ticket.mask[name].numel() for name in names)
    kept = sum(int(np.count_nonzero(ticket.mask[name].numpy())) for name in names)
    return (total / 8 + kept * value_bytes) / (4 * total)


def answer(model: TrainedTicket, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of one question by these weights."""
    model.load_state_dict(weights, assign=True)
    torch.manual_seed(0)
    with torch.inference_mode():
        return model(inputs_of(1, 20, 36))


def rows_of(sparsity: float, values: str, ticket: Ticket, folder: Path, repeats: int, threads: int) -> list[Row]:
    """Measure one mask and one type of values."""
    dense, whole, packed = (folder / f"{name}.safetensors" for name in ("dense", "ticket", values))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("write", *VARIANTS)}
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        save_packed(ticket, packed, values=values)  # type: ignore[arg-type]
        seconds["write"].append((time.perf_counter() - wall, time.process_time() - cpu))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vltickets.deploy", "masked_step"])
    with context.Pool(1, maxtasksperchild=1) as pool:  # a process for each: a program reads its model once
        for turn in range(repeats):
            for variant in VARIANTS[turn % len(VARIANTS) :] + VARIANTS[: turn % len(VARIANTS)]:
                seconds[variant].append(pool.apply(read, (variant, packed, dense, whole, threads)))
    rows: list[Row] = []
    for part, measured in seconds.items():
        base = seconds["dense" + next((how for how in (FIRST, COLD) if part.endswith(how)), "")]
        row: Row = {"sparsity": sparsity, "values": values, "part": part, "threads": threads, "repeats": repeats}
        row |= {"file_mb": packed.stat().st_size / 1e6, "of_dense": packed.stat().st_size / dense.stat().st_size}
        row["encoder_of_dense"] = encoder_share(ticket, 4 if values == "fp32" else 2)
        for clock, kind in enumerate(("wall", "cpu")):
            row[f"{kind}_s"], row[f"{kind}_spread"] = median_and_spread([one[clock] for one in measured])
            ratios = [one[clock] / other[clock] for one, other in zip(measured, base, strict=True)]
            row[f"{kind}_to_dense"], row[f"{kind}_to_dense_spread"] = median_and_spread(ratios)
            ratios = [
                one[clock] / other[clock] for one, other in zip(measured, seconds["dense" + VERIFIED], strict=True)
            ]
            row[f"{kind}_to_verified"] = median_and_spread(ratios)[0]
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[Row] = []
    for sparsity in arguments.sparsity:
        ticket = ticket_of(sparsity)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            save_file({name: torch.from_numpy(array) for name, array in ticket.weights.items()}, folder / DENSE)
            save_ticket(ticket, folder / "ticket.safetensors")
            for values in ("fp32", "bf16"):
                rows += rows_of(sparsity, values, ticket, folder, arguments.repeats, arguments.threads)
    show_and_keep("packed_files", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
