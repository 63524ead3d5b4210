"""A study may search under patterns beside single weights: exact counts, nested, zeros held, refused where unfit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vltickets.errors import UserError
from vltickets.specs import Fresh, OneShot, Prune, RandomMask, Train, Uniter, World, canonical, changed
from vltickets.store import Store
from vltickets.studies.executors import execute
from vltickets.studies.first_ticket import first_ticket
from vltickets.studies.loading import load_study
from vltickets.studies.run import plan_study
from vltickets.studies.scoring import ticket_of
from vltickets.studies.work import load_mask, run_node
from vltickets.tickets import Mask, load_ticket

DATA = World(generator=1)
SMALL = (
    'start="shipped"',
    "world.scenes=40",
    "world.examples=60",
    "world.heldout=40",
    "training.steps=3",
    "random_levels=[0.7]",
    'baselines=["full", "random"]',
    'patterns=["2:4", "block-4x1", "block-16x16"]',
)


def groups_kept(mask: Mask) -> set[int]:
    """How many of four neighbours in a row are kept, over all groups."""
    return {int(count) for name in mask for count in mask[name].view(-1, 4).sum(1).unique()}


def in_blocks(mask: Mask, rows: int, columns: int) -> bool:
    """Is every block kept or pruned as a whole?"""
    cells = [mask[name].unfold(0, rows, rows).unfold(1, columns, columns).flatten(2) for name in mask]
    return all(torch.equal(one.all(2), one.any(2)) for one in cells)


def test_tickets_under_patterns_are_searched_counted_nested_held_and_saved(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    planned = plan_study("small", load_study("smoke", SMALL), store, None)
    execute(planned.work, store, workers=0, listen=lambda event: None)
    masks: dict[tuple[str, float], Mask] = {}
    for cell in planned.cells:
        assert isinstance(cell.node, Train)
        if cell.node.mask is None:
            continue
        mask = masks[cell.baseline, cell.sparsity] = load_mask(cell.node.mask, store)
        unit = 256 if cell.baseline.endswith("16x16") else 4 if cell.baseline[-3:] == "4x1" else 1
        assert mask.total - mask.kept == unit * round(cell.sparsity * mask.total / unit), cell.baseline
        weights = store.weights(cell.node.digest)
        for name in mask:
            assert not weights[f"backbone.{name}"][~mask[name].numpy()].any(), (cell.baseline, name)
            assert weights[f"backbone.{name}"].any() == mask[name].any(), (cell.baseline, name)
    assert set(masks) == {
        ("imp-2:4", 0.5),
        ("random-2:4", 0.5),
        *((f"imp-block-{size}", level) for size in ("4x1", "16x16") for level in (0.5, 0.7)),
        *((f"random{which}", 0.7) for which in ("", "-block-4x1", "-block-16x16")),
    }
    assert groups_kept(masks["imp-2:4", 0.5]) == groups_kept(masks["random-2:4", 0.5]) == {2}
    for (baseline, _), mask in masks.items():
        assert in_blocks(mask, 4, 1) == ("block" in baseline)
        assert in_blocks(mask, 16, 16) == baseline.endswith("16x16")
    for size in ("4x1", "16x16"):
        assert masks[f"imp-block-{size}", 0.7].is_subset_of(masks[f"imp-block-{size}", 0.5])
    found = next(cell.node for cell in planned.cells if cell.baseline == "imp-block-4x1" and cell.sparsity == 0.7)
    assert isinstance(found, Train)
    ticket_of(found, store).save(tmp_path / "t.safetensors")
    known = load_ticket(tmp_path / "t.safetensors").provenance
    assert (known["pattern"], known["levels"]) == ("block-4x1", [0.5, 0.7])


def test_every_search_of_a_study_starts_from_the_same_dense_run_and_two_of_four_takes_one_step() -> None:
    found = {(cell.baseline, cell.sparsity): cell.node for cell in first_ticket(load_study("smoke", SMALL), DATA)}
    full, half, block = (found[key] for key in (("full", 0.0), ("imp-2:4", 0.5), ("imp-block-4x1", 0.7)))
    assert isinstance(full, Train)
    assert isinstance(half, Train)
    assert isinstance(block, Train)
    assert half.mask == Prune(train=full, sparsity=0.5, pattern="2:4")
    assert isinstance(block.mask, Prune)
    assert block.mask.train == found["imp-block-4x1", 0.5]
    assert changed(half, mask=None) == full


def test_one_shot_masks_have_patterns_too(tmp_path: Path) -> None:
    toy, store = Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=64), Store(tmp_path / "store")
    node = OneShot(backbone=toy, start=Fresh(), sparsity=0.5, pattern="2:4")
    run_node(node, store)
    assert groups_kept(load_mask(node, store)) == {2}


def test_single_weights_are_not_named_in_the_hash() -> None:
    plain = RandomMask(backbone=Uniter(), sparsity=0.5)
    assert "pattern" not in canonical(changed(plain, pattern="unstructured"))
    assert changed(plain, pattern="2:4") != plain


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ('["2:5"]', "can't be pruned 2:5: that needs a matrix whose rows divide by 5"),
        ('["block-3x1"]', "can't be pruned in blocks of 3 × 1"),
        ('["4:2"]', "0 < n < m, not 4 of 2"),
        ('["02:4"]', "patterns"),
        ('["block-4"]', "patterns"),
        ('["2:4", "2:4"]', "'2:4' is there twice"),
        ('["unstructured"]', "single weights are `imp`"),
    ],
)
def test_patterns_that_do_not_fit_are_refused_before_any_training(patterns: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        list(first_ticket(load_study("smoke", (f"patterns={patterns}",)), DATA))


def test_a_random_mask_has_the_counts_of_another_or_a_pattern() -> None:
    like = RandomMask(backbone=Uniter(), sparsity=0.5)
    with pytest.raises(ValueError, match="not both"):
        RandomMask(backbone=Uniter(), sparsity=0.5, like=like, pattern="2:4")
