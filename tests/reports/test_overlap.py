"""The overlaps of a store's masks: the numbers are the masks' own, and the figure is a file one can open."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

import pytest
from PIL import Image

from vltickets.backbones import prunable_shapes, weight_places
from vltickets.errors import UserError
from vltickets.reports import OverlapResults, densities, draw_overlap, overlap_table, overlaps
from vltickets.specs import Fresh, Node, RandomMask, Recipe, Train, Uniter, Vqa, World, canonical
from vltickets.store import Record, Store
from vltickets.tickets import Mask, anatomy, prune, random_scores

TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
WIDER = Uniter(layers=2, hidden=32, heads=2, intermediate=32, positions=64)
SEEDS = {"vqa": (0, 1, 2), "gqa | b": (1, 2, 3), "pre-training": (0,)}


def keep(store: Store, node: RandomMask) -> Mask:
    """Finish a random mask in the store, and return it."""
    shapes = prunable_shapes(node.backbone)
    mask = prune(random_scores(node.seed, shapes), Mask.dense(shapes), node.sparsity)
    finish(store, node, mask.packed())
    return mask


def finish(store: Store, node: Node, bits: dict[str, object]) -> None:
    store.finish(node, Record(digest=node.digest, kind=node.kind, spec=canonical(node), metrics={}), {"mask": bits})  # type: ignore[dict-item]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture
def kept(store: Store) -> tuple[dict[str, dict[int, str]], dict[str, dict[int, Mask]]]:
    """Digests and masks by label and seed. The labels' masks are of different sparsities."""
    nodes = {
        label: {seed: RandomMask(backbone=TOY, sparsity=0.5 + 0.1 * place, seed=10 * place + seed) for seed in seeds}
        for place, (label, seeds) in enumerate(SEEDS.items())
    }
    masks = {label: {seed: keep(store, node) for seed, node in seeds.items()} for label, seeds in nodes.items()}
    return {label: {seed: node.digest for seed, node in seeds.items()} for label, seeds in nodes.items()}, masks


@pytest.fixture
def results(store: Store, kept: tuple[dict[str, dict[int, str]], object]) -> OverlapResults:
    return overlaps(store, kept[0])


def test_different_sources_are_compared_on_the_seeds_both_have(
    results: OverlapResults, kept: tuple[object, dict[str, dict[int, Mask]]]
) -> None:
    vqa, gqa = kept[1]["vqa"], kept[1]["gqa | b"]
    found = results.cells["vqa", "gqa | b"]
    values = [anatomy.overlap(vqa[seed], gqa[seed]) for seed in (1, 2)]
    assert (found.mean, found.std, found.pairs) == (pytest.approx(fmean(values)), pytest.approx(stdev(values)), 2)
    assert found.chance == pytest.approx(fmean(anatomy.chance_overlap(vqa[seed], gqa[seed]) for seed in (1, 2)))
    assert results.cells["gqa | b", "vqa"] == found
    assert results.cells["vqa", "pre-training"].pairs == 1
    assert results.cells["vqa", "pre-training"].std is None
    assert results.cells["gqa | b", "pre-training"].mean is None  # no seed in common


def test_a_source_with_itself_is_compared_between_its_seeds(
    results: OverlapResults, kept: tuple[object, dict[str, dict[int, Mask]]]
) -> None:
    found = results.cells["vqa", "vqa"]
    pairs = list(combinations(kept[1]["vqa"].values(), 2))
    assert found.pairs == 3
    assert found.mean == pytest.approx(fmean(anatomy.overlap(*pair) for pair in pairs))
    assert found.chance == pytest.approx(fmean(anatomy.chance_overlap(*pair) for pair in pairs))
    assert results.cells["pre-training", "pre-training"].mean is None


def test_one_mask_under_several_seeds_is_one_mask(store: Store, kept: tuple[dict[str, dict[int, str]], object]) -> None:
    digest, vqa = kept[0]["pre-training"][0], kept[0]["vqa"]
    found = overlaps(
        store, {"universal": {0: digest, 1: digest, 2: digest}, "again": {0: digest, 1: digest}, "vqa": vqa}
    )
    assert found.cells["universal", "universal"].mean is None
    assert (found.cells["universal", "again"].mean, found.cells["universal", "again"].pairs) == (1.0, 1)
    assert found.cells["universal", "vqa"].pairs == 3


def test_the_table_says_the_same_numbers(results: OverlapResults) -> None:
    lines = overlap_table(results).splitlines()
    assert lines[0] == "| overlap in % (by chance) | kept | vqa | gqa \\| b | pre-training |"
    cell = results.cells["vqa", "gqa | b"]
    assert cell.mean is not None
    assert cell.chance is not None
    assert cell.std is not None
    assert f"| {100 * cell.mean:.1f} ± {100 * cell.std:.1f} ({100 * cell.chance:.1f}) |" in lines[2]
    assert lines[2].startswith("| vqa | 50.0 |")
    assert lines[4].endswith("| – | – |")


def test_densities_are_the_mask_s_own(
    store: Store, results: OverlapResults, kept: tuple[dict[str, dict[int, str]], dict[str, dict[int, Mask]]]
) -> None:
    digests, masks = kept
    own = anatomy.densities(masks["vqa"][1], weight_places(TOY))
    assert densities(store, digests["vqa"][1]) == own == results.densities["vqa"][1]
    assert results.digests == digests


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_heat_map_is_a_file_with_the_values_in_it(results: OverlapResults, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"figure8{suffix}"
    draw_overlap({"60 %": results, "70 %": results}, path)
    content = path.read_bytes()
    if suffix == ".png":
        with Image.open(path) as picture:
            assert picture.width > picture.height > 300
    else:
        cell = results.cells["vqa", "gqa | b"]
        assert cell.mean is not None
        assert cell.chance is not None
        text = content.decode()
        assert text.count(f">{100 * cell.mean:.1f}<") >= 4  # both triangles of both panels
        assert f">{100 * cell.chance:.1f}<" in text
        assert ">60 %<" in text
    draw_overlap({"60 %": results, "70 %": results}, path)
    assert path.read_bytes() == content


def test_what_can_t_be_compared_is_refused(
    store: Store, kept: tuple[dict[str, dict[int, str]], object], results: OverlapResults, tmp_path: Path
) -> None:
    vqa = kept[0]["vqa"][0]
    wider = RandomMask(backbone=WIDER, sparsity=0.5)
    keep(store, wider)
    with pytest.raises(UserError, match=rf"vqa, seed 0 \({vqa}\) and wide, seed 4 .*hidden 16 against hidden 32"):
        overlaps(store, {"vqa": {0: vqa}, "wide": {4: wider.digest}})
    train = Train(
        backbone=TOY, task=Vqa(data=World(generator=1)), start=Fresh(), recipe=Recipe(steps=1, learning_rate=1)
    )
    store.put_node(train)
    with pytest.raises(UserError, match="is a training, not a mask"):
        densities(store, train.digest)
    unfinished = RandomMask(backbone=TOY, sparsity=0.9, seed=77)
    store.put_node(unfinished)
    with pytest.raises(UserError, match="is not finished"):
        densities(store, unfinished.digest)
    torn = RandomMask(backbone=TOY, sparsity=0.9, seed=78)
    bits = Mask.dense(prunable_shapes(TOY)).packed()
    finish(store, torn, bits | {"pooler.dense.weight": bits["pooler.dense.weight"][:-1]})
    with pytest.raises(UserError, match=r"does not fit the backbone .* pooler\.dense\.weight"):
        densities(store, torn.digest)
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        draw_overlap({"": results}, tmp_path / "figure.jpeg")
