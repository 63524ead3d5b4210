"""Official checkpoints, read safely and brought under our names: UNITER's, VILLA's, LXMERT's, ViLT's, BERT's, and
Hugging Face's of these.

Our trunk names are the official ones without `uniter.`, `bert.` or `lxmert.`; the heads keep the official names
(official-models 1.3, 1.4 and 4.2), but for LXMERT's matching head, which is `itm_output` as in UNITER. ViLT's
names are in `vilt_checkpoints.py`.
Nothing in a file is ever run: pickles are read with PyTorch's restricted reader only.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from vltickets.backbones.building import build_backbone
from vltickets.backbones.vilt_checkpoints import (
    PLACES,
    VILT_HEADS,
    VILT_WORDS,
    check_vilt_config,
    check_vilt_heads,
    fit_vilt,
    places_side,
    vilt_name,
)
from vltickets.data import read_answer_table
from vltickets.errors import UserError
from vltickets.specs import BackboneSpec, Lxmert, Vilt
from vltickets.store import write_file

FORMAT = "vltickets-weights-1"
Tensors = dict[str, torch.Tensor]
TRUNK = ("embeddings.", "img_embeddings.", "encoder.", "layernorm.", "pooler.")
DISPENSABLE = ("img_embeddings.", "pooler.")  # of the trunk, that a checkpoint may do without
HEADS = (
    "cls.predictions.",
    "feat_regress.",
    "region_classifier.",
    "itm_output.",
    "vqa_output.",
    "vcr_output.",
    "re_output.",
    "rank_output.",
    "nlvr2_output.",
    "attn1.",
    "attn2.",
    "attn_pool.",
    "fc.",
)
LXMERT_HEADS = ("cls.predictions.", "itm_output.", "obj_predict_head.", "answer_head.", "logit_fc.")
TIED = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "feat_regress.weight": "img_embeddings.img_linear.weight",
}
WORDS = "embeddings.word_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
OFFICIAL_WORDS, VCR_WORDS, OFFICIAL_REGION_WIDTH = 28996, 28996 + 81, 2048
LXMERT_WORDS = 30522
LXMERT_PREFIX = re.compile(r"^(?:lxrt_encoder\.model\.)?(?:module\.)?(?:bert\.|lxmert\.)")


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint's tensors: `missing` ones start random, `unexpected` ones were left out.

    `notes` say what else is not as it was, each in a sentence.
    """

    mapped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    grown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint under our names, float32; `sha256` is of the source file, `vocabulary` a `vocab.txt`'s text.

    `answers` are those of LXMERT's answer head, in the order of its rows, where the user named them.
    """

    backbone: BackboneSpec
    trunk: Tensors
    heads: Tensors
    report: Report
    sha256: str
    vocabulary: str | None = None
    answers: list[str] | None = None


def read_checkpoint(
    path: Path, backbone: BackboneSpec, vocabulary: Path | None = None, answers: Path | None = None
) -> Checkpoint:
    """Read a `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors` file, or a Hugging Face folder, as weights of `backbone`.

    Raises `UserError` where the file can't be read without running code, is damaged, is of another size, lacks part
    of the trunk it begins, or holds numbers that are not finite; and where `answers`, LXMERT's answer table
    (`all_ans.json`), has not as many as the answer head has rows.
    """
    file = _weight_file(path)
    words = vocabulary or (path / "vocab.txt" if path.is_dir() and (path / "vocab.txt").exists() else None)
    rename, of_heads = _naming(backbone)
    tensors, unexpected = _renamed(_unwrapped(_read(file), file), file, rename)
    side = places_side(tensors.get(PLACES))
    notes = fit_vilt(tensors, backbone, file) if isinstance(backbone, Vilt) else []
    _drop_tied(tensors, file)
    trunk = {name: value for name, value in tensors.items() if name.startswith(TRUNK)}
    heads = {name: value for name, value in tensors.items() if name.startswith(of_heads)}
    unexpected += [name for name in tensors if name not in trunk and name not in heads]
    missing, grown = _check_trunk(trunk, backbone, file)
    if isinstance(backbone, Vilt):
        missing += check_vilt_heads(heads, backbone, len(trunk[VILT_WORDS]), file)
        if path.is_dir() and (path / "config.json").exists():
            notes += check_vilt_config(path / "config.json", trunk, backbone, side)
    for name, value in (trunk | heads).items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{file}: {name} holds numbers that are not finite; the checkpoint is of a failed run")
    text = None if words is None else _vocabulary_text(words, len(trunk[_word_table(backbone)]))
    report = Report(sorted([*trunk, *heads]), missing, sorted(unexpected), grown, notes)
    return Checkpoint(backbone, trunk, heads, report, _file_hash(file), text, _answers(answers, heads, file))


def write_import(checkpoint: Checkpoint, path: Path, *, source: str) -> None:
    """Write a checkpoint as one safetensors file (float32) with all that is known of it as metadata, whole or not."""
    report = asdict(checkpoint.report)
    if not report["notes"]:
        del report["notes"]  # as before there were any: the file's hash is in studies' digests
    about: dict[str, Any] = {
        "format": FORMAT,
        "backbone": checkpoint.backbone.described(),
        "source": source,
        "source_sha256": checkpoint.sha256,
        "vocabulary": checkpoint.vocabulary,
        "report": report,
    }
    if checkpoint.answers is not None:
        about["answers"] = checkpoint.answers
    # One entry of metadata: the library writes several in an order that changes from run to run.
    write_file(path, save_tensors(checkpoint.trunk | checkpoint.heads, {"about": json.dumps(about, sort_keys=True)}))


def read_about(path: Path) -> dict[str, Any]:
    """Return what `write_import` wrote beside the tensors; a file that is no import is a `UserError`."""
    try:
        with safe_open(str(path), "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "null"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `vltickets weights import` makes it") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as imported weights ({error})") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{path} was not written by `vltickets weights import`; import the checkpoint first")
    return about


def split_import(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return the trunk and the heads of an imported file's tensors."""
    trunk = {name: value for name, value in tensors.items() if name.startswith(TRUNK)}
    return trunk, {name: value for name, value in tensors.items() if name not in trunk}


