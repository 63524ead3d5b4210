"""Does a detector carry a ticket? YOLOS, a DETR whose encoder is a plain ViT, on the world's drawn pictures, by AP.

transformers' own class and loss (set prediction, Hungarian matching), in a plain loop with `vltickets.find_ticket`:
the scenes of the world's RefCOCO+, every object a box of one of five shapes. θ₀ is the detector after `--steps` steps.
Then, seed by seed and all from θ₀, `--tuning` steps each: dense, a 50 % ticket of the encoder's matrices, a random mask
of 50 %. Scores are AP@[.5:.95] and AP50 in % on the pictures of `testA`, which nothing was chosen on. Boxes are those
of the scene, not of the few pixels drawn: a perfect reader of the pixels would lose some AP at high overlaps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rows import show_and_keep
from torch import nn
from transformers import YolosConfig, YolosForObjectDetection

import vltickets as vlt
from vltickets.scenes.names import first_image_id
from vltickets.scenes.refcoco import PHOTO_SIDE, SPLITS, write_refcoco
from vltickets.tasks.average_precision import Boxes, average_precision

SHAPES = 5
QUERIES = 8  # scenes have 2 to 5 objects
Pictures = tuple[torch.Tensor, list[dict[str, torch.Tensor]]]  # pixels [n, 3, 36, 36]; classes and boxes of each


def read_scenes(folder: Path, split: str) -> Pictures:
    """Return a split's pictures and true boxes (middle x and y, width, height, in shares of the side)."""
    instances = json.loads((folder / "refcoco/instances.json").read_text())
    firsts = sorted(first_image_id("refcoco", name) for name in SPLITS)
    first = first_image_id("refcoco", split)
    last = min((other for other in firsts if other > first), default=10**12)
    boxes = defaultdict(list)
    for one in instances["annotations"]:
        left, top, width, height = (number / PHOTO_SIDE for number in one["bbox"])
        boxes[one["image_id"]].append((one["category_id"] - 1, left + width / 2, top + height / 2, width, height))
    ids = [image["id"] for image in instances["images"]]
    rows = [row for row, image in enumerate(ids) if first <= image < last]
    pixels = torch.from_numpy(np.load(folder / "refcoco/pictures_all/pixels.npy")[rows]).permute(0, 3, 1, 2).float()
    tables = [torch.tensor(boxes[ids[row]]) for row in rows]
    return pixels / 100, [{"class_labels": table[:, 0].long(), "boxes": table[:, 1:]} for table in tables]


def make_detector(side: int) -> YolosForObjectDetection:
    """Return a small YOLOS with random weights: patches of 6 pixels, 3 layers of width 64."""
    config = YolosConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        image_size=[side, side],
        patch_size=6,
        num_detection_tokens=QUERIES,
        use_mid_position_embeddings=False,
        num_labels=SHAPES,
        initializer_range=0.07,
    )
    model = YolosForObjectDetection(config)
    with torch.no_grad():  # the library starts them at 0, all alike
        for weight in (model.vit.embeddings.detection_tokens, model.vit.embeddings.position_embeddings):
            weight.normal_(0.0, 0.3)
    return model


def encoder(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what a mask covers: the matrices of the encoder's layers."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if name.startswith("vit.encoder.") and weight.dim() == 2
    }


def train(model: nn.Module, hold: vlt.HoldZeros | None, data: Pictures, steps: int, rate: float, seed: int) -> None:
    """Train in place: AdamW, batches of 32, warm-up over a twentieth of the steps, then linear decay."""
    pixels, labels = data
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    ramp = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(20 * (i + 1) / steps, 1 - i / steps))
    model.train()
    for step in range(steps):
        rows = rng.integers(0, len(pixels), 32)
        loss = model(pixels[rows], labels=[labels[row] for row in rows]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if hold is not None:
            hold.before_step(model)
        optimizer.step()
        if hold is not None:
            hold.after_step(model)
        ramp.step()
        if not (step + 1) % 500:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def score(model: nn.Module, data: Pictures) -> dict[str, float]:
    """Return AP in %; every query is a detection of its likeliest shape."""
    model.eval()
    pixels, labels = data
    found = []
    for part in pixels.split(256):
        outputs = model(part)
        sure, shapes = outputs.logits.softmax(-1)[..., :-1].max(-1)
        found += [
            Boxes(corners(boxes), shape.numpy(), one.numpy())
            for boxes, shape, one in zip(outputs.pred_boxes, shapes, sure, strict=True)
        ]
    true = [Boxes(corners(one["boxes"]), one["class_labels"].numpy()) for one in labels]
    return {name: 100 * value for name, value in average_precision(found, true).items()}


def corners(boxes: torch.Tensor) -> np.ndarray:
    """Return boxes [n, 4] by middle and size as x1, y1, x2, y2."""
    middle, half = boxes[:, :2].numpy(), boxes[:, 2:].numpy() / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def main() -> None:
    """Train, find the tickets, score, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--tuning", type=int, default=500)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--train", type=int, default=6000, help="expressions, of which a picture has one or two")
    parser.add_argument("--heldout", type=int, default=800)
    parser.add_argument("--no-csv", action="store_true", help="print only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_refcoco(Path(folder), seed=0, train=arguments.train, heldout=arguments.heldout, pictures=True)
        training, test = (read_scenes(Path(folder), split) for split in ("train", "testA"))
    model = make_detector(training[0].shape[-1])
    started = time.perf_counter()
    train(model, None, training, arguments.steps, arguments.rate, seed=100)
    theta0 = {name: value.clone() for name, value in model.state_dict().items()}
    rows: dict[str, list[dict[str, float]]] = {"theta0": [score(model, test)]}
    print(rows, f"{time.perf_counter() - started:.0f} s", flush=True)
    for seed in arguments.seeds:

        def tune(model: nn.Module, hold: vlt.HoldZeros, seed: int = seed) -> None:
            train(model, hold, training, arguments.tuning, arguments.rate / 3, seed)

        def search(model: nn.Module, hold: vlt.HoldZeros) -> None:
            tune(model, hold)
            keep("dense", model)  # the search's one round is the dense run

        def keep(name: str, model: nn.Module) -> None:
            rows.setdefault(name, []).append(score(model, test))
            print(name, rows[name][-1], f"{time.perf_counter() - started:.0f} s", flush=True)

        model.load_state_dict(theta0)
        ticket = vlt.find_ticket(model, search, levels=[0.5], prunable=encoder)
        random = vlt.prune(model, 0.5, criterion="random", seed=seed, prunable=encoder)
        for name, one in (("ticket", ticket), ("random", random)):
            model.load_state_dict(theta0)
            tune(model, vlt.HoldZeros(model, one.mask))
            assert not any(weight[~one.mask[part]].any() for part, weight in encoder(model).items())
            keep(name, model)
    show_and_keep(
        "detector", [summary(name, found, arguments) for name, found in rows.items()], keep=not arguments.no_csv
    )


def summary(name: str, found: list[dict[str, float]], arguments: argparse.Namespace) -> dict[str, object]:
    """Return one row of the table: means and standard deviations over seeds."""
    row: dict[str, object] = {"row": name, "seeds": len(found)}
    for metric in ("AP", "AP50"):
        values = [one[metric] for one in found]
        row[metric] = statistics.fmean(values)
        row[f"{metric} std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return row | {"steps": arguments.steps, "tuning": arguments.tuning}


if __name__ == "__main__":
    main()
