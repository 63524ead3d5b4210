"""Which weights must go together: single ones, n of m in a row, whole blocks. Each prunes to an exact count.

Each has a name, by which recipes, nodes, ticket files and the command line say it: "unstructured", "2:4", "block-4x1".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import torch

from vltickets.errors import UserError
from vltickets.tickets.mask import Mask
from vltickets.tickets.pruning import NOT_NUMBERS, Scores, prune, zeros_at

Within = Literal["all", "tensor", "row"]  # weights compete with all others, or for a place in their tensor or row
Shapes = Mapping[str, tuple[int, ...]]


class Pattern(Protocol):
    """What a pattern can do."""

    @property
    def name(self) -> str:
        """How it is written down in a ticket file."""
        ...

    def check(self, shapes: Shapes, levels: Iterable[float]) -> None:
        """Raise `UserError` where weights of these shapes can't be pruned so, or not to these sparsities."""
        ...

    def prune(self, scores: Scores, mask: Mask, sparsity: float, within: Within = "all") -> Mask:
        """Return the subset of `mask` that keeps the highest scores; `within` says which are compared."""
        ...


@dataclass(frozen=True)
class Unstructured:
    """Every weight by itself: exactly round(s · d₁) zeros, and later masks are subsets of earlier ones."""

    name = "unstructured"

    def check(self, shapes: Shapes, levels: Iterable[float]) -> None:
        """Raise `UserError` where a level is not a sparsity."""
        for level in levels:
            zeros_at(level, sum(map(math.prod, shapes.values())))

    def prune(self, scores: Scores, mask: Mask, sparsity: float, within: Within = "all") -> Mask:
        """Return the mask with the lowest scores removed; see `pruning.prune`."""
        return prune(ranked(scores, mask, within), mask, sparsity)


