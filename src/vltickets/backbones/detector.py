"""An object detector that transformers loads from a local folder, as a source of region features.

DETR and its relatives (RT-DETR, Deformable DETR, ...): a decoder's queries, each with a state, a box and class scores.
Nothing is fetched, no pickle is read and no code of the folder is run.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vltickets.data.pictures import BrokenImage
from vltickets.errors import UserError

INSTALL = "pip install 'vltickets[hf]'"
GREY = Image.new("RGB", (64, 64), (128, 128, 128))


@dataclass(frozen=True)
class KeepRule:
    """Which of a detector's boxes are kept: all that score `threshold`, but at least `least` and at most `most`.

    As the official features were cut, with a score of 0.2 and 10 to 100 boxes (official-models 1.2).
    """

    threshold: float = 0.2
    least: int = 10
    most: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"the score threshold {self.threshold} should lie between 0 and 1")
        if not 1 <= self.least <= self.most:
            raise UserError(f"at least {self.least} and at most {self.most} boxes: expected 1 ≤ least ≤ most")

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the rows kept of `scores` [queries], the highest first; of equal ones the earlier query."""
        order = torch.argsort(scores, descending=True, stable=True)
        count = int((scores >= self.threshold).sum())
        return order[: min(max(count, self.least), self.most)]


@dataclass(frozen=True)
class Detections:
    """One image's kept boxes, by falling score; float32 on the CPU.

    `features` [n, width] the decoder's last states; `boxes` [n, 4] x1 y1 x2 y2, 0 to 1; `soft_labels` [n, classes],
    class 0 the background, each row summing to 1; `scores` [n] the probability of the likeliest class.
    """

    features: torch.Tensor
    boxes: torch.Tensor
    soft_labels: torch.Tensor
    scores: torch.Tensor


