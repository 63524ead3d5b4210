"""One sparse linear layer against torch's dense F.linear, by shape, tokens and sparsity, under random masks.

The two take turns on the same activations, and the ratio is taken within each turn: one thread by its own CPU time,
several by wall time. The sparse layer works on tiles already laid out, as between an encoder's layers. Rates count the
non-zeros, over the 64 tokens of each tile, the unused too; "of peak" is against multiply-adds on registers alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable

import torch
from rows import median_and_spread, show_and_keep
from torch.nn import functional

from vltickets.deploy import TILE, SparseLinear, Target, host_target, processor, to_tiles
from vltickets.deploy.ir import Epilogue
from vltickets.deploy.jit import AVX2, machine_code
from vltickets.tickets import Mask, pattern_of, random_scores

SHAPES = {"768x768": (768, 768), "3072x768": (3072, 768), "768x3072": (768, 3072)}  # outputs x inputs


def peak_gflops(target: Target, turns: int = 200_000) -> float:
    """Return the GFLOP/s of one core on 12 independent multiply-adds a turn, all in registers; best of 9."""
    lanes, count = target.lanes, 12
    vector = f"<{lanes} x float>"
    sums = [f"%s{k}" for k in range(count)]
    fma = f"@llvm.fma.v{lanes}f32"
    phis = [f"  {s} = phi {vector} [ %start, %entry ], [ {s}n, %turn ]" for s in sums]
    steps = [f"  {s}n = call {vector} {fma}({vector} %factor, {vector} {s}, {vector} %factor)" for s in sums]
    total = [f"  %t{k + 1} = fadd {vector} {'%s0n' if k == 0 else f'%t{k}'}, %s{k + 1}n" for k in range(count - 1)]
    text = "\n".join(
        [
            f"declare {vector} {fma}({vector}, {vector}, {vector})",
            "define void @peak(ptr %at, i64 %turns) #0 {",
            f"entry:\n  %start = load {vector}, ptr %at, align 4",
            f"  %next = getelementptr {vector}, ptr %at, i64 1\n  %factor = load {vector}, ptr %next, align 4",
            "  br label %turn\nturn:\n  %k = phi i64 [ 0, %entry ], [ %kn, %turn ]",
            *phis,
            *steps,
            "  %kn = add i64 %k, 1\n  %more = icmp slt i64 %kn, %turns\n  br i1 %more, label %turn, label %done\ndone:",
            *total,
            f"  store {vector} %t{count - 1}, ptr %at, align 4\n  ret void\n}}",
            f'attributes #0 = {{ "prefer-vector-width"="{32 * lanes}" "min-legal-vector-width"="{32 * lanes}" }}',
        ]
    )
    engine, address = machine_code(text, target, "peak")
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)
    memory = torch.full((2 * lanes,), 0.5)
    best = min(timed(lambda: call(memory.data_ptr(), turns), time.thread_time) for _ in range(9))
    del engine
    return turns * count * lanes * 2 / best / 1e9


def timed(work: Callable[[], object], clock: Callable[[], float], times: int = 1) -> float:
    """Return seconds of one call."""
    started = clock()
    for _ in range(times):
        work()
    return (clock() - started) / times


def measure(
    name: str, tokens: int, sparsity: float, pattern: str, arguments: argparse.Namespace, target: Target, peak: float
) -> dict[str, object]:
    """Return the row of one shape."""
    outputs, inputs = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).mul_(0.02)
    shapes = {name: (outputs, inputs)}
    mask = pattern_of(pattern).prune(random_scores(0, shapes), Mask.dense(shapes), sparsity)
    weight.mul_(mask[name])
    bias = torch.randn(outputs, generator=generator)
    x = torch.randn(tokens, inputs, generator=generator)
    epilogue: Epilogue = arguments.epilogue
    layer = SparseLinear(
        weight, bias, epilogue=epilogue, values=arguments.values, threads=arguments.threads, target=target
    )
    tiles = to_tiles(x)
    out = torch.zeros(len(tiles), outputs, TILE)
    residual = torch.randn(tokens, outputs, generator=generator)
    tiled_residual = to_tiles(residual) if epilogue == "residual" else None

    def dense() -> torch.Tensor:
        y = functional.linear(x, weight, bias)
        if epilogue == "gelu":
            return functional.gelu(y)
        return y + residual if epilogue == "residual" else y

    def sparse() -> torch.Tensor:
        return layer.run(tiles, out, tiled_residual)

    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    with torch.inference_mode():
        times = max(1, round(arguments.milliseconds / 1e3 / timed(dense, clock, 2)))
        timed(sparse, clock, times)
        turns = [(timed(dense, clock, times), timed(sparse, clock, times)) for _ in range(arguments.repeats)]
    ratio, spread = median_and_spread([a / b for a, b in turns])
    seconds = median_and_spread([b for _, b in turns])[0]
    dense_seconds = median_and_spread([a for a, _ in turns])[0]
    rate = 2 * layer.nonzeros * len(tiles) * TILE / seconds / 1e9
    return {
        "shape": name,
        "tokens": tokens,
        "sparsity": sparsity,
        "pattern": pattern,
        "epilogue": epilogue,
        "values": arguments.values,
        "lanes": target.lanes,
        "threads": arguments.threads,
        "speedup_vs_torch": ratio,
        "spread": spread,
        "dense_gflops": 2 * weight.numel() * tokens / dense_seconds / 1e9,
        "sparse_gflops": rate,
        "of_peak": rate / peak / arguments.threads,
        "bytes_to_dense": layer.nbytes / (4 * weight.numel()),
    }


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[56, 896])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--pattern", nargs="+", default=["unstructured"], help="of the random masks: 2:4, block-4x1 …")
    parser.add_argument("--epilogue", choices=["linear", "gelu", "residual"], default="linear")
    parser.add_argument("--values", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--vectors", choices=["host", "avx2"], default="host", help="avx2: hold torch to it as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--milliseconds", type=float, default=10, help="of the dense layer in a turn, about")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, keep none")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    target = AVX2 if arguments.vectors == "avx2" else host_target()
    if target is None:
        raise SystemExit("no kernel can be compiled here: llvmlite or fused multiply-add is missing")
    peak = peak_gflops(target)
    rows = [
        measure(name, tokens, sparsity, pattern, arguments, target, peak)
        for name in arguments.shape
        for tokens in arguments.tokens
        for sparsity in arguments.sparsity
        for pattern in arguments.pattern
        if getattr(pattern_of(pattern), "sparsity", sparsity) == sparsity  # n:m has one of its own
    ]
    if arguments.json:
        print(json.dumps({"processor": vars(processor()), "peak_gflops": peak, "rows": rows}, indent=1))
        return
    print(f"{processor()}; peak of one core {peak:.0f} GFLOP/s, vectors of {target.lanes}")
    show_and_keep("sparse_linear", [row | {"peak_gflops": peak} for row in rows], keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
