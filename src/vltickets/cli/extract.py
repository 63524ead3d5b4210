"""`vltickets data extract`: region features of one's own images, by a detector in a local folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import counting, duration, screen

SHOWN = 10  # broken images named on the screen; the file has all


def extract(
    images: Annotated[Path, typer.Argument(help="A folder of images, or a Parquet file with image_id and image_jpeg.")],
    detector: Annotated[Path, typer.Option(help="Folder of a detector (DETR, RT-DETR) saved by transformers.")],
    out: Annotated[Path, typer.Option(help="The region store to write.")],
    threshold: Annotated[float, typer.Option(help="Keep boxes that score at least this.")] = 0.2,
    least: Annotated[int, typer.Option(help="Keep at least so many boxes of an image.")] = 10,
    most: Annotated[int, typer.Option(help="Keep at most so many.")] = 100,
    name_format: Annotated[
        str,
        typer.Option(
            help="An image's name in the store; fields: stem, id (the number its name ends in), path, and a Parquet "
            "file's columns. The names of COCO's regions: coco_val2017_{id:012d}.npz"
        ),
    ] = "{stem}.npz",
    device: Annotated[str, typer.Option(help="Where the detector runs: cpu, cuda, cuda:1.")] = "cpu",
) -> None:
    """Detect the objects in images and store boxes, features and soft labels; a run that was stopped goes on."""
    from vltickets.backbones.detector import KeepRule, load_detector
    from vltickets.backbones.extraction import extract_regions
    from vltickets.data.pictures import find_pictures

    rule = KeepRule(threshold, least, most)
    pictures = find_pictures(images, name_format)
    model = load_detector(detector, device)
    console = screen()
    started = time.monotonic()
    with counting(console) as tell:
        result = extract_regions(pictures, model, out, rule, tell)
    earlier = f", {result.resumed} of them by an earlier run" if result.resumed else ""
    console.print(
        f"{out}: {result.stored} images{earlier}; {result.boxes} boxes in {duration(time.monotonic() - started)}, "
        f"{model.width} numbers and {model.classes} classes each",
        soft_wrap=True,
        markup=False,
    )
    if result.broken:
        console.print(f"{len(result.broken)} broken images were left out, listed in {out}.broken.txt:", markup=False)
        for name, reason in list(result.broken.items())[:SHOWN]:
            console.print(f"  {name}: {reason}", soft_wrap=True, markup=False)
        if len(result.broken) > SHOWN:
            console.print(f"  and {len(result.broken) - SHOWN} more")
