"""A packed file gives back what was packed, and is refused where anything does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from vltickets.backbones import prunable_shapes
from vltickets.deploy import jit, load_packed, packed_file, read_ticket, save_packed, spreading
from vltickets.errors import UserError
from vltickets.specs import Uniter
from vltickets.tickets import Mask, Ticket, prune, random_scores, save_ticket

TOY = Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64)
SHAPES = prunable_shapes(TOY)
MASK = prune(random_scores(0, SHAPES), Mask.dense(SHAPES), 0.7)
KEPT = "values.pooler.dense.weight"
COUNT = int(MASK["pooler.dense.weight"].count_nonzero())


def numbers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def ticket() -> Ticket:
    weights = {f"backbone.{name}": np.where(MASK[name], numbers(SHAPES[name]), np.float32(0)) for name in SHAPES}
    weights |= {"backbone.pooler.dense.bias": numbers((16,)), "head.w": numbers((3, 16)), "head.n": np.arange(3)}
    return Ticket(TOY, MASK, {"train": "1" * 20, "metrics": {"score": 0.5}}, weights, {"answers": "yes\nno"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_packed(ticket(), tmp_path / "p.safetensors")
    return tmp_path / "p.safetensors"


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())


DENSITIES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
TENSORS = st.lists(st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=3), DENSITIES), min_size=1, max_size=4)


@given(TENSORS, st.integers(0, 2**32 - 1), st.sampled_from(["fp32", "bf16"]))
def test_any_weights_come_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[list[int], float]], seed: int, values: Any
) -> None:
    rng = np.random.default_rng(seed)
    kept = {f"w{i}": torch.from_numpy(rng.random(shape) < share) for i, (shape, share) in enumerate(tensors)}
    odd = np.array([np.nan, np.inf, -0.0, 1e-45, 3.4e38, 1.00390625], dtype=np.float32)
    weights = {}
    for name, keep in kept.items():
        any_bits = np.where(rng.random(keep.shape) < 0.2, rng.choice(odd, keep.shape), rng.normal(size=keep.shape))
        weights[name] = np.where(keep.numpy(), any_bits, 0).astype(np.float32)
    weights |= {"bias": numbers((5,), seed), "count": np.array(7)}
    if not sum(keep.numel() for keep in kept.values()):
        return
    file = tmp_path_factory.mktemp("any") / "p.safetensors"
    save_packed(Ticket(None, Mask(kept), {}, weights), file, values=values)
    found = load_packed(file)
    assert found.mask == Mask(kept)
    assert found.weights.keys() == weights.keys()
    for name, was in weights.items():
        if values == "bf16" and was.dtype == np.float32:
            was = torch.from_numpy(was).bfloat16().float().numpy()
        assert same_bits(found.weights[name], was), name


def test_a_weight_that_is_spread_in_several_pieces_comes_back(tmp_path: Path) -> None:
    shape = (3, spreading.PIECE - 5)
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3
    weights = {"w": np.where(keep.numpy(), numbers(shape), np.float32(0))}
    save_packed(Ticket(None, Mask({"w": keep}), {}, weights), tmp_path / "p.safetensors")
    assert same_bits(load_packed(tmp_path / "p.safetensors").weights["w"], weights["w"])


@pytest.mark.parametrize("values", ["fp32", "bf16"])
def test_a_backbone_s_ticket_comes_back_with_all_that_scores_it(tmp_path: Path, values: Any) -> None:
    saved = ticket()
    save_packed(saved, tmp_path / "p.safetensors", values=values)
    found = read_ticket(tmp_path / "p.safetensors")
    assert (found.backbone, found.mask, found.labels) == (TOY, MASK, saved.labels)
    assert found.provenance == saved.provenance | ({"values": "bf16"} if values == "bf16" else {})
    assert all(not found.weights[f"backbone.{name}"][~MASK[name].numpy()].view(np.uint32).any() for name in MASK)
    save_packed(found, tmp_path / "again.safetensors", values=values)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "p.safetensors").read_bytes()


def test_read_ticket_reads_ticket_files_too(tmp_path: Path) -> None:
    save_ticket(ticket(), tmp_path / "t.safetensors")
    assert read_ticket(tmp_path / "t.safetensors").mask == MASK
    with pytest.raises(UserError, match="is no packed file: it has no 'vltickets-packed' header"):
        load_packed(tmp_path / "t.safetensors")


def altered(path: Path, header: Callable[[dict[str, Any]], object], parts: Callable[[dict[str, Any]], object]) -> None:
    with safe_open(path, "pt") as file:
        own = json.loads(file.metadata()["vltickets-packed"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    header(own)
    parts(tensors)
    save_file(tensors, path, {"vltickets-packed": json.dumps(own)})


def forged(path: Path, parts: Callable[[dict[str, Any]], object], header: Callable[[dict[str, Any]], object]) -> None:
    """Alter parts and header, and make the hashes fit again."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    parts(tensors)

    def rehash(own: dict[str, Any]) -> None:
        own["parts"] = packed_file._hashes(tensors)
        header(own)
        own["header"] = packed_file._header_hash(own)

    altered(path, rehash, lambda t: (t.clear(), t.update(tensors)))


