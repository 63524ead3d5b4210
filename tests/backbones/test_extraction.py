"""`data extract`: what a detector finds is what the store holds, whatever broke or was killed on the way."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vltickets.backbones.detector import Detector, KeepRule, load_detector
from vltickets.backbones.extraction import BrokenList
from vltickets.cli.main import main
from vltickets.data import read_regions
from vltickets.data.pictures import find_pictures
from vltickets.errors import UserError

transformers = pytest.importorskip("transformers")
CLASSES = 5
SRC = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="session")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DETR of a toy size: a softmax over the classes and "no object"."""
    folder = tmp_path_factory.mktemp("detr")
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=20,
        num_labels=CLASSES,
        **sizes,
    )
    model = transformers.DetrForObjectDetection(config)
    torch.nn.init.normal_(model.class_labels_classifier.weight, std=2.0)
    save(model, transformers.DetrImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 64}), folder)
    return folder


@pytest.fixture(scope="session")
def rt_detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random RT-DETR of a toy size: a sigmoid for each class."""
    folder = tmp_path_factory.mktemp("rt-detr")
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        depths=[1] * 4,
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    sizes = {"encoder_hidden_dim": 16, "encoder_ffn_dim": 16, "d_model": 16, "decoder_ffn_dim": 16}
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[16] * 3,
        decoder_in_channels=[16] * 3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        decoder_layers=1,
        num_queries=30,
        num_denoising=0,
        num_labels=CLASSES,
        **sizes,
    )
    model = transformers.RTDetrForObjectDetection(config)
    processor = transformers.RTDetrImageProcessorPil(size={"height": 64, "width": 64})
    save(model, processor, folder)
    return folder


def save(model: torch.nn.Module, processor: object, folder: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)  # type: ignore[operator]
    processor.save_pretrained(folder)  # type: ignore[attr-defined]


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(int(x) for x in draw.integers(0, 256, 3)))
    for _ in range(3):
        x, y = draw.integers(0, 30, 2)
        colour = tuple(int(value) for value in draw.integers(0, 256, 3))
        ImageDraw.Draw(image).rectangle((int(x), int(y), int(x) + 20, int(y) + 15), fill=colour)
    return image


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures in two folders, the third of them cut short, the fifth no picture."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for number in range(4):
        picture(number).save(folder / f"img_{number}.jpg")
    cut = (folder / "img_2.jpg").read_bytes()
    (folder / "img_2.jpg").write_bytes(cut[: len(cut) // 2])
    picture(4, (31, 77)).save(folder / "b" / "img_004.PNG")
    (folder / "b" / "img_5.gif").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `vltickets data extract` in this process; return exit code, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vltickets", "data", "extract", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return (end.value.code or 0, *capsys.readouterr())  # type: ignore[return-value]

    return call


def files_of(store: Path) -> dict[str, bytes]:
    if store.is_file():
        return {"": store.read_bytes()}
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def raw_outputs(detector: Detector, image: Image.Image) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Return states, the library's own boxes (shares of the image) with scores, and logits."""
    inputs = detector.processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        outputs = detector.model(**inputs)
    found = detector.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(1, 1)])[0]
    return outputs.last_hidden_state[0], found, outputs.logits[0]


def test_detr_gives_the_librarys_boxes_scores_and_states_with_the_background_first(detr: Path) -> None:
    detector = load_detector(detr)
    states, library, logits = raw_outputs(detector, picture(1))
    found = detector.detect(picture(1), KeepRule(threshold=0, least=1, most=1000))
    order = library["scores"].argsort(descending=True, stable=True)
    assert len(found.scores) == 20
    torch.testing.assert_close(found.scores, library["scores"][order])
    torch.testing.assert_close(found.boxes, library["boxes"][order].clamp(0, 1))
    torch.testing.assert_close(found.features, states[order])
    assert torch.equal(found.soft_labels[:, 1:].argmax(-1), library["labels"][order])
    torch.testing.assert_close(found.soft_labels[:, 0], logits.softmax(-1)[order, -1])
    torch.testing.assert_close(found.soft_labels.sum(-1), torch.ones(20))


