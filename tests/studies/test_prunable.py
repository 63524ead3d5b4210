"""A study may also prune the word table and what takes the picture in, or leave the pooler alone; θ₀ is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vltickets import reports
from vltickets.errors import UserError
from vltickets.specs import OneShot, Prune, Train, World, sized
from vltickets.store import Store
from vltickets.studies.executors import execute
from vltickets.studies.first_ticket import first_ticket
from vltickets.studies.loading import load_study
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper
from vltickets.studies.run import Planned, note_study, plan_study, run_studies
from vltickets.studies.scoring import score_ticket, ticket_of
from vltickets.studies.starts import starts
from vltickets.studies.work import backbone_of, load_mask, run_node
from vltickets.tickets import Mask, load_ticket, shipped

DATA = World(generator=1)
WORDS = "embeddings.word_embeddings.weight"
REGIONS = "img_embeddings.img_linear.weight"
ALL = 'prunable=["encoder", "pooler", "embeddings", "projection"]'
SMALL = (
    'start="shipped"',
    "world.scenes=40",
    "world.examples=60",
    "world.heldout=40",
    "training.steps=3",
    'baselines=["full", "imp", "random", "random-layerwise", "shuffled-within", "one-shot"]',
)


def ran(store: Store, *settings: str) -> Planned:
    planned = plan_study("small", load_study("smoke", (*SMALL, *settings)), store, None)
    execute(planned.work, store, workers=0, listen=lambda event: None)
    return planned


def masked(planned: Planned) -> dict[tuple[str, float], Train]:
    """Return the sparse trainings, by baseline and sparsity."""
    cells = [cell for cell in planned.cells if isinstance(cell.node, Train) and cell.node.mask is not None]
    return {(cell.baseline, cell.sparsity): cell.node for cell in cells}  # type: ignore[misc]


def check_zeros(node: Train, mask: Mask, store: Store) -> None:
    """Assert that every pruned weight of a finished training is exactly 0, and that it has not pruned all of any."""
    weights = store.weights(node.digest)
    for name in mask:
        kept = mask[name].numpy()
        assert not weights[f"backbone.{name}"][~kept].any(), name
        assert weights[f"backbone.{name}"][kept].any(), name


def test_embeddings_and_projections_are_searched_pruned_held_saved_and_scored(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    planned = ran(store, ALL)
    shape = planned.study.shape
    assert shape.vocabulary is not None
    nodes = masked(planned)
    assert {baseline for baseline, _ in nodes} == {"imp", "random", "random-layerwise", "shuffled-within", "one-shot"}
    for (_, sparsity), node in nodes.items():
        assert node.mask is not None
        mask = load_mask(node.mask, store)
        assert mask.shapes[WORDS] == (shape.vocabulary, 64)
        assert mask.total - mask.kept == round(sparsity * mask.total)
        assert 0 < int(mask[WORDS].count_nonzero()) < mask[WORDS].numel()
        assert 0 < int(mask[REGIONS].count_nonzero()) < mask[REGIONS].numel()
        check_zeros(node, mask, store)
    ticket = ticket_of(nodes["imp", 0.7], store)
    ticket.save(tmp_path / "t.safetensors")
    loaded = load_ticket(tmp_path / "t.safetensors")
    assert (loaded.backbone, loaded.mask) == (shape, ticket.mask)
    recorded = store.record(nodes["imp", 0.7].digest).metrics["score"]
    assert score_ticket(tmp_path / "t.safetensors", store, None, None).score == pytest.approx(recorded)
    one, other = nodes["imp", 0.7].mask, nodes["random", 0.7].mask
    assert one is not None
    assert other is not None
    found = reports.overlaps(store, {"imp": {0: one.digest}, "random": {0: other.digest}})
    assert {"embedding", "projection"} <= found.densities["imp"][0].kinds.keys()


def test_without_the_pooler_nothing_of_it_is_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    nodes = masked(ran(store, 'prunable=["encoder"]', "levels=[0.7]"))
    for node in nodes.values():
        assert node.mask is not None
        mask = load_mask(node.mask, store)
        assert all(name.startswith("encoder.") for name in mask)
        assert mask.total - mask.kept == round(0.7 * mask.total)
        assert np.count_nonzero(store.weights(node.digest)["backbone.pooler.dense.weight"]) == 64 * 64
        check_zeros(node, mask, store)


def test_what_is_prunable_changes_neither_the_pretraining_nor_a_study_that_does_not_say_it() -> None:
    plain = load_study("smoke")
    wide = load_study("smoke", (ALL, "vocabulary=90", "region_width=48"))
    assert starts(wide, DATA) == starts(plain, DATA)
    usual = load_study("smoke", ('prunable=["pooler", "encoder"]',))
    assert [cell.node for cell in first_ticket(usual, DATA)] == [cell.node for cell in first_ticket(plain, DATA)]
    trained = [cell.node for cell in first_ticket(wide, DATA)]
    assert all(isinstance(node, Train) and node.backbone == wide.shape for node in trained)


def test_the_universal_ticket_is_looked_for_in_what_is_prunable() -> None:
    study = load_study("paper-smoke", (ALL, "vocabulary=90", "region_width=48"))
    assert isinstance(study, Paper)
    sources = set()
    for cell in paper(study, DATA):
        node = cell.node.mask if isinstance(cell.node, Train) else cell.node
        while node is not None:
            sources.add(node.kind if not isinstance(node, Prune) else node.train.task.kind)
            assert backbone_of(node) == study.shape
            node = node.train.mask if isinstance(node, Prune) else None
    assert sources == {"random", "one-shot", "pretraining", "vqa", "refcoco", "retrieval"}


def test_weights_of_another_vocabulary_are_refused_by_a_one_shot_mask(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    backbone = load_study("smoke", (ALL, "vocabulary=7", "region_width=48")).shape
    with pytest.raises(UserError, match=r"do not fit: embeddings.word_embeddings.weight should be \(7, 64\), found"):
        run_node(OneShot(backbone=backbone, start=shipped("theta0"), sparsity=0.5), store)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ('prunable=["encoder", "embedding"]', "prunable"),
        ("prunable=[]", "at least one of"),
        ('prunable=["encoder", "encoder"]', "none twice"),
        ("vocabulary=90", "nothing of that size"),
    ],
)
def test_a_recipe_that_names_no_such_part_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_study("smoke", (setting,))


def test_a_recipe_that_names_another_size_than_the_data_has_is_refused(tmp_path: Path) -> None:
    study = load_study("smoke", (*SMALL, ALL, "vocabulary=7"))
    with pytest.raises(UserError, match=r"the recipe says vocabulary = 7 and the data has \d+; leave it out"):
        plan_study("small", study, Store(tmp_path / "store"), None)


def test_a_study_noted_before_recipes_said_what_is_prunable_goes_on_as_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    planned = plan_study("small", load_study("smoke", SMALL), store, None)
    note_study(planned, store, command="", workers=0, phases={"runs": 1000.0})
    noted = store.study("small")
    del noted["recipe"]["prunable"], noted["recipe"]["vocabulary"], noted["recipe"]["region_width"]
    store.put_study("small", noted)
    run_studies([replace(planned, work=())], store, workers=0, listen=lambda event: None, command="")
    assert store.study("small")["phases"]["runs"] >= 1000
    wider = plan_study("small", load_study("smoke", (*SMALL, ALL)), store, None)
    run_studies([replace(wider, work=())], store, workers=0, listen=lambda event: None, command="")
    assert store.study("small")["phases"]["runs"] < 1000


def test_the_shape_of_a_study_that_says_nothing_is_the_backbone_s_own() -> None:
    assert load_study("smoke").shape == sized("tiny")
