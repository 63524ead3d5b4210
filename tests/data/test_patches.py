"""Pictures as patches: the official sizes, the same from every source, and one sentence about what can't be read."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from vltickets.data import assemble, open_folder, stream
from vltickets.data.patches import PatchRegions, cut, decode_all, joined_pictures, open_pictures, scaled_size
from vltickets.data.pictures import decode
from vltickets.data.ragged import Ragged
from vltickets.data.world import world_maker
from vltickets.errors import UserError
from vltickets.scenes import write_captions, write_entailment
from vltickets.scenes.drawing import draw
from vltickets.scenes.entailment import PartlySeen, sample_pairs
from vltickets.scenes.files import write_pictures
from vltickets.scenes.world import Scene, SceneObject
from vltickets.specs import Pixels, World

BASE = Pixels()
TINY = Pixels(patch=12, shorter=36, mean=0.0, std=0.4)
SMALL = Pixels(patch=4, shorter=12)


def made(width: int = 36, height: int = 36, seed: int = 0) -> Image.Image:
    """A picture of noise: no two of its pixels need be alike."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_images(folder: Path, images: dict[str, bytes]) -> Path:
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def alone(path: Path, pixels: Pixels = SMALL) -> torch.Tensor:
    return open_pictures(path, pixels).features.row(0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (512, 384)),
        ((480, 640), (384, 512)),
        ((500, 333), (576, 384)),
        ((640, 427), (576, 384)),  # 575.55 is rounded before it is cut down: 544 else
        ((1000, 400), (608, 256)),  # 960 is above 639; 255.6 is rounded: 224 else
        ((400, 100), (608, 160)),  # NLVR v1
        ((1000, 601), (608, 384)),  # 638.9 is not above 639
        ((1, 1), (384, 384)),
        ((10000, 1), (608, 32)),  # officially 608 by 0, which is no picture
        ((1, 3000), (32, 608)),
    ],
)
def test_sizes_are_those_of_the_official_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_size(*size, BASE) == expected


@given(some.integers(1, 5000), some.integers(1, 5000))
def test_sizes_are_whole_patches_between_the_two_sides_and_turn_with_the_picture(width: int, height: int) -> None:
    across, down = scaled_size(width, height, BASE)
    assert across % 32 == down % 32 == 0
    assert 32 <= min(across, down) <= 384
    assert max(across, down) <= 639
    assert scaled_size(height, width, BASE) == (down, across)


@given(some.integers(1, 4), some.integers(1, 4), some.sampled_from([1, 2, 5]), some.integers(0, 99))
def test_joining_patches_undoes_the_cut(down: int, across: int, patch: int, seed: int) -> None:
    picture = torch.from_numpy(np.array(made(across * patch, down * patch, seed)))
    patches = cut(picture, patch)
    assert patches.shape == (down * across, 3 * patch * patch)
    assert torch.equal(joined_pictures(patches[None], (down, across), patch)[0].permute(1, 2, 0), picture)


def test_numbers_are_scaled_pixels_and_boxes_are_their_cells(tmp_path: Path) -> None:
    picture = made(16, 12)
    found = open_pictures(write_images(tmp_path, {"a.png": encoded(picture)}), SMALL)
    row, boxes = found.features.row(0), found.boxes.row(0)
    corner = torch.from_numpy(np.array(picture))[4:8, 8:12].permute(2, 0, 1).flatten()  # second row, third cell
    torch.testing.assert_close(row[6], corner / 127.5 - 1)
    torch.testing.assert_close(boxes[6], torch.tensor([2 / 4, 1 / 3, 3 / 4, 2 / 3, 1 / 4, 1 / 3, 1 / 12]))
    assert (found.width, found.classes) == (48, 0)