@dataclass(frozen=True)
class NofM:
    """Exactly `n` kept of each `m` consecutive inputs of a row, as sparse tensor cores need (2:4; Mishra et al. 2021).

    The pattern is its sparsity, 1 − n/m, so it is reached in one step: it has no rounds of lower sparsities, and
    `within` changes nothing. It may be laid over a mask that keeps at least n in each group.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UserError(f"a pattern keeps n of m weights with 0 < n < m, not {self.n} of {self.m}")

    @property
    def name(self) -> str:
        """As "2:4"."""
        return f"{self.n}:{self.m}"

    @property
    def sparsity(self) -> float:
        """The only sparsity it has."""
        return 1 - self.n / self.m

    def check(self, shapes: Shapes, levels: Iterable[float]) -> None:
        """Raise `UserError` where rows don't divide into groups, or a level is not the pattern's own sparsity."""
        for name, shape in shapes.items():
            if len(shape) != 2 or shape[1] % self.m:
                raise UserError(
                    f"{name} of shape {shape} can't be pruned {self.name}: that needs a matrix whose rows divide by "
                    f"{self.m}; leave it out with `prunable`"
                )
        total = sum(map(math.prod, shapes.values()))
        own = total // self.m * (self.m - self.n)
        for level in levels:
            if zeros_at(level, total) != own:
                raise UserError(
                    f"the pattern {self.name} prunes {self.sparsity:.4g} in one step, not {level}: "
                    "leave the sparsity and the schedule out"
                )

    def prune(self, scores: Scores, mask: Mask, sparsity: float, within: Within = "all") -> Mask:
        """Return the mask of the n highest scores in each group, of equal ones the first."""
        self.check(mask.shapes, [sparsity])
        kept = {}
        for name in mask:
            groups = scores(name).detach().cpu().double().view(-1, self.m)
            so_far = mask[name].view(-1, self.m)
            if bool(groups.isnan().any()):
                raise UserError(NOT_NUMBERS)
            if bool((so_far.sum(1) < self.n).any()):
                raise UserError(f"{name} can't be pruned {self.name}: groups of its mask keep fewer than {self.n}")
            order = groups.masked_fill(~so_far, -math.inf).sort(dim=1, descending=True, stable=True).indices
            chosen = torch.zeros_like(so_far).scatter_(1, order[:, : self.n], True)
            kept[name] = (chosen & so_far).view(mask.shapes[name])
        return Mask(kept)


@dataclass(frozen=True)
class Block:
    """Blocks of `rows` outputs × `columns` inputs removed whole (Gray et al. 2017).

    A block's score is the sum of its weights' scores. Of B blocks exactly round(s · B) go, so rows · columns times as
    many weights; later masks are subsets of earlier ones.
    """

    rows: int = 16
    columns: int = 16

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise UserError(f"a block has sides of 1 or more, not {self.rows} × {self.columns}")

    @property
    def name(self) -> str:
        """As "block-16x16": outputs, inputs."""
        return f"block-{self.rows}x{self.columns}"

    def check(self, shapes: Shapes, levels: Iterable[float]) -> None:
        """Raise `UserError` where a weight doesn't divide into blocks, or a level is not a sparsity."""
        for name, shape in shapes.items():
            if len(shape) != 2 or shape[0] % self.rows or shape[1] % self.columns:
                raise UserError(
                    f"{name} of shape {shape} can't be pruned in blocks of {self._size}: that needs a matrix whose "
                    "sides divide by the block's; leave it out with `prunable`"
                )
        for level in levels:
            zeros_at(level, 1)

    def prune(self, scores: Scores, mask: Mask, sparsity: float, within: Within = "all") -> Mask:
        """Return the mask with the lowest-scored blocks removed; one that cuts through blocks is a `UserError`."""
        self.check(mask.shapes, [sparsity])
        kept = {}
        for name in mask:
            cells = self._cells(mask[name])
            kept[name] = cells.any(3).any(1)
            if not torch.equal(kept[name], cells.all(3).all(1)):
                raise UserError(f"the mask so far cuts through blocks of {self._size} in {name}")
        blocks = Mask(kept)

        def sums(name: str) -> torch.Tensor:
            return self._cells(scores(name).detach().cpu().double()).sum((1, 3))

        found = prune(ranked(sums, blocks, within), blocks, sparsity)
        repeated = {name: found[name].repeat_interleave(self.rows, 0) for name in found}
        return Mask({name: rows.repeat_interleave(self.columns, 1) for name, rows in repeated.items()})

    @property
    def _size(self) -> str:
        return f"{self.rows} × {self.columns}"

    def _cells(self, tensor: torch.Tensor) -> torch.Tensor:
        rows, columns = tensor.shape
        return tensor.reshape(rows // self.rows, self.rows, columns // self.columns, self.columns)


UNSTRUCTURED = Unstructured()


def pattern_of(pattern: str | Pattern) -> Pattern:
    """Return a pattern by its name, or as it is; an unknown name is a `UserError`.

    >>> pattern_of("2:4"), pattern_of("block-4x1")
    (NofM(n=2, m=4), Block(rows=4, columns=1))
    """
    if not isinstance(pattern, str):
        return pattern
    if pattern == UNSTRUCTURED.name:
        return UNSTRUCTURED
    found = re.fullmatch(r"(?:(\d{1,4}):(\d{1,4})|block-(\d{1,4})x(\d{1,4}))", pattern)
    if found is None:
        raise UserError(f"unknown pattern {pattern!r}; there are unstructured, n:m as 2:4, and blocks as block-4x1")
    first, second = (int(number) for number in found.groups() if number is not None)
    return NofM(first, second) if ":" in pattern else Block(first, second)


def places(values: torch.Tensor) -> torch.Tensor:
    """Return each value's place in its row, [rows, n] from 0 for the smallest; of equal ones the later is smaller."""
    order = values.flip(1).argsort(dim=1, stable=True)
    numbers = torch.arange(values.shape[1]).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers).flip(1)


def ranked(scores: Scores, mask: Mask, within: Within) -> Scores:
    """Return scores to compare globally such that each tensor, or each row, is pruned to the same share.

    A weight's new score is its place in its tensor or row, as a share of the length: (place + ½) / n, pruned weights
    first. A threshold on it takes from each within one of its share, and as one rises, all do: masks stay nested.
    """
    if within == "all":
        return scores

    @cache
    def place(name: str) -> tuple[torch.Tensor, int]:
        own, kept = scores(name).detach().cpu(), mask[name]
        if bool(own.isnan().any()):
            raise UserError(NOT_NUMBERS)
        rows = own.shape[0] if within == "row" and own.dim() > 1 else 1
        values = own.masked_fill(~kept, -math.inf).reshape(rows, -1)
        return places(values).to(torch.int32).view(own.shape), values.shape[1]

    def share(name: str) -> torch.Tensor:
        number, length = place(name)
        return (number.double() + 0.5) / length

    return share
