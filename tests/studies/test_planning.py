"""A study is planned as a graph: sharing by content, parents first, imports count as done."""

from __future__ import annotations

from pathlib import Path

import pytest

from vltickets.errors import UserError
from vltickets.specs import Fresh, Prune, RandomMask, Rewound, Shipped, Train, Trained, World, changed
from vltickets.store import Record, Store
from vltickets.studies.executors import StudyFailed, execute, run_leased
from vltickets.studies.first_ticket import first_ticket
from vltickets.studies.graph import Cell, plan
from vltickets.studies.loading import load_studies, load_study, presets
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper

DATA = World(generator=1)


def cells(*settings: str, preset: str = "smoke") -> list[Cell]:
    return list(first_ticket(load_study(preset, settings), DATA))


def by_name(found: list[Cell]) -> dict[tuple[str, float, int], Train]:
    return {(cell.baseline, cell.sparsity, cell.seed): cell.node for cell in found}


def test_the_training_of_the_next_round_is_the_evaluation_of_this_ticket(tmp_path: Path) -> None:
    named = by_name(cells())
    ticket, sparser = named["imp", 0.5, 0], named["imp", 0.7, 0]
    assert isinstance(sparser.mask, Prune)
    assert sparser.mask.train == ticket
    assert isinstance(ticket.mask, Prune)
    assert ticket.mask.train == named["full", 0.0, 0]


def test_equal_nodes_are_planned_once_and_parents_come_first(tmp_path: Path) -> None:
    found = cells()
    work = plan([cell.node for cell in found] * 3, Store(tmp_path / "store"))
    digests = [item.node.digest for item in work]
    assert len(set(digests)) == len(digests)
    for place, item in enumerate(work):
        assert all(parent in digests[:place] for parent in item.after)
    assert {cell.node.digest for cell in found} <= set(digests)


def test_baselines_change_one_argument_each() -> None:
    named = by_name(cells())
    ticket = named["imp", 0.7, 0]
    for baseline in ("text-only", "shuffled-within", "random-start"):
        other = named[baseline, 0.7, 0]
        assert changed(other, start=ticket.start) == ticket
        assert other.start != ticket.start
    for baseline in ("random", "random-layerwise", "one-shot"):
        other = named[baseline, 0.7, 0]
        assert changed(other, mask=ticket.mask) == ticket
        assert other.mask != ticket.mask
    assert named["full-2x", 0.0, 0].recipe.steps == 2 * named["full", 0.0, 0].recipe.steps
    assert named["blind", 0.0, 0].task.blind


def test_random_start_is_not_what_the_pretrained_weights_started_from() -> None:
    named = by_name(cells("seeds=[0, 1]"))
    theta0 = named["full", 0.0, 0].start
    assert isinstance(theta0, Trained)
    assert isinstance(theta0.train.start, Trained)
    root = theta0.train.start.train.start
    assert isinstance(root, Fresh)
    assert all(named["random-start", 0.7, seed].start != root for seed in (0, 1))


def test_a_rewound_search_starts_every_round_from_step_i_of_the_dense_run() -> None:
    named = by_name(cells("rewind=0.5"))
    start = named["imp", 0.7, 0].start
    assert isinstance(start, Rewound)
    assert start.train == changed(named["full", 0.0, 0], until=10)
    assert named["imp", 0.5, 0].start == start


def test_the_whole_run_waits_for_its_own_step_i_and_goes_on_from_it(tmp_path: Path) -> None:
    found = cells("rewind=0.5")
    full = by_name(found)["full", 0.0, 0]
    work = plan([cell.node for cell in found], Store(tmp_path / "store"))
    order = [item.node for item in work]
    stopped = changed(full, until=10)
    assert order.index(stopped) < order.index(full)
    assert stopped.digest in next(item.after for item in work if item.node == full)


def finish(store: Store, node: Train | Prune) -> None:
    store.finish(node, Record(node.digest, node.kind, {}, {}), {})


def test_an_imported_training_is_run_again_only_where_its_weights_are_needed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    full = changed(by_name(cells())["full", 0.0, 0], start=Fresh())
    pruned = Prune(train=full, sparsity=0.5)
    ticket = changed(full, mask=pruned)
    for node in (full, pruned):
        finish(store, node)
    assert [item.node for item in plan([full, ticket], store)] == [ticket]  # masks are enough to train under
    sparser = Prune(train=full, sparsity=0.7)
    assert [item.node for item in plan([sparser], store)] == [full, sparser]  # pruning needs the weights themselves


