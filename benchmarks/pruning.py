"""Global magnitude pruning of UNITER-base's 85,524,480 weights, ours against torch.nn.utils.prune.

Each measurement is a process of its own: its time, and how far its peak memory rises above what it held before. With
`--levels 8` the weights take few values, so that there are ties at the threshold; the count must be exact all the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from rows import median_and_spread, show_and_keep
from torch import nn
from torch.nn.utils import prune as torch_prune

from vltickets.backbones import prunable_shapes
from vltickets.specs import Uniter
from vltickets.tickets import Mask, prune_by_magnitude

SPARSITIES = (0.2, 0.7)


class Holder(nn.Module):
    """A module with one weight, which torch's pruning wants."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def peak() -> int:
    """Return the largest memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def measure(method: str, sparsity: float, levels: int, threads: int) -> dict[str, float]:
    """Prune once in this process; return seconds, extra MiB and by how many weights the count is off."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in prunable_shapes(Uniter()).items():
        weights[name] = torch.randn(shape, generator=generator).mul_(0.02)
        if levels:
            weights[name].mul_(levels / 0.06).round_().mul_(0.06 / levels)
    total = sum(weight.numel() for weight in weights.values())
    if method == "vltickets":
        dense = Mask.dense({name: tuple(weight.shape) for name, weight in weights.items()})
        before, started = peak(), time.perf_counter()
        mask = prune_by_magnitude(weights, dense, sparsity)
        seconds = time.perf_counter() - started
        extra, zeros = peak() - before, total - mask.kept
    else:
        modules = [Holder(weight) for weight in weights.values()]
        before, started = peak(), time.perf_counter()
        torch_prune.global_unstructured(
            [(module, "weight") for module in modules], torch_prune.L1Unstructured, amount=sparsity
        )
        seconds = time.perf_counter() - started
        extra, zeros = peak() - before, sum(int((module.weight_mask == 0).sum()) for module in modules)
    return {"seconds": seconds, "extra_mib": extra, "off_by": zeros - round(sparsity * total)}


def in_a_process(method: str, sparsity: float, levels: int, threads: int) -> dict[str, float]:
    """Measure in a fresh process: peak memory never falls again."""
    job = json.dumps([method, sparsity, levels, threads])
    run = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--levels", type=int, default=0, help="round the weights to few values; 0: not at all")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(measure(*json.loads(arguments.job))))
        return
    rows = []
    for sparsity in SPARSITIES:
        found: dict[str, list[dict[str, float]]] = {"vltickets": [], "torch": []}
        for _ in range(arguments.repeats):
            for method, measured in found.items():
                measured.append(in_a_process(method, sparsity, arguments.levels, arguments.threads))
        reference = {
            key: median_and_spread([item[key] for item in found["torch"]])[0] for key in ("seconds", "extra_mib")
        }
        for method, measured in found.items():
            seconds, spread = median_and_spread([item["seconds"] for item in measured])
            memory, memory_spread = median_and_spread([item["extra_mib"] for item in measured])
            rows.append(
                {
                    "method": method,
                    "sparsity": sparsity,
                    "levels": arguments.levels,
                    "threads": arguments.threads,
                    "repeats": arguments.repeats,
                    "seconds": seconds,
                    "seconds_spread": spread,
                    "extra_mib": memory,
                    "extra_mib_spread": memory_spread,
                    "time_to_torch": seconds / reference["seconds"],
                    "memory_to_torch": memory / reference["extra_mib"],
                    "count_off_by": max((item["off_by"] for item in measured), key=abs),
                }
            )
    show_and_keep("pruning", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