def test_rt_detr_gives_the_librarys_boxes_scores_and_states(rt_detr: Path) -> None:
    detector = load_detector(rt_detr)
    states, library, logits = raw_outputs(detector, picture(1))
    found = detector.detect(picture(1), KeepRule(threshold=0, least=1, most=1000))
    likeliest = library["scores"].argmax()
    assert found.features.shape == (30, 16)
    torch.testing.assert_close(found.scores[0], library["scores"][likeliest])
    torch.testing.assert_close(found.boxes[0], library["boxes"][likeliest].clamp(0, 1))
    assert found.soft_labels[0, 1:].argmax() == library["labels"][likeliest]
    order = logits.amax(-1).argsort(descending=True, stable=True)
    torch.testing.assert_close(found.features, states[order])
    # Divided by the same sum, the classes keep their proportions, and the background what the likeliest leaves.
    expected = torch.cat([1 - found.scores[:, None], logits.sigmoid()[order]], dim=-1)
    torch.testing.assert_close(found.soft_labels, expected / expected.sum(-1, keepdim=True))


def test_boxes_are_corners_cut_at_the_images_edge(detr: Path) -> None:
    detector = load_detector(detr)
    last = detector.model.bbox_predictor.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.25, 0.5, 0.8, 0.2]).logit())  # centre x, y, width, height
    boxes = detector.detect(picture(0), KeepRule()).boxes
    torch.testing.assert_close(boxes, torch.tensor([0.0, 0.4, 0.65, 0.6]).expand_as(boxes))


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (KeepRule(0.5, 1, 9), [3, 1]),
        (KeepRule(0.2, 1, 9), [3, 1, 0]),
        (KeepRule(0.5, 3, 9), [3, 1, 0]),
        (KeepRule(0.0, 1, 2), [3, 1]),
        (KeepRule(0.9, 9, 9), [3, 1, 0, 2]),
    ],
)
def test_the_rule_keeps_what_scores_enough_within_its_bounds(rule: KeepRule, kept: list[int]) -> None:
    assert rule.choose(torch.tensor([0.2, 0.5, 0.1, 0.6])).tolist() == kept


def test_a_folder_with_broken_images_becomes_a_store_of_the_others(
    run: Callable[..., tuple[int, str, str]], photos: Path, detr: Path, tmp_path: Path
) -> None:
    out = tmp_path / "regions"
    code, said, errors = run(photos, "--detector", detr, "--out", out, "--least", 3, "--most", 5, "--threshold", 0)
    assert (code, errors) == (0, "")
    assert "4 images" in said
    assert "2 broken images" in said
    regions = read_regions(out)
    assert regions.names == ["img_004.npz", "img_0.npz", "img_1.npz", "img_3.npz"]
    assert (regions.width, regions.classes) == (16, CLASSES + 1)
    detector = load_detector(detr)
    for row, file in enumerate(["b/img_004.PNG", "img_0.jpg", "img_1.jpg", "img_3.jpg"]):
        with Image.open(photos / file) as image:
            found = detector.detect(image.convert("RGB"), KeepRule(0, 3, 5))
        assert found.boxes.shape == (5, 4)
        torch.testing.assert_close(regions.features.row(row).float(), found.features, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(regions.boxes.row(row)[:, :4], found.boxes)
        torch.testing.assert_close(regions.soft_labels.row(row).float(), found.soft_labels, atol=1e-3, rtol=1e-3)
    listed = Path(f"{out}.broken.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in listed] == ["img_5.npz", "img_2.npz"]
    assert not Path(f"{out}.partial").exists()


def test_a_parquet_file_and_its_columns_name_the_images(
    run: Callable[..., tuple[int, str, str]], rt_detr: Path, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [encoded(picture(0)), None, encoded(picture(1))]
    table = pa.table({"image_id": [42, 7, 1], "split": ["val", "val", "train"], "image_jpeg": images})
    pq.write_table(table, tmp_path / "images.parquet")
    form = "coco_{split}2017_{id:012d}.npz"
    words = (tmp_path / "images.parquet", "--detector", rt_detr, "--out", tmp_path / "out", "--name-format", form)
    code, said, _ = run(*words)
    assert code == 0
    assert read_regions(tmp_path / "out").names == ["coco_val2017_000000000042.npz", "coco_train2017_000000000001.npz"]
    assert "coco_val2017_000000000007.npz" in said


def test_names_take_the_number_a_file_ends_in_and_its_path(photos: Path) -> None:
    shutil.copy(photos / "img_0.jpg", photos / "COCO_val2014_000000000042.jpg")
    assert "coco_val2014_000000000042.npz" in find_pictures(photos, "coco_val2014_{id:012d}.npz").names
    assert "vcr_b_img_004.npz" in find_pictures(photos, "vcr_{path}.npz").names


def test_a_store_that_extraction_made_trains_a_model_on_coco_s_own_captions(
    run: Callable[..., tuple[int, str, str]], rt_detr: Path, shared: Path, tmp_path: Path
) -> None:
    coco, folder = shared / "data" / "coco_mini", tmp_path / "coco"
    form = "coco_{split}2017_{id:012d}.npz"
    code, said, _ = run(
        coco / "images.parquet", "--detector", rt_detr, "--out", folder / "regions" / "coco", "--name-format", form,
        "--least", 4,
    )  # fmt: skip
    assert code == 0, said
    regions = read_regions(folder / "regions" / "coco")
    words: set[str] = set()
    for split in ("train", "val"):
        content = json.loads((coco / f"captions_{split}2017.json").read_text())
        there = [
            item
            for item in content["annotations"]
            if f"coco_{split}2017_{item['image_id']:012d}.npz"
            in regions.names  # the samples name more photos than they have
        ]
        words |= {word for item in there for word in re.findall(r"\w+|[^\w\s]", item["caption"].lower())}
        (folder / "captions").mkdir(exist_ok=True)
        (folder / "captions" / f"captions_{split}2017.json").write_text(json.dumps(content | {"annotations": there}))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*specials, *sorted(words)]) + "\n")
    (tmp_path / "mine.toml").write_text(MATCHING)
    command = ["study", "run", tmp_path / "mine.toml", "--data", folder, "--store", tmp_path / "store", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "vltickets", *map(str, command), "--workers", "0"],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["baseline"]: row["mean"] for row in json.loads(done.stdout)}
    assert 0 <= rows["full"] <= 1
    assert rows["chance"] == 1 / 5


