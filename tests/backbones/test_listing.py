"""Every weight of a backbone is listed, with whether a mask covers it, and why."""

from __future__ import annotations

import pytest

from vltickets.backbones import prunable_shapes
from vltickets.backbones.listing import list_weights
from vltickets.specs import SIZES


@pytest.mark.parametrize(
    ("size", "total", "prunable"), [("base", 109_898_752, 85_524_480), ("large", 335_695_872, 303_038_464)]
)
def test_the_official_sizes_have_their_official_counts(size: str, total: int, prunable: int) -> None:
    weights = list_weights(SIZES[size])
    assert sum(weight.count for weight in weights) == total
    assert sum(weight.count for weight in weights if weight.prunable) == prunable


def test_what_is_listed_as_prunable_is_what_masks_cover() -> None:
    weights = list_weights(SIZES["tiny"], vocabulary=90, region_width=48)
    assert {weight.name: weight.shape for weight in weights if weight.prunable} == prunable_shapes(SIZES["tiny"])
    reasons = {weight.name: weight.reason for weight in weights}
    assert reasons["encoder.layer.0.output.dense.weight"] == "matrix of the encoder"
    assert reasons["pooler.dense.weight"] == "pooler"
    assert reasons["pooler.dense.bias"] == "bias"
    assert reasons["embeddings.word_embeddings.weight"] == "word table"
    assert reasons["embeddings.position_embeddings.weight"] == "embedding table"
    assert reasons["img_embeddings.img_linear.weight"] == "projection of the picture"
    assert reasons["img_embeddings.img_layer_norm.weight"] == "norm"
    assert reasons["encoder.layer.0.output.LayerNorm.weight"] == "norm"
