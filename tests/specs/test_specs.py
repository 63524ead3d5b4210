"""A spec is a value: its canonical JSON, its hash, and the errors of whoever writes one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vltickets.errors import UserError
from vltickets.specs import (
    Adversarial,
    Fresh,
    Nlvr2,
    Node,
    Objectives,
    OneShot,
    Pretraining,
    Prune,
    RandomMask,
    Recipe,
    Rewound,
    Shuffled,
    Start,
    Train,
    Trained,
    Uniter,
    Vqa,
    World,
    canonical,
    changed,
    hash_json,
    node_from_json,
    parents,
    parse,
    read_toml,
    sized,
    with_setting,
)
from vltickets.tickets import iterative_magnitude_pruning, linear

TINY = sized("tiny")
RECIPE = Recipe(steps=100, learning_rate=1e-3)
DATA = World(generator=1)
DENSE = Train(backbone=TINY, task=Vqa(data=DATA), start=Fresh(), recipe=RECIPE)
PARENT = changed(DENSE, task=Pretraining(data=DATA, foils=0.5, objectives=Objectives(mrc_kl=0.5)))
PRUNED = Prune(train=DENSE, sparsity=0.1)
SECOND = changed(DENSE, mask=PRUNED)
REWOUND = changed(DENSE, start=Rewound(train=changed(DENSE, until=10)))
NODES: dict[str, Node] = {
    "dense": DENSE,
    "pretraining": PARENT,
    "pruned": PRUNED,
    "second round": SECOND,
    "from pre-training": changed(DENSE, start=Trained(train=PARENT), seed=3),
    "rewound": REWOUND,
    "shuffled": changed(DENSE, start=Shuffled(start=Trained(train=PARENT)), mask=PRUNED),
    "one-shot": OneShot(backbone=TINY, start=Fresh(), sparsity=0.7),
    "random": RandomMask(backbone=TINY, sparsity=0.5, seed=2),
    "random like": RandomMask(backbone=TINY, sparsity=0.5, like=PRUNED),
    "adversarial": changed(DENSE, recipe=changed(RECIPE, adversarial=Adversarial(form="paper", bound=0.1))),
    "lxmert": changed(DENSE, backbone=sized("lxmert-tiny")),
    "nlvr2": changed(DENSE, task=Nlvr2(data=DATA, head="paired"), recipe=changed(RECIPE, betas=(0.9, 0.999))),
}

# The names of finished runs in every store there is. A change here orphans them all: raise a `version` knowingly.
PINNED = {
    "dense": "470f025e8d795bf41aeb",
    "pretraining": "29c54c1462eab0e7fe8e",
    "pruned": "05ef73298c734328aba8",
    "second round": "7487c571486200733384",
    "from pre-training": "77133085dab3f5da5f19",
    "rewound": "a877f7a38d73db549f8f",
    "shuffled": "e9d79e8c3ac60c07fd25",
    "one-shot": "45875acd0e9d8050d4ff",
    "random": "11a55c0cc85f0fd8b7e2",
    "random like": "10553f40c8be0e53db76",
    "adversarial": "fd2675846a4b55079542",
    "lxmert": "7657c20acb5921774311",
    "nlvr2": "fb455b9b9d14dfd21fb7",
}


@pytest.mark.parametrize("name", NODES)
def test_a_node_keeps_the_hash_it_has_had(name: str) -> None:
    assert NODES[name].digest == PINNED[name] == hash_json(canonical(NODES[name]))


def test_a_field_at_its_default_stays_out_of_the_hash() -> None:
    said = Train(
        backbone=TINY,
        task=Vqa(data=DATA, split="test", blind=False),
        start=Fresh(seed=0),
        recipe=Recipe(steps=100, learning_rate=0.001, warmup=0.1, betas=(0.9, 0.98), threads=1),
        mask=None,
        seed=0,
    )
    assert said == DENSE
    assert canonical(said)["recipe"] == {"steps": 100, "learning_rate": 0.001}


@pytest.mark.parametrize(
    "other",
    [
        changed(DENSE, seed=1),
        changed(DENSE, until=100),
        changed(DENSE, recipe=changed(RECIPE, threads=2)),
        changed(DENSE, recipe=changed(RECIPE, precision="bf16")),
        changed(DENSE, recipe=changed(RECIPE, adversarial=Adversarial())),
        changed(DENSE, task=Vqa(data=changed(DATA, seed=1))),
        changed(DENSE, backbone=changed(TINY, layers=2)),
        changed(DENSE, start=Fresh(seed=1)),
        SECOND,
    ],
)
def test_a_changed_field_changes_the_hash(other: Train) -> None:
    assert other.digest != DENSE.digest
    assert other != DENSE


def test_a_whole_number_and_the_same_fraction_are_one_value() -> None:
    assert Recipe(steps=5, learning_rate=1) == Recipe(steps=5, learning_rate=1.0)


def test_a_node_inside_a_node_is_named_by_its_digest() -> None:
    assert canonical(SECOND)["mask"] == {"node": PRUNED.digest}
    assert canonical(REWOUND)["start"]["train"] == {"node": changed(DENSE, until=10).digest}
    assert len(json.dumps(canonical(SECOND))) < len(json.dumps(canonical(DENSE))) + 100


@pytest.mark.parametrize("name", NODES)
def test_a_node_comes_back_whole_from_its_json(name: str) -> None:
    known: dict[str, Node] = {}
    pending = [NODES[name]]
    while pending:
        node = pending.pop()
        known[node.digest] = node
        pending.extend(parents(node))
    text = json.dumps(canonical(NODES[name]))
    back = node_from_json(json.loads(text), known.__getitem__)
    assert back == NODES[name]
    assert back.model_dump() == NODES[name].model_dump()


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-12, 1e3),
    betas=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    dropout=st.floats(0, 0.99),
    seed=st.integers(-(2**62), 2**62),
)
def test_any_recipe_comes_back_from_json_with_its_hash(
    steps: int, rate: float, betas: tuple[float, float], dropout: float, seed: int
) -> None:
    recipe = Recipe(steps=steps, learning_rate=rate, betas=betas, dropout=dropout)
    node = changed(DENSE, recipe=recipe, seed=seed)
    assert node_from_json(json.loads(json.dumps(canonical(node))), dict[str, Node]().__getitem__) == node


def chain(rounds: int) -> list[Node]:
    def train(mask: Prune | None) -> Train:
        return changed(DENSE, mask=mask)

    def prune(trained: Train, sparsity: float) -> Prune:
        return Prune(train=trained, sparsity=sparsity)

    levels = [(number + 1) / (rounds + 1) for number in range(rounds)]
    done = list(iterative_magnitude_pruning(train, prune, levels))
    return [node for step in done for node in (step.trained, step.mask)]


def test_a_chain_of_two_thousand_rounds_is_planned_at_once() -> None:
    started = time.process_time()
    nodes = chain(2000)
    last, ancestors = nodes[-1], 0
    while above := parents(last):
        (last,) = above
        ancestors += 1
    assert time.process_time() - started < 2
    assert (len({node.digest for node in nodes}), ancestors) == (4000, 3999)
    assert last == DENSE
    assert nodes[-1] == chain(2000)[-1]
    assert max(len(json.dumps(canonical(node))) for node in nodes) < 500


def test_the_search_and_its_plan_are_the_same_lines() -> None:
    first, second, *_ = chain(9)
    assert (first, second) == (DENSE, Prune(train=DENSE, sparsity=0.1))
    assert [node.sparsity for node in chain(9) if isinstance(node, Prune)] == list(linear())


def test_mutant_a_hash_that_forgets_a_field_is_noticed() -> None:
    forgetful = canonical(changed(DENSE, seed=1)) | {}
    del forgetful["seed"]
    assert forgetful == canonical(DENSE)


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        DENSE.seed = 1


def test_a_changed_copy_is_checked_and_hashed_anew() -> None:
    whole = {name: getattr(DENSE, name) for name in Train.model_fields}
    assert changed(DENSE, seed=5).digest == Train(**whole | {"seed": 5}).digest
    assert DENSE.model_copy(update={"seed": 5}) == changed(DENSE, seed=5) != DENSE
    with pytest.raises(ValidationError):
        changed(DENSE, seeds=5)


# What a user writes wrongly


class Wrong:
    """A recipe's values, what the sentence about them must say, and what the values are parsed as."""

    def __init__(self, model: type[Any], values: dict[str, Any], *says: str) -> None:
        self.model, self.values, self.says = model, values, says


