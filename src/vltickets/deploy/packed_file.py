"""A ticket and its trained weights in one small file: of each masked weight a bit a place and the values that are left.

Everything else (embeddings, norms, biases, head) stands beside it dense. Values are float32, which come back exactly,
or bfloat16, rounded to nearest even as torch does it. The file is safetensors: tensors and a JSON header, nothing else.

A part is a tensor of the file: `mask.NAME` packed bits, uint8; `values.NAME` [kept], in the order of the weight's rows;
`dense.NAME`. The header, under `vltickets-packed`, has the SHA-256 of each part and of itself, begun (20 characters).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vltickets.deploy.jit import host_target
from vltickets.deploy.spreading import spreader
from vltickets.errors import UserError
from vltickets.store import write_file
from vltickets.tickets import Mask, Ticket, load_ticket
from vltickets.tickets.headers import masked_shapes, read_header, whose
from vltickets.tickets.mask import packed_digest

KEY = "vltickets-packed"
PACKED_FORMAT = 2  # 1: a backbone of the package; 2: any other module, whose shapes the header has
FIELDS = {"values", "kept", "pruned", "prunable", "mask", "provenance", "labels", "parts", "header"}
KeptValues = Literal["fp32", "bf16"]
TYPES: dict[KeptValues, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
Parts = dict[str, torch.Tensor]


def save_packed(ticket: Ticket, path: Path | str, *, values: KeptValues = "fp32") -> None:
    """Write a ticket with trained weights as a packed file; it is visible whole or not at all.

    `values` is the type of everything that is float32 in the model. Raises `UserError` for a ticket without weights,
    for masked weights that are no float32, and where a weight that the mask prunes is not 0.
    """
    path = Path(path)
    if values not in get_args(KeptValues):
        raise UserError(f"values {values!r} are not among those a packed file has: {', '.join(get_args(KeptValues))}")
    if not ticket.weights:
        raise UserError(f"nothing to pack in {path}: the ticket is a mask without trained weights")
    prefix = _prefix(ticket.backbone)
    bits = ticket.mask.packed()
    parts: Parts = {f"mask.{name}": torch.from_numpy(packed) for name, packed in bits.items()}
    with _pool() as pool:
        kept = pool.map(lambda name: torch.from_numpy(_kept(ticket, prefix, name, path)).to(TYPES[values]), ticket.mask)
        parts |= {f"values.{name}": numbers for name, numbers in zip(ticket.mask, kept, strict=True)}
    for name, array in ticket.weights.items():
        if name.removeprefix(prefix) not in ticket.mask.shapes or not name.startswith(prefix):
            tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
            parts[f"dense.{name}"] = tensor.to(TYPES[values]) if tensor.dtype == torch.float32 else tensor
    mask = ticket.mask
    header = whose(ticket.backbone, ticket.mask) | {
        "values": values,
        "kept": {name: parts[f"values.{name}"].numel() for name in mask},
        "pruned": mask.total - mask.kept,
        "prunable": mask.total,
        "sparsity": mask.sparsity,
        "mask": packed_digest(bits, mask.shapes),
        "provenance": ticket.provenance | ({"values": "bf16"} if values == "bf16" else {}),
        "labels": ticket.labels,
        "parts": _hashes(parts),
    }
    header["header"] = _header_hash(header)
    text = json.dumps(header, sort_keys=True)
    write_file(path, lambda temporary: save_file(parts, temporary, {KEY: text}))


def load_packed(path: Path | str) -> Ticket:
    """Read and verify a packed file; return its ticket with dense float32 weights, exactly 0 wherever the mask prunes.

    Raises `UserError` with what does not match: the format, a part's hash, the counts, the shapes. Of a file with
    bfloat16 values, `provenance["values"]` says `bf16`: the metrics beside it are those from before the rounding.
    """
    path = Path(path)
    header, parts = _read(path)
    bits = {key.removeprefix("mask."): _bits(part) for key, part in parts.items() if key.startswith("mask.")}
    backbone, shapes = masked_shapes(header, len(bits), path)
    try:
        mask = Mask.unpacked(bits, shapes)
    except UserError as error:
        raise UserError(f"{path} does not fit its own header: {error}") from None
    _check(header, parts, mask, packed_digest(bits, shapes), path)
    ticket = Ticket(backbone, mask, header["provenance"], labels=header["labels"])
    weights = _unpacked(parts, mask, _prefix(ticket.backbone), TYPES[header["values"]])
    return replace(ticket, weights={name: tensor.numpy() for name, tensor in weights.items()})


def read_ticket(path: Path | str) -> Ticket:
    """Read and verify a ticket file or a packed file, whichever it is."""
    return load_packed(path) if _is_packed(Path(path)) else load_ticket(path)


def _bits(part: torch.Tensor) -> np.ndarray:
    """Return a mask's bits; numbers of a wrong type, which numpy may lack, as nothing that fits a mask."""
    bits: np.ndarray = part.numpy() if part.dtype == torch.uint8 else np.zeros(0, dtype=np.uint8)
    return bits


def _prefix(backbone: object) -> str:
    """Return what stands before the backbone's names among a trained model's weights."""
    return "backbone." if backbone else ""


