"""`vltickets ticket compare`, through the real program, on ticket files and on what a store holds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vltickets.backbones import prunable_shapes, weight_places
from vltickets.specs import Fresh, OneShot, RandomMask, Recipe, Train, Uniter, Vqa, World, canonical
from vltickets.store import Record, Store
from vltickets.tickets import Mask, Ticket, anatomy, prune, random_scores, save_ticket

Run = Callable[..., subprocess.CompletedProcess[str]]
TOY = Uniter(layers=2, hidden=16, heads=2, intermediate=32, positions=64)
SHAPES = prunable_shapes(TOY)
ONE, OTHER = (prune(random_scores(seed, SHAPES), Mask.dense(SHAPES), 0.5 + 0.2 * seed) for seed in (0, 1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tickets and one of a wider backbone; the program runs in it."""
    monkeypatch.chdir(tmp_path)
    save_ticket(Ticket(TOY, ONE, {}), tmp_path / "one.safetensors")
    save_ticket(Ticket(TOY, OTHER, {}), tmp_path / "other.safetensors")
    wider = Uniter(layers=2, hidden=32, heads=2, intermediate=32, positions=64)
    save_ticket(Ticket(wider, Mask.dense(prunable_shapes(wider)), {}), tmp_path / "wide.safetensors")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Store:
    store = Store(folder / "results")
    store.prepare()
    return store


def kept(store: Store, node: RandomMask, mask: Mask) -> RandomMask:
    record = Record(digest=node.digest, kind=node.kind, spec=canonical(node), metrics={})
    store.finish(node, record, {"mask": mask.packed()})
    return node


def trained(**changes: object) -> Train:
    values = {"backbone": TOY, "task": Vqa(data=World(generator=1)), "start": Fresh()} | changes
    return Train(recipe=Recipe(steps=1, learning_rate=0.1), **values)  # type: ignore[arg-type]


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_json_holds_all_that_the_masks_say(folder: Path, vltickets: Run) -> None:
    done = vltickets("ticket", "compare", "one.safetensors", "other.safetensors", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["overlap"] == [[1.0, anatomy.overlap(ONE, OTHER)], [anatomy.overlap(OTHER, ONE), 1.0]]
    assert said["chance"][0][1] == anatomy.chance_overlap(ONE, OTHER)
    own = anatomy.densities(OTHER, weight_places(TOY))
    second = said["tickets"][1]
    assert (second["ticket"], second["mask"]) == ("other.safetensors", OTHER.digest)
    assert (second["kept"], second["prunable"]) == (OTHER.kept, OTHER.total)
    assert (second["total"], second["kinds"]) == (own.total, own.kinds)
    assert second["layers"] == {str(layer): share for layer, share in own.layers.items()}


def test_the_terminal_shows_overlap_chance_and_densities(folder: Path, vltickets: Run) -> None:
    done = vltickets("ticket", "compare", "one.safetensors", "other.safetensors", "--figure", "overlap.png")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "1: one.safetensors, 50.00% kept"
    assert lines[1] == f"2: other.safetensors, {OTHER.kept / OTHER.total:.2%} kept"
    value, chance = anatomy.overlap(ONE, OTHER), anatomy.chance_overlap(ONE, OTHER)
    assert any(line.endswith(f" {100 * value:.1f} ({100 * chance:.1f})") for line in lines)
    own = [anatomy.densities(mask, weight_places(TOY)) for mask in (ONE, OTHER)]
    assert "layer 1 " + " ".join(f"{100 * one.layers[1]:.1f}" for one in own) in lines
    assert "FFN out " + " ".join(f"{100 * one.kinds['FFN out']:.1f}" for one in own) in lines
    assert (folder / "overlap.png").read_bytes().startswith(b"\x89PNG")


def test_masks_and_sparse_trainings_of_a_store_are_named_by_their_digests(store: Store, vltickets: Run) -> None:
    node = kept(store, RandomMask(backbone=TOY, sparsity=0.5), ONE)
    train = trained(mask=kept(store, RandomMask(backbone=TOY, sparsity=0.7, seed=1), OTHER))
    store.put_node(train)
    names = (node.digest[:12], train.digest, "one.safetensors")
    done = vltickets("ticket", "compare", *names, "--store", "results", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row["mask"] for row in said["tickets"]] == [ONE.digest, OTHER.digest, ONE.digest]
    assert said["overlap"][0] == [1.0, anatomy.overlap(ONE, OTHER), 1.0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("one.safetensors", "wide.safetensors"),
            "one.safetensors and wide.safetensors are masks of different backbones",
        ),
        (("one.safetensors",), "at least two different tickets"),
        (("one.safetensors", "one.safetensors"), "at least two different tickets"),
        (("one.safetensors", "absent.safetensors"), "absent.safetensors: no such file"),
        (("one.safetensors", "abcdef"), "abcdef is no ticket file, and store is no store"),
        (("one.safetensors", "abcdef", "--store", "results"), "0 runs in results start with 'abcdef'"),
        (("one.safetensors", "other.safetensors", "--figure", "overlap.jpeg"), "written as .png or .svg"),
    ],
)
def test_what_can_t_be_compared_is_refused(
    arguments: tuple[str, ...], sentence: str, store: Store, vltickets: Run
) -> None:
    assert sentence in refused(vltickets("ticket", "compare", *arguments))


def test_a_run_without_a_mask_and_a_mask_not_yet_made_are_refused(store: Store, vltickets: Run) -> None:
    dense, planned = trained(), OneShot(backbone=TOY, start=Fresh(), sparsity=0.5)
    store.put_node(dense)
    store.put_node(planned)
    where = ("one.safetensors", "--store", "results")
    assert "is dense: it has no mask" in refused(vltickets("ticket", "compare", dense.digest, *where))
    assert "is not finished" in refused(vltickets("ticket", "compare", planned.digest, *where))


def test_a_ticket_of_a_module_of_one_s_own_is_shown_and_what_needs_a_backbone_is_refused(
    folder: Path, vltickets: Run
) -> None:
    Ticket(None, Mask.dense({"w": (3, 5)}), {"found_by": "prune", "criterion": "lamp"}).save(
        folder / "mine.safetensors"
    )
    shown = vltickets("ticket", "show", "mine.safetensors")
    assert shown.returncode == 0, shown.stderr
    assert "0.00% of 15 prunable weights" in shown.stdout
    assert "found by prune; criterion lamp" in shown.stdout
    assert "of a module of your own" in refused(vltickets("ticket", "compare", "mine.safetensors", "one.safetensors"))
    assert "of a module of your own" in refused(vltickets("evaluate", "mine.safetensors"))
