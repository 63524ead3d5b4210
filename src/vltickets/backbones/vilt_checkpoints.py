"""ViLT's checkpoints under our names: the official Lightning file's, and the library transformers' of all its classes.

Our trunk has the names of `ViltModel`; heads keep the official names, but for those of pre-training, named as UNITER's.
Needs no transformers: it works on tables of tensors. Source: official-models 5.1.
"""

from __future__ import annotations

import json
import re
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from vltickets.errors import UserError
from vltickets.specs import Vilt

Tensors = dict[str, torch.Tensor]
VILT_WORDS = "embeddings.text_embeddings.word_embeddings.weight"
VILT_HEADS = ("cls.predictions.", "itm_output.", "rank_output.", "vqa_classifier.", "nlvr2_classifier.")
TYPES = "embeddings.token_type_embeddings.weight"
PLACES = "embeddings.position_embeddings"
DECODER, DECODER_BIAS, WORD_BIAS = "mlm_score.decoder.weight", "mlm_score.decoder.bias", "cls.predictions.bias"
LAYER = r"^transformer\.blocks\.(\d+)\."
RENAMES = (
    (r"^(?:module\.)?(?:vilt\.)?", ""),
    (r"^(text|token_type)_embeddings\.", r"embeddings.\1_embeddings."),
    (r"^transformer\.cls_token$", "embeddings.cls_token"),
    (r"^transformer\.pos_embed$", PLACES),
    (r"^transformer\.patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (LAYER + r"norm1\.", r"encoder.layer.\1.layernorm_before."),
    (LAYER + r"norm2\.", r"encoder.layer.\1.layernorm_after."),
    (LAYER + r"attn\.qkv\.", r"encoder.layer.\1.attention.attention.qkv."),
    (LAYER + r"attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (LAYER + r"mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (LAYER + r"mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"^transformer\.norm\.", "layernorm."),
    (r"^mlm_score\.(transform\.|bias$)", r"cls.predictions.\1"),
    (r"^itm_score\.fc\.", "itm_output."),
)


def vilt_name(key: str) -> str:
    """Return an official or a library's name under ours; fused `qkv` and the classes' `classifier` wait for `fit`."""
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    return key


def fit_vilt(tensors: Tensors, spec: Vilt, path: Path) -> list[str]:
    """Bring renamed tensors into the backbone's form, in place, and return what is to be said about it.

    Fused attention is split, a table of places is resized to the spec's grid, and a library's `classifier` gets its
    task's name; what stays under a name of another is left out. Raises `UserError` for what is no ViLT.
    """
    if VILT_WORDS not in tensors or tensors[VILT_WORDS].dim() != 2:
        _refuse_other(tensors, path)
    _split_attention(tensors, path)
    _name_classifier(tensors, spec.hidden)
    return [*_resize_places(tensors, spec.pixels.grid), *_untie_words(tensors, path)]


def _refuse_other(tensors: Tensors, path: Path) -> None:
    if any(re.search(r"(^|\.)embeddings\.word_embeddings\.weight$", name) for name in tensors):
        raise UserError(
            f"{path} is of BERT's kind: its layers have their norms behind them and ViLT's before, so none of it maps "
            f"(ViLT officially starts from an image transformer); import a checkpoint of ViLT itself"
        )
    raise UserError(f"{path} has no {VILT_WORDS}; it is no checkpoint of ViLT")


def _split_attention(tensors: Tensors, path: Path) -> None:
    for name in [name for name in tensors if ".attention.attention.qkv." in name]:
        fused = tensors.pop(name)
        if not fused.dim() or len(fused) % 3:
            raise UserError(f"{path}: {name}, of shape {tuple(fused.shape)}, does not split into query, key and value")
        for part, value in zip(("query", "key", "value"), fused.chunk(3), strict=True):
            own = name.replace(".qkv.", f".{part}.")
            if own in tensors:
                raise UserError(f"{path} holds {own} twice, once inside {name}; keep one")
            tensors[own] = value.clone()


def _name_classifier(tensors: Tensors, hidden: int) -> None:
    """Tell by its first layer which task a library's `classifier` is for; any other stays as it is."""
    first = tuple(tensors.get("classifier.0.weight", torch.zeros(0)).shape)
    last = tuple(tensors.get("classifier.3.weight", torch.zeros(0)).shape)
    widths: dict[tuple[int, ...], str] = {(2 * hidden, hidden): "vqa", (2 * hidden, 2 * hidden): "nlvr2"}
    task = widths.get(first)
    if task is None or (task == "nlvr2" and last != (2, 2 * hidden)):
        return
    for name in [name for name in tensors if name.startswith("classifier.")]:
        tensors[f"{task}_{name}"] = tensors.pop(name)


def _resize_places(tensors: Tensors, grid: int) -> list[str]:
    table = tensors.get(PLACES)
    side = places_side(table)
    if table is None or side in (0, grid):
        return []
    learned = table[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    scaled = F.interpolate(learned, size=(grid, grid), mode="bilinear", align_corners=True)
    tensors[PLACES] = torch.cat([table[:, :1], scaled.flatten(2).transpose(1, 2)], dim=1).contiguous()
    return [f"{PLACES}: {side} x {side} places resized to {grid} x {grid} (bilinear, corners aligned)"]


def places_side(table: torch.Tensor | None) -> int:
    """Return the places along one side of a table [1, 1 + side·side, d]; 0 for what is no such table."""
    if table is None or table.dim() != 3 or len(table) != 1:
        return 0
    side = isqrt(max(table.shape[1] - 1, 0))
    return side if side * side == table.shape[1] - 1 else 0


def _untie_words(tensors: Tensors, path: Path) -> list[str]:
    """Drop the decoder of masked words where it is the word table; else it stays, to be left out, and this is said."""
    bias = tensors.pop(DECODER_BIAS, None)
    if bias is not None and not torch.equal(tensors.setdefault(WORD_BIAS, bias), bias):
        raise UserError(f"{path}: {DECODER_BIAS} should equal mlm_score.bias, which it is tied to, and does not")
    decoder = tensors.get(DECODER)
    if decoder is None:
        return []
    if torch.equal(decoder, tensors[VILT_WORDS]):
        del tensors[DECODER]
        return []
    return [f"{DECODER} is not tied to the word table, as ours is: it is left out, so masked words are decoded by that"]


def check_vilt_heads(heads: Tensors, spec: Vilt, words: int, path: Path) -> list[str]:
    """Return the pre-training heads that a checkpoint lacks whole; part of a head, or another size, is refused."""
    lacking: list[str] = []
    answers = next((len(heads[name]) for name in heads if name == "vqa_classifier.3.weight"), 1)
    for prefix, shapes in _head_shapes(spec.hidden, words, answers).items():
        found = {name: tuple(value.shape) for name, value in heads.items() if name.startswith(prefix)}
        if not found:
            lacking += [prefix + name for name in shapes if prefix in ("cls.predictions.", "itm_output.")]
            continue
        expected = {prefix + name: shape for name, shape in shapes.items()}
        if missing := [name for name in expected if name not in found]:
            raise UserError(f"{path} is half a checkpoint: it lacks {missing[0]} ({len(missing)} tensors in all)")
        for name, shape in found.items():
            if shape != expected.get(name):
                wanted = expected.get(name, "no such tensor")
                raise UserError(f"{path} does not fit the backbone: {name} should be {wanted}, found {shape}")
    return lacking


def _head_shapes(hidden: int, words: int, answers: int) -> dict[str, dict[str, tuple[int, ...]]]:
    def classifier(width: int, outputs: int) -> dict[str, tuple[int, ...]]:
        inner = 2 * hidden
        norm = {"1.weight": (inner,), "1.bias": (inner,)}
        return {
            "0.weight": (inner, width),
            "0.bias": (inner,),
            **norm,
            "3.weight": (outputs, inner),
            "3.bias": (outputs,),
        }

    return {
        "cls.predictions.": {
            "transform.dense.weight": (hidden, hidden),
            "transform.dense.bias": (hidden,),
            "transform.LayerNorm.weight": (hidden,),
            "transform.LayerNorm.bias": (hidden,),
            "bias": (words,),
        },
        "itm_output.": {"weight": (2, hidden), "bias": (2,)},
        "rank_output.": {"weight": (1, hidden), "bias": (1,)},
        "vqa_classifier.": classifier(hidden, answers),
        "nlvr2_classifier.": classifier(2 * hidden, 2),
    }


def check_vilt_config(file: Path, trunk: Tensors, spec: Vilt, side: int) -> list[str]:
    """Hold a folder's config.json to its weights, which fit `spec`; return what is to be said about it.

    `side` counts the places along one side of the folder's own table. Raises `UserError` where the file says otherwise.
    """
    config = _config(file)
    if config.get("model_type", "vilt") != "vilt":
        raise UserError(f"{file} is of a {config['model_type']!r}, its weights are a ViLT's; bring the two that belong")
    found: dict[str, Any] = {
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": spec.positions,
        "vocab_size": len(trunk[VILT_WORDS]),
        "type_vocab_size": 2,
        "modality_type_vocab_size": len(trunk[TYPES]),
        "patch_size": spec.pixels.patch,
        "image_size": side * spec.pixels.patch,
        "num_channels": 3,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
    for key, value in found.items():
        said = config.get(key, value)
        if said != value and said != [value, value]:
            raise UserError(
                f"{file} says {key} = {said!r}, the weights and the backbone have {value!r}; "
                f"bring the config.json that belongs to them, or name the weight file alone"
            )
    from vltickets.backbones.vilt import LAYER_EPS  # not above: it brings transformers

    eps = config.get("layer_norm_eps", LAYER_EPS)
    return [] if eps == LAYER_EPS else [f"layer_norm_eps: {eps} in {file.name}, ours is the official {LAYER_EPS}"]


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read as a configuration ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a {type(config).__name__}; expected a configuration's names and values")
    return config
