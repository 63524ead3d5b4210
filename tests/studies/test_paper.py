"""The paper as one study: what its cells are, what they share, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vltickets.errors import UserError
from vltickets.specs import OneShot, Prune, RandomMask, Train, Trained, World
from vltickets.store import Store
from vltickets.studies.graph import Cell, plan
from vltickets.studies.lab import Lab
from vltickets.studies.loading import load_study
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper

DATA = World(generator=1)


def study_of(*settings: str, name: str = "paper-smoke") -> Paper:
    study = load_study(name, settings)
    assert isinstance(study, Paper)
    return study


def cells_of(*settings: str, name: str = "paper-smoke") -> list[Cell]:
    return list(paper(study_of(*settings, name=name), DATA))


def found(
    cells: list[Cell], baseline: str, sparsity: float, task: str, seed: int = 0, *, adversarial: bool = False
) -> Cell:
    """Return the one cell of these coordinates."""
    wanted = (baseline, sparsity, task, seed, adversarial)
    (cell,) = [c for c in cells if (c.baseline, c.sparsity, c.task, c.seed, c.adversarial) == wanted]
    return cell


def trained(cell: Cell) -> Train:
    assert isinstance(cell.node, Train)
    return cell.node


def test_a_transferred_ticket_is_the_source_s_mask_of_the_same_seed_on_theta0() -> None:
    cells = cells_of()
    for seed in (0, 1):
        node = trained(found(cells, "refcoco", 0.7, "vqa", seed))
        mask = node.mask
        assert isinstance(mask, Prune)
        assert (mask.sparsity, mask.train.task.kind, mask.train.seed) == (0.7, "refcoco", seed)
        assert node.task.kind == "vqa"
        assert node.start == trained(found(cells, "full", 0.0, "vqa", seed)).start
        assert isinstance(trained(found(cells, "random", 0.7, "vqa", seed)).mask, RandomMask)


def test_the_round_after_a_mask_is_the_evaluation_of_its_ticket() -> None:
    cells = cells_of()
    ticket = trained(found(cells, "vqa", 0.7, "vqa"))
    assert isinstance(ticket.mask, Prune)
    assert ticket.mask.train == trained(found(cells_of("transfer_levels=[0.5]"), "vqa", 0.5, "vqa"))


def test_the_universal_ticket_is_found_by_rounds_of_pre_training_from_theta0() -> None:
    lab = Lab(study_of(), DATA)
    masks = lab.masks("pretraining", 1)
    assert isinstance(lab.theta0, Trained)
    whole = lab.theta0.train
    last = masks[0.7]
    assert isinstance(last, Prune)
    rounds = [last.train, last.train.mask.train]  # type: ignore[union-attr]
    assert [node.mask for node in rounds] == [masks[0.5], None]
    for node in rounds:
        assert node.start == Trained(train=whole)
        assert node.task == whole.task
        assert node.recipe.steps == round(0.25 * whole.recipe.steps)
        assert node.recipe.learning_rate == whole.recipe.learning_rate
        assert node.seed == whole.seed + 2  # the batches of no other seed, and not those that made θ₀
    other = Lab(study_of("universal.learning_rate=1e-4", "universal.warmup=0.5"), DATA).pretrain(0)
    assert (other.recipe.learning_rate, other.recipe.warmup) == (1e-4, 0.5)


def test_one_mask_of_pre_training_serves_every_task() -> None:
    cells = cells_of()
    masks = {trained(found(cells, "pretraining", 0.7, task)).mask for task in ("vqa", "refcoco", "retrieval")}
    assert len(masks) == 1
    assert masks == {found(cells, "mask", 0.7, "pretraining").node}


def test_adversarial_tickets_are_found_and_fine_tuned_adversarially_table_5s_only_fine_tuned() -> None:
    cells = cells_of()
    node = trained(found(cells, "refcoco-adversarial", 0.7, "refcoco", adversarial=True))
    assert isinstance(node.mask, Prune)
    while True:
        assert node.recipe.adversarial is not None
        if node.mask is None:
            break
        assert isinstance(node.mask, Prune)
        node = node.mask.train
    assert node == trained(found(cells, "full", 0.0, "refcoco", adversarial=True))
    universal = trained(found(cells, "pretraining", 0.7, "vqa", adversarial=True))
    assert universal.recipe.adversarial is not None
    assert universal.mask == trained(found(cells, "pretraining", 0.7, "vqa")).mask
    assert trained(found(cells, "refcoco", 0.7, "refcoco")).recipe.adversarial is None


def test_what_two_artefacts_show_is_one_cell_and_done_once(tmp_path: Path) -> None:
    cells = cells_of()
    assert set(found(cells, "full", 0.0, "refcoco").artefacts) == {
        *("table1", "figure2", "table2", "figure3", "figure5")
    }
    assert set(found(cells, "pretraining", 0.7, "vqa").artefacts) == {"figure2", "table2", "figure3", "table5"}
    store = Store(tmp_path / "store")
    together = plan([cell.node for cell in cells], store)
    names = ("table1", "figure2", "table2", "figure3", "figure5", "table5", "figure8")
    apart = [plan([cell.node for cell in cells_of(f'artefacts=["{name}"]')], store) for name in names]
    assert len(together) == len({work.node.digest for part in apart for work in part})
    assert len(together) < 0.6 * sum(map(len, apart))


def test_every_part_of_the_tiny_paper_is_there() -> None:
    cells = cells_of(name="paper-tiny")
    tasks = ("vqa", "gqa", "vcr", "nlvr2", "snli_ve", "refcoco", "retrieval")
    for seed in (0, 1, 2):
        for target in tasks:
            for level in (0.5, 0.6, 0.7, 0.8):
                assert "table2" in found(cells, "pretraining", level, target, seed).artefacts
            for source in (*tasks, "pretraining", "random"):
                for level in (0.5, 0.7, 0.9):
                    assert "figure3" in found(cells, source, level, target, seed).artefacts
        for source in (*tasks, "pretraining"):
            assert {0.6, 0.7} == {c.sparsity for c in cells if (c.baseline, c.task, c.seed) == ("mask", source, seed)}
        for task in ("vqa", "vcr", "refcoco"):
            levels = {c.sparsity for c in cells if c.baseline == f"{task}-adversarial" and c.seed == seed}
            assert levels == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}


def test_one_shot_pruning_is_one_mask_for_all_seeds_and_no_source_of_its_own() -> None:
    cells = cells_of()
    masks = {found(cells, "mask", 0.7, "one-shot", seed).node for seed in (0, 1)}
    assert len(masks) == 1
    assert masks == {trained(found(cells, "one-shot", 0.7, "vqa")).mask}
    assert all(isinstance(mask, OneShot) for mask in masks)
    plain = cells_of("controls=['random']")
    assert not any(cell.baseline == "one-shot" or cell.task == "one-shot" for cell in plain)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("transfer_levels=[0.6]", r"transfer_levels = \(0.6,\): 0.6 is not among the levels"),
        ("tasks={}", r"at least one table \[tasks.NAME\]"),
        ("start='shipped'", "goes on with pre-training"),
        ("tasks.vqa.training={stepz = 3}", "tasks.vqa.training: unknown key 'stepz'"),
        ("tasks.vqaa={}", "vqaa"),
        ("adversarial_tasks=['vcr']", r"no table \[tasks.vcr\]"),
        ("artefacts=['table2', 'table2']", "each of them once"),
        ("artefacts=['table9']", "table9"),
        ("artefacts=['table3']", "table3 is of a Lxmert, and the backbone is 'tiny'"),
        ("study='papr'", "did you mean 'paper'"),
    ],
)
def test_a_paper_that_does_not_fit_is_one_clear_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        study_of(setting)


def test_figure_5_without_a_table_adversarial_is_refused(tmp_path: Path) -> None:
    text = Path(study_path("paper-smoke")).read_text().split("[adversarial]")[0]
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=r"Figure 5 and Table 5 need a table \[adversarial\]"):
        load_study(str(tmp_path / "mine.toml"))


def test_levels_of_artefacts_that_are_not_asked_for_do_not_matter() -> None:
    assert study_of("artefacts=['table2']", "overlap_levels=[0.6]").overlap_levels == (0.6,)


def test_a_ticket_over_the_word_table_too_has_a_table_of_its_own() -> None:
    study = load_study("paper-vilt", ('prunable=["encoder", "embeddings"]',))
    assert study.prunable == ("encoder", "embeddings")


def study_path(name: str) -> Path:
    from vltickets.studies.loading import presets

    return presets()[name]


def test_an_imported_theta0_goes_on_with_the_pre_training_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "theta0.safetensors").write_bytes(b"any bytes will do to plan with")
    (tmp_path / "bert.safetensors").write_bytes(b"and so will these")
    files = (f"weights='{tmp_path / 'theta0.safetensors'}'", f"text_weights='{tmp_path / 'bert.safetensors'}'")
    study = study_of(*files, name="paper-uniter")
    first = Lab(study, DATA).pretrain(0)
    assert first.start == Lab(study, DATA).theta0
    assert first.recipe.steps == 20_000
    assert first.task.corpora.model_dump() == {"coco": 2.0, "vg": 3.0, "cc": 3.0, "sbu": 2.0}  # type: ignore[union-attr]


def test_a_task_may_have_its_own_perturbations() -> None:
    study = study_of("tasks.vqa.adversarial={step_size = 0.5}")
    assert study.recipe_of("vqa", adversarial=True).adversarial.step_size == 0.5  # type: ignore[union-attr]
    assert study.recipe_of("refcoco", adversarial=True).adversarial == study.adversarial
    assert study.recipe_of("vqa").adversarial is None