def _naming(backbone: BackboneSpec) -> tuple[Callable[[str], str], tuple[str, ...]]:
    """Return what brings official names of this kind of backbone under ours, and how its heads' names begin."""
    match backbone:
        case Lxmert():
            return lxmert_name, LXMERT_HEADS
        case Vilt():
            return vilt_name, VILT_HEADS
        case _:
            return our_name, HEADS


def _word_table(backbone: BackboneSpec) -> str:
    return VILT_WORDS if isinstance(backbone, Vilt) else WORDS


def _weight_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (path / name).exists():
                return path / name
        raise UserError(f"{path} has neither model.safetensors nor pytorch_model.bin; name such a folder or a file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    return path


def _read(path: Path) -> Any:
    if path.suffix not in (".safetensors", ".pt", ".pth", ".ckpt", ".bin"):
        raise UserError(f"{path}: expected .pt, .pth, .ckpt, .bin, .safetensors or a Hugging Face folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class|function)\s+`?([\w.]+)", str(error))
        what = f"it names {named[1]}" if named else "it is no plain table of tensors"
        plain = "save a plain state dict"
        if path.suffix == ".ckpt":  # Lightning's: callbacks and settings stand beside the weights
            plain = "where it was trained, save its state_dict alone: torch.save(loaded['state_dict'], 'plain.pt')"
        raise UserError(f"{path} was refused, and nothing in it was run: {what}; {plain}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or cut short ({reason}); fetch it again") from None


def _unwrapped(value: Any, path: Path) -> Mapping[str, Any]:
    while isinstance(value, Mapping):
        inner = next(
            (value[key] for key in ("model", "model_state", "state_dict") if isinstance(value.get(key), Mapping)), None
        )
        if inner is None:
            return value
        value = inner
    raise UserError(f"{path} holds a {type(value).__name__}; expected a state dict, tensors by name")


def _renamed(raw: Mapping[str, Any], path: Path, rename: Callable[[str], str]) -> tuple[Tensors, list[str]]:
    """Return the tensors under our names, and the names of what is no tensor."""
    out: Tensors = {}
    odd: list[str] = []
    for key, value in raw.items():
        name = rename(str(key))
        if name.endswith(("position_ids", "token_type_ids")):  # counters, no weights
            continue
        if not isinstance(value, torch.Tensor):
            odd.append(str(key))
            continue
        if name in out:
            raise UserError(f"{path} holds {name} twice, once as {key}; keep one")
        out[name] = value.detach().float().clone().contiguous()
    return out, odd


def our_name(key: str) -> str:
    """Return an official name under ours: no `module.`, `uniter.` or `bert.`; `gamma` and `beta` spelt out."""
    name = re.sub(r"^(?:module\.)?(?:uniter\.|bert\.)?", "", key)
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def lxmert_name(key: str) -> str:
    """Return LXMERT's official name, or Hugging Face's, under ours; a fine-tuned model has `lxrt_encoder.model.`."""
    name = our_name(LXMERT_PREFIX.sub("", key.removeprefix("module.")))
    return re.sub(r"^cls\.seq_relationship\.", "itm_output.", name)


def _drop_tied(tensors: Tensors, path: Path) -> None:
    for copy, original in TIED.items():
        tied = tensors.pop(copy, None)
        if tied is None:
            continue
        if original not in tensors:
            raise UserError(f"{path} has {copy} but not {original}, which it is tied to; it is half a checkpoint")
        own = tensors[original]
        if not torch.equal(tied, own) and not torch.equal(tied.t(), own):
            raise UserError(f"{path}: {copy} should equal {original}, which it is tied to, and does not")


def _check_trunk(trunk: Tensors, spec: BackboneSpec, path: Path) -> tuple[list[str], list[str]]:
    """Return the missing tensors and the grown tables; refuse another size and half a trunk."""
    words = _word_table(spec)
    if words not in trunk or trunk[words].dim() != 2:
        raise UserError(f"{path} has no {words}; it is no checkpoint of UNITER, LXMERT or BERT")
    types = len(trunk[TYPES]) if TYPES in trunk else 2
    features = "encoder.visn_fc.visn_fc.weight" if isinstance(spec, Lxmert) else "img_embeddings.img_linear.weight"
    width = trunk[features].shape[-1] if features in trunk else OFFICIAL_REGION_WIDTH
    with torch.device("meta"):
        model = build_backbone(
            spec, vocabulary=len(trunk[words]), region_width=width, dropout=0.0, type_count=max(types, 2)
        )
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in [*expected, *(name for name in trunk if name not in expected)]:
        found = tuple(trunk[name].shape) if name in trunk else None
        if found is not None and found != expected.get(name):
            wanted = expected.get(name, "no such tensor")
            raise UserError(f"{path} does not fit the backbone: {name} should be {wanted}, found {found}")
    missing = [name for name in expected if name not in trunk]
    whole = tuple(part for part in TRUNK if part not in DISPENSABLE or any(name.startswith(part) for name in trunk))
    if half := [name for name in missing if name.startswith(whole)]:
        raise UserError(f"{path} is half a checkpoint: it lacks {half[0]} ({len(half)} tensors in all)")
    grown = [f"{TYPES}: {types} rows instead of 2"] if types > 2 else []
    if len(trunk[words]) == VCR_WORDS:
        grown.append(f"{words}: {VCR_WORDS} rows instead of {OFFICIAL_WORDS}")
    return missing, grown


def _vocabulary_text(path: Path, rows: int) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as a vocabulary ({error})") from None
    count = len(text.removesuffix("\n").split("\n"))
    if count > rows or (count < rows and rows - count != VCR_WORDS - OFFICIAL_WORDS):
        raise UserError(f"{path} has {count} words, the checkpoint's word table {rows} rows; name its own vocabulary")
    return text


def _answers(table: Path | None, heads: Tensors, path: Path) -> list[str] | None:
    if table is None:
        return None
    answers = read_answer_table(table)
    rows = heads.get("answer_head.logit_fc.3.weight")
    if rows is None:
        raise UserError(f"{path} has no answer head (answer_head.logit_fc), so the answers of {table} name nothing")
    if len(rows) != len(answers):
        raise UserError(f"{table} has {len(answers)} answers, the answer head of {path} {len(rows)} rows; name its own")
    return answers


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
