"""A ticket from disk onto UNITER-base: read the file, verify, unpack, apply; what it adds to loading the weights.

`cold` rows have the files' pages dropped from the cache before each turn, as far as the system allows; `warm` rows not.
The weights are dense again before each turn. `weights` is the time to load the backbone's weights, to compare with.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from rows import median_and_spread, show_and_keep
from safetensors.torch import load_file, save_file
from torch import nn

from vltickets.backbones import build_backbone
from vltickets.specs import Uniter
from vltickets.tickets import Mask, Ticket, load_ticket, prune, random_scores, save_ticket

WORDS, WIDTH = 28_996, 2048


def drop_from_cache(path: Path) -> None:
    """Let the system forget the file's pages, so that it is read from the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def turn(model: nn.Module, start: Path, ticket: Path, *, cold: bool) -> dict[str, float]:
    """Load the weights, then the ticket, then apply it; return the seconds of each."""
    for path in (start, ticket) if cold else ():
        drop_from_cache(path)
    times = [time.perf_counter()]
    model.load_state_dict(load_file(start))
    times.append(time.perf_counter())
    loaded = load_ticket(ticket)
    times.append(time.perf_counter())
    loaded.apply_(model)
    times.append(time.perf_counter())
    weights, verify, apply = (after - before for before, after in pairwise(times))
    return {"weights": weights, "read and verify": verify, "apply": apply, "ticket": verify + apply}


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = build_backbone(Uniter(), vocabulary=WORDS, region_width=WIDTH, dropout=0.0)
    shapes = {name: tuple(weight.shape) for name, weight in model.prunable().items()}
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), arguments.sparsity)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        start, ticket = Path(folder) / "start.safetensors", Path(folder) / "ticket.safetensors"
        save_file(model.state_dict(), start)
        save_ticket(Ticket(Uniter(), mask, {}), ticket)
        turn(model, start, ticket, cold=False)  # what happens once in a process
        for cache in ("warm", "cold"):
            turns = [turn(model, start, ticket, cold=cache == "cold") for _ in range(arguments.repeats)]
            for part in turns[0]:
                median, spread = median_and_spread([one[part] for one in turns])
                rows.append(
                    {
                        "part": part,
                        "cache": cache,
                        "sparsity": arguments.sparsity,
                        "file_mb": ticket.stat().st_size / 1e6,
                        "threads": arguments.threads,
                        "repeats": arguments.repeats,
                        "seconds": median,
                        "seconds_spread": spread,
                    }
                )
    show_and_keep("ticket_apply", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
