"""Dense or sparse: each matrix of an encoder takes what is faster here at its shape and density, as measured once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vltickets.deploy.ir import Epilogue
from vltickets.deploy.jit import Target
from vltickets.deploy.linear import TILE, SparseLinear
from vltickets.deploy.packing import Values

STEP = 0.05  # matrices whose densities fall into the same step are chosen for together
REPEATS = 9


class DenseLinear:
    """What `SparseLinear` computes, by torch's dense product on the same tiles. Arguments as there."""

    def __init__(self, weight: Tensor, bias: Tensor, *, epilogue: Epilogue, values: Values) -> None:
        kept = weight.detach().to(torch.bfloat16) if values == "bfloat16" else weight.detach()
        self.weight, self.bias, self.epilogue = (
            kept.float().clone().contiguous(),
            bias.detach().float()[:, None],
            epilogue,
        )
        self.nonzeros = int(self.weight.count_nonzero())
        self.nbytes = self.weight.nbytes + self.bias.nbytes

    def run(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute tiles `x` [tiles, inputs, 64] into `out` [tiles, outputs, 64], and return `out`."""
        for k, tile in enumerate(x):  # one product over all tiles would first copy the weight for each
            torch.addmm(self.bias, self.weight, tile, out=out[k])
            if self.epilogue == "gelu":
                torch.ops.aten.gelu_(out[k])
            elif residual is not None:
                out[k] += residual[k]
        return out


Linear = SparseLinear | DenseLinear


@dataclass(frozen=True)
class Settings:
    """How matrices are kept and computed with.

    `minimum_sparsity`: from which share of zeros on a matrix is kept sparse; None chooses by measurement.
    """

    values: Values = "float32"
    threads: int = 1
    minimum_sparsity: float | None = None
    target: Target | Literal["host"] | None = "host"


_lock = threading.Lock()
_faster: dict[tuple[object, ...], bool] = {}


def linear(weight: Tensor, bias: Tensor | None, epilogue: Epilogue, settings: Settings) -> Linear:
    """Return the layer for a matrix [outputs, inputs], dense or sparse."""
    bias = torch.zeros(len(weight)) if bias is None else bias
    sparsity = 1 - int(weight.count_nonzero()) / weight.numel()
    if settings.minimum_sparsity is not None and sparsity < settings.minimum_sparsity:
        return DenseLinear(weight, bias, epilogue=epilogue, values=settings.values)
    sparse = SparseLinear(
        weight, bias, epilogue=epilogue, values=settings.values, threads=settings.threads, target=settings.target
    )
    if settings.minimum_sparsity is not None:
        return sparse
    key = (*weight.shape, round(sparsity / STEP), epilogue, settings, torch.get_num_threads())
    with _lock:
        if key not in _faster:
            _faster[key] = _is_faster(sparse, DenseLinear(weight, bias, epilogue=epilogue, values=settings.values))
    return sparse if _faster[key] else DenseLinear(weight, bias, epilogue=epilogue, values=settings.values)


def _is_faster(sparse: SparseLinear, dense: DenseLinear) -> bool:
    """Time both by turns on one tile, which is what one example fills; compare the best of each.

    One thread is timed by its own processor time, which other programs disturb less.
    """
    outputs, inputs = dense.weight.shape
    x, out = torch.ones(1, inputs, TILE), torch.zeros(1, outputs, TILE)
    residual = torch.ones(1, outputs, TILE) if dense.epilogue == "residual" else None
    clock = time.thread_time if sparse.threads == 1 else time.perf_counter
    best = {"sparse": float("inf"), "dense": float("inf")}
    with torch.no_grad():
        for _ in range(REPEATS):
            for name, layer in (("sparse", sparse), ("dense", dense)):
                started = clock()
                layer.run(x, out, residual)
                best[name] = min(best[name], clock() - started)
    return best["sparse"] < best["dense"]
