"""How much faster a compiled encoder is than dense runs of it, measured by turns in one process.

In a turn, every contender computes the same states once; a speed-up is the median, over turns, of the ratio of two
times of one turn, so that what else the machine does meanwhile falls on both. One thread is timed by its own processor
time, several by the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vltickets.backbones.uniter import Encoder, padding_bias
from vltickets.deploy.jit import processor
from vltickets.deploy.layers import MATRICES, parts_of
from vltickets.deploy.rivals import RIVALS, TORCH, Run, rivals
from vltickets.deploy.runtime import ShortValues, SparseEncoder, compile_sparse
from vltickets.errors import UserError, unknown
from vltickets.specs import SIZES as BACKBONES
from vltickets.specs import Uniter
from vltickets.tickets import Ticket

Row = dict[str, Any]
SIZES = {
    "base": Uniter(),
    "large": Uniter(layers=24, hidden=1024, heads=16, intermediate=4096),
    "small": Uniter(layers=2, hidden=128, heads=2, intermediate=512),
}


@dataclass(frozen=True)
class Bench:
    """What to measure.

    `batches`: examples at once. `tokens`: of each example, words and regions together. `turns`: how often each
    contender computes each, at least 2.
    """

    batches: tuple[int, ...] = (1, 16)
    tokens: tuple[int, ...] = (56,)
    threads: int = 1
    turns: int = 9
    values: ShortValues = "fp32"
    minimum_sparsity: float | None = None

    def __post_init__(self) -> None:
        if min(*self.batches, *self.tokens, self.threads) < 1 or self.turns < 2:
            raise UserError("a benchmark needs batches, tokens and threads of 1 or more, and 2 turns or more")


def bench_random(size: str, sparsities: Sequence[float], bench: Bench) -> Iterator[Row]:
    """Yield the rows of an encoder of a named size with random weights, under random masks of these sparsities."""
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    if not sparsities or not all(0 <= one < 1 for one in sparsities):
        raise UserError(
            f"sparsities lie in [0, 1), got {', '.join(map(str, sparsities)) or 'none'}; for 70 % write 0.7"
        )
    random = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        encoder = Encoder(SIZES[size], dropout=0.0)
    encoder.to_empty(device="cpu").eval()
    ranks: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.02, generator=random)
                ranks[name] = torch.rand(weight.shape, generator=random)
            else:
                weight.fill_(float(name.endswith("LayerNorm.weight")))
    dense = rivals([parts_of(layer) for layer in encoder.layer], bench.threads)
    compiled: list[SparseEncoder] = []
    errors: list[float] = []
    for sparsity in sorted(sparsities):
        with torch.no_grad():
            for name, weight in encoder.named_parameters():
                if weight.ndim == 2:
                    weight.masked_fill_(ranks[name] < sparsity, 0)
        compiled.append(_compile(encoder, bench))
        errors.append(_difference(encoder, compiled[-1]))
    about = {"weights": "random", "mask": "random", "size": size}
    yield from _rows(encoder, dense, compiled, errors, bench, [about] * len(compiled))


def bench_tickets(tickets: Sequence[tuple[Ticket, Row]], bench: Bench) -> Iterator[Row]:
    """Yield the rows of tickets' own trained encoders; what stands beside a ticket goes into each of its rows.

    Tickets of one backbone take turns with each other, and with one dense model, the first ticket's: how long a dense
    product takes does not depend on its numbers.

    Raises:
        UserError: where a ticket is not of a UNITER, or has no trained weights.
    """
    groups: dict[Uniter, list[tuple[Encoder, Row]]] = {}
    for ticket, about in tickets:
        encoder = _encoder_of(ticket)
        assert isinstance(ticket.backbone, Uniter)
        groups.setdefault(ticket.backbone, []).append((encoder, about | {"size": _size(ticket.backbone)}))
    for found in groups.values():
        encoders = [encoder for encoder, _ in found]
        dense = rivals([parts_of(layer) for layer in encoders[0].layer], bench.threads)
        compiled = [_compile(encoder, bench) for encoder in encoders]
        errors = [_difference(*pair) for pair in zip(encoders, compiled, strict=True)]
        yield from _rows(encoders[0], dense, compiled, errors, bench, [about for _, about in found])


def _encoder_of(ticket: Ticket) -> Encoder:
    """Return a ticket's trained encoder."""
    if not isinstance(ticket.backbone, Uniter):
        kind = ticket.backbone.kind if ticket.backbone else "a module of your own"
        raise UserError(f"deploy bench measures tickets of UNITER, this one is of {kind}; see `vltickets deploy run`")
    if not ticket.weights:
        raise UserError("this ticket is a mask without trained weights; find it again with `vltickets find`")
    encoder = Encoder(ticket.backbone, dropout=0.0).eval()
    own = {
        name.removeprefix("backbone.encoder."): torch.from_numpy(value.copy())
        for name, value in ticket.weights.items()
        if name.startswith("backbone.encoder.")
    }
    try:
        encoder.load_state_dict(own)
    except RuntimeError as error:
        raise UserError(f"the ticket's weights do not fit its encoder: {str(error).splitlines()[-1].strip()}") from None
    return encoder


