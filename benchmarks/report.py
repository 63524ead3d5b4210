"""The paper's page from a store of many runs: seconds from the store to the page on disk, and the page's size.

The store is made up, through its own interface: the nodes of `paper-tiny` with transfer at every level and more seeds,
made-up scores of 4,000 test items, curves of 100 points, random masks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rows import show_and_keep

from vltickets.reports import read_papers, write_paper_page
from vltickets.specs import BackboneSpec, Node, Prune, Train, World, canonical, weight_places
from vltickets.store import Record, Store
from vltickets.studies.graph import plan
from vltickets.studies.loading import load_study
from vltickets.studies.paper import paper
from vltickets.studies.paper_config import Paper
from vltickets.studies.run import Planned, note_study

ITEMS = 4000
WORLD = World(generator=1)
EVERY_LEVEL = "transfer_levels=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]"


def made_up(store: Store, seeds: int) -> int:
    """Fill a store with the whole of `paper-tiny` over so many seeds; return how many runs that is."""
    study = load_study("paper-tiny", (f"seeds={list(range(seeds))}", EVERY_LEVEL))
    assert isinstance(study, Paper)
    cells = tuple(paper(study, WORLD))
    work = plan((cell.node for cell in cells), store)
    store.prepare()
    rng = np.random.default_rng(0)
    for item in work:
        finish(store, item.node, rng)
    note_study(Planned("big", study, cells, (), WORLD, 0.0), store, command="made up", workers=0, phases={})
    return len(work)


def finish(store: Store, node: Node, rng: np.random.Generator) -> None:
    """Write a made-up result."""
    if isinstance(node, Train):
        right = (rng.random(ITEMS) < 0.7).astype(np.float16)
        score = float(right.mean(dtype=np.float64))
        metrics = {"score": score, "tr@1": score, "accuracy/number": score, "accuracy/yes-no": score}
        curve = [(8 * step, 2.2 * float(np.exp(-step / 20)) + float(rng.random())) for step in range(1, 101)]
        record = Record(node.digest, "train", canonical(node), metrics, curve, 30.0, {"cpu": "made up"})
        store.finish(node, record, {"items": {"score": right, "tr@1": right}})
    else:
        backbone: BackboneSpec = node.train.backbone if isinstance(node, Prune) else node.backbone
        sizes = {name: place.size for name, place in weight_places(backbone).items()}
        bits = {name: np.packbits(rng.random(size) >= node.sparsity) for name, size in sizes.items()}
        metrics = {"sparsity": node.sparsity}
        record = Record(node.digest, node.kind, canonical(node), metrics, seconds=0.1, machine={"cpu": "made up"})
        store.finish(node, record, {"mask": bits})


def main() -> None:
    """Make the store, report, print, and keep the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=13, help="seeds of the made-up study; 13 are 10,000 runs")
    parser.add_argument("--store", type=Path, help="keep the store here, and use it where it is there already")
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(arguments.store or Path(folder) / "store")
        if "big" not in store.studies():
            made_up(store, arguments.seeds)
        page = store.root / "big.html"
        started, busy = time.perf_counter(), time.process_time()
        results = read_papers(store, "big")
        read = time.perf_counter()
        write_paper_page(results, page)
        row = {
            "runs": len(results.lineage.records),
            "cells": len(results.cells),
            "read_seconds": read - started,
            "page_seconds": time.perf_counter() - read,
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - busy,
            "page_megabytes": page.stat().st_size / 1e6,
        }
    show_and_keep("report", [row], keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
