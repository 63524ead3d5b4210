"""A ticket file holds tensors and JSON only, names what it came from, and is refused where anything does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from vltickets.backbones import prunable_shapes
from vltickets.errors import UserError
from vltickets.specs import SIZES, Uniter
from vltickets.tickets import Mask, Ticket, load_ticket, prune, random_scores, save_ticket

TOY = Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64)
SHAPES = prunable_shapes(TOY)
MASK = prune(random_scores(0, SHAPES), Mask.dense(SHAPES), 0.7)
PROVENANCE = {"prune": "0" * 20, "train": "1" * 20, "start": {"kind": "fresh"}, "metrics": {"score": 0.5}}


def ticket(*, weights: bool = True) -> Ticket:
    arrays = {f"backbone.{name}": np.where(MASK[name], 1.5, 0).astype(np.float32) for name in SHAPES}
    arrays["head.w"] = np.ones(3, dtype=np.float32)
    return Ticket(TOY, MASK, PROVENANCE, arrays if weights else {}, {"answers": "yes\nno"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_ticket(ticket(), tmp_path / "vqa-70.safetensors")
    return tmp_path / "vqa-70.safetensors"


@pytest.mark.parametrize("weights", [True, False])
def test_a_ticket_comes_back_as_it_was(tmp_path: Path, weights: bool) -> None:
    saved = ticket(weights=weights)
    save_ticket(saved, tmp_path / "t.safetensors")
    loaded = load_ticket(tmp_path / "t.safetensors")
    assert (loaded.backbone, loaded.mask, loaded.provenance, loaded.labels) == (TOY, MASK, PROVENANCE, saved.labels)
    assert loaded.weights.keys() == saved.weights.keys()
    assert all(np.array_equal(loaded.weights[name], saved.weights[name]) for name in saved.weights)


def test_a_ticket_of_an_lxmert_comes_back_as_one(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
    shapes = prunable_shapes(SIZES["lxmert-tiny"])
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), 0.7)
    save_ticket(Ticket(SIZES["lxmert-tiny"], mask, PROVENANCE), tmp_path / "t.safetensors")
    loaded = load_ticket(tmp_path / "t.safetensors")
    assert (loaded.backbone, loaded.mask) == (SIZES["lxmert-tiny"], mask)


def test_a_ticket_file_is_tensors_and_json_and_says_what_it_is(path: Path) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])  # safetensors: a JSON header, then nothing but numbers
    own = json.loads(header.pop("__metadata__")["vltickets"])
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(content) - 8 - size
    assert (own["format"], own["pruned"], own["prunable"]) == (1, MASK.total - MASK.kept, MASK.total)
    assert own["mask"] == MASK.digest
    assert (own["provenance"]["prune"], own["provenance"]["train"]) == ("0" * 20, "1" * 20)


def test_a_mask_without_weights_takes_a_bit_a_weight(tmp_path: Path) -> None:
    save_ticket(ticket(weights=False), tmp_path / "t.safetensors")
    assert (tmp_path / "t.safetensors").stat().st_size < MASK.total / 8 + 4096


def altered(path: Path, header: Callable[[dict[str, Any]], object], arrays: Callable[[dict[str, Any]], object]) -> None:
    with safe_open(path, "numpy") as file:
        own = json.loads(file.metadata()["vltickets"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    header(own)
    arrays(tensors)
    save_file(tensors, path, {"vltickets": json.dumps(own)})


def nothing(_: dict[str, Any]) -> None:
    """Leave it as it is."""


KEY = "mask.pooler.dense.weight"
WEIGHT = "weights.backbone.pooler.dense.weight"


def flip_a_bit(arrays: dict[str, Any]) -> None:
    arrays[KEY][3] ^= 1


def swap_two_bits(arrays: dict[str, Any]) -> None:
    bits = np.unpackbits(arrays[KEY])
    ones, zeros = np.flatnonzero(bits == 1)[0], np.flatnonzero(bits == 0)[0]
    bits[ones], bits[zeros] = 0, 1
    arrays[KEY] = np.packbits(bits)


@pytest.mark.parametrize(
    ("header", "arrays", "says"),
    [
        (nothing, flip_a_bit, "damaged: its mask is not the one its header names"),
        (nothing, swap_two_bits, "damaged: its mask is not the one its header names"),
        (nothing, lambda a: a.pop(KEY), "the mask is of another backbone"),
        (nothing, lambda a: a.update({KEY: a[KEY][:-1]}), "the mask is of another backbone"),
        (nothing, lambda a: a[WEIGHT].fill(1), "its weights are not those its header names"),
        (nothing, lambda a: a["weights.head.w"].fill(2), "its weights are not those its header names"),
        (nothing, lambda a: a.pop(WEIGHT), "its weights are not those its header names"),
        (nothing, lambda a: a.update({WEIGHT: a[WEIGHT][:2]}), "its weights are not those its header names"),
        (lambda h: h.pop("weights"), nothing, "its header lacks weights"),
        (lambda h: h.update(format=3), nothing, "has ticket format 3, this vltickets reads up to 2"),
        (lambda h: h.pop("format"), nothing, "no format number"),
        (lambda h: h.pop("provenance"), nothing, "its header lacks provenance"),
        (lambda h: h.update(mask="x"), nothing, "damaged: its mask is not"),
        (lambda h: h.update(pruned=1), nothing, "damaged: its mask is not"),
        (lambda h: h["backbone"].update(layers=2), nothing, "the mask is of another backbone"),
        (lambda h: h["backbone"].update(hidden=24), nothing, "the mask is of another backbone"),
        (lambda h: h["backbone"].update(wings=2), nothing, "unknown key 'wings'"),
        (lambda h: h["backbone"].update(layers=10**12), nothing, "says 1000000000000 layers, its mask has 7 tensors"),
        (lambda h: h["backbone"].update(hidden=2**62), nothing, "the mask is of another backbone"),
        (lambda h: h.update(prunable=1), nothing, "its header says prunable 1, its mask has"),
        (lambda h: h.update(sparsity=0.9), nothing, "its header says sparsity 0.9, its mask has 0.7"),
        (lambda h: h.update(provenance=[]), nothing, "provenance in its header is no JSON object"),
        (nothing, lambda a: a.update(code=np.ones(2)), "'code' is no part of a ticket"),
    ],
)
def test_a_tampered_ticket_is_refused(
    path: Path, header: Callable[[dict[str, Any]], object], arrays: Callable[[dict[str, Any]], object], says: str
) -> None:
    load_ticket(path)
    altered(path, header, arrays)
    with pytest.raises(UserError) as caught:
        load_ticket(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda weights: weights["backbone.pooler.dense.weight"].fill(1),
            "weights that are not 0 where its mask prunes",
        ),
        (lambda weights: weights.pop("backbone.pooler.dense.weight"), "lacks the weights pooler.dense.weight"),
    ],
)
def test_weights_that_are_no_ticket_s_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    made = ticket()
    change(made.weights)
    save_ticket(made, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match=says):
        load_ticket(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is not a ticket, or damaged"), (b"\x80\x04pickle", "is not a ticket, or damaged"), (None, "no such file")],
)
def test_another_file_is_no_ticket(tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"t.safetensors.*{says}"):
        load_ticket(tmp_path / "t.safetensors")


@pytest.mark.parametrize("metadata", [None, {"vltickets": "{"}, {"vltickets": "[]"}])
def test_other_safetensors_files_are_no_tickets(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": np.ones(2)}, tmp_path / "t.safetensors", metadata)
    with pytest.raises(UserError, match=r"not a ticket|damaged"):
        load_ticket(tmp_path / "t.safetensors")


def test_bits_beyond_the_last_weight_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_ticket(Ticket(None, Mask.dense({"w": (3, 5)}), {}), path)
    altered(path, nothing, lambda arrays: arrays["mask.w"].__setitem__(-1, 0xFF))
    with pytest.raises(UserError, match="w has bits beyond its 15 weights"):
        load_ticket(path)


def test_numbers_of_a_type_that_numpy_lacks_are_refused(path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    save_torch({"mask.w": torch.ones(2, dtype=torch.bfloat16)}, path, metadata)
    with pytest.raises(UserError, match="numbers of a type that tickets do not have"):
        load_ticket(path)


def test_a_header_that_says_the_file_is_longer_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for size in (2**63, len(content)):
        path.write_bytes(size.to_bytes(8, "little") + content[8:])
        with pytest.raises(UserError, match="is not a ticket, or damaged"):
            load_ticket(path)


def test_a_torn_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not a ticket, or damaged"):
        load_ticket(path)