def test_a_node_that_another_invocation_did_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    node = RandomMask(backbone=cells()[0].node.backbone, sparsity=0.5)
    told: list[str] = []
    for _ in range(2):
        assert run_leased(node, store, lambda event: told.append(event.state))
    assert told == ["started", "finished", "finished"]


def test_a_run_that_fails_takes_along_only_what_needs_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    full = changed(by_name(cells())["full", 0.0, 0], start=Shipped(name="theta0", sha256="0" * 64))
    ticket = changed(full, mask=Prune(train=full, sparsity=0.5))
    other = RandomMask(backbone=full.backbone, sparsity=0.5)
    with pytest.raises(StudyFailed, match=r"3 of 4") as caught:
        execute(plan([ticket, other], store), store, workers=0, listen=lambda event: None)
    assert "not those this run was planned with" in str(caught.value)
    assert isinstance(caught.value, UserError)  # exit code 2: all of it is the user's to mend
    assert store.has(other)
    assert not store.has(ticket)


def test_a_long_search_is_planned_without_deep_recursion(tmp_path: Path) -> None:
    levels = [round(0.0004 * number, 6) for number in range(1, 2400)]
    study = load_study("smoke", (f"levels={levels}", f"quoted=[{levels[-1]}]", 'baselines=["full", "imp", "random"]'))
    found = list(first_ticket(study, DATA))
    work = plan([cell.node for cell in found], Store(tmp_path / "store"))
    assert len(work) > 4 * len(levels)


def test_levels_may_be_a_schedule() -> None:
    rule = 'levels={schedule="geometric", rate=0.5, until=0.9}'
    assert load_study("smoke", (rule, "quoted=[0.75]")).levels == (0.5, 0.75, 0.875, 0.9)
    with pytest.raises(UserError, match="did you mean 'geometric'"):
        load_study("smoke", ('levels={schedule="geometrical"}',))


def test_a_setting_makes_any_recipe_adversarial() -> None:
    assert load_study("smoke").training.adversarial is None
    made = load_study("smoke", ("training.adversarial.steps=2", "training.adversarial.bound=0.1")).training.adversarial
    assert made is not None
    assert (made.form, made.steps, made.bound) == ("villa", 2, 0.1)


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_recipe_is_read_and_planned(name: str, tmp_path: Path) -> None:
    head = presets()[name].read_text().splitlines()[:12]
    for word in ("Command:", "Hardware:", "Expect:"):
        assert any(line.startswith("#") and word in line for line in head), f"the head of {name}.toml names no {word}"
    for part in load_studies(name)[1]:
        _planned(part, tmp_path)


def _planned(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    file = tmp_path / "theta0.safetensors"
    file.write_bytes(b"")  # the user's weights: any bytes will do to plan with
    own = {"pretraining.start": study.start != "imported" and study.weight_file, "weights": study.start == "imported"}
    own["text_weights"] = isinstance(study, Paper) and study.text_weights
    study = load_study(name, tuple(f"{key}='{file}'" for key, asked in own.items() if asked))
    assert study.start in ("shipped", "imported", "fresh") or study.pretraining is not None
    cells = paper(study, DATA) if isinstance(study, Paper) else first_ticket(study, DATA)
    assert plan([cell.node for cell in cells], Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("levels=[0.7, 0.5]", "sparsities must rise"),
        ("levels=[0.5, 1.0]", "inside"),
        ("quoted=[0.3]", "not among the levels"),
        ("seeds=[1, 1]", "none twice"),
        ("training.steps='many'", "training.steps = 'many'"),
        ("training.adversarial.steps=-1", "training.adversarial.steps = -1"),
        ("training.adversarial.bound=0.0", "training.adversarial.bound = 0.0"),
        ('training.adversarial.form="vila"', "did you mean 'villa'"),
        ("training.adversarial.epsilon=1.0", "training.adversarial.epsilon"),
        ("training.step=3", "did you mean 'training.steps'"),
        ('task="vqaa"', "did you mean 'vqa'"),
        ('baselines=["full", "randm"]', "randm"),
        ('start="fresh"', "one-shot ranks pre-trained weights"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_clear_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match="recipe smoke") as caught:
        load_study("smoke", (setting,))
    assert sentence in str(caught.value)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        load_study("smokey")
