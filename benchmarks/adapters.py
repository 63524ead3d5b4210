"""Does a Hugging Face model carry a ticket? The six adapters, on questions about drawn scenes of one object.

Scenes, wordings, pictures, regions and the questions of VQA are the embedded world's ("what color is the large cube?"),
but for the number of objects: with one, a model from random weights learns within minutes what its words mean.

For each model: θ₀ is trained on the questions from random weights (`--steps`). Then, seed by seed and all from θ₀, with
`--tuning` steps each: dense; its 50 % ticket (the smallest weights of the dense run removed at once); a random mask of
50 %. One ticket of each model is saved, loaded into a model that was never trained, and its zeros and its score
compared. Scores are soft accuracies in %. Everything stands in a store, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from rows import show_and_keep

from vltickets import load_ticket
from vltickets.data import open_source, register_folder
from vltickets.scenes import draw, write_vocabulary
from vltickets.scenes.files import write_json, write_pictures, write_regions
from vltickets.scenes.grammar import ask, draw_wording
from vltickets.scenes.questions import ANSWERS, AskAttribute
from vltickets.scenes.regions import detect_all
from vltickets.scenes.sampling import independent_scenes, unique_description
from vltickets.scenes.vqa import annotation
from vltickets.scenes.world import random_stream
from vltickets.specs import (
    SIZES,
    BackboneSpec,
    DataSpec,
    Fresh,
    HuggingFace,
    Prune,
    RandomMask,
    Recipe,
    Train,
    Trained,
    Vqa,
    changed,
)
from vltickets.store import Store
from vltickets.studies.scoring import ticket_of
from vltickets.studies.work import build_model, run_node
from vltickets.tasks import build_task
from vltickets.training import evaluate

SPARSITY = 0.5
ASKED = (0, 0, 1, 1, 2, 3)  # shape and color twice as often as size and material, which a guess finds half of the time
# By hand and not tuned: models that norm before each layer bear more.
RATES = {"clip": 3e-3, "siglip": 3e-3, "flava": 1e-3, "blip": 1e-3, "bridgetower": 1e-3, "visualbert": 1e-3}


def write_questions(folder: Path, split: str, count: int) -> None:
    """Write one question about each of `count` scenes of one object, in VQA's format, drawn and detected."""
    rng = random_stream(0, split, "adapters")
    scenes = independent_scenes(rng, [1] * count)
    questions, annotations = [], []
    for place, scene in enumerate(scenes):
        attribute = ASKED[rng.integers(len(ASKED))]
        description = unique_description(rng, scene, scene.objects[0], without=attribute)
        assert description is not None
        question = AskAttribute(description, attribute)
        text, identity = ask(question, draw_wording(rng)), {"image_id": place, "question_id": place}
        questions.append({"question": text, **identity})
        annotations.append({**annotation(question, text, scene, rng), **identity})
    write_json(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
    write_json(folder / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
    write_json(folder / "ans2label.json", {answer: label for label, answer in enumerate(ANSWERS)})
    names = [f"coco_{split}_{place:012d}.npz" for place in range(count)]
    write_pictures(folder / f"pictures_{split}", names, [draw(scene) for scene in scenes])
    write_regions(folder / f"regions_{split}", names, detect_all(scenes, random_stream(0, split, "adapters/regions")))


def data_of(store: Store, arguments: argparse.Namespace) -> DataSpec:
    """Return the scenes, which are written beside the store where they are not there yet."""
    folder = arguments.store / f"scenes-{arguments.scenes}-{arguments.heldout}"
    if not folder.exists():
        new = folder.with_suffix(".new")
        for split, count in (("train", arguments.scenes), ("dev", 200), ("test", arguments.heldout)):
            write_questions(new / "vqa", split, count)
        write_vocabulary(new)
        new.rename(folder)
    return register_folder(folder, store)


def nodes_of(
    backbone: BackboneSpec, rate: float, data: DataSpec, arguments: argparse.Namespace
) -> dict[str, list[Train]]:
    """Return the trainings of one model by row of the table, one a seed; θ₀ is their common start."""
    task = Vqa(data=data, split="test")
    recipe = Recipe(steps=arguments.steps, learning_rate=rate, warmup=0.05, batch_tokens=1200, dropout=0.0, clip=1.0)
    theta0 = Train(backbone=backbone, task=changed(task, split="dev"), start=Fresh(), recipe=recipe, seed=100)
    tuning = changed(recipe, steps=arguments.tuning, learning_rate=rate / 3)
    dense, ticket, random = [], [], []
    for seed in arguments.seeds:
        full = Train(backbone=backbone, task=task, start=Trained(train=theta0), recipe=tuning, seed=seed)
        dense.append(full)
        ticket.append(changed(full, mask=Prune(train=full, sparsity=SPARSITY)))
        random.append(changed(full, mask=RandomMask(backbone=backbone, sparsity=SPARSITY, seed=seed)))
    return {"theta0": [theta0], "dense": dense, "ticket": ticket, "random": random}


def run(node: Train, store: Store) -> float:
    """Do what a training needs, and it, unless it is done; return its score in %."""
    needed = [node.start.train] if isinstance(node.start, Trained) else []
    needed += [node.mask.train] if isinstance(node.mask, Prune) else []
    for parent in needed:
        run(parent, store)
    for one in (node.mask, node):
        if one is not None and not store.has(one):
            started = time.perf_counter()
            run_node(one, store)
            print(f"{one.kind} {one.digest} in {time.perf_counter() - started:.0f} s", flush=True)
    return 100 * store.record(node.digest).metrics["score"]


def carried(node: Train, store: Store) -> tuple[int, float]:
    """Save a ticket, load it into a model that was never trained, and return its exact zeros and its score in %."""
    path = store.root / f"{node.digest}.safetensors"
    ticket_of(node, store).save(path)
    ticket = load_ticket(path)
    source = open_source(node.task.data, store)
    task = build_task(node.task, source, node.backbone)
    fresh = build_model(node.backbone, node.recipe, task, source)
    fresh.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in ticket.weights.items()})
    weights = fresh.backbone.prunable()
    zeros = sum(int((weights[name][~ticket.mask[name]] == 0).sum()) for name in ticket.mask)
    assert zeros == ticket.mask.total - ticket.mask.kept
    return zeros, 100 * evaluate(fresh, task, node.task.split, threads=1).score


def main() -> None:
    """Run what is not done, print the table, and keep its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--tuning", type=int, default=80)
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--heldout", type=int, default=1000)
    parser.add_argument("--store", type=Path, default=Path("store-adapters"))
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(arguments.store)
    store.prepare()
    data = data_of(store, arguments)
    for model in arguments.models:
        backbone = SIZES[f"{model}-tiny"]
        assert isinstance(backbone, HuggingFace)
        nodes = nodes_of(backbone, RATES[model], data, arguments)
        scores = {row: [run(node, store) for node in trainings] for row, trainings in nodes.items()}
        zeros, again = carried(nodes["ticket"][0], store)
        assert again == scores["ticket"][0], "a ticket that was saved and loaded scores otherwise"
        row: dict[str, object] = {"model": model, "seeds": len(arguments.seeds), "theta0": scores["theta0"][0]}
        for name in ("dense", "ticket", "random"):
            row[name] = statistics.fmean(scores[name])
            row[f"{name} std"] = statistics.stdev(scores[name]) if len(scores[name]) > 1 else 0.0
        row |= {"zeros": zeros, "steps": arguments.steps}
        row |= {"tuning": arguments.tuning, "questions": arguments.heldout}
        show_and_keep("adapters", [row], keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
