"""A ticket in one file: tensors and JSON only. The mask, where it came from by hash, and, if asked, trained weights.

A ticket of the package's backbones names its backbone (format 1), whose shapes verify it; one of any other module
names its weights and their shapes itself (format 2). All else is the same.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn
from torch.optim import Optimizer

from vltickets.errors import UserError
from vltickets.specs import BackboneSpec
from vltickets.store import write_file
from vltickets.tickets.headers import masked_shapes, read_header, whose
from vltickets.tickets.holding import HoldZeros, unwrapped, weights_of
from vltickets.tickets.mask import Mask, packed_digest

TICKET_FORMAT = 2
FIELDS = frozenset({"mask", "pruned", "weights", "provenance", "labels"})


@dataclass(frozen=True)
class Ticket:
    """A mask and its provenance. `backbone` is None for a ticket of a module that is not the package's.

    `provenance`: `mask` and `train`, the digests of the nodes that found and tested it, `start`, `task` and `recipe`
    as canonical JSON, `metrics` of the test. `weights` (names `backbone.*` and `head.*`) and `labels` are of the tested
    model: with them it can be scored anywhere.
    """

    backbone: BackboneSpec | None
    mask: Mask
    provenance: dict[str, Any]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """The share of prunable weights that it prunes."""
        return self.mask.sparsity

    def without_weights(self) -> Ticket:
        """Return the mask and where it came from alone, without the trained weights and what scores them.

        At UNITER-base size that is 11 MB instead of 450.
        """
        return replace(self, weights={}, labels={})

    def apply_(self, model: nn.Module) -> None:
        """Set the model's pruned weights to exactly 0, in place; a model that is not the ticket's is a `UserError`."""
        self.mask.apply_(weights_of(model, self.mask))

    def held(
        self, model: nn.Module, *optimizers: Optimizer, zero_stays: bool = False
    ) -> AbstractContextManager[HoldZeros]:
        """Hold pruned weights at 0 inside `with ticket.held(model, optimizer):`, in any loop over this optimiser.

        The weights are set to 0 on entry. `zero_stays` halves the cost: see `HoldZeros`.
        """
        return HoldZeros(unwrapped(model), self.mask, zero_stays=zero_stays).attached_to(*optimizers)

    def save(self, path: Path | str) -> None:
        """Write it to a file, for `load_ticket`; the file is visible whole or not at all."""
        save_ticket(self, Path(path))


def save_ticket(ticket: Ticket, path: Path) -> None:
    """Write a ticket; the file is visible whole or not at all."""
    arrays = {f"mask.{name}": bits for name, bits in ticket.mask.packed().items()}
    arrays |= {f"weights.{name}": array for name, array in ticket.weights.items()}
    header = whose(ticket.backbone, ticket.mask) | {
        "sparsity": ticket.mask.sparsity,
        "pruned": ticket.mask.total - ticket.mask.kept,
        "prunable": ticket.mask.total,
        "mask": ticket.mask.digest,
        "weights": _digest(ticket.weights),
        "provenance": ticket.provenance,
        "labels": ticket.labels,
    }
    write_file(path, save(arrays, {"vltickets": json.dumps(header, sort_keys=True)}))


def load_ticket(path: Path | str) -> Ticket:
    """Read and verify a ticket: format, shapes, counts, sparsity, hashes of mask and weights, zeros of the weights.

    Raises `UserError` with what does not match. `vltickets ticket verify` is this function.
    """
    path = Path(path)
    text, arrays = _read(path)
    header = read_header(text, path, "ticket", newest=TICKET_FORMAT, fields=FIELDS)
    bits = {key.removeprefix("mask."): value for key, value in arrays.items() if key.startswith("mask.")}
    backbone, shapes = masked_shapes(header, len(bits), path)
    try:
        mask = Mask.unpacked(bits, shapes)
    except UserError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if packed_digest(bits, shapes) != header["mask"] or mask.total - mask.kept != header["pruned"]:
        raise UserError(f"{path} is damaged: its mask is not the one its header names")
    _check_sizes(header, mask, path)
    weights = {key.removeprefix("weights."): value for key, value in arrays.items() if key.startswith("weights.")}
    if odd := sorted(key for key in arrays if not key.startswith(("mask.", "weights."))):
        raise UserError(f"{path} is damaged: {odd[0]!r} is no part of a ticket")
    if _digest(weights) != header["weights"]:
        raise UserError(f"{path} is damaged: its weights are not those its header names")
    for name in mask if weights else ():
        weight = weights.get(f"backbone.{name}" if backbone else name)
        if weight is None or weight.shape != mask.shapes[name]:
            raise UserError(f"{path} is damaged: it lacks the weights {name}, or they have another shape")
        if weight[~mask[name].numpy()].any():
            raise UserError(f"{path} is damaged: {name} has weights that are not 0 where its mask prunes")
    return Ticket(backbone, mask, header["provenance"], weights, header["labels"])


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Return the header's text and the tensors of a ticket file."""
    try:
        with safe_open(str(path), "numpy") as file:
            text = (file.metadata() or {}).get("vltickets")
            if text is None:
                raise UserError(f"{path} is a safetensors file, but not a ticket: it has no 'vltickets' header")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a ticket, or damaged ({error})") from None
    except (TypeError, AttributeError):  # numpy has no such type: bfloat16
        raise UserError(f"{path} is damaged: it has numbers of a type that tickets do not have") from None
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):  # it has, where onnx is loaded
        raise UserError(f"{path} is damaged: it has numbers of a type that tickets do not have")
    return text, arrays


def _check_sizes(header: dict[str, Any], mask: Mask, path: Path) -> None:
    """Refuse a header that says other sizes than the mask has; old ones may leave them out."""
    for what, found in (("prunable", mask.total), ("sparsity", mask.sparsity)):
        if header.get(what, found) != found:
            raise UserError(f"{path} is damaged: its header says {what} {header[what]}, its mask has {found}")


def _digest(arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return total.hexdigest()[:20]