def _size(spec: Uniter) -> str:
    """Return the name of a backbone's size, or its layers x width."""
    named = (name for name, one in BACKBONES.items() if one == spec)
    return next(named, f"{spec.layers}x{spec.hidden}")


def _compile(encoder: Encoder, bench: Bench) -> SparseEncoder:
    made = compile_sparse(encoder, values=bench.values, threads=bench.threads, minimum_sparsity=bench.minimum_sparsity)
    assert isinstance(made, nn.Module)
    return made  # type: ignore[return-value]  # an encoder by itself becomes what stands in for it


def _difference(encoder: Encoder, compiled: SparseEncoder) -> float:
    """Return the largest difference of the two's states, which are about 1 in size, on random inputs."""
    hidden = compiled.stack.hidden
    states = torch.randn(3, 50, hidden, generator=torch.Generator().manual_seed(1))
    bias = padding_bias(torch.ones(3, 50, dtype=torch.bool), states.dtype)
    with torch.inference_mode():
        return float((encoder(states, bias) - compiled(states, bias)).abs().max())


def _rows(
    encoder: Encoder,
    dense: Mapping[str, Run],
    compiled: Sequence[SparseEncoder],
    errors: Sequence[float],
    bench: Bench,
    abouts: Sequence[Row],
) -> Iterator[Row]:
    parts = [parts_of(layer) for layer in encoder.layer]
    weights = sum(getattr(layer, name).weight.numel() for layer in parts for name in MATRICES)
    dense_bytes = sum(weight.nbytes for weight in encoder.parameters())
    clock = time.thread_time if bench.threads == 1 else time.perf_counter
    for batch in bench.batches:
        for tokens in bench.tokens:
            states = torch.randn(batch, tokens, parts[0].query.in_features, generator=torch.Generator().manual_seed(1))
            times = _times(dense, compiled, states, clock, bench.turns)
            for k, one in enumerate(compiled):
                yield {
                    **abouts[k],
                    "sparsity": round(1 - one.nonzeros / weights, 4),
                    "batch": batch,
                    "tokens": tokens,
                    "threads": bench.threads,
                    "values": bench.values,
                    **_speedups(dense, times, k),
                    "milliseconds": 1e3 * statistics.median(times[str(k)]),
                    "milliseconds_torch_fp32": 1e3 * statistics.median(times[TORCH]),
                    "bytes": one.nbytes,
                    "dense_bytes": dense_bytes,
                    "matrices_sparse": one.chosen["sparse"],
                    "matrices_dense": one.chosen["dense"],
                    "largest_difference": errors[k],
                    "turns": bench.turns,
                    "processor": processor().name,
                }


def _times(
    dense: Mapping[str, Run],
    compiled: Sequence[SparseEncoder],
    states: Tensor,
    clock: Callable[[], float],
    turns: int,
) -> dict[str, list[float]]:
    """Return each contender's seconds in each turn; those compiled go by their places."""
    bias = padding_bias(torch.ones(states.shape[:2], dtype=torch.bool), states.dtype)
    contenders: dict[str, Callable[[], Any]] = {name: partial(run, states) for name, run in dense.items()}
    contenders |= {str(k): partial(one, states, bias) for k, one in enumerate(compiled)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for turn in range(turns + 1):
            for name, run in contenders.items():
                started = clock()
                run()
                if turn:  # the first warms up
                    times[name].append(clock() - started)
    return times


def _speedups(dense: Mapping[str, Run], times: Mapping[str, list[float]], k: int) -> Row:
    """Return the speed-ups over every dense run with their spreads, half the distance of the quartiles; and the winner.

    A run that is not to be had here has None.
    """
    row: Row = {}
    medians = {"sparse": 1.0}
    for name in RIVALS:
        ratios = [other / own for other, own in zip(times.get(name, ()), times[str(k)], strict=False)]
        low, middle, high = statistics.quantiles(ratios, n=4) if ratios else (None, None, None)
        row[f"speedup_vs_{name}"] = None if middle is None else round(middle, 3)
        row[f"spread_vs_{name}"] = None if low is None or high is None else round((high - low) / 2, 3)
        if middle is not None:
            medians[name] = middle
    return row | {"fastest": min(medians, key=lambda name: medians[name])}