def test_a_picture_is_scaled_with_bicubic(tmp_path: Path) -> None:
    picture = made(50, 33)
    path = write_images(tmp_path, {"a.png": encoded(picture)})
    smaller = picture.resize((16, 12), Image.Resampling.BICUBIC)
    assert torch.equal(alone(path), cut(torch.from_numpy(np.array(smaller)), 4).float() / 127.5 - 1)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_folder_parquet_and_drawings_give_the_same_patches(tmp_path: Path, kind: str) -> None:
    images = {f"coco_val2014_{n:012d}": encoded(made(seed=n), kind.upper()) for n in range(3)}
    pixels = [decode(content) for content in images.values()]
    write_images(tmp_path / "folder", {f"{name.upper()}.{kind}": content for name, content in images.items()})
    rows = [{"image_id": name, f"image_{kind}": content} for name, content in images.items()]
    write_table(tmp_path / "packed.parquet", rows)
    write_pictures(tmp_path / "drawn", [f"{name}.npz" for name in images], pixels)
    places = np.array([2, 0])
    found = [open_pictures(tmp_path / name, TINY) for name in ("folder", "packed.parquet", "drawn")]
    for regions in found:
        assert [regions.index(f"{name}.npz", "a test") for name in images] == [0, 1, 2]
    for first, second in pairwise(found):
        assert torch.equal(first.features.padded(places)[0], second.features.padded(places)[0])
        assert torch.equal(first.boxes.padded(places)[0], second.boxes.padded(places)[0])
    torch.testing.assert_close(found[0].features.row(0), cut(torch.from_numpy(np.array(pixels[0])), 12) / 255 / 0.4)


def test_a_batch_is_padded_to_its_longest_with_masks(tmp_path: Path) -> None:
    images = {"0.png": encoded(made(12, 12)), "1.png": encoded(made(20, 12, 1)), "2.png": encoded(made(12, 19, 2))}
    found = open_pictures(write_images(tmp_path, images), SMALL)
    assert found.features.lengths.tolist() == [9, 8, 12]  # 20 is too long: 19 by 11.4, cut to 16 by 8
    texts = Ragged.from_rows([[1, 2]] * 3)
    inputs = assemble(texts, np.arange(3), found, np.array([0, 1, 2]))
    assert inputs.features.shape == (3, 12, 48)
    assert inputs.region_mask.sum(1).tolist() == [9, 8, 12]
    assert not inputs.features[0, 9:].any()
    assert not inputs.boxes[0, 9:].any()
    assert torch.equal(inputs.features[0, :9], found.features.row(0))
    assert torch.equal(inputs.boxes[2], found.boxes.row(2))
    shorter = assemble(texts, np.arange(1), found, np.array([0]))
    assert shorter.features.shape == (1, 9, 48)


TEN = (10, 20, 30)
ONE_COLOR = Image.new("RGB", (12, 12), TEN).convert("P", palette=Image.Palette.ADAPTIVE)
MODES: dict[str, tuple[Image.Image, str, tuple[int, int, int]]] = {
    "grey": (Image.new("L", (12, 12), 51), "PNG", (51, 51, 51)),
    "black and white": (Image.new("1", (12, 12), 1), "PNG", (255, 255, 255)),
    "palette": (ONE_COLOR, "GIF", TEN),
    "alpha": (Image.new("RGBA", (12, 12), (*TEN, 0)), "PNG", TEN),
    "grey with alpha": (Image.new("LA", (12, 12), (51, 7)), "PNG", (51, 51, 51)),
    "cmyk": (Image.new("CMYK", (12, 12), (0, 255, 255, 0)), "TIFF", (255, 0, 0)),
    "16 bits": (Image.fromarray(np.full((12, 12), 51 * 256 + 7, np.uint16)), "PNG", (51, 51, 51)),
    "32 bits of small numbers": (Image.fromarray(np.full((12, 12), 51, np.int32)), "TIFF", (51, 51, 51)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_pixel_becomes_its_color(tmp_path: Path, mode: str) -> None:
    picture, kind, color = MODES[mode]
    patches = alone(write_images(tmp_path, {f"a.{kind.lower()}": encoded(picture, kind)}))
    expected = (torch.tensor(color) / 127.5 - 1).repeat_interleave(16).expand(9, -1)
    torch.testing.assert_close(patches, expected)


def test_numbers_of_no_known_range_are_no_picture(tmp_path: Path) -> None:
    floats = Image.fromarray(np.linspace(0, 1, 144, dtype=np.float32).reshape(12, 12))
    path = write_images(tmp_path, {"depth.tiff": encoded(floats, "TIFF")})
    with pytest.raises(
        UserError, match=r"depth\.tiff: the image can't be decoded \(its pixels are numbers from 0\.0 to"
    ):
        alone(path)


def test_pixels_lie_as_they_are_stored_whatever_the_camera_noted(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    path = write_images(tmp_path, {"a.png": encoded(made(20, 12), "PNG", exif=turned)})
    found = open_pictures(path, SMALL)
    assert found.features.grids.tolist() == [[2, 4]]
    assert found.features.row(0).shape == (8, 48)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2)])
