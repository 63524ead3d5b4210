"""Pictures as rows of patches, which tasks take as they take regions: a patch's pixels are its feature, its cell a box.

So every task that reads an image through its regions reads it through its pixels with the same lines. A picture has as
many patches as its shape asks for, and batches are padded to the longest, with masks. Source: official-models 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from vltickets.data.picture_names import candidates, known_as
from vltickets.data.pictures import BrokenImage, Pictures, decode, first_twice, holds_pictures, list_pictures
from vltickets.data.ragged import Ragged
from vltickets.data.records import read_json
from vltickets.data.regions import Regions, geometry
from vltickets.errors import UserError
from vltickets.specs import Pixels

LONGER_OVER_SHORTER = 1333 / 800  # no longer side is more times the shorter side asked for than this
CACHE_BYTES = 2**29  # decoded patches that one set of pictures keeps in memory


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
        file = path / "pixels.npy"
        try:
            pixels = np.load(file, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a broken header is parsed as Python and raises errors of many kinds
            raise UserError(f"{file}: not an .npy file ({' '.join(str(error).split())[:200]})") from None
        bytes_of_colors = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[3:] == (3,)
        if not bytes_of_colors or not pixels.size:
            raise UserError(f"{file}: expected bytes [pictures, height, width, 3]; make the world's files again")
        names = read_json(path / "names.json")
        if not isinstance(names, list) or len(set(map(str, names))) != len(pixels):
            raise UserError(f"{path / 'names.json'}: expected a list of {len(pixels)} different names")
        self.pixels = pixels
        self.names = [str(name) for name in names]

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
        self._sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def size(self, row: int) -> tuple[int, int]:
        """Return a picture's width and height in pixels, of which only its header is read."""
        with self._named(row):
            self._sizes[row] = self.pictures.size(row)
        return self._sizes[row]

    def image(self, row: int) -> Image.Image:
        """Return a picture in RGB; one that can't be decoded is a `UserError` that names it."""
        with self._named(row):
            image = decode(self.pictures.content(row))
            if image.size != self._sizes.get(row, image.size):
                raise BrokenImage(f"its header said {self._sizes[row]}, its pixels are {image.size}")
        return image

    @contextmanager
    def _named(self, row: int) -> Iterator[None]:
        try:
            yield
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
        return scaled(self._stored(index), self.pixels)

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some pictures' patches [rows, most, 3·p·p], zeros behind their ends, and the mask [rows, most]."""
        lengths = self.lengths[rows]
        inside = _inside(lengths)
        stored = torch.zeros(*inside.shape, self.width, dtype=torch.uint8)
        for place, row in enumerate(rows):
            stored[place, : lengths[place]] = self._stored(int(row))
        out = scaled(stored, self.pixels).masked_fill_(~inside[..., None], 0.0)
        return out if dtype is None else out.to(dtype), inside

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
        return _cells(down, across)

    def padded(self, rows: np.ndarray, dtype: torch.dtype | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some pictures' cells [rows, most, 7], and the mask [rows, most]."""
        lengths = self.lengths[rows]
        inside = _inside(lengths)
        out = torch.zeros(*inside.shape, self.width, dtype=dtype or torch.float32)
        for place, row in enumerate(rows):
            out[place, : lengths[place]] = self.row(int(row))
        return out, inside


class PatchRegions(Regions):
    """Patches in the place of regions. A picture answers to its own name and to that of its regions (`candidates`).

    `own` says that the pictures are one task's: then a number alone is a name, see `data/picture_names.py`.
    """

    features: PatchRows
    own = True

    def index(self, name: str, needed_by: str) -> int:
        """Return the row of an image; a missing one is a `UserError` that names pictures, image and who needs it."""
        for candidate in candidates(name, own=self.own):
            if candidate in self._index:
                return self._index[candidate]
        wanted = " or ".join(candidates(name, own=self.own))
        raise UserError(f"{self.where} has no picture {wanted}, which {needed_by} needs")

    def __contains__(self, name: object) -> bool:
        return any(candidate in self._index for candidate in candidates(str(name), own=self.own))


def patches_of(names: Sequence[str], pictures: PictureRows, pixels: Pixels, where: str) -> PatchRegions:
    """Return pictures as patches; `names` are what they are found by (`known_as`). All sizes are looked at now."""
    rows = PatchRows(pictures, pixels)
    # Soft labels there are none: an array without columns takes no memory, however many rows it has.
    nothing = Ragged(np.zeros((int(rows.lengths.sum()), 0), np.float16), np.concatenate([[0], np.cumsum(rows.lengths)]))
    return PatchRegions(list(names), rows, Cells(rows), nothing, where)


def open_pictures(path: Path, pixels: Pixels, *, own: bool = True, identity: str = "image_id") -> PatchRegions:
    """Return the patches of a folder of images, of a Parquet file's images, or of the world's drawn pictures.

    `identity` is the Parquet column that names an image. Two images of one name, and an image whose header is broken,
    are a `UserError` that names them.
    """
    if (path / "pixels.npy").exists():
        drawn = DrawnPictures(path)
        found = patches_of([known_as(name) for name in drawn.names], drawn, pixels, str(path))
    else:
        pictures = list_pictures(path, "{stem}", identity)
        folders = [file.relative_to(path).parts[:-1] for file in pictures.files] or [()] * len(pictures)
        names = [known_as(name, inside) for name, inside in zip(pictures.names, folders, strict=True)]
        if twice := first_twice(names):
            first, second = (pictures.where(row) for row in twice)
            raise UserError(
                f"{path}: {first} and {second} are both found by the name {names[twice[0]]!r}; take one away, or put "
                "each data set's pictures into a folder called after it (docs/data.md)"
            )
        found = patches_of(names, EncodedPictures(pictures), pixels, str(path))
    found.own = own
    found._opened = partial(open_pictures, own=own, identity=identity), (path, pixels)
    return found


def are_pictures(path: Path) -> bool:
    """Say whether `open_pictures` is what opens this path: image files in or below it, a Parquet file, or drawings."""
    return (path / "pixels.npy").exists() or holds_pictures(path)


def decode_all(path: Path) -> int:
    """Return the number of pictures after decoding each; the first broken one is a `UserError` that names it."""
    drawn = (path / "pixels.npy").exists()
    pictures: PictureRows = DrawnPictures(path) if drawn else EncodedPictures(list_pictures(path))
    for row in range(len(pictures)):
        pictures.image(row)
    return len(pictures)


def find_patches(folder: Path, names: Sequence[str], pixels: Pixels) -> PatchRegions:
    """Return the pictures of a task's folder as patches.

    The first there is of `pictures_NAME/`, `pictures_NAME.parquet`, `pictures/` and `pictures.parquet` in it, else
    `pictures/` beside it, which all tasks share.
    """
    wanted = [f"pictures_{name}" for name in names] + ["pictures"]
    places = [folder / f"{name}{ending}" for name in wanted for ending in ("", ".parquet")]
    shared = folder.parent / "pictures"
    for place in places:
        if place.exists():
            return open_pictures(place, pixels)
    if not shared.exists():
        raise UserError(
            f"{folder}: no pictures for {names[0]}; expected image files in {places[0].name}/ or pictures/ here, or in "
            f"{shared}/"
        )
    return open_pictures(shared, pixels, own=False)


def scaled_size(width: int, height: int, pixels: Pixels) -> tuple[int, int]:
    """Return the width and height that a picture is scaled to: whole patches, at least one each way.

    The official rule (`MinMaxResize`) number by number, so that halves are rounded as there; only the least of one
    patch is ours: officially a side may come to nothing.
    """
    shorter, longest = pixels.shorter, int(LONGER_OVER_SHORTER * pixels.shorter)
    scale = shorter / min(width, height)
    across, down = (scale * width, float(shorter)) if height < width else (float(shorter), scale * height)
    if max(across, down) > longest:
        scale = longest / max(across, down)
        across, down = across * scale, down * scale
    sides = [int(side + 0.5) // pixels.patch * pixels.patch for side in (across, down)]
    return max(sides[0], pixels.patch), max(sides[1], pixels.patch)


def scaled(stored: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Return bytes as the numbers a backbone takes, float32 of the same shape."""
    return stored.float().div_(255).sub_(pixels.mean).div_(pixels.std)


def unscaled(values: torch.Tensor, pixels: Pixels) -> torch.Tensor:
    """Return the bytes that `scaled` made these numbers of."""
    return values.mul(pixels.std).add_(pixels.mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


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


def _inside(lengths: np.ndarray) -> torch.Tensor:
    """Return the mask [rows, most] of what is no padding."""
    return torch.from_numpy(np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None])


@lru_cache(maxsize=512)
def _cells(down: int, across: int) -> torch.Tensor:
    """Return the cells [down·across, 7] of a grid; nobody writes into them."""
    top, left = torch.meshgrid(torch.arange(down), torch.arange(across), indexing="ij")
    corners = torch.stack([left / across, top / down, (left + 1) / across, (top + 1) / down], dim=-1)
    return geometry(corners.reshape(-1, 4))
