"""The embedded world's files, made where they are missing, once, whichever process asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from vltickets import scenes
from vltickets.errors import UserError, unknown
from vltickets.specs import World
from vltickets.store import write_file

SPLITS = ("train", "dev", "test")
HELD_OUT_SCENES = 1500  # caption scenes in each of dev and test, on which pre-training is watched

# Part (its folder) -> the function of `scenes` that writes a split, and what it calls the number of examples.
BY_SPLIT = {
    "captions": ("write_captions", "scenes"),
    "vqa": ("write_vqa", "questions"),
    "nlvr2": ("write_nlvr2", "examples"),
    "gqa": ("write_gqa", "questions"),
    "vcr": ("write_vcr", "questions"),
    "snli_ve": ("write_entailment", "pairs"),
}
# Parts whose splits share files, so that they are made in one go.
AT_ONCE = {"refcoco": "write_refcoco", "flickr30k": "write_retrieval"}
NOT_DRAWN = ("vcr",)


def world_folder(spec: World, folder: Path) -> None:
    """Check the generator's version and make sure of the folder with the world's vocabulary."""
    if spec.generator != scenes.WORLD_VERSION:
        raise UserError(
            f"this run is of the embedded world's generator {spec.generator}, this vltickets has {scenes.WORLD_VERSION}"
        )
    if not (folder / "vocab.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        scenes.write_vocabulary(folder)


def world_maker(spec: World, folder: Path) -> Callable[[str, str, bool], None]:
    """Return the function (part, split, pictures) that makes a part of the world where it is not there yet.

    With `pictures` it is there only with its drawings.
    """

    def make(part: str, split: str, pictures: bool) -> None:
        if split not in SPLITS:
            raise unknown("split of the embedded world", split, SPLITS)
        if pictures and part in NOT_DRAWN:
            raise UserError(f"the embedded world has no pictures for {part}; use a backbone that takes regions")
        name = "all" if part in AT_ONCE else split
        whole, drawn = (folder / part / f".{name}.{state}" for state in ("whole", "pictures"))
        marker = drawn if pictures else whole
        if marker.exists():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{part}-{name}.lock"):  # another process may be making it right now
            if marker.exists():
                return
            _write(spec, folder, part, split, {"pictures": True} if pictures else {})
            for made in (whole, marker):
                write_file(made, b"")

    return make


def _write(spec: World, folder: Path, part: str, split: str, options: dict[str, bool]) -> None:
    if part in AT_ONCE:
        train, heldout = spec.examples, spec.heldout
        if part == "flickr30k":  # counted in images, of five captions each
            train, heldout = max(train // 10, 50), max(heldout // 20, 20)
        _writer(AT_ONCE[part])(folder, seed=spec.seed, train=train, heldout=heldout, **options)
        return
    writer, unit = BY_SPLIT[part]
    count = spec.examples if split == "train" else spec.heldout
    if part == "captions":
        count = spec.scenes if split == "train" else HELD_OUT_SCENES
    _writer(writer)(folder, split, seed=spec.seed, **{unit: count}, **options)


def _writer(name: str) -> Any:
    return getattr(scenes, name)
