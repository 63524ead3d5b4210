"""A ticket's model card: the Hub can read it, and no number is in it that ticket and store do not have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vltickets.reports import CardTicket, card
from vltickets.specs import SIZES, Fresh, Prune, Recipe, Train, Vqa, World, canonical, changed
from vltickets.store import Record, Store

DENSE = Train(
    backbone=SIZES["tiny"],
    task=Vqa(data=World(generator=1)),
    start=Fresh(),
    recipe=Recipe(steps=77, learning_rate=1e-3),
)
SCORES = {0: 0.61, 1: 0.65, 2: 0.63}
DENSE_SCORES = {0: 0.7, 1: 0.74}


def sparse(seed: int) -> Train:
    dense = changed(DENSE, seed=seed)
    return changed(dense, mask=Prune(train=dense, sparsity=0.7))


def of_it(**changes: Any) -> CardTicket:
    node = sparse(0)
    assert node.mask is not None
    provenance = {
        "train": node.digest,
        "mask": node.mask.digest,
        "found_by": "prune",
        "levels": [0.3, 0.7],
        "start": {"kind": "imported", "name": "uniter-base", "sha256": "ab" * 32},
        "task": canonical(node.task),
        "found_on": canonical(node.task),
        "recipe": canonical(node.recipe),
        "seed": 0,
        "metrics": {"score": 0.6123, "loss": 1.5},
    }
    values = {"backbone": SIZES["tiny"], "provenance": provenance | changes}
    return CardTicket(mask="c" * 20, pruned=700, prunable=1000, tensors=19, has_weights=False, **values)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three seeds of the ticket's cell, the dense run of two of them, and a run of another cell."""
    store = Store(tmp_path / "store")
    store.prepare()
    other = changed(sparse(0), recipe=changed(DENSE.recipe, steps=78))
    runs = [(sparse(seed), score) for seed, score in SCORES.items()]
    runs += [(changed(DENSE, seed=seed), score) for seed, score in DENSE_SCORES.items()]
    for node, score in [*runs, (other, 0.9)]:
        store.finish(node, Record(node.digest, "train", canonical(node), {"score": score}), {})
    cells = [{"baseline": "imp", "sparsity": 0.7, "seed": seed, "node": sparse(seed).digest} for seed in SCORES]
    cells.append({"baseline": "random", "sparsity": 0.7, "seed": 0, "node": other.digest})
    store.put_study("paper", {"cells": cells})
    return store


def test_the_hub_reads_its_header(store: Store) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the Hub needs huggingface_hub (vltickets[hub])")
    data = hub.ModelCard(card(of_it(), "me/vqa-70", store=store, base_model="me/uniter")).data
    assert (data.library_name, data.base_model, data.model_name) == ("vltickets", "me/uniter", "vqa-70")
    assert {"lottery-ticket", "uniter"} <= set(data.tags)
    assert {(one.metric_type, one.metric_value) for one in data.eval_results} == {("score", 0.6123), ("loss", 1.5)}
    assert {one.task_type for one in data.eval_results} == {"visual-question-answering"}
    assert hub.ModelCard(card(of_it(), "me/vqa-70")).data.base_model is None


def test_it_says_what_the_ticket_is_and_what_it_came_from() -> None:
    text = card(of_it(), "me/vqa-70")
    for said in (
        "| Backbone | uniter-tiny (layers 3, hidden 64,",
        "70 %: 700 of 1,000 prunable weights are 0",
        "iterative magnitude pruning",
        "| Schedule | 30 %, 70 % |",
        "`vqa`, the embedded world",
        "steps `77`",
        "`imported` `uniter-base`, `" + "ab" * 32 + "`",
        f"| Tested by run | `{sparse(0).digest}` |",
        "vltickets ticket pull me/vqa-70",
        "neither smaller nor faster",
        "No weights are in the file",
    ):
        assert said in text, said


def test_seeds_and_the_dense_model_stand_beside_it_where_the_store_has_them(store: Store) -> None:
    text = card(of_it(), "me/vqa-70", store=store)
    assert "| `score` | 61.23 | 63.00 ± 2.00 (3 seeds) | 72.00 ± 2.83 (2 seeds) |" in text
    assert "| `loss` | 1.5 | – | – |" in text
    assert "study `paper`" in text
    assert "`0`; beside it 1, 2" in text
    assert "One seed says little" not in text


def test_without_a_store_no_other_number_is_there(store: Store) -> None:
    for text in (card(of_it(), "me/vqa-70"), card(of_it(train="0" * 20), "me/vqa-70", store=store)):
        assert "| `score` | 61.23 | – | – |" in text
        assert "no dense model to compare with" in text
        assert "One seed says little" in text
        body = text.split("## Results")[1]
        assert set(re.findall(r"\d+\.\d+", body)) == {"61.23", "1.5"}


def test_a_ticket_of_a_module_says_only_what_it_knows() -> None:
    for odd in ({"levels": 0.5}, {"levels": None}, {"levels": ["a"]}, {"seed": [1]}, {"task": {"kind": {}}}):
        assert "a lottery ticket" in card(CardTicket(None, "c" * 20, 7, 10, 2, False, odd), "./mine")
    provenance = {"found_by": "prune", "criterion": "lamp", "pattern": "unstructured", "levels": [0.7]}
    text = card(CardTicket(None, "c" * 20, 7, 10, 2, False, provenance), "./mine")
    assert "a module of its author's own" in text
    assert "pruning without training; criterion `lamp`" in text
    assert "None are recorded with this ticket" in text
    assert "model-index" not in text
    assert "vltickets ticket pull ./mine" in text


def test_what_a_mask_covers_is_said_where_it_is_not_the_default() -> None:
    covers = changed(SIZES["tiny"], prunable=("encoder",))
    said = card(CardTicket(covers, "c" * 20, 7, 10, 2, False, {}), "m")
    assert "positions 64, prunable: encoder)" in said
    assert "prunable:" not in card(of_it(), "m")


def test_a_random_mask_is_not_called_a_lottery_ticket() -> None:
    for text in (card(of_it(found_by="random"), "m"), card(of_it(criterion="random"), "m")):
        assert "# m: a random mask at 70 % sparsity" in text
    assert "# m: a lottery ticket at 70 % sparsity" in card(of_it(), "m")


def test_what_a_ticket_says_can_t_break_out_of_the_card() -> None:
    yaml = pytest.importorskip("yaml")
    nasty = 'x`|\n---\n# "Free money": <script>'
    text = card(of_it(criterion=nasty, metrics={nasty: 0.5}, task={"kind": nasty}), "me/vqa-70", base_model=nasty)
    assert text.splitlines().count("---") == 2
    header = yaml.safe_load(text.split("\n---\n")[0])
    assert header["base_model"] == nasty
    assert header["model-index"][0]["results"][0]["metrics"] == [{"type": nasty, "value": 0.5}]
    assert not any(line.startswith('# "Free') for line in text.splitlines())
