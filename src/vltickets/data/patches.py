"""Pictures as rows of patches, which tasks take as they take regions: a patch's pixels are its feature, its cell a box.

So every task that reads an image through its regions reads it through its pixels with the same lines. A picture has as
many patches as its shape asks for, and batches are padded to the longest, with masks. Source: official-models 5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from vltickets.data.pictures import BrokenImage, Pictures, decode, find_pictures, picture_size
from vltickets.data.ragged import Ragged
from vltickets.data.regions import Regions, geometry
from vltickets.errors import UserError
from vltickets.specs import Pixels

LONGER_OVER_SHORTER = 1333 / 800  # no longer side is more times the shorter side asked for than this
CACHE_BYTES = 2**29  # decoded patches that one set of pictures keeps in memory

Read = TypeVar("Read")


class PictureRows(Protocol):
    """Decoded pictures by row."""

    def __len__(self) -> int: ...

    def size(self, row: int) -> tuple[int, int]:
        """Return a picture's width and height in pixels."""

    def image(self, row: int) -> Image.Image:
        """Return a picture in RGB; one that can't be decoded is a `UserError` that names it."""


class DrawnPictures:
    """The embedded world's pictures: one array uint8 [n, h, w, 3], memory-mapped (`scenes/files.py` writes it)."""

    def __init__(self, path: Path) -> None:
        self.pixels = np.load(path / "pixels.npy", mmap_mode="r", allow_pickle=False)
        self.names: list[str] = json.loads((path / "names.json").read_text())

    def __len__(self) -> int:
        return len(self.pixels)

    def size(self, row: int) -> tuple[int, int]:
        """Return a picture's width and height in pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def image(self, row: int) -> Image.Image:
        """Return a picture in RGB."""
        return Image.fromarray(np.array(self.pixels[row]))


class EncodedPictures:
    """Image files, or a Parquet file's column of them."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.names = pictures.names

    def __len__(self) -> int:
        return len(self.names)

    def size(self, row: int) -> tuple[int, int]:
        """Return a picture's width and height in pixels, of which only its header is read."""
        return self._told(row, picture_size)

    def image(self, row: int) -> Image.Image:
        """Return a picture in RGB; one that can't be decoded is a `UserError` that names it."""
        return self._told(row, decode)

    def _told(self, row: int, read: Callable[[bytes], Read]) -> Read:
        try:
            return read(self.pictures.content(row))
        except BrokenImage as error:
            raise UserError(
                f"{self.pictures.where(row)}: the image can't be decoded ({error}); mend it, or take it and what is "
                f"said of it out of the data"
            ) from None


class PatchRows:
    """Each picture's patches, row by row of its grid: numbers [n, 3·p·p] in the order color, y, x, scaled as asked."""

    def __init__(self, pictures: PictureRows, pixels: Pixels) -> None:
        self.pictures = pictures
        self.pixels = pixels
        self._kept: dict[int, torch.Tensor] = {}
        self._room = CACHE_BYTES

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def width(self) -> int:
        """Numbers in one patch."""
        return self.pixels.width

    @cached_property
    def grids(self) -> np.ndarray:
        """Patches down and across each picture, int64 [n, 2]."""
        sizes = [scaled_size(*self.pictures.size(row), self.pixels) for row in range(len(self))]
        grids: np.ndarray = np.array(sizes, dtype=np.int64).reshape(-1, 2)[:, ::-1] // self.pixels.patch
        return grids

    @cached_property
    def lengths(self) -> np.ndarray:
        """Patches in each picture."""
        counts: np.ndarray = self.grids.prod(1)
        return counts

    def row(self, index: int) -> torch.Tensor:
        """Return one picture's patches [n, 3·p·p]."""
        return (self._stored(index).float() / 255 - self.pixels.mean) / self.pixels.std

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some pictures' patches [rows, most, 3·p·p], zeros behind their ends, and the mask [rows, most]."""
        lengths = self.lengths[rows]
        inside = torch.from_numpy(np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None])
        out = torch.zeros(*inside.shape, self.width, dtype=dtype or torch.float32)
        for place, row in enumerate(rows):
            out[place, : lengths[place]] = self.row(int(row))
        return out, inside

    def _stored(self, index: int) -> torch.Tensor:
        """Return one picture's patches as bytes, decoded once where there is room to keep them."""
        if index not in self._kept:
            picture = self.pictures.image(index)
            size = scaled_size(*picture.size, self.pixels)
            if size != picture.size:
                picture = picture.resize(size, Image.Resampling.BICUBIC)
            patches = cut(torch.from_numpy(np.array(picture)), self.pixels.patch)
            if patches.numel() > self._room:
                return patches
            self._room -= patches.numel()
            self._kept[index] = patches
        return self._kept[index]