MATCHING = """
title = "Matching on extracted regions"
data = "folder"
backbone = "tiny"
task = "matching"
options = { candidates = 5 }
split = "dev"
start = "fresh"
seeds = [0]
baselines = ["full"]

[training]
steps = 12
learning_rate = 1e-3
batch_tokens = 512
"""

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from vltickets.backbones.detector import KeepRule, load_detector
from vltickets.backbones.extraction import extract_regions
from vltickets.data.pictures import find_pictures

images, detector, out, at = sys.argv[1:]
torch.set_num_threads(1)

def tell(done, total):
    print(done, flush=True)
    if done == int(at):
        os.kill(os.getpid(), signal.SIGKILL)

extract_regions(find_pictures(Path(images)), load_detector(Path(detector)), Path(out), KeepRule(), tell)
"""


def test_killed_twice_and_continued_the_store_has_the_same_bytes(
    run: Callable[..., tuple[int, str, str]], photos: Path, detr: Path, tmp_path: Path
) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    seen = []
    for at in ("2", "5"):  # in this order: img_004, the broken img_5, img_0, img_1, the broken img_2, img_3
        command = [sys.executable, "-c", KILLED, str(photos), str(detr), str(out), at]
        environment = os.environ | {"PYTHONPATH": str(SRC)}
        end = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert end.returncode == -signal.SIGKILL, end.stderr
        assert not out.exists()
        seen.append([int(word) for word in end.stdout.split()])
    assert seen == [[0, 1, 2], [2, 3, 4, 5]]  # nothing is done twice, broken images neither
    code, said, _ = run(photos, "--detector", detr, "--out", out)
    assert (code, "4 images, 3 of them by an earlier run" in said) == (0, True), said
    assert run(photos, "--detector", detr, "--out", undisturbed)[0] == 0
    assert files_of(out) == files_of(undisturbed)
    lists = [Path(f"{store}.broken.txt").read_bytes() for store in (out, undisturbed)]
    assert lists[0] == lists[1]


def test_what_was_begun_with_images_all_broken_is_not_continued_by_another_rule(
    run: Callable[..., tuple[int, str, str]], photos: Path, detr: Path, tmp_path: Path
) -> None:
    words = (photos, "--detector", detr, "--out", tmp_path / "out")
    contents = (photos / "img_3.jpg").read_bytes()
    for name in find_pictures(photos).files:
        name.write_bytes(b"broken")
    code, _, errors = run(*words)
    assert (code, "all 6 images are broken" in errors) == (2, True), errors
    (photos / "img_3.jpg").write_bytes(contents)
    code, _, errors = run(*words, "--most", 20)
    assert (code, "keep differ" in errors) == (2, True), errors
    shutil.rmtree(tmp_path / "out.partial")  # as the message says
    assert run(*words, "--most", 20)[0] == 0
    assert read_regions(tmp_path / "out").names == ["img_3.npz"]
    code, _, errors = run(*words, "--most", 20)
    assert (code, "is there already" in errors) == (2, True)


def test_an_image_with_a_torn_line_in_the_list_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    path.write_text("a.npz\ttruncated\nb.np", encoding="utf-8")
    broken = BrokenList(path)
    assert broken.reasons == {"a.npz": "truncated"}
    broken.add("b.npz", "no image")
    assert BrokenList(path).reasons == {"a.npz": "truncated", "b.npz": "no image"}


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3), (200, 1)])
def test_an_image_of_odd_shape_is_run_or_listed(
    size: tuple[int, int], run: Callable[..., tuple[int, str, str]], detr: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    picture(0).save(tmp_path / "photos" / "usual.png")
    picture(0, size).save(tmp_path / "photos" / "odd.png")
    code, _, errors = run(tmp_path / "photos", "--detector", detr, "--out", tmp_path / "out")
    assert (code, errors) == (0, "")
    listed = tmp_path / "out.broken.txt"
    assert len(read_regions(tmp_path / "out").names) + listed.exists() == 2


def without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def other_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def timm_backbone(folder: Path) -> None:
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    config = {"model_type": "detr", "use_timm_backbone": True, "backbone": "resnet50"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def no_detector(folder: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(folder)


def no_decoder(folder: Path) -> None:
    config = transformers.YolosConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=[48, 48],
        num_detection_tokens=4,
    )
    save(transformers.YolosForObjectDetection(config), transformers.YolosImageProcessorPil(), folder)


def no_heads(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.DetrModel(config).save_pretrained(folder)


def own_code(folder: Path) -> None:
    """A model whose code lies in its folder, and tells when it is run."""
    code = f"open({str(folder.parent / 'code-was-run')!r}, 'w')\n"
    (folder / "own.py").write_text(code + "from transformers import DetrConfig\nclass Own(DetrConfig): pass\n")
    other_config(folder, model_type="own", auto_map={"AutoConfig": "own.Own"})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: without(folder, "config.json"), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: other_config(folder, model_type="no such"), "config.json"),
        (lambda folder: without(folder, "preprocessor_config.json"), "no preprocessor_config.json"),
        (lambda folder: without(folder, "model.safetensors"), "has no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{}"), "can't load the weights"),
        (lambda folder: other_config(folder, encoder_ffn_dim=32), "another shape"),
        (pickled, "pickle"),
        (timm_backbone, "timm, which is not installed"),
        (no_detector, "no detector"),
        (no_decoder, "no decoder state"),
        (own_code, "can't load config.json"),
        (no_heads, "the weights lack 8 tensors"),
    ],
)
def test_a_folder_that_is_no_detector_is_one_sentence(
    spoil: Callable[[Path], None],
    expected: str,
    run: Callable[..., tuple[int, str, str]],
    photos: Path,
    detr: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "detector"
    shutil.copytree(detr, folder)
    spoil(folder)
    code, _, errors = run(photos, "--detector", folder, "--out", tmp_path / "out")
    assert code == 2
    assert expected in errors
    assert str(folder) in errors
    assert len(errors.splitlines()) == 1, errors
    assert not list(tmp_path.glob("out*"))
    assert not (tmp_path / "code-was-run").exists()


def test_without_transformers_the_sentence_says_what_to_install(detr: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'vltickets\[hf\]'"):
        load_detector(detr)


def test_images_that_are_none_are_one_sentence(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("text")
    shutil.copy(photos / "img_0.jpg", photos / "b" / "img_0.png")
    for path, form, expected in [
        (tmp_path / "absent", "{stem}.npz", "no such folder or file"),
        (tmp_path / "empty", "{stem}.npz", "no image files"),
        (tmp_path / "text.parquet", "{stem}.npz", "neither a folder nor a Parquet file"),
        (photos, "{stem}.npz", "would both be called 'img_0.npz'"),
        (photos, "{colour}.npz", "colour"),
        (photos, "{stem", "expected '}'"),
        (photos, "{stem:012d}", "does not fit"),
    ]:
        with pytest.raises(UserError, match=expected):
            find_pictures(path, form)
    picture(0).save(photos / "cat.jpg")
    with pytest.raises(UserError, match="'cat' does not end in a number"):
        find_pictures(photos, "{id}_{path}.npz")


def test_a_device_that_is_not_there_is_one_sentence(detr: Path) -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(UserError, match=f"no device '{device}'"):
            load_detector(detr, device)
