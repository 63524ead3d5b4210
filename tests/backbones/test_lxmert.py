"""LXMERT is the library's own model behind our protocol: same numbers, padding apart, prunable by the same rule."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vltickets.backbones import build_backbone, prunable_shapes
from vltickets.backbones.checkpoints import read_checkpoint
from vltickets.backbones.listing import list_weights, unused_weights
from vltickets.data import Inputs
from vltickets.errors import UserError
from vltickets.specs import SIZES, Lxmert, parse_backbone, weight_places
from vltickets.store.masks import check_same_backbone

transformers = pytest.importorskip("transformers", reason="an LXMERT needs transformers (vltickets[hf])")
SPEC = Lxmert(language_layers=2, object_layers=1, cross_layers=2, hidden=16, heads=2, intermediate=24, positions=12)
WORDS, WIDTH, ANSWERS = 13, 6, 5


def config(**options: object) -> object:
    sizes = {"num_qa_labels": ANSWERS, "num_object_labels": 7, "num_attr_labels": 3}
    return transformers.LxmertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        l_layers=2,
        r_layers=1,
        x_layers=2,
        visual_feat_dim=WIDTH,
        **sizes,
        **options,
    )


def built(seed: int = 0) -> torch.nn.Module:
    backbone = build_backbone(SPEC, vocabulary=WORDS, region_width=WIDTH, dropout=0.0).eval()
    backbone.initialise(torch.Generator().manual_seed(seed), 0.2)
    return backbone


def inputs(words: int = 5, regions: int = 3, rows: int = 2) -> Inputs:
    draw = torch.Generator().manual_seed(1)
    return Inputs(
        tokens=torch.randint(1, WORDS, (rows, words), generator=draw),
        token_mask=torch.ones(rows, words, dtype=torch.bool),
        features=torch.randn(rows, regions, WIDTH, generator=draw),
        boxes=torch.rand(rows, regions, 7, generator=draw),
        region_mask=torch.ones(rows, regions, dtype=torch.bool),
        region_types=torch.ones(rows, regions, dtype=torch.int64),
    )


def test_the_states_are_those_of_the_librarys_model() -> None:
    backbone, given = built(), inputs()
    library = transformers.LxmertModel(config()).eval()
    library.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        ours = backbone(given)
        theirs = library(  # as officially: no mask of regions, because none is padding
            input_ids=given.tokens, visual_feats=given.features, visual_pos=given.boxes[..., :4]
        )
    torch.testing.assert_close(ours.words, theirs.language_output)
    torch.testing.assert_close(ours.regions, theirs.vision_output)
    torch.testing.assert_close(ours.pooled, theirs.pooled_output)


def test_padding_of_words_and_regions_takes_no_part() -> None:
    backbone, given = built(), inputs()
    padded = replace(
        given,
        tokens=torch.nn.functional.pad(given.tokens, (0, 2), value=3),
        token_mask=torch.nn.functional.pad(given.token_mask, (0, 2)),
        features=torch.nn.functional.pad(given.features, (0, 0, 0, 4), value=9.0),
        boxes=torch.nn.functional.pad(given.boxes, (0, 0, 0, 4), value=9.0),
        region_mask=torch.nn.functional.pad(given.region_mask, (0, 4)),
        region_types=torch.nn.functional.pad(given.region_types, (0, 4)),
    )
    with torch.no_grad():
        alone, beside = backbone(given), backbone(padded)
    torch.testing.assert_close(beside.words[:, :5], alone.words)
    torch.testing.assert_close(beside.regions[:, :3], alone.regions)
    torch.testing.assert_close(beside.pooled, alone.pooled)
    assert beside.mask.sum(1).tolist() == [8, 8]


def test_a_text_without_regions_goes_through_the_language_layers_alone() -> None:
    backbone, given = built(), inputs()
    none = torch.zeros(2, 0)
    alone = replace(given, features=none[..., None], boxes=none[..., None].expand(-1, -1, 7), region_mask=none.bool())
    with torch.no_grad():
        found = backbone(alone)
        library = transformers.LxmertModel(config()).eval()
        library.load_state_dict(backbone.state_dict())
        layers = library(
            input_ids=given.tokens,
            visual_feats=given.features,
            visual_pos=given.boxes[..., :4],
            output_hidden_states=True,
        ).language_hidden_states
    assert found.regions.shape == (2, 0, 16)
    torch.testing.assert_close(found.words, layers[1])  # of the second and last language layer, before they cross


def test_the_official_size_has_the_official_counts() -> None:
    weights = list_weights(SIZES["lxmert-base"])
    assert sum(weight.count for weight in weights) == 207_936_768
    covered = [weight for weight in weights if weight.prunable]
    assert (len(covered), sum(weight.count for weight in covered)) == (165, 182_255_616)
    reasons = {weight.name: weight.reason for weight in weights}
    assert reasons["encoder.visn_fc.box_fc.weight"] == "projection of the picture"
    assert reasons["encoder.x_layers.4.visn_inter.dense.weight"] == "matrix of the encoder"


def test_each_modality_has_its_official_share() -> None:
    places = weight_places(SIZES["lxmert-base"])
    assert [(name, place.shape) for name, place in places.items()] == list(
        prunable_shapes(SIZES["lxmert-base"]).items()
    )
    count: dict[str | None, int] = {}
    for place in places.values():
        count[place.modality] = count.get(place.modality, 0) + place.size
    assert count == {"language": 63_700_992, "vision": 35_389_440, "cross": 82_575_360, None: 589_824}
    layers = {place.modality: set() for place in places.values()}
    for place in places.values():
        layers[place.modality].add(place.layer)
    assert layers == {"language": {*range(9)}, "vision": {*range(9, 14)}, "cross": {*range(14, 19)}, None: {None}}


def test_what_is_named_unused_gets_no_gradient_from_a_pooled_head() -> None:
    backbone = built()
    backbone(inputs()).pooled.sum().backward()
    without = {name for name, weight in backbone.named_parameters() if weight.grad is None}
    unused = next(one for one in unused_weights(SPEC, list_weights(SPEC)) if one.task == "vqa")
    assert set(unused.weights) == without
    assert len(without) == 16


def test_initial_weights_are_the_seeds_own() -> None:
    first, again, other = built(3).state_dict(), built(3).state_dict(), built(4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["pooler.dense.weight"], other["pooler.dense.weight"])
    assert 0.18 < float(first["encoder.layer.0.intermediate.dense.weight"].std()) < 0.22
    assert not first["pooler.dense.bias"].any()
    assert not first["embeddings.position_embeddings.weight"][0].any()


def test_perturbations_enter_at_the_words_embeddings_and_the_raw_features() -> None:
    backbone, given, seen = built(), inputs(), {}
    places = backbone.perturbed_places()
    places.words.register_forward_hook(lambda module, taken, out: seen.update(words=out))
    places.regions.register_forward_pre_hook(lambda module, taken: seen.update(regions=taken[0]))
    backbone(given)
    assert torch.equal(seen["words"], backbone.word_table()[given.tokens])
    assert torch.equal(seen["regions"], given.features)


def test_more_token_types_than_it_has_are_refused() -> None:
    with pytest.raises(UserError, match="2 token types, 4 were asked for"):
        build_backbone(SPEC, vocabulary=3, region_width=2, dropout=0.0, type_count=4)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"pip install 'vltickets\[hf\]'"):
        prunable_shapes(SPEC)


def test_masks_of_a_uniter_and_an_lxmert_are_not_compared() -> None:
    with pytest.raises(UserError, match=r"a and b .*different backbones \(kind uniter.* against kind lxmert"):
        check_same_backbone({"a": SIZES["tiny"], "b": SIZES["lxmert-tiny"]})
    check_same_backbone({"a": SPEC, "b": Lxmert(**SPEC.model_dump())})


@pytest.mark.parametrize(("header", "words"), [({"kind": "lxmer"}, "did you mean 'lxmert'"), ([1], "kind of backbone")])
def test_a_header_of_another_kind_of_backbone_is_refused(header: object, words: str) -> None:
    with pytest.raises(UserError, match=f"t.safetensors: .*{words}"):
        parse_backbone(header, "t.safetensors")
    assert parse_backbone(SPEC.model_dump(), "t.safetensors") == SPEC


def official(prefix: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a small pre-training model of the library, and its weights under the official names."""
    torch.manual_seed(0)
    model = transformers.LxmertForPreTraining(config()).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model, {f"{prefix}{name}".replace("lxmert.", "bert."): value for name, value in model.state_dict().items()}