def test_the_smallest_and_the_longest_pictures_have_patches(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_images(tmp_path, {"a.png": encoded(Image.new("RGB", size, (255, 255, 255)))})
    across, down = scaled_size(*size, SMALL)
    assert alone(path).shape == (across * down // 16, 48)
    torch.testing.assert_close(alone(path), torch.ones(across * down // 16, 48))


def test_a_picture_without_pixels_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(made(12, 12), "BMP"))
    content[18:22] = bytes(4)  # its width
    path = write_images(tmp_path, {"a.bmp": bytes(content)})
    with pytest.raises(UserError, match=r"a\.bmp: the image can't be decoded \(cannot identify image\)"):
        open_pictures(path, SMALL)


def test_a_parquet_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "packed.parquet"
    for seed in (0, 1):
        write_table(path, [{"image_id": "a", "image_png": encoded(made(12, 12, seed))}])
        assert torch.equal(alone(path), cut(torch.from_numpy(np.array(made(12, 12, seed))), 4).float() / 127.5 - 1)


def downloaded(folder: Path) -> None:
    """Take the regions of the made-up records away, and put pictures in their places, as they are downloaded."""
    content = encoded(made(12, 12))
    names = [f"vqa/pictures/{split}/COCO_{split}_{n:012d}.jpg" for split in ("train2014", "val2014") for n in range(3)]
    names += ["vqa/pictures/VG_100K/4.jpg", "gqa/pictures/n1.jpg", "gqa/pictures/2.jpg"]
    names += [f"snli_ve/pictures_dev/{n}.jpg" for n in range(4)]
    names += [f"pictures/flickr30k-images/{n}.jpg" for n in range(6)]
    names += [f"pictures/val2017/{n:012d}.jpg" for n in range(2)]
    names += [f"nlvr2/pictures/test1/test1-{n}-0-img{side}.png" for n in range(2) for side in (0, 1)]
    write_images(folder, dict.fromkeys(names, content))


READERS: dict[str, Callable[[Any], Any]] = {
    "vqa": lambda source: source.vqa("train", source.answers()),
    "gqa": lambda source: source.gqa("dev", source.answers("gqa")),
    "snli_ve": lambda source: source.entailment("dev"),
    "flickr30k": lambda source: source.retrieval("dev"),
    "nlvr2": lambda source: source.nlvr2("test"),
    "captions": lambda source: source.captions("dev"),
}


@pytest.mark.parametrize("task", READERS)
def test_pictures_are_found_by_the_names_they_are_downloaded_with(official: Path, task: str) -> None:
    downloaded(official)
    (official / "vqa" / "question_answers.json").write_text(
        json.dumps([{"id": 4, "qas": [{"qa_id": 9, "image_id": 4, "question": "what is red ?", "answer": "red"}]}])
    )
    by_regions, data = READERS[task](open_folder(official)), READERS[task](open_folder(official).seen_as(SMALL))
    assert isinstance(data.regions, PatchRegions)
    plain = [name.removesuffix(".npz").rpartition("_")[2].lstrip("0") or "0" for name in by_regions.regions.names]
    found = [name.rpartition("_")[2].rpartition("/")[2].lstrip("0") or "0" for name in data.regions.names]
    asked = [plain[row] for row in by_regions.images.ravel()]
    assert [found[row] for row in data.images.ravel()] == asked


def test_a_number_is_no_name_of_another_data_set(official: Path) -> None:
    downloaded(official)
    content = encoded(made(12, 12))
    (official / "pictures" / "val2017" / "000000000001.jpg").unlink()
    write_images(official / "pictures", {"VG_100K/1.jpg": content, "1.jpg": content, "flickr30k/7.jpg": content})
    with pytest.raises(UserError, match=r"has no picture coco_val2017_000000000001 or coco/1, which .*annotation 2"):
        open_folder(official).seen_as(SMALL).captions("dev")


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    content = encoded(made(12, 12))
    path = write_images(tmp_path, {"VG_100K/7.jpg": content, "VG_100K_2/7.png": content, "7.png": content})
    with pytest.raises(UserError, match=r"7\.jpg and .*7\.png are both found by the name 'vg/7'"):
        open_pictures(path, SMALL)
    (path / "VG_100K_2" / "7.png").unlink()
    assert open_pictures(path, SMALL).names == ["7", "vg/7"]


def test_what_is_missing_is_one_sentence(official: Path) -> None:
    source = open_folder(official).seen_as(SMALL)
    with pytest.raises(
        UserError, match=r"gqa: no pictures for dev; expected image files in pictures_dev/ or pictures/"
    ):
        READERS["gqa"](source)
    (official / "gqa" / "pictures").mkdir()
    with pytest.raises(UserError, match=r"gqa/pictures: no image files in it"):
        READERS["gqa"](source)
    write_images(official / "gqa" / "pictures", {"2.jpg": encoded(made(12, 12))})
    with pytest.raises(UserError, match=r"gqa/pictures has no picture vg_n1 or vg/n1 or n1, which .*testdev_balanced"):
        READERS["gqa"](source)


def test_a_broken_picture_is_named_when_it_is_needed(tmp_path: Path) -> None:
    whole = encoded(made(40, 40), "JPEG")
    path = write_images(tmp_path, {"a.jpg": whole, "b.jpg": whole[: len(whole) // 2]})
    found = open_pictures(path, SMALL)  # headers are whole
    assert found.features.row(0).shape == (9, 48)
    with pytest.raises(UserError, match=r"b\.jpg: the image can't be decoded \(image file is truncated"):
        found.features.padded(np.array([0, 1]))
    with pytest.raises(UserError, match=r"b\.jpg: the image can't be decoded"):
        decode_all(path)
    (path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"b\.jpg: the image can't be decoded \(cannot identify image\)"):
        open_pictures(path, SMALL)
    (path / "b.jpg").unlink()
    assert decode_all(path) == 1


def test_a_picture_that_changed_after_it_was_measured_is_refused(tmp_path: Path) -> None:
    path = write_images(tmp_path, {"a.png": encoded(made(12, 12))})
    found = open_pictures(path, SMALL)
    (path / "a.png").write_bytes(encoded(made(20, 12)))
    with pytest.raises(UserError, match=r"a\.png: .*its header said \(12, 12\), its pixels are \(20, 12\)"):
        found.features.padded(np.array([0]))


def test_only_headers_are_read_to_count_patches(tmp_path: Path) -> None:
    path = write_images(tmp_path, {"a.bmp": encoded(made(12, 12), "BMP")[:60]})
    assert open_pictures(path, SMALL).features.lengths.tolist() == [9]


@pytest.mark.parametrize("kind", ["folder", "parquet", "drawn"])
def test_another_process_opens_the_pictures_by_path(tmp_path: Path, kind: str) -> None:
    images = [made(seed=n) for n in range(30)]
    path = tmp_path / kind
    if kind == "folder":
        write_images(path, {f"vg_{n}.png": encoded(image) for n, image in enumerate(images)})
    elif kind == "parquet":
        write_table(path, [{"example_id": f"vg_{n}", "image_png": encoded(image)} for n, image in enumerate(images)])
    else:
        write_pictures(path, [f"vg_{n}.npz" for n in range(30)], images)
    found = open_pictures(path, TINY, own=False, identity="example_id")
    rows = np.arange(30)
    found.features.padded(rows)  # decoded, and kept
    sent = pickle.dumps(found)
    assert len(sent) < 1000
    arrived = pickle.loads(sent)
    assert torch.equal(arrived.features.padded(rows)[0], found.features.padded(rows)[0])
    assert arrived.own is False


def test_drawings_are_checked_when_they_are_opened(tmp_path: Path) -> None:
    write_pictures(tmp_path / "drawn", ["a.npz", "b.npz"], [made(), made(seed=1)])
    np.save(tmp_path / "drawn" / "pixels.npy", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(UserError, match=r"pixels\.npy: expected bytes \[pictures, height, width, 3\]"):
        open_pictures(tmp_path / "drawn", TINY)
    np.save(tmp_path / "drawn" / "pixels.npy", np.zeros((3, 36, 36, 3), np.uint8))
    with pytest.raises(UserError, match=r"names\.json: expected a list of 3 different names"):
        open_pictures(tmp_path / "drawn", TINY)


def test_the_worlds_drawings_are_its_scenes(tmp_path: Path) -> None:
    write_captions(tmp_path, "train", seed=1, scenes=4, pictures=True)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    data = open_folder(tmp_path).seen_as(TINY).captions("train")
    assert data.regions.features.lengths.tolist() == [9] * 4
    assert data.images.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert (data.regions.features.row(0) > 0).any()


def test_a_world_made_for_regions_gets_its_drawings_later_and_stays_as_it_was(tmp_path: Path) -> None:
    spec = World(generator=1, seed=3, scenes=8, examples=12, heldout=6)
    make = world_maker(spec, tmp_path)
    make("vqa", "train", False)
    before = {path: path.read_bytes() for path in (tmp_path / "vqa").rglob("*") if path.is_file()}
    assert not (tmp_path / "vqa" / "pictures_train").exists()
    make("vqa", "train", True)
    assert (tmp_path / "vqa" / "pictures_train" / "pixels.npy").exists()
    assert all(path.read_bytes() == content for path, content in before.items())
    make("gqa", "train", True)
    (tmp_path / "gqa" / "train_balanced_questions.json").unlink()
    make("gqa", "train", False)  # a part with drawings is whole: nothing is made again
    assert not (tmp_path / "gqa" / "train_balanced_questions.json").exists()
    with pytest.raises(UserError, match="no pictures for vcr"):
        make("vcr", "train", True)


def looks(scene: Scene, hidden: tuple[int, ...]) -> bytes:
    return draw(scene, hidden=hidden).tobytes()


@pytest.mark.parametrize("shape", range(5))
def test_what_is_hidden_can_not_be_seen_and_is_seen_to_be_hidden(shape: int) -> None:
    for attribute, count in ((1, 6), (3, 2)):
        scenes = [
            Scene((SceneObject((shape, *(n * (place == attribute) for place in (1, 2, 3))), 0.4, 0.6),))
            for n in range(count)
        ]
        assert len({looks(scene, (attribute,)) for scene in scenes}) == 1
        shown = {looks(scene, (-1,)) for scene in scenes}
        assert len(shown) == count
        assert looks(scenes[0], (attribute,)) not in shown


def test_all_that_a_picture_of_entailment_could_be_looks_the_same(tmp_path: Path) -> None:
    pictures: list[PartlySeen] = [pair.picture for pair in sample_pairs(2, "train", 30)]
    for picture in pictures:
        assert len({looks(scene, picture.hidden) for scene in picture.completions()}) == 1
    write_entailment(tmp_path, "train", seed=2, pairs=30, pictures=True)
    drawn = np.load(tmp_path / "snli_ve" / "pictures_train" / "pixels.npy")
    assert [image.tobytes() for image in drawn] == [looks(picture.scene, picture.hidden) for picture in pictures]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes cut off, or with some replaced, most of them near the beginning, where headers are."""
    place = int(rng.integers(len(content)) * rng.random() ** 3)
    if rng.random() < 0.3:
        return content[:place]
    junk = rng.integers(0, 256, size=int(rng.integers(1, 9)), dtype=np.uint8).tobytes()
    return content[:place] + junk + content[place + len(junk) * int(rng.integers(2)) :]


def refusal(path: Path) -> str | None:
    """Read all patches; return the sentence of the refusal, or None where all was well."""
    try:
        found = open_pictures(path, SMALL)
        values, mask = found.features.padded(np.arange(len(found.features)))
    except UserError as error:
        return str(error)
    assert torch.isfinite(values).all()
    assert mask.sum(1).tolist() == found.features.lengths.tolist()
    return None


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")


@pytest.mark.parametrize("kind", [*FORMATS, "16-bit", "names.json", "pixels.npy", "parquet"])
def test_no_bytes_of_pictures_raise_anything_but_a_user_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pictures"
    if kind in ("names.json", "pixels.npy"):
        write_pictures(path, ["a.npz", "b.npz"], [made(), made(seed=1)])
        file = path / kind
    elif kind == "parquet":
        file = write_table(path, [{"image_id": name, "image_png": encoded(made(20, 14))} for name in "abc"])
    else:
        wide = Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20) * 200)
        content = encoded(wide, "PNG") if kind == "16-bit" else encoded(made(20, 14), kind)
        file = path / f"a.{'png' if kind == '16-bit' else kind.lower()}"
        write_images(path, {file.name: content})
    whole, rng, refused = file.read_bytes(), stream("fuzz pictures", kind), 0
    for content in [whole, b"", b"\x00", whole[:20], *(damaged(whole, rng) for _ in range(60))]:
        file.write_bytes(content)
        said = refusal(path)
        assert said is None or ("\n" not in said and str(path) in said)
        refused += said is not None
    assert 3 < refused < 64
