"""Official checkpoints are read without running anything, land under our names, and misfits are refused in words."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vltickets.backbones import build_backbone
from vltickets.backbones.checkpoints import TYPES, WORDS, read_about, read_checkpoint, write_import
from vltickets.errors import UserError
from vltickets.specs import Uniter

SPEC = Uniter(layers=2, hidden=8, heads=2, intermediate=16, positions=12)


def official(words: int = 11, types: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = build_backbone(SPEC, vocabulary=words, region_width=6, dropout=0.0, type_count=types)
    state = {f"uniter.{name}": value.clone() for name, value in model.state_dict().items()}
    state["cls.predictions.bias"] = torch.zeros(words)
    state["cls.predictions.decoder.weight"] = state[f"uniter.{WORDS}"].clone()
    state["itm_output.weight"] = torch.randn(2, 8)
    return state


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("wrapper", ["", "model", "model_state", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_come_off(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = {prefix + name: value for name, value in official().items()}
    got = read_checkpoint(saved(tmp_path / "c.pt", {wrapper: state} if wrapper else state), SPEC)
    assert torch.equal(got.trunk["pooler.dense.weight"], official()["uniter.pooler.dense.weight"])
    assert sorted(got.heads) == ["cls.predictions.bias", "itm_output.weight"]
    assert got.report.missing == got.report.unexpected == got.report.grown == []


def test_a_bert_gives_the_text_side_only(tmp_path: Path) -> None:
    state = {
        name.replace("uniter.", "bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("Norm.bias", "Norm.beta"): v
        for name, v in official().items()
        if "img_" not in name and "itm" not in name
    }
    state |= {"bert.embeddings.position_ids": torch.arange(12), "cls.seq_relationship.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    words = "".join(f"word{number}\n" for number in range(11))
    (tmp_path / "vocab.txt").write_text(words)
    got = read_checkpoint(tmp_path, SPEC)
    assert got.vocabulary == words
    assert got.report.missing
    assert all(name.startswith("img_embeddings.") for name in got.report.missing)
    assert got.report.unexpected == ["cls.seq_relationship.bias"]
    assert torch.equal(got.trunk["embeddings.LayerNorm.weight"], torch.ones(8))


def test_grown_tables_are_kept_and_reported(tmp_path: Path) -> None:
    got = read_checkpoint(saved(tmp_path / "c.pt", official(words=28996 + 81, types=4)), SPEC)
    assert len(got.trunk[TYPES]) == 4
    assert len(got.trunk[WORDS]) == 29077
    assert len(got.report.grown) == 2


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "c.pt", {**official(), "extra": Harmful(tmp_path / "marker")})
    with pytest.raises(UserError, match=r"refused, and nothing in it was run: it names .*mkdir"):
        read_checkpoint(path, SPEC)
    assert not (tmp_path / "marker").exists()


def test_misfits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"

    def refused(state: object, match: str, spec: Uniter = SPEC) -> None:
        with pytest.raises(UserError, match=match):
            read_checkpoint(saved(path, state), spec)

    state = official()
    query = "uniter.encoder.layer.1.attention.self.query.weight"
    refused(state, r"should be \(24, 8\), found \(16, 8\)", Uniter(**(SPEC.model_dump() | {"intermediate": 24})))
    refused(state, "layer.1.*no such tensor", Uniter(**(SPEC.model_dump() | {"layers": 1})))
    refused({name: value for name, value in state.items() if "layer.1." not in name}, "half a checkpoint.*layer.1")
    refused({name: value for name, value in state.items() if "img_linear.bias" not in name}, "half a checkpoint")
    refused(state | {query: torch.full((8, 8), torch.nan)}, "not finite")
    refused(state | {"cls.predictions.decoder.weight": torch.zeros(11, 8)}, "should equal")
    refused([1, 2], "holds a list")
    whole = saved(path, state).read_bytes()
    for name, content in (("cut.pt", whole[:-500]), ("short.pt", whole[:40]), ("cut.safetensors", b"\x10" * 40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|refused"):
            read_checkpoint(tmp_path / name, SPEC)


def test_an_import_of_the_golden_trunk_keeps_every_number(tmp_path: Path) -> None:
    golden = load_file(str(Path(__file__).parents[1] / "golden" / "uniter" / "pretraining.safetensors"))
    state = {name.removeprefix("param."): value for name, value in golden.items() if "uniter." in name}
    state = {name[name.index("uniter.") :]: value for name, value in state.items()}
    layers = 1 + max(int(name.split(".")[3]) for name in state if ".layer." in name)
    hidden = state["uniter.pooler.dense.bias"].numel()
    wide = state["uniter.encoder.layer.0.intermediate.dense.bias"].numel()
    places = len(state["uniter.embeddings.position_embeddings.weight"])
    spec = Uniter(layers=layers, hidden=hidden, heads=4, intermediate=wide, positions=places)
    save_file(state, str(tmp_path / "golden.safetensors"))
    got = read_checkpoint(tmp_path / "golden.safetensors", spec)
    write_import(got, tmp_path / "out.safetensors", source="golden")
    kept = load_file(str(tmp_path / "out.safetensors"))
    assert all(torch.equal(kept[name.removeprefix("uniter.")], value) for name, value in state.items())
    assert read_about(tmp_path / "out.safetensors")["source_sha256"] == got.sha256