class Cells:
    """Each patch's cell of its picture as a box, in UNITER's seven numbers."""

    width = 7

    def __init__(self, patches: PatchRows) -> None:
        self.patches = patches

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def lengths(self) -> np.ndarray:
        """Patches in each picture."""
        return self.patches.lengths

    def row(self, index: int) -> torch.Tensor:
        """Return one picture's cells [n, 7]."""
        down, across = (int(count) for count in self.patches.grids[index])
        top, left = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
        corners = torch.stack([left / across, top / down, (left + 1) / across, (top + 1) / down], dim=-1)
        return geometry(corners.reshape(-1, 4))

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some pictures' cells [rows, most, 7], and the mask [rows, most]."""
        lengths = self.lengths[rows]
        inside = torch.from_numpy(np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None])
        out = torch.zeros(*inside.shape, self.width, dtype=dtype or torch.float32)
        for place, row in enumerate(rows):
            out[place, : lengths[place]] = self.row(int(row))
        return out, inside


class PatchRegions(Regions):
    """Patches in the place of regions. A picture answers to its own name and to that of its regions, see `aliases`."""

    def index(self, name: str, needed_by: str) -> int:
        """Return the row of an image; a missing one is a `UserError` that names pictures, image and who needs it."""
        for alias in aliases(name):
            if alias in self._index:
                return self._index[alias]
        raise UserError(f"{self.where} has no picture {' or '.join(aliases(name))}, which {needed_by} needs")

    def __contains__(self, name: object) -> bool:
        return any(alias in self._index for alias in aliases(str(name)))


def patches_of(names: Sequence[str], pictures: PictureRows, pixels: Pixels, where: str) -> PatchRegions:
    """Return pictures as patches; `names` are theirs, without endings."""
    rows = PatchRows(pictures, pixels)
    nothing = Ragged(np.zeros((int(rows.lengths.sum()), 0), np.float16), np.concatenate([[0], np.cumsum(rows.lengths)]))
    return PatchRegions([aliases(name)[0] for name in names], rows, Cells(rows), nothing, where)


def open_pictures(path: Path, pixels: Pixels) -> PatchRegions:
    """Return the patches of a folder of images, of a Parquet file's images, or of the world's drawn pictures."""
    if (path / "pixels.npy").exists():
        drawn = DrawnPictures(path)
        return patches_of(drawn.names, drawn, pixels, str(path))
    found = find_pictures(path, "{stem}")
    return patches_of(found.names, EncodedPictures(found), pixels, str(path))


def find_patches(folder: Path, names: Sequence[str], pixels: Pixels) -> PatchRegions:
    """Return the pictures of a task's folder as patches.

    The first there is of `pictures_NAME/`, `pictures_NAME.parquet`, `pictures/` and `pictures.parquet` in it, else
    `pictures/` beside it.
    """
    wanted = [f"pictures_{name}" for name in names] + ["pictures"]
    places = [folder / f"{name}{ending}" for name in wanted for ending in ("", ".parquet")]
    found = next((place for place in [*places, folder.parent / "pictures"] if place.exists()), None)
    if found is None:
        raise UserError(
            f"{folder}: no pictures for {names[0]}; expected image files in {places[0].name}/ or pictures/ here, or in "
            f"{folder.parent / 'pictures'}/"
        )
    return open_pictures(found, pixels)


def aliases(name: str) -> tuple[str, ...]:
    """Return what a picture may be called, given its name or that of its regions.

    >>> aliases("coco_val2014_000000000042.npz")
    ('coco_val2014_000000000042', '000000000042', '42')
    >>> aliases("nlvr2_dev-0-1-img0.npz")
    ('nlvr2_dev-0-1-img0', 'dev-0-1-img0')
    """
    stem = name.removesuffix(".npz").lower()
    found = [stem]
    head, _, last = stem.rpartition("_")
    if head:
        found.append(last)
    if last.isdecimal():
        found.append(str(int(last)))
    return tuple(dict.fromkeys(found))


def scaled_size(width: int, height: int, pixels: Pixels) -> tuple[int, int]:
    """Return the width and height that a picture is scaled to: whole patches, at least one each way."""
    scale = pixels.shorter / min(width, height)
    longest = int(LONGER_OVER_SHORTER * pixels.shorter)
    if scale * max(width, height) > longest:
        scale = longest / max(width, height)
    sides = [int(side * scale + 0.5) // pixels.patch * pixels.patch for side in (width, height)]
    return max(sides[0], pixels.patch), max(sides[1], pixels.patch)


def cut(picture: torch.Tensor, patch: int) -> torch.Tensor:
    """Return a picture [h, w, 3] as patches [n, 3·p·p], row by row, the numbers of each in the order color, y, x."""
    height, width, _ = picture.shape
    cells = picture.reshape(height // patch, patch, width // patch, patch, 3)
    return cells.permute(0, 2, 4, 1, 3).reshape(-1, 3 * patch * patch)


def joined_pictures(patches: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """Return patches [b, n, 3·p·p] of pictures of one grid (down, across) as pixels [b, 3, h, w]; `cut` backwards."""
    down, across = grid
    cells = patches.reshape(len(patches), down, across, 3, patch, patch)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(patches), 3, down * patch, across * patch)
