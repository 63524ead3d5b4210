"""UNITER's pre-training as a task like any other: masked words, masked regions' classes, image-text matching.

One objective is drawn for each step, as officially (official-models 2). Masking is conditional: MLM hides words and
shows all regions, masked-region classification the reverse. Feature regression and word-region alignment come later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.backbones import UniterBackbone
from vltickets.data import Captions, Inputs, Ragged, Source, assemble, soft_targets, stream
from vltickets.specs import Pretraining
from vltickets.tasks.heads import PretrainingHead
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, Model, evaluation_batches

Objective = Literal["mlm", "mrc", "mrc_kl", "itm"]
NOT_MASKED = -1


@dataclass(frozen=True)
class PretrainingBatch:
    """A batch of one objective. `words` [b, t] are MLM's targets, -1 where nothing is asked; `classes` [hidden, c] the
    hidden regions' soft labels in row-major order; `match` [b] is 1 where text and image belong together."""

    objective: Objective
    inputs: Inputs
    words: torch.Tensor | None = None
    classes: torch.Tensor | None = None
    match: torch.Tensor | None = None


class PretrainingTask:
    """Pre-training on images with captions. An example is a caption with its image."""

    name = "pretraining"
    type_rows = PLAIN_TYPES

    def __init__(self, spec: Pretraining, source: Source) -> None:
        self.spec = spec
        self.vocabulary = source.vocabulary
        self.captions = lru_cache(maxsize=2)(source.captions)
        ratios = spec.objectives.model_dump()
        if spec.text_only:
            ratios = {name: float(name == "mlm") for name in ratios}
        self.shares = {name: share / sum(ratios.values()) for name, share in ratios.items() if share}

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the pre-training heads."""
        return PretrainingHead(hidden, len(self.vocabulary), self.captions(self.spec.split).regions.classes)

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return self.captions(self.spec.split).regions.width

    def lengths(self) -> np.ndarray:
        """Return the tokens of each training caption with its image."""
        return _lengths(self.captions("train"), self.spec.text_only)

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> PretrainingBatch:
        """Draw the step's objective, then its masks or its mismatched pairs."""
        names = list(self.shares)
        objective = cast(Objective, names[rng.choice(len(names), p=list(self.shares.values()))])
        return self._batch(objective, self.captions("train"), examples, rng)

    def _batch(
        self, objective: Objective, data: Captions, examples: np.ndarray, rng: np.random.Generator
    ) -> PretrainingBatch:
        if objective == "itm":
            return self._matching(data, examples, rng)
        regions = None if self.spec.text_only else data.regions
        inputs = assemble(data.texts, examples, regions, data.images[examples])
        if objective == "mlm":
            tokens, words = mask_words(
                inputs.tokens, rng, self.spec.mask_words, self.vocabulary.mask, self.vocabulary.content
            )
            return PretrainingBatch(objective, replace(inputs, tokens=tokens), words=words)
        hidden = choose(inputs.region_mask, rng, self.spec.mask_regions)
        classes = soft_targets(data.regions, data.images[examples])[hidden]
        features = inputs.features.masked_fill(hidden[..., None], 0.0)
        return PretrainingBatch(objective, replace(inputs, features=features, hidden_regions=hidden), classes=classes)

    def _matching(self, data: Captions, examples: np.ndarray, rng: np.random.Generator) -> PretrainingBatch:
        if data.foils is None or not self.spec.foils:  # the official form: half of the images are replaced
            images = data.images[examples]
            match = rng.random(len(examples)) < 0.5
            other = other_images(rng, images, data.images)
            inputs = assemble(data.texts, examples, data.regions, np.where(match, images, other))
            return PretrainingBatch("itm", inputs, match=torch.from_numpy(match.astype(np.int64)))
        # Each caption stands in the batch twice, matched and mismatched, so that no style of wording gives it away.
        chosen = examples[: max(len(examples) // 2, 1)]
        images = data.images[chosen]
        foiled = rng.random(len(chosen)) < self.spec.foils
        wrong_images = np.where(foiled, images, other_images(rng, images, data.images))
        texts = _stack(data.texts, data.foils)
        rows = np.concatenate([chosen, np.where(foiled, chosen + len(data.texts), chosen)])
        inputs = assemble(texts, rows, data.regions, np.concatenate([images, wrong_images]))
        return PretrainingBatch("itm", inputs, match=torch.arange(len(rows)).lt(len(chosen)).long())

    def loss(self, model: Model, batch: PretrainingBatch) -> torch.Tensor:
        """Return the objective's mean loss, with the official scaling."""
        logits = self._logits(model, batch).float()
        if not len(logits):
            return logits.sum() * 0.0  # nothing was hidden in the batch: nothing to learn, and no 0 / 0
        if batch.words is not None:
            return F.cross_entropy(logits, batch.words[batch.words != NOT_MASKED].to(logits.device))
        if batch.match is not None:
            return F.cross_entropy(logits, batch.match.to(logits.device))
        assert batch.classes is not None
        classes = batch.classes.to(logits.device)
        if batch.objective == "mrc":
            return mrc_loss(logits, classes).mean()
        return F.kl_div(F.log_softmax(logits, -1), classes, reduction="none").mean()  # over regions and classes

    def _logits(self, model: Model, batch: PretrainingBatch) -> torch.Tensor:
        head = cast(PretrainingHead, model.head)
        outputs = model.backbone(batch.inputs.to(model.device))
        logits: torch.Tensor
        if batch.words is not None:
            states = outputs.words[(batch.words != NOT_MASKED).to(model.device)]
            table = cast(UniterBackbone, model.backbone).embeddings.word_embeddings.weight
            logits = head.cls["predictions"](states, table)
        elif batch.match is not None:
            logits = head.itm_output(outputs.pooled)
        else:
            assert batch.inputs.hidden_regions is not None
            logits = head.region_classifier(outputs.regions[batch.inputs.hidden_regions.to(model.device)])
        return logits

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return each objective's accuracy on the split, with fixed masks and fixed mismatched pairs."""
        data = self.captions(split)
        metrics: dict[str, float] = {}
        items = np.zeros(0, dtype=np.float32)
        for objective in ("mlm",) if self.spec.text_only else ("mlm", "mrc", "itm"):
            rng = stream("pretraining", split, "evaluation", objective)
            right = [
                self._right(model, self._batch(cast(Objective, objective), data, examples, rng))
                for examples in evaluation_batches(_lengths(data, self.spec.text_only))
            ]
            items = np.concatenate(right)
            metrics[f"{objective}_accuracy"] = float(items.mean())
        return Evaluation(f"{objective}_accuracy", metrics, items, split)

    def _right(self, model: Model, batch: PretrainingBatch) -> np.ndarray:
        logits = self._logits(model, batch).cpu()
        if batch.words is not None:
            right = logits.argmax(-1) == batch.words[batch.words != NOT_MASKED]
        elif batch.match is not None:
            right = logits.argmax(-1) == batch.match
        else:
            assert batch.classes is not None
            right = logits[:, 1:].argmax(-1) == batch.classes[:, 1:].argmax(-1)
        return right.float().numpy()

    def chance(self, split: str) -> float:
        """Return the score of guessing whether text and image match; 0 for words alone."""
        return 0.0 if self.spec.text_only else 0.5

    def labels(self) -> dict[str, str]:
        """Return nothing: words and classes are the vocabulary's and the detector's."""
        return {}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Go on with the pre-trained heads, whole: in pre-training they are part of the start."""
        if pretrained:
            head.load_state_dict(pretrained)


def choose(among: torch.Tensor, rng: np.random.Generator, share: float) -> torch.Tensor:
    """Return a mask that picks each true place of `among` [b, n] with probability `share`, at least one in each row."""
    draws = torch.from_numpy(rng.random(tuple(among.shape))).masked_fill(~among, 2.0)
    picked = draws < share
    first = draws.argmin(dim=1)
    rows = torch.arange(len(among))
    picked[rows, first] |= ~picked.any(dim=1) & among.any(dim=1)
    return picked


def mask_words(
    tokens: torch.Tensor, rng: np.random.Generator, share: float, mask: int, content: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens with some words hidden, and the targets (-1 elsewhere), both [b, t].

    Of the chosen words 80 % become [MASK], 10 % a random word, 10 % stay (BERT's rule). Specials are never chosen.
    """
    picked = choose(torch.from_numpy(np.isin(tokens.numpy(), content)), rng, share)
    fate = torch.from_numpy(rng.random(tuple(tokens.shape)))
    random_words = torch.from_numpy(rng.choice(content, size=tuple(tokens.shape)))
    hidden = torch.where(picked & (fate < 0.8), torch.full_like(tokens, mask), tokens)
    hidden = torch.where(picked & (fate >= 0.8) & (fate < 0.9), random_words, hidden)
    return hidden, torch.where(picked, tokens, torch.full_like(tokens, NOT_MASKED))


def mrc_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy [hidden] against the likeliest class but the background (the official target)."""
    return F.cross_entropy(logits, classes[:, 1:].argmax(-1) + 1, reduction="none")


def other_images(rng: np.random.Generator, images: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Draw for each image another one from the pool."""
    drawn = pool[rng.integers(0, len(pool), size=len(images))]
    while (same := drawn == images).any():
        if (pool == pool[0]).all():
            break  # a corpus of one image has no other
        drawn[same] = pool[rng.integers(0, len(pool), size=int(same.sum()))]
    return drawn


@lru_cache(maxsize=4)
def _stack(texts: Ragged, foils: Ragged) -> Ragged:
    values = np.concatenate([texts.values.numpy(), foils.values.numpy()])
    return Ragged(values, np.concatenate([texts.offsets, foils.offsets[1:] + texts.offsets[-1]]))


def _lengths(data: Captions, text_only: bool) -> np.ndarray:
    return data.texts.lengths + (0 if text_only else data.regions.features.lengths[data.images])
