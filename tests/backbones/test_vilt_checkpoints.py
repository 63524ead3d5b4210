"""ViLT's checkpoints, official and the library's, give the library's numbers under our names; misfits are refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vltickets.backbones import build_backbone
from vltickets.backbones.checkpoints import Checkpoint, read_about, read_checkpoint, split_import, write_import
from vltickets.backbones.listing import list_weights, unused_weights
from vltickets.backbones.vilt import placed
from vltickets.backbones.vilt_checkpoints import PLACES, TYPES, VILT_WORDS
from vltickets.data import Inputs
from vltickets.data.patches import cut
from vltickets.errors import UserError
from vltickets.specs import SIZES, Imported, Matching, Nlvr2, Pixels, Recipe, Train, Vilt, World
from vltickets.store import Store
from vltickets.tasks import Model
from vltickets.tasks.answering import ViltAnswerHead
from vltickets.tasks.heads import WordPrediction
from vltickets.tasks.matching import MatchingTask
from vltickets.tasks.nlvr2 import ViltNlvr2Task, ViltPairedHead
from vltickets.tickets import initialise

transformers = pytest.importorskip("transformers", reason="a ViLT needs transformers (vltickets[hf])")
SPEC = Vilt(layers=2, hidden=16, heads=2, intermediate=24, positions=12, pixels=Pixels(patch=4, shorter=12))
WORDS, ANSWERS = 13, 5
BLOCK = {  # official-models 5.1
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def made(kind: str, **options: object) -> torch.nn.Module:
    """Return a small model of the library with random weights everywhere, and the official constants of its norms."""
    config = transformers.ViltConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        image_size=12,
        patch_size=4,
        **{"layer_norm_eps": 1e-6, "num_labels": ANSWERS} | options,
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    trunk = getattr(model, "vilt", model)
    trunk.embeddings.text_embeddings.LayerNorm.eps = 1e-12
    if kind == "ViltForMaskedLM":
        model.mlm_score.transform.LayerNorm.eps = 1e-12
    return model


def official(trunk: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trunk's weights under the official names, with fused attention, and the pre-training heads."""
    own = {name: value.clone() for name, value in trunk.state_dict().items()}
    out = {
        "transformer.cls_token": own["embeddings.cls_token"],
        "transformer.pos_embed": own["embeddings.position_embeddings"],
        "token_type_embeddings.weight": own["embeddings.token_type_embeddings.weight"],
        "text_embeddings.position_ids": torch.arange(12)[None],
    }
    for last in ("weight", "bias"):
        out[f"transformer.patch_embed.proj.{last}"] = own[f"embeddings.patch_embeddings.projection.{last}"]
        out[f"transformer.norm.{last}"] = own[f"layernorm.{last}"]
        out[f"pooler.dense.{last}"] = own[f"pooler.dense.{last}"]
        out[f"text_embeddings.LayerNorm.{last}"] = own[f"embeddings.text_embeddings.LayerNorm.{last}"]
        for layer in range(2):
            theirs, ours = f"transformer.blocks.{layer}", f"encoder.layer.{layer}"
            parts = [own[f"{ours}.attention.attention.{part}.{last}"] for part in ("query", "key", "value")]
            out[f"{theirs}.attn.qkv.{last}"] = torch.cat(parts)
            out |= {f"{theirs}.{name}.{last}": own[f"{ours}.{place}.{last}"] for name, place in BLOCK.items()}
    for table in ("word", "position", "token_type"):
        out[f"text_embeddings.{table}_embeddings.weight"] = own[f"embeddings.text_embeddings.{table}_embeddings.weight"]
    out |= {
        "mlm_score.transform.dense.weight": torch.randn(16, 16),
        "mlm_score.transform.dense.bias": torch.randn(16),
        "mlm_score.transform.LayerNorm.weight": torch.randn(16),
        "mlm_score.transform.LayerNorm.bias": torch.randn(16),
        "mlm_score.decoder.weight": torch.randn(WORDS, 16),
        "mlm_score.bias": torch.randn(WORDS),
        "itm_score.fc.weight": torch.randn(2, 16),
        "itm_score.fc.bias": torch.randn(2),
        "mpp_score.decoder.weight": torch.randn(3, 16),
    }
    return out


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def folder(model: torch.nn.Module, path: Path) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(path)
    return path