def check_against(model: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(path, SPEC)
    assert checkpoint.report.missing == checkpoint.report.unexpected == checkpoint.report.grown == []
    assert all(torch.equal(checkpoint.trunk[name], value) for name, value in model.lxmert.state_dict().items())
    backbone, given = built(), inputs()
    backbone.load_state_dict(checkpoint.trunk)
    with torch.no_grad():
        theirs = model(input_ids=given.tokens, visual_feats=given.features, visual_pos=given.boxes[..., :4])
        ours = backbone(given)
    heads = checkpoint.heads
    match = ours.pooled @ heads["itm_output.weight"].T + heads["itm_output.bias"]
    torch.testing.assert_close(match, theirs.cross_relationship_score)
    return heads


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_official_checkpoint_gives_the_librarys_outputs(tmp_path: Path, prefix: str) -> None:
    model, state = official(prefix)
    torch.save(state, tmp_path / "model_LXRT.pth")
    heads = check_against(model, tmp_path / "model_LXRT.pth")
    assert {name.split(".")[0] for name in heads} == {"cls", "itm_output", "obj_predict_head", "answer_head"}


def test_a_hugging_face_folder_gives_the_librarys_outputs(tmp_path: Path) -> None:
    model, _ = official("")
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(tmp_path)
    check_against(model, tmp_path)


@pytest.mark.parametrize("prefix", ["lxrt_encoder.model.", "lxrt_encoder.model.module.", "module.lxrt_encoder.model."])
def test_a_fine_tuned_model_brings_its_answer_head(tmp_path: Path, prefix: str) -> None:
    model, _ = official("")
    state = {f"{prefix}bert.{name}": value for name, value in model.lxmert.state_dict().items()}
    state |= {f"{name.removeprefix('answer_head.')}": v for name, v in model.state_dict().items() if "answer" in name}
    torch.save(state, tmp_path / "BEST.pth")
    checkpoint = read_checkpoint(tmp_path / "BEST.pth", SPEC)
    assert checkpoint.report.missing == checkpoint.report.unexpected == []
    assert checkpoint.heads["logit_fc.3.weight"].shape == (ANSWERS, 32)
    assert torch.equal(checkpoint.trunk["pooler.dense.weight"], model.lxmert.pooler.dense.weight)


def test_half_a_checkpoint_and_another_size_are_refused(tmp_path: Path) -> None:
    _, state = official("")
    half = {name: value for name, value in state.items() if "r_layers" not in name}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"half a checkpoint: it lacks encoder\.r_layers"):
        read_checkpoint(tmp_path / "half.pth", SPEC)
    torch.save(state, tmp_path / "whole.pth")
    with pytest.raises(UserError, match="does not fit the backbone"):
        read_checkpoint(tmp_path / "whole.pth", SIZES["lxmert-tiny"])