def _kept(ticket: Ticket, prefix: str, name: str, path: Path) -> np.ndarray:
    """Return the values a mask keeps of one weight, after a look at those it prunes."""
    weight, shape = ticket.weights.get(prefix + name), ticket.mask.shapes[name]
    if weight is None or weight.shape != shape or weight.dtype != np.float32:
        found = "nothing" if weight is None else f"{weight.dtype} {weight.shape}"
        raise UserError(f"{path} can't be packed: the weights should have {name} as float32 {shape}, found {found}")
    flat = np.ravel(weight)
    values: np.ndarray = flat.take(np.flatnonzero(ticket.mask[name].numpy().ravel()))
    if np.count_nonzero(flat != 0) != np.count_nonzero(values != 0):  # of booleans: several times faster than of floats
        raise UserError(f"{path} can't be packed: {name} has weights that are not 0 where the mask prunes")
    return values


def _hashes(parts: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the beginning of each part's SHA-256: of its type, its shape and its bytes."""

    def of(tensor: torch.Tensor) -> str:
        total = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return total.hexdigest()[:20]

    with _pool() as pool:
        return dict(zip(parts, pool.map(of, parts.values()), strict=True))


def _header_hash(header: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in header.items() if key != "header"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:20]


def _is_packed(path: Path) -> bool:
    try:
        with safe_open(str(path), "pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # whoever reads it says why


def _read(path: Path) -> tuple[dict[str, Any], Parts]:
    """Return the header and the parts of a packed file, which lie in the file still."""
    try:
        with safe_open(str(path), "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise UserError(f"{path} is no packed file: it has no {KEY!r} header; `deploy pack` writes one")
            parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no packed file, or cut short ({error})") from None
    header = read_header(text, path, "packed", newest=PACKED_FORMAT, fields=FIELDS)
    if header["values"] not in list(TYPES):
        raise UserError(f"{path} is damaged: its header says values {header['values']!r}, not {' or '.join(TYPES)}")
    if header["header"] != _header_hash(header):
        raise UserError(f"{path} is damaged: its header was changed after it was written; pack the ticket again")
    return header, parts


def _check(header: dict[str, Any], parts: Parts, mask: Mask, digest: str, path: Path) -> None:
    """Refuse parts that are not those the header names, or that do not fit the mask."""
    if odd := sorted(set(parts) ^ set(header["parts"])):
        raise UserError(f"{path} is damaged: it {'has' if odd[0] in parts else 'lacks'} {odd[0]}, unlike its header")
    found = _hashes(parts)
    if wrong := [key for key in parts if found[key] != header["parts"][key]]:
        raise UserError(f"{path} is damaged: {wrong[0]} is not what its header names by hash; fetch or pack it again")
    counts = {name: int(np.count_nonzero(mask[name].numpy())) for name in mask}
    left_out = mask.total - sum(counts.values())
    if (header["kept"], header["pruned"], header["prunable"]) != (counts, left_out, mask.total):
        raise UserError(f"{path} is damaged: its header counts other weights than its mask keeps")
    if digest != header["mask"]:
        raise UserError(f"{path} is damaged: its mask is not the one its header names")
    for name, count in counts.items():
        values = parts.get(f"values.{name}")
        if values is None or values.shape != (count,) or values.dtype != TYPES[header["values"]]:
            what = "nothing" if values is None else f"{values.dtype} {tuple(values.shape)}"
            raise UserError(f"{path} is damaged: {name} should have {count} {header['values']} values, it has {what}")
    prefix = _prefix(header.get("backbone"))
    if odd := [name for name in counts if f"dense.{prefix}{name}" in parts]:
        raise UserError(f"{path} is damaged: {odd[0]} is there twice, under its mask and whole")
    if header.get("sparsity", mask.sparsity) != mask.sparsity:
        raise UserError(f"{path} is damaged: its header says sparsity {header['sparsity']}, its mask {mask.sparsity}")
    known = {f"values.{name}" for name in counts}
    if odd := [key for key in parts if not key.startswith(("mask.", "dense.")) and key not in known]:
        raise UserError(f"{path} is damaged: {odd[0]!r} is no part of a packed file")


def _unpacked(parts: Parts, mask: Mask, prefix: str, kept: torch.dtype) -> Parts:
    """Return the dense weights by name, in memory of their own; float32 again where they were when packed."""

    def dense(part: torch.Tensor) -> torch.Tensor:
        return part.to(torch.float32, copy=True) if part.dtype == kept else part.clone()

    spread = spreader(kept, host_target())

    def masked(name: str) -> torch.Tensor:
        return spread(parts[f"mask.{name}"].numpy(), parts[f"values.{name}"], mask[name])

    others = [name.removeprefix("dense.") for name in parts if name.startswith("dense.")]
    with _pool() as pool:
        weights = dict(zip((prefix + name for name in mask), pool.map(masked, mask), strict=True))
        return weights | dict(zip(others, pool.map(dense, (parts[f"dense.{name}"] for name in others)), strict=True))


def _pool() -> ThreadPoolExecutor:
    """Return as many threads as torch may use; hashing, numpy and torch let go of the interpreter's lock."""
    return ThreadPoolExecutor(min(torch.get_num_threads(), 8))