def example(picture: int = 0) -> tuple[Inputs, torch.Tensor]:
    """Return one text with one square picture, and the picture [1, 3, 12, 12]."""
    pixels = torch.rand(12, 12, 3, generator=torch.Generator().manual_seed(picture)) * 2 - 1
    across, down = (torch.arange(9) % 3) / 3, (torch.arange(9) // 3) / 3
    side = torch.full((9,), 1 / 3)
    boxes = torch.stack([across, down, across + side, down + side, side, side, side * side], dim=1)
    inputs = Inputs(
        tokens=torch.tensor([[1, 5, 6, 2]]),
        token_mask=torch.ones(1, 4, dtype=torch.bool),
        features=cut(pixels, 4)[None],
        boxes=boxes[None],
        region_mask=torch.ones(1, 9, dtype=torch.bool),
        region_types=torch.ones(1, 9, dtype=torch.int64),
    )
    return inputs, pixels.permute(2, 0, 1)[None]


def loaded(checkpoint: Checkpoint, type_count: int = 2) -> torch.nn.Module:
    backbone = build_backbone(SPEC, vocabulary=WORDS, region_width=48, dropout=0.0, type_count=type_count).eval()
    backbone.load_state_dict(checkpoint.trunk)
    return backbone


def head_of(checkpoint: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in checkpoint.heads.items() if name.startswith(prefix)}


def check_trunk(checkpoint: Checkpoint, trunk: torch.nn.Module) -> None:
    given, values = example()
    assert sorted(checkpoint.trunk) == sorted(trunk.state_dict())
    assert all(torch.equal(checkpoint.trunk[name], value) for name, value in trunk.state_dict().items())
    with torch.no_grad():
        ours, theirs = loaded(checkpoint)(given), trunk(input_ids=given.tokens, pixel_values=values)
    torch.testing.assert_close(ours.pooled, theirs.pooler_output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.words, theirs.last_hidden_state[:, :4], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_official_checkpoint_gives_the_librarys_outputs(tmp_path: Path, prefix: str) -> None:
    trunk = made("ViltModel")
    state = official(trunk)
    lightning = {"epoch": 3, "state_dict": {prefix + name: value for name, value in state.items()}, "callbacks": {}}
    got = read_checkpoint(saved(tmp_path / "vilt.ckpt", lightning), SPEC)
    check_trunk(got, trunk)
    assert got.report.missing == got.report.grown == []
    assert got.report.unexpected == ["mlm_score.decoder.weight", "mpp_score.decoder.weight"]
    assert len(got.report.notes) == 1
    assert "not tied to the word table" in got.report.notes[0]
    for ours, theirs in (("itm_output.", "itm_score.fc."), ("cls.predictions.transform.", "mlm_score.transform.")):
        assert head_of(got, ours)
        assert all(torch.equal(value, state[theirs + name]) for name, value in head_of(got, ours).items())
    assert torch.equal(got.heads["cls.predictions.bias"], state["mlm_score.bias"])


def test_what_is_written_is_read_back_as_trunk_and_heads(tmp_path: Path) -> None:
    got = read_checkpoint(saved(tmp_path / "vilt.ckpt", {"state_dict": official(made("ViltModel"))}), SPEC)
    write_import(got, tmp_path / "in.safetensors", source="vilt.ckpt")
    trunk, heads = split_import(read_checkpoint(tmp_path / "in.safetensors", SPEC).trunk | got.heads)
    assert (sorted(trunk), sorted(heads)) == (sorted(got.trunk), sorted(got.heads))
    assert read_about(tmp_path / "in.safetensors")["report"]["notes"] == got.report.notes


@pytest.mark.parametrize("rows", [2, 3])
def test_a_start_gives_each_task_its_types_and_matching_its_score(tmp_path: Path, rows: int) -> None:
    state = official(made("ViltModel", modality_type_vocab_size=rows))
    got = read_checkpoint(saved(tmp_path / "vilt.ckpt", {"state_dict": state}), SPEC)
    write_import(got, tmp_path / "in.safetensors", source="vilt.ckpt")
    store = Store(tmp_path / "store")
    store.prepare()
    start = Imported(name="in", sha256=store.put_imported(tmp_path / "in.safetensors"))
    data, unread = World(generator=1), SimpleNamespace(nlvr2=len, captions=len)  # nothing of the data is needed
    table = state["token_type_embeddings.weight"]
    for spec, task, like in (
        (Nlvr2(data=data), ViltNlvr2Task(Nlvr2(data=data), unread, 2), [0, 1, rows - 1]),
        (Matching(data=data), MatchingTask(Matching(data=data), unread), [0, 1]),
    ):
        backbone = build_backbone(SPEC, vocabulary=WORDS, region_width=48, dropout=0.0, type_count=len(like))
        model = Model(backbone, task.head(16, 0.0))
        recipe = Recipe(steps=1, learning_rate=0.1)
        initialise(model, task, Train(backbone=SPEC, task=spec, start=start, recipe=recipe), store)
        assert torch.equal(backbone.state_dict()[TYPES], table[like])
        assert torch.equal(backbone.pooler.dense.weight, state["pooler.dense.weight"])
    assert torch.equal(model.head.rank_output.weight, state["itm_score.fc.weight"][1:])  # officially of row 1, "match"


def test_a_folder_of_the_bare_model_leaves_the_heads_random(tmp_path: Path) -> None:
    model = made("ViltModel")
    got = read_checkpoint(folder(model, tmp_path), SPEC)
    check_trunk(got, model)
    assert {name.split(".")[0] for name in got.report.missing} == {"cls", "itm_output"}
    assert got.report.unexpected == got.report.notes == []


def test_a_folder_of_masked_words_gives_the_librarys_words(tmp_path: Path) -> None:
    model = made("ViltForMaskedLM")
    got = read_checkpoint(folder(model, tmp_path), SPEC)
    check_trunk(got, model.vilt)
    assert got.report.missing == ["itm_output.weight", "itm_output.bias"]
    assert got.report.unexpected == got.report.notes == []
    whole = read_checkpoint(saved(tmp_path / "w.bin", model.state_dict()), SPEC)  # the tied decoder with it
    assert (whole.report, sorted(whole.heads)) == (got.report, sorted(got.heads))
    given, values = example()
    words = WordPrediction(16, WORDS)
    words.load_state_dict(head_of(got, "cls.predictions."))
    with torch.no_grad():
        backbone = loaded(got)
        ours = words(backbone(given).words, backbone.word_table())
        theirs = model(input_ids=given.tokens, pixel_values=values).logits
    torch.testing.assert_close(ours, theirs[:, :4], atol=1e-5, rtol=1e-5)


def test_a_fine_tuned_answering_model_gives_the_librarys_answers(tmp_path: Path) -> None:
    model = made("ViltForQuestionAnswering")
    got = read_checkpoint(folder(model, tmp_path / "hf"), SPEC)
    given, values = example()
    head = ViltAnswerHead(16, ANSWERS).eval()
    head.load_state_dict(got.heads)
    with torch.no_grad():
        theirs = model(input_ids=given.tokens, pixel_values=values).logits
        torch.testing.assert_close(head(loaded(got)(given).pooled), theirs, atol=1e-5, rtol=1e-5)
    state = official(model.vilt) | {f"vqa_{name}": v for name, v in model.state_dict().items() if "classifier" in name}
    fine_tuned = read_checkpoint(saved(tmp_path / "vqa.ckpt", {"state_dict": state}), SPEC)
    assert all(torch.equal(fine_tuned.heads[name], value) for name, value in got.heads.items())


def test_a_fine_tuned_pair_model_gives_the_librarys_judgement(tmp_path: Path) -> None:
    model = made("ViltForImagesAndTextClassification", num_images=2, modality_type_vocab_size=3, num_labels=2)
    got = read_checkpoint(folder(model, tmp_path), SPEC)
    assert got.report.grown == [f"{TYPES}: 3 rows instead of 2"]
    (left, first), (right, second) = example(1), example(2)
    both = {name: torch.cat([getattr(left, name), getattr(right, name)]) for name in ("tokens", "features", "boxes")}
    masks = {name: torch.cat([getattr(left, name)] * 2) for name in ("token_mask", "region_mask")}
    given = replace(left, **both, **masks, region_types=torch.tensor([[1], [2]]).expand(2, 9))
    head = ViltPairedHead(16).eval()
    head.load_state_dict(got.heads)
    with torch.no_grad():
        theirs = model(input_ids=left.tokens, pixel_values=torch.stack([first, second], dim=1)).logits
        torch.testing.assert_close(head(loaded(got, 3)(given)), theirs, atol=1e-5, rtol=1e-5)


def test_a_retrieval_model_brings_its_score_and_other_classes_are_left_out(tmp_path: Path) -> None:
    model = made("ViltForImageAndTextRetrieval")
    got = read_checkpoint(folder(model, tmp_path / "rank"), SPEC)
    assert torch.equal(got.heads["rank_output.weight"], model.rank_output.weight)
    three = made("ViltForImagesAndTextClassification", num_images=2, modality_type_vocab_size=3, num_labels=3)
    got = read_checkpoint(folder(three, tmp_path / "three"), SPEC)
    assert got.heads == {}
    assert "classifier.3.weight" in got.report.unexpected
    tokens = read_checkpoint(folder(made("ViltForTokenClassification"), tmp_path / "tokens"), SPEC)
    assert tokens.report.missing[:2] == ["pooler.dense.weight", "pooler.dense.bias"]
    assert tokens.report.unexpected == ["classifier.bias", "classifier.weight"]


def test_places_of_another_grid_are_resized_as_they_would_be_for_a_picture(tmp_path: Path) -> None:
    trunk = made("ViltModel")
    wide = Vilt(**SPEC.model_dump() | {"pixels": Pixels(patch=4, shorter=20)})
    got = read_checkpoint(folder(trunk, tmp_path), wide)
    table = trunk.embeddings.position_embeddings
    cells = torch.stack([torch.arange(25) % 5, torch.arange(25) // 5], dim=1) / 5
    boxes = torch.cat([cells, cells + 0.2, torch.full((25, 3), 0.2)], dim=1)[None]
    torch.testing.assert_close(got.trunk[PLACES][:, 1:], placed(table[0, 1:], boxes, 3))
    assert torch.equal(got.trunk[PLACES][:, :1], table[:, :1])
    assert got.report.notes == [f"{PLACES}: 3 x 3 places resized to 5 x 5 (bilinear, corners aligned)"]


def test_a_config_that_lies_is_refused_and_another_constant_of_norms_is_said(tmp_path: Path) -> None:
    path = folder(made("ViltModel", layer_norm_eps=1e-12), tmp_path)
    assert read_checkpoint(path, SPEC).report.notes == [
        "layer_norm_eps: 1e-12 in config.json, ours is the official 1e-06"
    ]
    told = json.loads((path / "config.json").read_text())
    lies = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 9, "image_size": 384, "model_type": "bert"}
    for key, lie in lies.items():
        (path / "config.json").write_text(json.dumps(told | {key: lie}))
        with pytest.raises(UserError, match=rf"config\.json .*{lie}.*bring the"):
            read_checkpoint(path, SPEC)
    for broken in ("{", "[]"):
        (path / "config.json").write_text(broken)
        with pytest.raises(UserError, match=r"config\.json.*configuration"):
            read_checkpoint(path, SPEC)


def test_misfits_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "c.ckpt", official(made("ViltModel"))

    def refused(state: object, match: str, spec: Vilt = SPEC) -> None:
        with pytest.raises(UserError, match=match):
            read_checkpoint(saved(path, {"state_dict": state}), spec)

    def without(part: str) -> dict[str, torch.Tensor]:
        return {name: value for name, value in state.items() if part not in name}

    coarse = Vilt(**SPEC.model_dump() | {"pixels": Pixels(patch=6, shorter=12)})
    refused(state, r"should be \(16, 3, 6, 6\), found \(16, 3, 4, 4\)", coarse)
    refused(state, r"should be \(1, 1, 64\), found \(1, 1, 16\)", SIZES["vilt-tiny"])
    refused(state, r"layer\.1.*no such tensor", Vilt(**SPEC.model_dump() | {"layers": 1}))
    refused(without("blocks.1."), r"half a checkpoint.*layer\.1")
    refused(without("transformer.norm.bias"), r"half a checkpoint: it lacks layernorm\.bias")
    refused(without("itm_score.fc.bias"), r"half a checkpoint: it lacks itm_output\.bias")
    refused(state | {"itm_score.fc.weight": torch.zeros(3, 16)}, r"itm_output\.weight should be \(2, 16\)")
    refused(state | {"transformer.blocks.0.attn.qkv.weight": torch.zeros(47, 16)}, "does not split")
    refused(state | {"transformer.pos_embed": torch.zeros(1, 9, 16)}, r"position_embeddings should be \(1, 10, 16\)")
    refused(state | {"transformer.norm.bias": torch.full((16,), torch.nan)}, "not finite")
    refused(state | {"mlm_score.decoder.bias": torch.zeros(WORDS)}, "should equal")
    refused({"blocks.0.norm1.weight": torch.zeros(16)}, "no checkpoint of ViLT")
    path.write_bytes(saved(path, {"state_dict": state}).read_bytes()[:-500])
    with pytest.raises(UserError, match=r"damaged|refused"):
        read_checkpoint(path, SPEC)


@pytest.mark.parametrize("prefix", ["bert.", "", "uniter."])
def test_a_bert_is_refused_because_its_layers_do_not_map(tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}embeddings.word_embeddings.weight": torch.zeros(WORDS, 16)}
    with pytest.raises(UserError, match="of BERT's kind: its layers have their norms behind"):
        read_checkpoint(saved(tmp_path / "pytorch_model.bin", state), SPEC)


class Callback:
    """Stands for what Lightning keeps beside the weights, and would act when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_callbacks_beside_the_weights_are_refused_and_not_run(tmp_path: Path) -> None:
    state = {"state_dict": official(made("ViltModel")), "callbacks": [Callback(tmp_path / "marker")]}
    with pytest.raises(UserError, match=r"nothing in it was run: it names .*mkdir; .*save its state_dict alone"):
        read_checkpoint(saved(tmp_path / "c.ckpt", state), SPEC)
    assert not (tmp_path / "marker").exists()


def test_the_base_size_is_listed_with_reasons() -> None:
    weights = list_weights(SIZES["vilt-base"])
    assert sum(weight.count for weight in weights) == 111_595_008  # official-models 5
    assert sum(weight.count for weight in weights if weight.prunable) == 85_524_480
    reasons = {weight.name: weight.reason for weight in weights}
    assert reasons["embeddings.patch_embeddings.projection.weight"] == "projection of the picture"
    assert reasons[PLACES] == reasons["embeddings.cls_token"] == "embedding"
    assert (reasons[TYPES], reasons[VILT_WORDS]) == ("embedding table", "word table")
    assert reasons["layernorm.weight"] == reasons["encoder.layer.0.layernorm_before.weight"] == "norm"
    assert reasons["encoder.layer.11.attention.attention.query.weight"] == "matrix of the encoder"


def test_what_is_named_unused_gets_no_gradient() -> None:
    (given, _), names = example(), {one.task: one.weights for one in unused_weights(SPEC, list_weights(SPEC))}
    none = torch.zeros(1, 0)
    alone = replace(given, features=none[..., None], boxes=none[..., None].expand(1, 0, 7), region_mask=none.bool())
    backbone = build_backbone(SPEC, vocabulary=WORDS, region_width=48, dropout=0.0)
    backbone.initialise(torch.Generator().manual_seed(0), 0.2)
    backbone(alone).words.sum().backward()
    without = {name for name, weight in backbone.named_parameters() if weight.grad is None}
    assert set(names["text-only pre-training"]) == without
    backbone(given).pooled.sum().backward()
    assert all(weight.grad is not None for weight in backbone.parameters())
    types = backbone.embeddings.text_embeddings.token_type_embeddings.weight.grad
    assert types[0].any()
    assert not types[1].any()
    assert names["every task"] == ("embeddings.text_embeddings.token_type_embeddings.weight[1]",)
