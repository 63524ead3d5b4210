"""ViLT is the library's own model behind our protocol: same numbers from pixels, whatever a picture's shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vltickets.backbones import build_backbone, prunable_shapes
from vltickets.data import Inputs, Ragged, assemble
from vltickets.data.patches import cut, patches_of
from vltickets.specs import SIZES, Pixels, Vilt, parse_backbone, weight_places

transformers = pytest.importorskip("transformers", reason="a ViLT needs transformers (vltickets[hf])")
PIXELS = Pixels(patch=4, shorter=12)
SPEC = Vilt(layers=2, hidden=16, heads=2, intermediate=24, positions=12, pixels=PIXELS)
WORDS = 13


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


def built(seed: int = 0, type_count: int = 2) -> torch.nn.Module:
    backbone = build_backbone(SPEC, vocabulary=WORDS, region_width=48, dropout=0.0, type_count=type_count).eval()
    backbone.initialise(torch.Generator().manual_seed(seed), 0.2)
    return backbone


def seen(sizes: list[tuple[int, int]]) -> tuple[Inputs, Made]:
    pictures = Made(sizes)
    texts = Ragged.from_rows([[1, 5, 6, 2 + row] for row in range(len(sizes))])
    rows = np.arange(len(sizes))
    return assemble(texts, rows, patches_of([str(row) for row in rows], pictures, PIXELS, "made"), rows), pictures


def library(backbone: torch.nn.Module, type_count: int = 2) -> torch.nn.Module:
    config = transformers.ViltConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
        image_size=12,
        patch_size=4,
        layer_norm_eps=1e-6,
        modality_type_vocab_size=type_count,
    )
    model = transformers.ViltModel(config).eval()
    model.embeddings.text_embeddings.LayerNorm.eps = 1e-12
    model.load_state_dict(backbone.state_dict())
    return model


@pytest.mark.parametrize("sizes", [[(12, 12)], [(16, 12), (12, 16), (12, 12)]])
def test_the_pooled_states_are_those_of_the_librarys_model_on_padded_pixels(sizes: list[tuple[int, int]]) -> None:
    backbone, (given, pictures) = built(), seen(sizes)
    width, height = (max(size[side] for size in sizes) for side in (0, 1))
    values, mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width)
    for row, (across, down) in enumerate(sizes):
        values[row, :, :down, :across] = torch.from_numpy(np.array(pictures.image(row))).permute(2, 0, 1) / 127.5 - 1
        mask[row, :down, :across] = 1
    with torch.no_grad():
        ours = backbone(given)
        theirs = library(backbone)(
            input_ids=given.tokens, attention_mask=given.token_mask.long(), pixel_values=values, pixel_mask=mask
        )
    torch.testing.assert_close(ours.pooled, theirs.pooler_output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.words, theirs.last_hidden_state[:, : ours.text], atol=1e-5, rtol=1e-5)
    if len(sizes) == 1:  # the library draws the patches' order
        found = [states[states[:, 0].argsort()] for states in (ours.regions[0], theirs.last_hidden_state[0, 5:])]
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_a_second_picture_has_a_type_of_its_own() -> None:
    backbone, (given, pictures) = built(type_count=3), seen([(12, 12)])
    values = torch.from_numpy(np.array(pictures.image(0))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        ours = backbone(replace(given, region_types=torch.full_like(given.region_types, 2)))
        theirs = library(backbone, 3)(input_ids=given.tokens, pixel_values=values, image_token_type_idx=2)
    torch.testing.assert_close(ours.pooled, theirs.pooler_output, atol=1e-5, rtol=1e-5)


def test_what_stands_beside_in_the_batch_changes_nothing() -> None:
    backbone, (given, _) = built(), seen([(12, 12), (16, 12)])
    alone, _ = seen([(12, 12)])
    with torch.no_grad():
        together, single = backbone(given), backbone(alone)
    torch.testing.assert_close(together.pooled[:1], single.pooled)
    torch.testing.assert_close(together.regions[:1, :9], single.regions)
    assert together.mask[0].tolist() == [True] * 13 + [False] * 3


def test_a_patch_is_what_the_convolution_sees() -> None:
    projection = torch.nn.Conv2d(3, 5, 4, stride=4)
    picture = torch.rand(8, 12, 3)
    patches = torch.nn.functional.linear(cut(picture, 4), projection.weight.flatten(1), projection.bias)
    expected = projection(picture.permute(2, 0, 1)[None]).flatten(2)[0].T
    torch.testing.assert_close(patches, expected)


def test_a_text_may_stand_alone_and_a_blind_model_sees_no_picture() -> None:
    backbone, (given, _) = built(), seen([(12, 12), (16, 12)])
    alone = assemble(Ragged.from_rows([[1, 5, 6, 2]]), np.array([0]), None, np.array([0]))
    with torch.no_grad():
        assert backbone(alone).sequence.shape == (1, 4, 16)
        first, second = backbone(given.without_sight()), backbone(seen([(12, 16), (16, 12)])[0].without_sight())
    torch.testing.assert_close(first.pooled[1], second.pooled[1])


def test_prunable_are_the_matrices_of_the_encoder_and_the_pooler() -> None:
    shapes = prunable_shapes(SIZES["vilt-base"])
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 85_524_480
    assert {name: place.shape for name, place in weight_places(SIZES["vilt-base"]).items()} == shapes
    assert all(".projection." not in name and "embeddings" not in name for name in shapes)
    with torch.device("meta"):
        trunk = build_backbone(SIZES["vilt-base"], vocabulary=30522, region_width=3072, dropout=0.1)
    assert sum(weight.numel() for weight in trunk.parameters()) == 111_595_008  # official-models 5


def test_the_shape_goes_through_a_files_header() -> None:
    assert parse_backbone(SPEC.model_dump(mode="json"), "a header") == SPEC
