"""A model's weights on disk beside a ticket: are they of its shapes, and 0 wherever it prunes?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from vltickets.errors import UserError
from vltickets.tickets.ticket_file import Ticket


@dataclass(frozen=True)
class WeightsMatch:
    """What weights on disk are to a ticket: `pruned` (0 wherever it prunes), or `start`, the file it was found from.

    `checked` says how many of the mask's weights were looked at.
    """

    match: str
    checked: int


def check_weights(ticket: Ticket, path: Path) -> WeightsMatch:
    """Hold weights on disk against a ticket: a safetensors file, or a folder that `save_pretrained` wrote.

    A tensor is found by the mask's name for it, with `backbone.` before it, or as the only one that ends in it (a model
    saved with a head around it). Raises `UserError` where one is missing, of another shape, or not 0 where the mask
    prunes, unless the file is, by its hash, the dense start that the ticket names.
    """
    files = _files(path)
    places = {key: file for file in files for key in _keys(file)}
    keys = {name: _key(name, places, path) for name in ticket.mask}
    is_start = len(files) == 1 and _sha256(files[0]) == _start_hash(ticket.provenance)
    wrong, first = 0, ""
    for name, key in keys.items():
        tensor = _tensor(places[key], key)
        if tuple(tensor.shape) != ticket.mask.shapes[name]:
            found, wanted = tuple(tensor.shape), ticket.mask.shapes[name]
            raise UserError(f"{path} is of another model: {key} has shape {found}, the ticket's mask {wanted}")
        nonzero = int(tensor[~ticket.mask[name]].count_nonzero())
        wrong, first = wrong + nonzero, first or (key if nonzero else "")
    if wrong and not is_start:
        raise UserError(f"{path} does not match the ticket: {wrong} weights that it prunes are not 0, first in {first}")
    return WeightsMatch("start" if wrong else "pruned", ticket.mask.total)


def _start_hash(provenance: Mapping[str, object]) -> object:
    """Return the SHA-256 of the file a ticket was found from; the hash that `prune` keeps is of tensors, not a file."""
    start = provenance.get("start")
    return start.get("sha256") if isinstance(start, dict) and start.get("kind") in ("shipped", "imported") else None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path}: weights are read from .safetensors only; others may hold code, save it again so")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    whole = path / "model.safetensors"
    files = [whole] if whole.exists() else sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{path} has no .safetensors file; `save_pretrained` writes one")
    return files


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(str(file), "pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is no safetensors file, or damaged ({error})") from None


def _key(name: str, keys: Mapping[str, Path], path: Path) -> str:
    for exact in (name, f"backbone.{name}"):
        if exact in keys:
            return exact
    ends = [key for key in keys if key.endswith(f".{name}")]
    if len(ends) != 1:
        has = f"{len(ends)} that end so" if ends else "none that ends so"
        raise UserError(f"{path} is of another model: the ticket prunes a weight {name!r}, the file has {has}")
    return ends[0]


def _tensor(file: Path, key: str) -> torch.Tensor:
    with safe_open(str(file), "pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(key)
        return tensor


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