def nothing(_: dict[str, Any]) -> None:
    """Leave it as it is."""


@pytest.mark.parametrize(
    ("header", "parts", "says"),
    [
        (nothing, lambda p: p[KEPT].__setitem__(0, 9.0), f"{KEPT} is not what its header names by hash"),
        (nothing, lambda p: p[KEPT].copy_(p[KEPT].flip(0)), f"{KEPT} is not what its header names by hash"),
        (nothing, lambda p: p.update({KEPT: p[KEPT][:-1].clone()}), f"{KEPT} is not what its header names by hash"),
        (nothing, lambda p: p.update({KEPT: p[KEPT].half()}), f"{KEPT} is not what its header names by hash"),
        (nothing, lambda p: p["mask.pooler.dense.weight"][3].__ixor__(1), "mask.pooler.dense.weight is not what"),
        (nothing, lambda p: p["dense.head.w"].zero_(), "dense.head.w is not what its header names by hash"),
        (nothing, lambda p: p["dense.head.n"].add_(1), "dense.head.n is not what its header names by hash"),
        (nothing, lambda p: p.pop(KEPT), f"it lacks {KEPT}, unlike its header"),
        (nothing, lambda p: p.pop("mask.pooler.dense.weight"), "mask is of another backbone: it differs in pooler"),
        (nothing, lambda p: p.update(code=torch.ones(2)), "it has code, unlike its header"),
        (lambda h: h["labels"].update(answers="no\nyes"), nothing, "its header was changed after it was written"),
        (lambda h: h["provenance"]["metrics"].update(score=0.9), nothing, "its header was changed after it was"),
        (lambda h: h["parts"].update({KEPT: "0" * 20}), nothing, "its header was changed after it was written"),
        (lambda h: h.update(values="bf16"), nothing, "its header was changed after it was written"),
        (lambda h: h.update(values="int4"), nothing, "its header says values 'int4', not fp32 or bf16"),
        (lambda h: h.update(values=[1]), nothing, "its header says values [1], not fp32 or bf16"),
        (lambda h: h.update(parts=[]), nothing, "parts in its header is no JSON object"),
        (lambda h: h.update(format=3), nothing, "has packed format 3, this vltickets reads up to 2"),
        (lambda h: h.pop("format"), nothing, "no format number"),
        (lambda h: h.pop("kept"), nothing, "its header lacks kept"),
    ],
)
def test_a_tampered_file_is_refused(
    path: Path, header: Callable[[dict[str, Any]], object], parts: Callable[[dict[str, Any]], object], says: str
) -> None:
    load_packed(path)
    altered(path, header, parts)
    with pytest.raises(UserError) as caught:
        load_packed(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def half_a_tensor(parts: dict[str, Any]) -> None:
    parts[KEPT] = parts[KEPT][: len(parts[KEPT]) // 2].clone()


@pytest.mark.parametrize(
    ("parts", "header", "says"),
    [
        (half_a_tensor, nothing, f"should have {COUNT} fp32 values, it has torch.float32 ({COUNT // 2},)"),
        (lambda p: p.update({KEPT: p[KEPT].half()}), nothing, f"should have {COUNT} fp32 values, it has torch.float16"),
        (lambda p: p.pop(KEPT), nothing, f"should have {COUNT} fp32 values, it has nothing"),
        (lambda p: p.update(code=torch.ones(2)), nothing, "'code' is no part of a packed file"),
        (lambda p: p["mask.pooler.dense.weight"].fill_(255), nothing, "its header counts other weights"),
        (nothing, lambda h: h["backbone"].update(hidden=24), "the mask is of another backbone"),
        (nothing, lambda h: h["backbone"].update(layers=10**12), "layers, its mask has 7 tensors"),
        (nothing, lambda h: h.update(mask="0" * 20), "its mask is not the one its header names"),
        (nothing, lambda h: h["kept"].update({"pooler.dense.weight": 1}), "its header counts other weights"),
        (nothing, lambda h: h.update(sparsity=0.99), "its header says sparsity 0.99, its mask"),
        (
            lambda p: p.update({"dense.backbone.pooler.dense.weight": torch.full((16, 16), 9.0)}),
            nothing,
            "pooler.dense.weight is there twice, under its mask and whole",
        ),
        (
            lambda p: p.update({"mask.pooler.dense.weight": p["mask.pooler.dense.weight"].bfloat16()}),
            nothing,
            "the mask is of another backbone",
        ),
    ],
)
def test_a_file_whose_hashes_were_made_to_fit_is_refused_by_its_counts_and_shapes(
    path: Path, parts: Callable[[dict[str, Any]], object], header: Callable[[dict[str, Any]], object], says: str
) -> None:
    forged(path, nothing, nothing)
    load_packed(path)
    forged(path, parts, header)
    with pytest.raises(UserError) as caught:
        load_packed(path)
    assert says in str(caught.value)


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"p\.safetensors is no packed file, or cut short"):
            load_packed(path)
    with pytest.raises(UserError, match="no such file"):
        load_packed(path.with_name("absent.safetensors"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w["backbone.pooler.dense.weight"].fill(1), "weights that are not 0 where the mask prunes"),
        (lambda w: w.pop("backbone.pooler.dense.weight"), "should have pooler.dense.weight as float32"),
        (lambda w: w.clear(), "a mask without trained weights"),
        (
            lambda w: w.update({"backbone.pooler.dense.weight": np.zeros((16, 16))}),
            r"as float32 \(16, 16\), found float64",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused_and_nothing_is_written(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    made = replace(ticket(), weights=dict(ticket().weights))
    change(made.weights)
    with pytest.raises(UserError, match=says):
        save_packed(made, tmp_path / "p.safetensors")
    with pytest.raises(UserError, match="values 'int4' are not among"):
        save_packed(ticket(), tmp_path / "p.safetensors", values="int4")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


TARGETS = {"host": jit.host_target(), "avx2": jit.AVX2 if jit.processor().avx2 else None}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("values", [torch.float32, torch.bfloat16])
@given(size=st.integers(1, 300), density=DENSITIES, seed=st.integers(0, 2**32 - 1))
def test_compiled_and_plain_spreading_give_the_same_bits_and_read_no_value_too_many(
    target: str, values: torch.dtype, size: int, density: float, seed: int
) -> None:
    if jit.host_target() is None or TARGETS[target] is None:
        pytest.skip("no llvmlite, or not that processor")
    rng = np.random.default_rng(seed)
    keep = torch.from_numpy(rng.random((size, 3)) < density)
    count = int(keep.sum())
    around = torch.from_numpy(rng.normal(size=count + 40)).to(values)
    around[count:] = torch.nan  # in memory behind the last value
    bits = np.packbits(keep.numpy().ravel())
    made = spreading.spreader(values, TARGETS[target])(bits, around[:count], keep)
    plain = spreading.spreader(values, None)(bits, around[:count], keep)
    assert same_bits(made.numpy(), plain.numpy())
    assert torch.equal(made[keep], around[:count].float())
    assert not made[~keep].view(torch.int32).any()
