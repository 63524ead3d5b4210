"""`vltickets data`: make the embedded world's files, look into region stores, check them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import counting, screen
from vltickets.cli.reporting import JsonOption
from vltickets.errors import UserError

data_app = typer.Typer(no_args_is_help=True, help="Make data, and look at it.")


@data_app.command("world")
def world(
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    split: Annotated[list[str] | None, typer.Option(help="Splits to write. Default: train, dev, test.")] = None,
    seed: Annotated[int, typer.Option(help="The world's seed.")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="Examples of each task, and scenes, in each split.")] = 1000,
    pictures: Annotated[bool, typer.Option("--pictures", help="Draw the scenes too, of all tasks but VCR.")] = False,
) -> None:
    """Write a data set of the embedded world in the official formats: captions, all seven tasks, and their regions.

    RefCOCO+ and retrieval keep all their splits in one file, so they are always written whole.
    """
    from vltickets import scenes

    if folder.exists():
        raise UserError(f"{folder} is there already; name a new folder")
    for name in split or ["train", "dev", "test"]:
        scenes.write_captions(folder, name, seed=seed, scenes=examples, pictures=pictures)
        scenes.write_vqa(folder, name, seed=seed, questions=examples, pictures=pictures)
        scenes.write_gqa(folder, name, seed=seed, questions=examples, pictures=pictures)
        scenes.write_vcr(folder, name, seed=seed, questions=examples)
        scenes.write_nlvr2(folder, name, seed=seed, examples=examples, pictures=pictures)
        scenes.write_entailment(folder, name, seed=seed, pairs=examples, pictures=pictures)
    scenes.write_refcoco(folder, seed=seed, train=examples, heldout=examples, pictures=pictures)
    images = max(examples // 10, 20)
    scenes.write_retrieval(folder, seed=seed, train=images, heldout=images, pictures=pictures)
    scenes.write_vocabulary(folder)
    screen().print(f"{folder}: splits {', '.join(split or ['train', 'dev', 'test'])}")


@data_app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="UNITER's LMDB folder, LXMERT's .tsv, or a folder of .npz files.")],
    out: Annotated[Path, typer.Argument(help="The region store to write.")],
    kind: Annotated[str | None, typer.Option(help="uniter-lmdb, lxmert-tsv or npz; seen unless given.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cut an image to as many regions as score above this, 10 to 100, as UNITER does with 0.2."),
    ] = None,
) -> None:
    """Import region features into a store; an import that was killed goes on when the command is given again."""
    from vltickets.data.region_import import import_regions

    with counting(screen()) as tell:
        count = import_regions(source, out, kind, tell, threshold=threshold)
    screen().print(f"{out}: {count} images", soft_wrap=True, markup=False)


@data_app.command("inspect")
def inspect(
    store: Annotated[Path, typer.Argument(help="A region store, what can be imported into one, or pictures.")],
    backbone: Annotated[str, typer.Option(help="Whose patches are counted, for pictures.")] = "vilt-base",
    as_json: JsonOption = False,
) -> None:
    """Show what a region store holds, without reading all of it; or an LMDB, TSV or npz folder before its import.

    Of a folder of pictures or a Parquet file of them, the headers are read.
    """
    from vltickets.data import read_regions
    from vltickets.data.patches import are_pictures
    from vltickets.data.region_import import count_images

    if are_pictures(store):
        _show(_about_pictures(store, backbone), as_json)
        return
    if store.exists() and not (store / "manifest.json").exists():
        _show(count_images(store), as_json)
        return
    regions = read_regions(store)
    counts = regions.features.lengths
    about = {
        "images": len(regions.names),
        "regions": int(counts.sum()),
        "width": regions.width,
        "classes": regions.classes,
        "regions of an image, fewest": int(counts.min()),
        "regions of an image, mean": round(float(counts.mean()), 2),
        "regions of an image, most": int(counts.max()),
        "first image": regions.names[0],
        "megabytes": round(sum(path.stat().st_size for path in store.iterdir()) / 1e6, 1),
    }
    _show(about, as_json)


@data_app.command("verify")
def verify(
    store: Annotated[Path, typer.Argument(help="A region store, or pictures: a folder or a Parquet file of them.")],
    as_json: JsonOption = False,
) -> None:
    """Check every checksum, number and box of a region store; or decode every picture."""
    from vltickets.data import verify_store
    from vltickets.data.patches import are_pictures, decode_all

    if are_pictures(store):
        _show({"images": decode_all(store), "verified": True}, as_json)
        return
    _show({**verify_store(store), "verified": True}, as_json)


def _about_pictures(path: Path, backbone: str) -> dict[str, object]:
    """Return counts and sizes of pictures, and their patches for a backbone; one without patches is a `UserError`."""
    from vltickets.data.patches import open_pictures
    from vltickets.specs import Vilt, named

    spec = named(backbone)
    if not isinstance(spec, Vilt):
        raise UserError(f"{backbone} takes no patches of pictures; name a ViLT, such as --backbone vilt-base")
    patches = open_pictures(path, spec.pixels).features
    counts = patches.lengths
    sizes = [patches.pictures.size(row) for row in range(len(patches))]
    smallest, largest = (choose(sizes, key=lambda size: size[0] * size[1]) for choose in (min, max))
    return {
        "images": len(sizes),
        "smallest, pixels": f"{smallest[0]} x {smallest[1]}",
        "largest, pixels": f"{largest[0]} x {largest[1]}",
        "patches of an image, fewest": int(counts.min()),
        "patches of an image, mean": round(float(counts.mean()), 2),
        "patches of an image, most": int(counts.max()),
        "shapes in patches": len({tuple(grid) for grid in patches.grids.tolist()}),
    }


def _show(about: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(about))
        return
    for name, value in about.items():
        screen().print(f"{name:28} {value}", markup=False, highlight=False)
