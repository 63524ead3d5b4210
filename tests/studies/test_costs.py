"""What a plan costs, before anything runs: from records, from a measurement, from a device's file; and what it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vltickets.cli.main import app
from vltickets.errors import UserError
from vltickets.specs import Folder, Train, changed
from vltickets.store import Store
from vltickets.studies.calibration import this_machine
from vltickets.studies.costs import Cost, Shapes, costs_from_records, figures_path, joined, spent
from vltickets.studies.forecast import forecast, longest_chain, parents_first, side_by_side
from vltickets.studies.graph import closure
from vltickets.studies.loading import load_study
from vltickets.studies.outcome import compared
from vltickets.studies.planning import check_data, lacking, nodes_left
from vltickets.studies.run import Planned, merged, plan_study

SETTINGS = ("world.scenes=60", "world.examples=60", "world.heldout=30", 'start="shipped"', "training.steps=6")
SETTINGS += ('baselines=["full", "imp", "random"]',)
Plan = Callable[..., Any]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    return plan_only("smoke", tmp_path, *SETTINGS)


def plan_only(name: str, folder: Path, *settings: str) -> Planned:
    """Plan a study, writing nothing into the store `s`."""
    return plan_study(name, load_study(name, settings), Store(folder / "s"), None, scratch=Store(folder / "x"))


@pytest.fixture
def command() -> Plan:
    """Run `vltickets study COMMAND smoke`, made smaller, in this process; return what it printed as JSON."""

    def run(name: str, store: Path, *arguments: object, settings: tuple[str, ...] = ()) -> Any:
        chosen = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
        typed = ["study", name, "smoke", "--store", str(store), "--json", *chosen, *map(str, arguments)]
        return json.loads(CliRunner().invoke(app, typed, catch_exceptions=False).stdout)

    return run


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def of_trainings(found: Any) -> list[Any]:
    return [group for group in found["groups"] if group["kind"] == "train"]


def test_a_plan_writes_nothing_but_what_it_measured_and_measures_it_once(tmp_path: Path, command: Plan) -> None:
    store = tmp_path / "store"
    blind = command("plan", store, "--no-calibrate")
    assert not store.exists()
    assert blind["unknown"] == blind["left"] == blind["runs"]
    first = command("plan", store)
    kept = figures_path(Store(store), this_machine())
    assert files(store) == {"store.json", kept.relative_to(store).as_posix()}
    assert first["written"] == [str(kept)]
    assert first["unknown"] == 0
    assert all(group["seconds"] > 0 for group in first["groups"])
    assert first["disk_bytes"]["weights"] > 0
    again = command("plan", store)
    assert again["written"] == []
    assert again["groups"] == first["groups"]


def test_a_plan_for_a_reader_lists_every_run_when_asked(tmp_path: Path, planned: Planned) -> None:
    chosen = [part for setting in SETTINGS for part in ("--set", setting)]
    typed = ["study", "plan", "smoke", "--store", str(tmp_path / "s"), "--no-calibrate", "--nodes", *chosen]
    told = CliRunner().invoke(app, typed, catch_exceptions=False).stdout
    assert all(item.node.digest in told for item in planned.work)
    assert f"{len(planned.work)} runs" in told
    assert "written: nothing" in told


def test_figures_of_a_device_serve_elsewhere(tmp_path: Path, command: Plan) -> None:
    path = tmp_path / "laptop.json"
    here = command("plan", tmp_path / "here", "--save-device", path)
    there = command("plan", tmp_path / "there", "--device", path)
    assert not (tmp_path / "there").exists()
    assert [group["seconds"] for group in there["groups"]] == [group["seconds"] for group in here["groups"]]
    assert all("laptop.json" in group["evidence"] for group in there["groups"])
    other = command("plan", tmp_path / "there", "--device", path, settings=("training.batch_tokens=320",))
    assert all(group["seconds"] is None for group in of_trainings(other))  # another shape: nothing is known of it
    path.write_text("{}")
    with pytest.raises(UserError, match=r"laptop\.json"):
        command("plan", tmp_path / "there", "--device", path)


def test_finished_runs_are_the_evidence_and_are_held_against_the_plan(tmp_path: Path, command: Plan) -> None:
    store = tmp_path / "store"
    first = command("plan", store, "--workers", 0)
    command("run", store, "--workers", 0)
    done = command("plan", store)
    assert (done["left"], done["done"]) == (0, first["runs"])
    rows = {(row["kind"], row["task"], row["baseline"]): row for row in done["planned_against_actual"]}
    for group in first["groups"]:
        row = rows[group["kind"], group["task"], group["baseline"]]
        assert (row["runs"], row["unfinished"]) == (group["runs"], 0)
        assert row["planned"] == pytest.approx(group["seconds"])
    records = list(Store(store).records())
    assert sum(row["actual"] for row in rows.values()) == pytest.approx(sum(map(spent, records)))
    assert all(record.phases["scoring"] > 0 for record in records if record.kind == "train")
    more = command("plan", store, settings=("seeds=[0, 1]",))
    assert more["written"] == []  # nothing is measured where records tell
    assert all("record" in group["evidence"] for group in of_trainings(more) if group["left"])


def test_a_forecast_kept_first_stays(tmp_path: Path, planned: Planned) -> None:
    from vltickets.studies.outcome import keep_forecast

    store = Store(tmp_path / "s")
    for seconds in (2.0, 5.0):
        keep_forecast("smoke", forecast([planned], store, costs(planned, seconds), workers=1), store)
    assert sum(row.unfinished for row in compared("smoke", store)) == len(planned.work)
    kept = json.loads((store.root / "plans" / "smoke.json").read_text())
    assert {run[0] for run in kept["runs"].values()} == {2.0}


def costs(planned: Planned, seconds: float) -> dict[str, Cost]:
    """The same cost for every run of a plan, whatever its steps."""
    shapes = Shapes()
    nodes = nodes_left([planned])
    return {shapes.of(node): Cost(0.0, seconds, 100.0 if isinstance(node, Train) else 0.0, 10.0) for node in nodes}


def test_one_worker_takes_the_sum_and_many_the_longest_chain(tmp_path: Path, planned: Planned) -> None:
    store, count = Store(tmp_path / "s"), len(planned.work)
    one, many = (forecast([planned], store, costs(planned, 2.0), workers=workers) for workers in (1, 99))
    assert one.wall == pytest.approx(2.0 * count)
    # Dense, pruned, ticket, pruned, ticket: five that wait for each other.
    assert many.wall == pytest.approx(many.chain_seconds) == pytest.approx(10.0)
    assert len(many.chain) == 5
    two = forecast([planned], store, costs(planned, 2.0), workers=2)
    assert many.wall <= two.wall < one.wall
    assert two.disk["checkpoints, while it runs"] == 2 * 3 * 100.0
    assert one.disk["weights"] == 100.0 * sum(isinstance(item.node, Train) for item in planned.work)


def test_several_studies_count_what_they_share_once(tmp_path: Path, planned: Planned) -> None:
    store = Store(tmp_path / "s")
    alone = forecast([planned], store, costs(planned, 1.0), workers=1)
    twice = forecast([planned, replace(planned, name="again")], store, costs(planned, 1.0), workers=1)
    assert (twice.runs, twice.left, twice.wall) == (alone.runs, alone.left, alone.wall)
    assert twice.disk == alone.disk
    assert twice.apart == 2 * alone.apart
    assert sum(group.runs for group in twice.groups) == alone.runs
    assert all(group.shared == group.runs for group in twice.groups)


def test_work_in_any_order_is_put_in_one_that_can_be_done(planned: Planned) -> None:
    seconds = {item.node.digest: 1.0 for item in planned.work}
    work = parents_first(list(planned.work)[::-1])
    places = {item.node.digest: place for place, item in enumerate(work)}
    assert all(places[parent] < places[item.node.digest] for item in work for parent in item.after)
    assert side_by_side(work, seconds, 99) == len(longest_chain(work, seconds)) == 5
    assert len(work) == len(merged([planned]))


def test_runs_of_one_shape_cost_the_same_and_others_do_not(planned: Planned) -> None:
    shapes = Shapes()
    dense = next(item.node for item in planned.work if isinstance(item.node, Train) and item.node.mask is None)
    recipe = dense.recipe
    for same in (changed(dense, seed=9), changed(dense, recipe=changed(recipe, learning_rate=1e-5, steps=99))):
        assert shapes.of(same) == shapes.of(dense)
    for other in (changed(recipe, batch_tokens=64), changed(recipe, precision="bf16"), changed(recipe, threads=2)):
        assert shapes.of(changed(dense, recipe=other)) != shapes.of(dense)
    cost = Cost(2.0, 10.0, 0.0, 0.0)
    assert cost.seconds(changed(dense, recipe=changed(recipe, steps=100))) == 210.0
    assert cost.seconds(changed(dense, until=0)) == 10.0


def test_records_of_another_machine_are_no_evidence(tmp_path: Path, command: Plan) -> None:
    store = tmp_path / "s"
    command("run", store, "--workers", 0)
    found = plan_only("smoke", tmp_path, *SETTINGS)
    done = list(closure(cell.node for cell in found.cells).values())
    shapes = {Shapes().of(node) for node in done}
    assert set(costs_from_records(shapes, done, Store(store), this_machine())) == shapes
    assert costs_from_records(shapes, done, Store(store), {**this_machine(), "cpu": "abacus"}) == {}


def test_a_measurement_tells_what_an_older_record_does_not() -> None:
    nan = float("nan")
    older = Cost(2.0, nan, 5.0, 5.0, evidence="3 records")
    measured = Cost(9.0, 4.0, 9.0, 9.0, read_seconds=1.0, evidence="calibrated")
    both = joined({"a": older}, {"a": measured})["a"]
    assert (both.step_seconds, both.rest_seconds, both.read_seconds, both.weights_bytes) == (2.0, 4.0, 1.0, 5.0)
    assert "3 records" in both.evidence
    assert "calibrated" in both.evidence
    alone = joined({"a": older}, {})["a"]
    assert (alone.rest_seconds, alone.evidence) == (0.0, "3 records, steps alone")


def test_data_that_is_not_there_is_named_with_the_runs_that_need_it(tmp_path: Path) -> None:
    study, store = load_study("real-first"), Store(tmp_path / "s")
    with pytest.raises(UserError, match=r"of matching.*of pretraining.*--data.*masks that need no training"):
        check_data("real-first", study, store, None)
    with pytest.raises(UserError, match="absent is no folder"):
        check_data("real-first", study, store, tmp_path / "absent")
    check_data("smoke", load_study("smoke"), store, None)


def test_an_official_folder_without_a_task_lets_the_others_run(tmp_path: Path) -> None:
    found = plan_only("paper-smoke", tmp_path, "seeds=[0]")
    for name in ("captions", "vqa", "flickr30k"):
        (tmp_path / "data" / name).mkdir(parents=True)
    official = replace(found, data=Folder(layout="official", fingerprint="0" * 20))
    sentence = lacking(official, tmp_path / "data")
    needing = {
        item.node.digest for item in found.work if isinstance(item.node, Train) and item.node.task.kind == "refcoco"
    }
    needing |= {  # masks found on it, and what is trained under those
        item.node.digest for item in found.work if needing & closure([item.node]).keys()
    }
    assert f"{len(needing)} runs need refcoco/" in sentence
    assert f"the other {len(found.work) - len(needing)} runs can be done" in sentence
    (tmp_path / "data" / "refcoco").mkdir()
    assert lacking(official, tmp_path / "data") == ""


def test_a_study_that_grows_says_so(tmp_path: Path) -> None:
    found = plan_only("paper-smoke", tmp_path, 'artefacts=["table1"]')
    assert "Table 1" in forecast([found], Store(tmp_path / "s"), {}, workers=1).more