ROOT = {"steps": 5, "learning_rate": 0.1}


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(Recipe, ROOT | {"learning_rat": 1}, "unknown key 'learning_rat'", "did you mean 'learning_rate'?"),
        Wrong(Recipe, {"step": 5, "learning_rate": 0.1}, "unknown key 'step'", "did you mean 'steps'?", "warmup"),
        Wrong(Recipe, {"learning_rate": 0.1}, "missing key 'steps'"),
        Wrong(Recipe, ROOT | {"steps": "5"}, "steps = '5' (str)", "valid integer"),
        Wrong(Recipe, ROOT | {"steps": 5.5}, "steps = 5.5 (float)", "integer"),
        Wrong(Recipe, ROOT | {"dropout": True}, "dropout = True (bool)", "number"),
        Wrong(Recipe, ROOT | {"dropout": 1.5}, "dropout = 1.5", "less than 1"),
        Wrong(Recipe, ROOT | {"learning_rate": float("inf")}, "learning_rate = inf", "finite"),
        Wrong(Recipe, ROOT | {"precision": "fp23"}, "'precision'", "'fp23'", "did you mean 'fp32'?", "bf16"),
        Wrong(Vqa, {"data": {"kind": "wold", "generator": 1}}, "'data'", "'wold'", "did you mean 'world'?", "folder"),
        Wrong(Vqa, {"data": {"generator": 1}}, "'data' needs a key 'kind'"),
        Wrong(
            Vqa,
            {"data": {"kind": "world", "generator": 1, "sceens": 9}},
            "sceens",
            "did you mean",
            "scenes",
        ),
        Wrong(Uniter, {"hidden": 10, "heads": 3}, "hidden=10", "heads=3"),
        Wrong(
            Pretraining,
            {"data": {"kind": "world", "generator": 1}, "objectives": {"mml": 1.0}},
            "'objectives.mml'",
            "did you mean 'objectives.mlm'?",
        ),
    ],
    ids=lambda wrong: str(wrong.says[0]),
)
def test_the_error_names_the_place_the_value_and_what_is_allowed(wrong: Wrong) -> None:
    with pytest.raises(UserError) as caught:
        parse(wrong.model, wrong.values, "my.toml")
    sentence = str(caught.value)
    assert sentence.startswith("my.toml: ")
    for part in wrong.says:
        assert part in sentence
    assert "\n" not in sentence


