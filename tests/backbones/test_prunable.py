"""What masks cover by choice: counts worked by hand, the same weights everywhere, and data they are not for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vltickets.backbones import build_backbone, prunable_shapes, weight_places
from vltickets.backbones.listing import list_weights, official_covering
from vltickets.errors import UserError
from vltickets.specs import PARTS, SIZES, Lxmert, Uniter, covering
from vltickets.store.masks import check_packed, kept_counts
from vltickets.tickets import (
    HoldZeros,
    Mask,
    Ticket,
    anatomy,
    load_ticket,
    prune,
    prune_by_magnitude,
    random_scores,
)

TOY = Uniter(layers=1, hidden=12, heads=2, intermediate=20, positions=8)
WORDS = "embeddings.word_embeddings.weight"
# By hand, at 768 wide: 12 layers of 4·768² + 2·768·3072; 768² of the pooler; words; 2048 and 7 (or 4) numbers a region.
UNITER = {"encoder": 84_934_656, "pooler": 589_824, "embeddings": 28_996 * 768, "projection": (2048 + 7) * 768}
LXMERT = {"encoder": 181_665_792, "pooler": 589_824, "embeddings": 30_522 * 768, "projection": (2048 + 4) * 768}

VILT = UNITER | {"embeddings": 30_522 * 768, "projection": 3 * 32 * 32 * 768}


@pytest.mark.parametrize("parts", [("encoder", "pooler"), *((part,) for part in PARTS), PARTS])
@pytest.mark.parametrize(("size", "counts"), [("base", UNITER), ("lxmert-base", LXMERT), ("vilt-base", VILT)])
def test_each_part_has_its_official_count(size: str, counts: dict[str, int], parts: tuple[str, ...]) -> None:
    if size != "base":
        pytest.importorskip("transformers", reason="LXMERT and ViLT need transformers (vltickets[hf])")
    spec = official_covering(SIZES[size], parts)
    shapes, wanted = prunable_shapes(spec), sum(counts[part] for part in parts)
    assert sum(map(math.prod, shapes.values())) == wanted
    assert [(name, place.shape) for name, place in weight_places(spec).items()] == list(shapes.items())
    listed = list_weights(spec)
    assert {weight.name: weight.shape for weight in listed if weight.prunable} == shapes
    assert {weight.part for weight in listed if weight.prunable} == set(parts)


def test_the_default_is_the_usual_rule_and_adds_nothing_to_the_hash() -> None:
    assert covering(Uniter(), ("pooler", "encoder"), vocabulary=9, region_width=9) == Uniter()
    assert Uniter().described() == {
        "kind": "uniter", "layers": 12, "hidden": 768, "heads": 12, "intermediate": 3072, "positions": 512
    }  # fmt: skip
    assert sum(map(math.prod, prunable_shapes(Uniter()).values())) == 85_524_480
    assert len({Uniter().digest, Uniter(prunable=("encoder",)).digest, official_covering(Uniter(), PARTS).digest}) == 3


@given(
    parts=st.sets(st.sampled_from(PARTS), min_size=1),
    words=st.integers(1, 40),
    width=st.integers(1, 20),
    sparsity=st.floats(0, 0.99),
)
def test_masks_of_any_parts_come_back_from_their_bits(parts: set[str], words: int, width: int, sparsity: float) -> None:
    spec = covering(TOY, tuple(parts), vocabulary=words, region_width=width)
    shapes, places = prunable_shapes(spec), weight_places(spec)
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), sparsity)
    assert mask.total - mask.kept == round(sparsity * mask.total)
    bits = mask.packed()
    check_packed(bits, places, "the mask")
    assert Mask.unpacked(bits, shapes) == mask
    found = anatomy.densities(mask, places)
    outside = {"embeddings": "embedding", "projection": "projection", "pooler": "pooler"}
    assert set(outside.values()) & set(found.kinds) == {outside[part] for part in parts - {"encoder"}}
    if "embeddings" in parts:
        assert found.kinds["embedding"] == kept_counts(bits)[WORDS] / (words * TOY.hidden)


def test_a_vilt_s_words_and_patches_are_pruned_to_exact_zeros(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="a ViLT needs transformers (vltickets[hf])")
    spec = covering(SIZES["vilt-tiny"], PARTS, vocabulary=9, region_width=5)
    backbone = build_backbone(spec, vocabulary=9, region_width=12345, dropout=0.0)  # patches are the spec's own
    backbone.initialise(torch.Generator().manual_seed(0), 0.02)
    mask = prune_by_magnitude(backbone.prunable(), Mask.dense(prunable_shapes(spec)), 0.5)
    Ticket(spec, mask, {}).save(tmp_path / "t.safetensors")
    loaded = load_ticket(tmp_path / "t.safetensors")
    assert (loaded.backbone, loaded.mask) == (spec, mask)
    loaded.apply_(backbone)
    weights = backbone.prunable()
    assert weights["embeddings.patch_embeddings.projection.weight"].dim() == 4
    for name, weight in weights.items():
        assert torch.equal(weight != 0, mask[name]), name
    assert set(anatomy.densities(mask, weight_places(spec)).kinds) >= {"embedding", "projection", "pooler"}


@pytest.mark.parametrize("types", [2, 3, 4])
def test_a_type_table_that_grows_is_of_no_mask(types: int) -> None:
    spec = covering(TOY, PARTS, vocabulary=9, region_width=5)
    backbone = build_backbone(spec, vocabulary=9, region_width=5, dropout=0.0, type_count=types)
    assert {name: tuple(weight.shape) for name, weight in backbone.prunable().items()} == prunable_shapes(spec)
    assert not any("position" in name or "token_type" in name or "mask" in name for name in backbone.prunable())


def test_data_of_another_vocabulary_or_width_is_refused() -> None:
    words = covering(TOY, ("encoder", "embeddings"), vocabulary=9, region_width=5)
    build_backbone(words, vocabulary=9, region_width=77, dropout=0.0)  # no mask covers that
    with pytest.raises(UserError, match=r"cover a word table of 9 words and the data has 10"):
        build_backbone(words, vocabulary=10, region_width=5, dropout=0.0)
    width = covering(TOY, ("projection",), vocabulary=9, region_width=5)
    with pytest.raises(UserError, match=r"cover a projection of region features of 5 numbers and the data has 6"):
        build_backbone(width, vocabulary=9, region_width=6, dropout=0.0)
    longer = build_backbone(
        covering(TOY, PARTS, vocabulary=10, region_width=5), vocabulary=10, region_width=5, dropout=0
    )
    with pytest.raises(UserError, match=r"word_embeddings.*shape \(9, 12\), the model has one of shape \(10, 12\)"):
        HoldZeros(longer, Mask.dense(prunable_shapes(words)))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prunable": ("encoder", "embeddings")}, "vocabulary = None"),
        ({"prunable": ("projection",), "vocabulary": 9}, "vocabulary = 9"),
        ({"vocabulary": 9}, "nothing of that size"),
        ({"prunable": ()}, "at least one of"),
        ({"prunable": ("encoder", "encoder")}, "none twice"),
        ({"prunable": ("head",)}, "encoder"),
    ],
)
@pytest.mark.parametrize("kind", [Uniter, Lxmert])
def test_a_backbone_names_the_sizes_its_masks_need_and_no_others(
    kind: type[Uniter] | type[Lxmert], fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind.model_validate(fields)