class Detector:
    """A detector with its image processor; `width` numbers a feature, `classes` with the background among them."""

    def __init__(self, model: Any, processor: Any, folder: Path, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.processor = processor
        self.folder = folder
        self.device = device
        trial = self.detect(GREY, KeepRule())
        self.width = trial.features.shape[1]
        self.classes = trial.soft_labels.shape[1]

    @torch.inference_mode()
    def detect(self, image: Image.Image, rule: KeepRule) -> Detections:
        """Return the boxes kept of one RGB image.

        An image that the processor refuses, such as one a pixel high, is a `BrokenImage`; a model without queries, or
        one that gives no finite numbers, a `UserError`.
        """
        try:
            # Said, because the processor would take an image three pixels high for one with its channels first.
            inputs = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")
        except (ValueError, ArithmeticError) as error:
            raise BrokenImage(f"the image processor refuses it ({_first_line(error)})") from error
        inputs = inputs.to(self.device)
        outputs = self.model(**inputs)
        states = getattr(outputs, "last_hidden_state", None)
        logits = outputs.logits[0].float()
        if not isinstance(states, torch.Tensor) or states.shape[:2] != outputs.logits.shape[:2]:
            raise UserError(
                f"{self.folder}: {type(self.model).__name__} has no decoder state for each box, so no region features "
                "can be taken; use a DETR or RT-DETR"
            )
        labels, scores = self._labels(logits)
        centres, sides = outputs.pred_boxes[0].float().split(2, dim=-1)
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1).clamp(0, 1)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(-1).nonzero().squeeze(-1)  # of the others nothing is in the image
        kept = inside[rule.choose(scores[inside])]
        found = [part[kept].cpu() for part in (states[0].float(), boxes, labels, scores)]
        if not all(bool(part.isfinite().all()) for part in found):
            raise UserError(f"{self.folder}: the detector gives values that are not finite; are its weights broken?")
        return Detections(*found)

    def _labels(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return soft labels [queries, classes + 1], background first, and scores [queries] from `logits`.

        With one logit more than classes the last is "no object" and a softmax goes over all (DETR). Else each class is
        a yes or no of its own (RT-DETR's focal loss): the background is what the likeliest class leaves, and all is
        divided by its sum. Source: `post_process_object_detection` of the models' image processors.
        """
        classes = int(self.model.config.num_labels)
        if logits.shape[-1] == classes + 1:
            labels = logits.softmax(-1).roll(1, dims=-1)
            return labels, labels[:, 1:].amax(-1)
        if logits.shape[-1] != classes:
            raise UserError(f"{self.folder}: {logits.shape[-1]} scores a box do not fit the {classes} classes")
        probabilities = logits.sigmoid()
        scores = probabilities.amax(-1)
        labels = torch.cat([1 - scores[:, None], probabilities], dim=-1)
        return labels / labels.sum(-1, keepdim=True), scores


def load_detector(folder: Path, device: str = "cpu") -> Detector:
    """Load the detector in `folder`; anything amiss with folder, format or device is a `UserError`."""
    _check_folder(folder)
    place = _device(device)
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise UserError(f"{folder} needs transformers to be run: {INSTALL}") from None
    with _silent(transformers.utils.logging):
        return Detector(*_load(transformers, folder), folder, place)


def _load(transformers: Any, folder: Path) -> tuple[Any, Any]:
    # A detector of someone else's: their code is never run, and nothing is asked of the network.
    local = {"local_files_only": True, "trust_remote_code": False}
    config = _loaded(folder, "config.json", lambda: transformers.AutoConfig.from_pretrained(folder, **local))
    _check_config(transformers, folder, config)
    processor = _loaded(
        folder,
        "the image processor",
        lambda: transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **local),
    )
    model, report = _loaded(
        folder,
        "the weights",
        lambda: transformers.AutoModelForObjectDetection.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that they are reported; below they are refused
            output_loading_info=True,
            dtype=torch.float32,
            **local,
        ),
    )
    # transformers fills what is missing or does not fit with random numbers; such boxes would be noise.
    random = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if random:
        raise UserError(
            f"{folder}: the weights lack {len(random)} tensors of the {type(model).__name__} in config.json, "
            f"or have them in another shape, {random[0]} among them; expected a whole detector with its heads"
        )
    return model, processor


@contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Keep transformers' own tables and bars off the screen: what matters of them is a `UserError` here."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a detector saved by transformers' save_pretrained")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; expected a detector saved by transformers' save_pretrained")
    if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles:
            raise UserError(
                f"{folder} has its weights as pickle ({pickles[0]}), which can run code and is not read; "
                "expected model.safetensors: save the model again with save_pretrained"
            )
        raise UserError(f"{folder} has no model.safetensors; expected the weights of a detector")
    if not (folder / "preprocessor_config.json").is_file():
        raise UserError(
            f"{folder} has no preprocessor_config.json; save the model's image processor there with save_pretrained"
        )
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: not JSON ({error})") from None
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise UserError(f"{folder / 'config.json'}: no model_type; expected transformers' description of a detector")
    if raw.get("backbone") and not raw.get("backbone_config") and raw.get("use_timm_backbone") is False:
        raise UserError(
            f"{folder / 'config.json'} names its backbone {raw['backbone']!r} without describing it, so it would have "
            "to be fetched; expected a backbone_config"
        )


def _check_config(transformers: Any, folder: Path, config: Any) -> None:
    if type(config) not in transformers.MODEL_FOR_OBJECT_DETECTION_MAPPING:
        raise UserError(
            f"{folder} holds a model of type {config.model_type!r}, which is no detector; expected DETR, RT-DETR or "
            "another that AutoModelForObjectDetection knows"
        )
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) == "timm_backbone" and importlib.util.find_spec("timm") is None:
        raise UserError(
            f"{folder}: the detector's backbone comes from timm, which is not installed (it brings torchvision along); "
            "use a detector with a backbone of transformers' own, such as RT-DETR"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"no device {name!r} on this machine ({_first_line(error)}); try --device cpu") from None
    return device


def _loaded(folder: Path, what: str, load: Any) -> Any:
    try:
        return load()
    except MemoryError:
        raise
    except Exception as error:  # a foreign folder can make the library raise nearly anything
        raise UserError(f"{folder}: transformers can't load {what} ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
