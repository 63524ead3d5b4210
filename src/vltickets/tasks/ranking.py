"""Scoring every caption against every image, fast and as the official code does it, and Recall@k of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from vltickets.backbones import UniterBackbone
from vltickets.data import Captions, Inputs, assemble
from vltickets.tasks.protocol import Model

Seen = Callable[[Inputs], Inputs]
PAIR_TOKENS = 16384  # tokens of one batch of pairs
OFFICIAL_BATCH = 400  # images with one caption, as in the official evaluation


def score_all_pairs(model: Model, data: Captions, images: np.ndarray, seen: Seen) -> np.ndarray:
    """Return scores float32 [captions, images] of a UNITER, the same as `score_in_official_batches` up to rounding.

    Captions of one length meet images of one number of regions, so nothing is padded; each side is embedded once, which
    is exact because embeddings do not see the other side; and the last layer is computed for [CLS] alone.
    """
    backbone = model.backbone
    assert isinstance(backbone, UniterBackbone)
    table = np.zeros((len(data.texts), len(images)), dtype=np.float32)
    words = [(rows, _words(backbone, data, rows)) for rows in _groups(data.texts.lengths)]
    regions = [
        (columns, _regions(backbone, data, images[columns], seen))
        for columns in _groups(data.regions.features.lengths[images])
    ]
    for rows, texts in words:
        for columns, seen_regions in regions:
            length = texts.shape[1] + seen_regions.shape[1]
            step = max(PAIR_TOKENS // (length * len(columns)), 1)
            wide = max(PAIR_TOKENS // length, 1)
            for start in range(0, len(rows), step):
                for left in range(0, len(columns), wide):
                    some, others = texts[start : start + step], seen_regions[left : left + wide]
                    scores = _scores(model, backbone, some, others)
                    table[np.ix_(rows[start : start + step], columns[left : left + wide])] = scores
    return table


def score_in_official_batches(model: Model, data: Captions, images: np.ndarray, seen: Seen) -> np.ndarray:
    """Return scores float32 [captions, images], one caption against 400 images a batch, padded to the most regions."""
    table = np.zeros((len(data.texts), len(images)), dtype=np.float32)
    for row in range(len(data.texts)):
        for start in range(0, len(images), OFFICIAL_BATCH):
            chosen = images[start : start + OFFICIAL_BATCH]
            inputs = seen(assemble(data.texts, np.full(len(chosen), row), data.regions, chosen)).to(model.device)
            scores = model.head(model.backbone(inputs).pooled)
            table[row, start : start + OFFICIAL_BATCH] = scores.float().cpu().numpy()
    return table


def recalls(table: np.ndarray, own: np.ndarray, depths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return hits, 0 or 1: `ir@k` [captions], its image is among the k best; `tr@k` [images], any own caption is.

    `own` [captions] is each caption's column. A tie counts against the model: a constant score must not look right.
    """
    rows = np.arange(len(table))
    right = table[rows, own]
    image_rank = (table >= right[:, None]).sum(1)
    mine = own[:, None] == np.arange(table.shape[1])
    best = np.where(mine, table, -np.inf).max(0)
    text_rank = 1 + ((table >= best) & ~mine).sum(0)
    hits = {f"ir@{depth}": (image_rank <= depth).astype(np.float32) for depth in depths}
    return hits | {f"tr@{depth}": (text_rank <= depth).astype(np.float32) for depth in depths}


def _groups(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the places of each length."""
    for length in np.unique(lengths):
        yield np.flatnonzero(lengths == length)


def _words(backbone: UniterBackbone, data: Captions, rows: np.ndarray) -> torch.Tensor:
    inputs = assemble(data.texts, rows, None, rows).to(_device(backbone))
    embedded: torch.Tensor = backbone.embeddings(inputs.tokens)
    return embedded


def _regions(backbone: UniterBackbone, data: Captions, images: np.ndarray, seen: Seen) -> torch.Tensor:
    inputs = seen(assemble(data.texts, np.zeros(len(images), dtype=np.int64), data.regions, images))
    return backbone.embed_regions(inputs.to(_device(backbone)))


def _device(backbone: UniterBackbone) -> torch.device:
    return backbone.pooler.dense.weight.device


def _scores(model: Model, backbone: UniterBackbone, texts: torch.Tensor, regions: torch.Tensor) -> np.ndarray:
    """Return the scores [texts, images] of all pairs of embedded texts [a, t, d] and embedded images [b, r, d]."""
    a, b = len(texts), len(regions)
    joint = torch.cat([texts[:, None].expand(-1, b, -1, -1), regions[None].expand(a, -1, -1, -1)], dim=2).flatten(0, 1)
    mask = torch.ones(joint.shape[:2], dtype=torch.bool, device=joint.device)
    scores: np.ndarray = model.head(backbone.pool_embedded(joint, mask)).float().view(a, b).cpu().numpy()
    return scores