def test_an_unknown_size_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown backbone size 'tinny'; did you mean 'tiny'\?.*base, .*large, .*tiny"):
        sized("tinny")


def test_an_unknown_kind_of_node_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown kind of node 'trian'; did you mean 'train'"):
        node_from_json({"kind": "trian"}, NODES.__getitem__)


@pytest.mark.parametrize(
    ("start", "sentence"),
    [({"kind": "rewound", "train": DENSE}, "until"), ({"kind": "trained", "train": PRUNED}, "train")],
)
def test_a_start_that_makes_no_sense_is_refused(start: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        changed(DENSE, start=start)


def test_rewinding_past_the_end_is_refused() -> None:
    with pytest.raises(ValidationError, match="until=101 lies past the recipe's 100 steps"):
        changed(DENSE, until=101)


# --set and TOML


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.steps=200", 200),
        ("training.steps = 200", 200),
        ("training.steps=2e2", 200.0),
        ('training.steps="200"', "200"),
        ("training.steps=bf16", "bf16"),
        ("training.steps=[1, 2]", [1, 2]),
        ("training.steps=true", True),
        ("training.steps=a=b", "a=b"),
    ],
)
def test_a_setting_is_read_as_toml_and_else_as_text(setting: str, value: object) -> None:
    before = {"training": {"steps": 1, "warmup": 0.1}, "name": "x"}
    after = with_setting(before, setting)
    assert after == {"training": {"steps": value, "warmup": 0.1}, "name": "x"}
    assert type(after["training"]["steps"]) is type(value)
    assert before["training"] == {"steps": 1, "warmup": 0.1}


def test_a_setting_makes_the_tables_on_its_way() -> None:
    assert with_setting({}, "a.b.c=1") == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(("setting", "says"), [("steps", "KEY=VALUE"), ("=3", "KEY=VALUE"), ("name.x=3", "'name'")])
def test_a_setting_that_fits_nowhere_is_refused(setting: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_setting({"name": "x"}, setting)


@pytest.mark.parametrize("content", [b"steps = \n", b"a = 1\na = 2\n", b"\xff\xfe"])
def test_a_broken_recipe_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"recipe.toml: not valid TOML"):
        read_toml(path)


def test_a_missing_recipe_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe.toml: no such recipe file"):
        read_toml(tmp_path / "recipe.toml")


def test_a_recipe_file_s_lists_become_tuples(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("steps = 5\nlearning_rate = 0.1\nbetas = [0.5, 0.75]\n")
    assert parse(Recipe, read_toml(path), "recipe.toml").betas == (0.5, 0.75)


def test_parents_come_in_the_order_of_the_fields() -> None:
    start: Start = Shuffled(start=Trained(train=PARENT))
    assert parents(changed(DENSE, start=start, mask=PRUNED)) == (PARENT, PRUNED)
    assert parents(NODES["random like"]) == (PRUNED,)
    assert parents(NODES["random"]) == ()
    assert parents(NODES["one-shot"]) == ()
