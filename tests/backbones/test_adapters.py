"""Models of transformers behind our protocol: their own numbers from our patches, pruned by one rule."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vltickets import load_ticket
from vltickets.backbones import build_backbone, is_fused, prunable_shapes
from vltickets.backbones.listing import list_weights, unused_weights
from vltickets.data import Inputs, Ragged, assemble
from vltickets.data.patches import patches_of
from vltickets.errors import UserError
from vltickets.specs import SIZES, HuggingFace, Pixels, canonical, parse_backbone, weight_places

transformers = pytest.importorskip("transformers", reason="adapters need transformers (vltickets[hf])")
PIXELS = Pixels(patch=4, shorter=12)
WORDS, SEP, WIDTH = 13, 2, 3 * 4 * 4
MODELS = ("clip", "siglip", "blip", "flava", "bridgetower", "visualbert")


def toy(model: str, **fields: object) -> HuggingFace:
    shape: dict[str, object] = {"layers": 1, "hidden": 16, "heads": 2, "intermediate": 24, "positions": 12}
    if model == "bridgetower":
        shape["hidden"] = 64  # the library's heads are 64 wide
    if model != "visualbert":
        shape["pixels"] = PIXELS
    return HuggingFace(**{"model": model, **shape, **fields})  # type: ignore[arg-type]


def built(spec: HuggingFace) -> torch.nn.Module:
    backbone = build_backbone(spec, vocabulary=WORDS, region_width=WIDTH, dropout=0.0).eval()
    backbone.initialise(torch.Generator().manual_seed(0), 0.2)
    return backbone


class Made:
    """Pictures of different shapes."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        rng = np.random.default_rng(0)
        self.pictures = [
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes
        ]

    def __len__(self) -> int:
        return len(self.pictures)

    def size(self, row: int) -> tuple[int, int]:
        return self.pictures[row].size

    def image(self, row: int) -> Image.Image:
        return self.pictures[row]


def seen(texts: list[list[int]], sizes: list[tuple[int, int]]) -> tuple[Inputs, torch.Tensor]:
    """Return inputs, and the pictures' pixels where all are square."""
    pictures = Made(sizes)
    rows = np.arange(len(sizes))
    given = assemble(
        Ragged.from_rows(texts), rows, patches_of([str(row) for row in rows], pictures, PIXELS, "made"), rows
    )
    square = [torch.from_numpy(np.array(pictures.image(row))).permute(2, 0, 1) / 127.5 - 1 for row in rows]
    return given, torch.stack(square) if len(set(sizes)) == 1 else torch.empty(0)


TEXTS = [[1, 5, 6, 7, SEP], [1, 8, SEP]]
SQUARE = [(12, 12), (12, 12)]


