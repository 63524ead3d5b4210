"""Scoring every caption against every image: ours against the official way, the same scores.

Official: one caption against 400 images a batch, padded to the batch's longest; images have 10 to 100 regions. Ours:
`score_all_pairs`. Both score the same made-up captions and images with the same weights, turn about.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rows import median_and_spread, show_and_keep

from vltickets.backbones import build_backbone
from vltickets.data import Captions, Ragged, RegionWriter, read_regions
from vltickets.specs import sized
from vltickets.tasks import Model
from vltickets.tasks.matching import MatchingHead
from vltickets.tasks.ranking import score_all_pairs, score_in_official_batches

WORDS, WIDTH = 28_996, 2048
FEWEST, MOST = 10, 100  # regions of an image, officially


def made_up(captions: int, images: int, folder: Path) -> Captions:
    """Return captions of 8 to 24 tokens and images of 10 to 100 regions (mean about 36), all random."""
    rng = np.random.default_rng(0)
    counts = np.clip(rng.lognormal(3.45, 0.5, images).astype(int), FEWEST, MOST)
    with RegionWriter(folder / "regions", width=WIDTH, classes=1) as writer:
        for image, count in enumerate(counts):
            low = rng.random((count, 2)) * 0.5
            boxes = np.concatenate([low, low + 0.1 + rng.random((count, 2)) * 0.4], 1)
            writer.add(f"{image}.npz", rng.normal(size=(count, WIDTH)), boxes, np.ones((count, 1)), None)
    texts = [rng.integers(5, WORDS, rng.integers(8, 25)).tolist() for _ in range(captions)]
    regions = read_regions(folder / "regions")
    return Captions(Ragged.from_rows(texts), rng.integers(0, images, captions), None, regions)


def main() -> None:
    """Measure, check that the scores are the same, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", help="the backbone: tiny, small or base")
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = sized(arguments.size)
    backbone = build_backbone(spec, vocabulary=WORDS, region_width=WIDTH, dropout=0.1)
    backbone.initialise(torch.Generator().manual_seed(0), 0.05)
    model = Model(backbone, MatchingHead(spec.hidden)).eval()
    torch.nn.init.normal_(model.head.rank_output.weight)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        data = made_up(arguments.captions, arguments.images, Path(folder))
        images = np.arange(arguments.images)
        ways = {"official": score_in_official_batches, "ours": score_all_pairs}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        tables = {}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                started = time.perf_counter()
                tables[name] = way(model, data, images, lambda inputs: inputs)
                seconds[name].append(time.perf_counter() - started)
    difference = float(np.abs(tables["ours"] - tables["official"]).max())
    spread = float(tables["official"].std())
    if difference > 1e-3 * spread:
        raise SystemExit(f"the scores differ by {difference:.1e}, beside a spread of {spread:.1e}")
    rows = []
    for name, measured in seconds.items():
        median, around = median_and_spread(measured)
        speedup, speedup_spread = median_and_spread([a / b for a, b in zip(seconds["official"], measured, strict=True)])
        rows.append(
            {
                "way": name,
                "size": arguments.size,
                "captions": arguments.captions,
                "images": arguments.images,
                "mean_regions": float(data.regions.features.lengths.mean()),
                "repeats": arguments.repeats,
                "seconds": median,
                "seconds_spread": around,
                "times_faster": speedup,
                "times_faster_spread": speedup_spread,
                "largest_difference": difference,
                "score_spread": spread,
            }
        )
    show_and_keep("retrieval", rows, keep=not arguments.no_csv)


if __name__ == "__main__":
    main()
