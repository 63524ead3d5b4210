"""Cells that can be planned only once others are done, rewinding, and the whole paper as several studies."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from vltickets.cli.running import asked_for
from vltickets.errors import UserError
from vltickets.specs import Node, Prune, Rewound, Shuffled, Train, Trained, World
from vltickets.studies.graph import Cell, Work, closure
from vltickets.studies.lab import Lab
from vltickets.studies.loading import load_studies, load_study
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper
from vltickets.studies.run import _more
from vltickets.studies.verdicts import highest_by_means
from vltickets.studies.whole import chosen

DATA = World(generator=1)


def study_of(*settings: str, name: str = "paper-smoke") -> Paper:
    study = load_study(name, ('artefacts=["table1"]', *settings))
    assert isinstance(study, Paper)
    return study


def scored(scores: Mapping[tuple[str, float, int], Mapping[str, float]], study: Paper) -> list[Cell]:
    """Return the cells planned when tickets (task, sparsity, seed) have these metrics; 0 is the dense run."""
    lab = Lab(study, DATA)
    known = {
        lab.train(task, seed, lab.masks(task, seed)[level] if level else None).digest: metrics
        for (task, level, seed), metrics in scores.items()
    }
    return list(paper(study, DATA, lambda node: known.get(node.digest)))


def of_vqa(*values: float) -> dict[tuple[str, float, int], Mapping[str, float]]:
    """Scores on VQA at 0, 50 and 70 % sparsity, of both seeds."""
    levels = (0.0, 0.5, 0.7)
    return {("vqa", level, seed): {"score": v} for level, v in zip(levels, values, strict=False) for seed in (0, 1)}


def at(cells: list[Cell], baseline: str) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for cell in cells:
        if cell.baseline == baseline:
            found.setdefault(cell.task, set()).add(cell.sparsity)
    return found


def test_table_1_s_baselines_wait_for_the_sparsity_that_tickets_hold() -> None:
    study = study_of()
    nothing = scored({}, study)
    assert not at(nothing, "shuffled-within")
    assert at(nothing, "vqa") == {"vqa": {0.5, 0.7}}  # what must be known first is planned
    unfinished = of_vqa(0.8, 0.8, 0.8)
    del unfinished["vqa", 0.7, 1]
    assert not at(scored(unfinished, study), "random")
    for values, sparsity in (((0.8, 0.8, 0.8), 0.7), ((0.8, 0.793, 0.791), 0.5), ((0.8, 0.8, 0.79), 0.5)):
        cells = scored(of_vqa(*values), study)
        for baseline in ("random", "text-only", "shuffled-within"):
            assert at(cells, baseline) == {"vqa": {sparsity}}
    assert not at(scored(of_vqa(0.8, 0.7, 0.8), study), "random")  # below a level that fails nothing is quoted


def test_the_rows_of_table_1_are_one_mask_on_three_initial_weights() -> None:
    cells = scored(of_vqa(0.8, 0.8, 0.8), study_of())
    rows = {c.baseline: c.node for c in cells if (c.task, c.seed, c.sparsity) == ("vqa", 1, 0.7)}
    ticket, text, shuffled = rows["vqa"], rows["text-only"], rows["shuffled-within"]
    assert isinstance(ticket, Train)
    assert isinstance(text, Train)
    assert isinstance(shuffled, Train)
    assert ticket.mask == text.mask == shuffled.mask != None  # noqa: E711
    assert shuffled.start == Shuffled(start=ticket.start, seed=1)
    assert isinstance(ticket.start, Trained)
    assert text.start == ticket.start.train.start  # what vision-language pre-training started from


def test_fresh_seeds_are_quoted_and_no_sparsity_is_picked_on_them() -> None:
    study = study_of("quoted_seeds=[2]")
    cells = scored(of_vqa(0.8, 0.8, 0.8), study)
    fresh = {(c.baseline, c.sparsity) for c in cells if c.seed == 2 and c.task == "vqa"}
    assert fresh == {("full", 0.0), *((name, 0.7) for name in ("vqa", "random", "text-only", "shuffled-within"))}
    worse = of_vqa(0.8, 0.8, 0.8) | {("vqa", level, 2): {"score": score} for level, score in ((0.0, 0.9), (0.7, 0.1))}
    assert at(scored(worse, study), "random") == {"vqa": {0.7}}
    with pytest.raises(UserError, match="1 is among the seeds"):
        study_of("quoted_seeds=[1]")


def test_retrieval_is_quoted_where_each_of_its_two_metrics_holds() -> None:
    values = {0.0: (0.5, 0.5), 0.5: (0.5, 0.5), 0.7: (0.5, 0.4)}
    scores = {
        ("retrieval", level, seed): {"score": image, "tr@1": text}
        for level, (image, text) in values.items()
        for seed in (0, 1)
    }
    assert at(scored(scores, study_of()), "random") == {"retrieval": {0.5, 0.7}}


def test_highest_by_means_stops_at_the_first_level_that_fails() -> None:
    dense = {0: 0.8, 1: 0.9}
    assert highest_by_means(dense, {0.1: {0: 0.9, 1: 0.9}, 0.2: {0: 0.84, 1: 0.84}, 0.3: {0: 1.0, 1: 1.0}}) == 0.1
    assert highest_by_means(dense, {0.1: {0: 0.84, 1: 0.84}}) == 0.0
    assert highest_by_means(dense, {0.1: {0: 0.9, 1: 0.9}, 0.2: None}) is None
    assert highest_by_means(dense, {0.1: {0: 0.1, 1: 0.1}, 0.2: None}) == 0.0  # decided already
    assert highest_by_means(None, {0.1: dense}) is None


def test_rewound_tickets_are_found_and_trained_from_a_step_of_the_dense_run() -> None:
    study = study_of('artefacts=["figure2"]', "rewind_shares=[0.25, 0.5]")
    lab = Lab(study, DATA)
    cells = {c.sparsity: c.node for c in paper(study, DATA) if (c.baseline, c.seed) == ("vqa-rewound-0.25", 1)}
    assert set(cells) == {0.5, 0.7}
    dense = lab.train("vqa", 1)
    node = cells[0.7]
    assert isinstance(node, Train)
    assert isinstance(node.start, Rewound)
    assert node.start.train.until == 2  # of 8 steps
    assert node.start.train.digest != dense.digest
    assert isinstance(node.mask, Prune)
    assert node.mask.train == cells[0.5]
    last = node.mask.train.mask
    assert isinstance(last, Prune)
    assert last.train == dense  # the first round is the dense run itself
    assert {c.task for c in paper(study, DATA) if "rewound" in c.baseline} == {"vqa"}


def test_the_whole_paper_is_its_parts_and_settings_reach_them() -> None:
    whole, studies = load_studies("whole-tiny", ("seeds=[0]", "paper-vilt.levels=[0.5]"))
    assert whole is not None
    assert tuple(studies) == whole.parts == ("paper-tiny", "paper-lxmert", "paper-vilt")
    assert {study.seeds for study in studies.values()} == {(0,)}
    assert [study.levels for study in studies.values()][1:] == [studies["paper-tiny"].levels, (0.5,)]
    assert {name for study in studies.values() if isinstance(study, Paper) for name in study.artefacts} == {
        *("table1", "figure2", "table2", "figure3", "figure5", "table5", "figure8", "table3", "table4")
    }
    with pytest.raises(UserError, match="several studies"):
        load_study("whole-tiny")


def test_what_follows_is_told_only_as_long_as_it_is_open() -> None:
    study = study_of()
    for cells, follows in ((scored({}, study), True), (scored(of_vqa(0.8, 0.8, 0.8), study), False)):
        left = [cell for cell in cells if cell.baseline not in ("full", cell.task)] or cells
        assert bool(_more(study, cells, [Work(cell.node, ()) for cell in left])) == follows


def test_a_name_is_that_of_the_parts_too_and_only_names_what_there_is() -> None:
    asked = asked_for("paper", "tiny", ["seeds=[0]"], "quick", "fig8")
    assert tuple(asked.studies) == ("quick-paper-tiny", "quick-paper-lxmert", "quick-paper-vilt")
    assert (asked.called, asked.only) == ("quick", {"figure8"})
    with pytest.raises(UserError, match="paper-lxmert has no table1; it has table3"):
        asked_for("paper-lxmert", None, None, None, "table1")
    with pytest.raises(UserError, match="a study of one ticket"):
        asked_for("smoke", None, None, None, "table1")


@pytest.mark.parametrize("name", ["whole-tiny", "whole-real"])
def test_sharing_leaves_at_most_60_percent_of_the_runs(name: str) -> None:
    _, studies = load_studies(name)
    artefacts: dict[tuple[str, str], list[Node]] = {}
    for part, study in studies.items():
        assert isinstance(study, Paper)
        for cell in paper(study, DATA):
            for artefact in cell.artefacts:
                artefacts.setdefault((part, artefact), []).append(cell.node)
    together = closure(node for nodes in artefacts.values() for node in nodes)
    assert len(together) <= 0.6 * sum(len(closure(nodes)) for nodes in artefacts.values())


def test_artefacts_are_chosen_by_their_names_in_the_paper() -> None:
    assert chosen("table2, fig8,figure4") == {"table2", "figure8", "table3"}
    assert chosen("fig6,Figure7") == {"figure3", "table4"}
    with pytest.raises(UserError, match=r"table22.*did you mean 'table2'"):
        chosen("table22")
    with pytest.raises(UserError, match="names no artefact"):
        chosen(" ,")