@pytest.mark.parametrize("model", MODELS)
def test_states_have_the_protocols_shapes_and_padding_takes_no_part(model: str) -> None:
    backbone = built(toy(model))
    given, _ = seen(TEXTS, SQUARE)
    with torch.no_grad():
        outputs = backbone(given)
        short = replace(
            given,
            **{name: getattr(given, name)[1:] for name in ("features", "boxes", "region_mask", "region_types")},
            tokens=given.tokens[1:, :3],
            token_mask=given.token_mask[1:, :3],
        )
        alone = backbone(short)
    width = backbone.hidden
    assert outputs.words.shape == (2, 5, width)
    assert outputs.regions.shape == (2, 9, width)
    assert outputs.mask.tolist() == [[True] * 14, [True] * 3 + [False] * 2 + [True] * 9]
    assert outputs.pooled.shape == (2, width)
    torch.testing.assert_close(outputs.pooled[1:], alone.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.words[1:, :3], alone.words, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_head_sees_both_the_words_and_the_picture(model: str) -> None:
    backbone = built(toy(model))
    given, _ = seen(TEXTS, SQUARE)
    with torch.no_grad():
        before = backbone(given).pooled
        other_words = backbone(replace(given, tokens=given.tokens.masked_fill(given.tokens == 5, 9))).pooled
        other_picture = backbone(replace(given, features=given.features.flip(0))).pooled
        blind = backbone(given.without_sight()).pooled
    assert not torch.allclose(before[0], other_words[0], atol=1e-4)
    torch.testing.assert_close(before[1], other_words[1])
    assert not torch.allclose(before, other_picture, atol=1e-4)
    assert torch.isfinite(blind).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_prunable_weight_is_a_matrix_of_a_layer_and_is_trained(model: str) -> None:
    spec = toy(model)
    backbone = built(spec)
    pooled = backbone(seen(TEXTS, SQUARE)[0]).pooled
    (pooled * torch.randn(pooled.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    prunable = backbone.prunable()
    assert {name: tuple(weight.shape) for name, weight in prunable.items()} == prunable_shapes(spec)
    assert len(prunable) >= 6
    for name, weight in prunable.items():
        assert weight.dim() == 2
        assert re.search(r"\.\d+\.", name)
        assert not re.search("embed|norm|pooler|mm_projection", name.lower())
        assert weight.grad is not None
        assert weight.grad.any(), name
    reasons = {weight.name: (weight.prunable, weight.reason) for weight in list_weights(spec)}
    assert {name for name, (covered, _) in reasons.items() if covered} == set(prunable)
    tables = {reason for name, (_, reason) in reasons.items() if name.endswith("word_embeddings.weight")}
    assert tables <= {"embedding table"}
    assert unused_weights(spec, []) == []


def test_a_table_inside_a_layer_is_no_matrix_of_it() -> None:
    from vltickets.backbones.adapters import Adapter

    class WithTable(Adapter):
        pixels = False

        def config(self, spec: HuggingFace, sizes: object) -> None:
            return None

        def model(self, config: None) -> torch.nn.Module:
            return torch.nn.ModuleList([torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4)])

    backbone = WithTable(toy("visualbert"), vocabulary=WORDS, region_width=WIDTH, dropout=0.0)
    assert list(backbone.prunable()) == ["network.1.weight"]


@pytest.mark.parametrize("model", MODELS)
def test_random_weights_follow_from_the_seed_alone(model: str) -> None:
    torch.manual_seed(1)
    first = built(toy(model)).state_dict()
    torch.manual_seed(2)
    second = built(toy(model)).state_dict()
    assert all(torch.equal(first[name], second[name]) or first[name].numel() == 1 for name in first)
    assert not built(toy(model)).word_table()[0].any()


def test_clips_pooled_state_means_to_the_cosine_of_the_librarys_embeddings() -> None:
    backbone = built(toy("clip", options={"text_config.eos_token_id": SEP, "text_config.hidden_act": "gelu"}))
    given, pixels = seen(TEXTS, SQUARE)
    config = backbone.network.config
    assert config.text_config.hidden_act == "gelu"
    config.text_config.eos_token_id = 3  # 2 is the library's mark for an old rule
    library = transformers.CLIPModel(config).eval()
    library.load_state_dict(backbone.network.state_dict())
    tokens = given.tokens.clone()
    last = given.token_mask.sum(1) - 1
    with torch.no_grad():
        backbone.word_table()[3] = backbone.word_table()[SEP]
        library.load_state_dict(backbone.network.state_dict())
        tokens[torch.arange(2), last] = 3
        theirs = library(input_ids=tokens, attention_mask=given.token_mask.long(), pixel_values=pixels)
        ours = backbone(given).pooled.mean(-1)
    expected = F.cosine_similarity(theirs.text_embeds, theirs.image_embeds)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_fused_models_give_the_librarys_own_states() -> None:
    given, pixels = seen(TEXTS, SQUARE)
    words = {"input_ids": given.tokens, "attention_mask": given.token_mask.long(), "pixel_values": pixels}
    blip, flava, tower = (built(toy(model)) for model in ("blip", "flava", "bridgetower"))
    with torch.no_grad():
        theirs = blip.network(**words).question_embeds
        torch.testing.assert_close(blip(given).pooled, theirs[:, 0], atol=1e-5, rtol=1e-4)
        both = flava.network(**words).multimodal_output
        torch.testing.assert_close(flava(given).pooled, both.pooler_output, atol=1e-5, rtol=1e-4)
        pooled = tower.network(**words).pooler_output
        mean = (pooled[:, :64] + pooled[:, 64:]) / 2
        torch.testing.assert_close(tower(given).pooled, mean, atol=1e-5, rtol=1e-4)


def test_a_picture_of_another_shape_is_scaled_to_the_square() -> None:
    backbone = built(toy("blip"))
    both, _ = seen(TEXTS, [(12, 12), (16, 12)])
    square, _ = seen(TEXTS[:1], [(12, 12)])
    with torch.no_grad():
        outputs = backbone(both)
        alone = backbone(replace(square, tokens=both.tokens[:1], token_mask=both.token_mask[:1]))
    assert outputs.regions.shape[1] == 9
    torch.testing.assert_close(outputs.pooled[:1], alone.pooled, atol=1e-5, rtol=1e-5)


def test_a_spec_goes_through_json_and_its_options_have_one_order() -> None:
    one = toy("clip", options={"projection_dim": 16, "logit_scale_init_value": 1.5})
    other = toy("clip", options=[["logit_scale_init_value", 1.5], ["projection_dim", 16]])
    assert one == other
    assert parse_backbone(one.model_dump(mode="json"), "a header") == one
    assert "options" not in canonical(toy("clip"))
    assert hash(one) != hash(toy("clip"))
    with pytest.raises(UserError, match="layer or kind"):
        weight_places(one)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (toy("clipp"), "did you mean 'clip'"),
        (toy("clip", pixels=None), "takes pixels"),
        (toy("visualbert", pixels=PIXELS), "takes region features"),
        (toy("clip", options={"text_config.hiden_act": "gelu"}), "has no 'text_config.hiden_act'"),
        (toy("clip", options={"nothing.at_all": 1}), "has no 'nothing.at_all'"),
        (toy("bridgetower", hidden=16), "can't be built of this shape"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(spec: HuggingFace, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        built(spec)


def test_the_adapter_in_the_docs_works_and_takes_about_thirty_lines() -> None:
    from vltickets.backbones.adapters import Adapter, register

    text = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
    program = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "register(" in block)
    assert len(program.splitlines()) <= 32
    names: dict[str, object] = {}
    exec(program, names)
    spec = toy("chinese-clip")
    given, pixels = seen(TEXTS, SQUARE)
    backbone = built(spec)
    assert not is_fused(spec)
    with torch.no_grad():
        words = {"input_ids": given.tokens, "attention_mask": given.token_mask.long()}
        theirs = backbone.network(**words, pixel_values=pixels)
        ours = backbone(given).pooled.mean(-1)
    torch.testing.assert_close(ours, F.cosine_similarity(theirs.text_embeds, theirs.image_embeds), atol=1e-5, rtol=1e-4)
    assert prunable_shapes(spec)
    with pytest.raises(UserError, match="another name"):
        register("clip", Adapter)
    with pytest.raises(UserError, match="another name"):
        register("chinese-clip", Adapter)


def test_the_five_lines_of_the_docs_find_a_ticket_of_a_foreign_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
    program = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "find_ticket" in block)
    given, pixels = seen(TEXTS, SQUARE)
    clip = built(toy("clip", options={"text_config.eos_token_id": SEP})).network
    losses: list[float] = []

    def my_loop(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(input_ids=given.tokens, pixel_values=pixels, return_loss=True).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    exec(program, {"torch": torch, "clip": clip, "my_loop": my_loop})
    assert losses[-1] < losses[0]
    ticket = load_ticket(tmp_path / "clip-50.safetensors")
    assert ticket.sparsity == pytest.approx(0.5, abs=1e-3)
    weights = dict(clip.named_parameters())
    assert all(not weights[name].detach()[~ticket.mask[name]].any() for name in ticket.mask)


def test_the_named_sizes_are_there() -> None:
    assert {f"{model}-tiny" for model in MODELS} <= set(SIZES)
