"""UNITER's pre-training as a task like any other: masked words, masked regions in three forms, matching, alignment.

One objective is drawn for each step, as officially (official-models 2), and all parts of a step have the same. Masking
is conditional: MLM hides words and shows all regions, the masked-region objectives the reverse. Word-region alignment
is added to image-text matching: matched pairs are to be near in transport distance, mismatched ones far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.backbones import Outputs
from vltickets.data import (
    Captions,
    Groups,
    Inputs,
    Source,
    assemble,
    check_soft_labels,
    has_soft_labels,
    region_shape,
    soft_targets,
    stream,
)
from vltickets.errors import UserError
from vltickets.specs import Pretraining
from vltickets.tasks.foils import accuracy_by_foil
from vltickets.tasks.heads import PretrainingHead
from vltickets.tasks.masking import NOT_MASKED, choose, mask_words, other_images, stacked
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, Model, evaluation_batches
from vltickets.tasks.transport import transport_distance

Objective = Literal["mlm", "mrc", "mrc_kl", "mrfr", "itm"]
SEES = ("itm_output.", "region_classifier.", "feat_regress.")  # heads that vision-language pre-training leaves
HEAD_OF = {
    "mlm": "cls.",
    "mrc": "region_classifier.",
    "mrc_kl": "region_classifier.",
    "mrfr": "feat_regress.",
    "itm": "itm_output.",
}


@dataclass(frozen=True)
class PretrainingBatch:
    """A batch of one objective. `words` [b, t] are MLM's targets, -1 where nothing is asked; `classes` [hidden, c] the
    hidden regions' soft labels in row-major order, `features` [hidden, f] their features; `match` [b] is 1 where text
    and image belong together."""

    objective: Objective
    inputs: Inputs
    words: torch.Tensor | None = None
    classes: torch.Tensor | None = None
    features: torch.Tensor | None = None
    match: torch.Tensor | None = None


class PretrainingTask:
    """Pre-training on images with captions. An example is a caption with its image."""

    name = "pretraining"
    type_rows = PLAIN_TYPES

    def __init__(self, spec: Pretraining, source: Source, *, tied_features: bool = True, regions: bool = True) -> None:
        self.spec = spec
        self.regions = regions
        self.tied_features = tied_features
        self.vocabulary = source.vocabulary
        self.captions = lru_cache(maxsize=8)(source.captions)
        self.mixed = (
            {} if spec.corpora is None else {name: share for name, share in spec.corpora.model_dump().items() if share}
        )
        self.shares = {"mlm": 1.0} if spec.text_only else spec.objectives.shares
        self.alignment = 0.0 if spec.text_only else spec.objectives.wra

    def corpora(self, split: str) -> dict[str, Captions]:
        """Return a split's captions by corpus; one without a name of its own where the spec mixes none."""
        if not self.mixed:
            return {"captions": self.captions(split)}
        return {name: self.captions(split, name) for name in self.mixed}

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the pre-training heads."""
        width, classes = region_shape(self.corpora(self.spec.split))
        return PretrainingHead(
            hidden, len(self.vocabulary), classes, width, tied_features=self.tied_features, regions=self.regions
        )

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return region_shape(self.corpora(self.spec.split))[0]

    def lengths(self) -> np.ndarray | Groups:
        """Return the tokens of each training caption with its image, corpus by corpus where several are mixed.

        Before anything is trained on it, the data is looked at: an objective whose labels a corpus lacks, or regions
        that differ from those of the scored split, are a `UserError`.
        """
        return self._planned

    @cached_property
    def _planned(self) -> np.ndarray | Groups:
        data = self.corpora("train")
        if not self.spec.text_only:
            for objective in sorted({"mrc", "mrc_kl"} & set(self.shares)):
                check_soft_labels(data, objective)
            scored = {f"{name}, {self.spec.split}": other for name, other in self.corpora(self.spec.split).items()}
            region_shape(data | scored)
        found = {name: _lengths(captions, self.spec.text_only) for name, captions in data.items()}
        if not self.mixed:
            return found["captions"]
        return Groups(tuple(found), tuple(found.values()), tuple(self.mixed.values()))

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> PretrainingBatch:
        """Draw the step's objective, then the masks or the mismatched pairs of these examples, all of one corpus."""
        objective, name = self._objective(rng), "captions"
        if isinstance(self._planned, Groups):
            name, examples = self._planned.place(examples)
        return self._batch(objective, self.corpora("train")[name], examples, rng)

    def _objective(self, rng: np.random.Generator) -> Objective:
        """Return the objective that the step's generator draws first: the same for every part of the step."""
        names, shares = list(self.shares), list(self.shares.values())
        seed = cast(np.random.SeedSequence, rng.bit_generator.seed_seq)
        first = np.random.Generator(np.random.PCG64(seed)).choice(len(names), p=shares)
        rng.choice(len(names), p=shares)  # the draw is used up where the step has one part, as it always was
        return cast(Objective, names[first])

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
        shown = replace(inputs, features=inputs.features.masked_fill(hidden[..., None], 0.0), hidden_regions=hidden)
        if objective == "mrfr":
            return PretrainingBatch(objective, shown, features=inputs.features[hidden])
        classes = soft_targets(data.regions, data.images[examples])[hidden]
        return PretrainingBatch(objective, shown, classes=classes)

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
        texts = stacked(data.texts, data.foils)
        rows = np.concatenate([chosen, np.where(foiled, chosen + len(data.texts), chosen)])
        inputs = assemble(texts, rows, data.regions, np.concatenate([images, wrong_images]))
        return PretrainingBatch("itm", inputs, match=torch.arange(len(rows)).lt(len(chosen)).long())

    def loss(self, model: Model, batch: PretrainingBatch) -> torch.Tensor:
        """Return the objective's mean loss, with the official scaling; matching's with the alignment's beside it."""
        outputs = model.backbone(batch.inputs.to(model.device))
        logits = predictions(model, outputs, batch).float()
        if not len(logits):
            return logits.sum() * 0.0  # nothing was hidden in the batch: nothing to learn, and no 0 / 0
        loss = objective_loss(logits, batch)
        if batch.match is not None and self.alignment:
            loss = loss + self.alignment * alignment_loss(distances(outputs, batch.inputs), batch.match)
        return loss

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return each objective's accuracy on the split, with fixed masks and fixed mismatched pairs.

        Where they are trained, also the mean squared error of regressed features (`mrfr_error`) and the mean transport
        distances of matched and of mismatched pairs (`transport/matched`, `transport/mismatched`); and where captions
        have foils, matching by what is false in them (`itm_accuracy/color`, …).
        """
        metrics: dict[str, float] = {}
        items = np.zeros(0, dtype=np.float32)
        for objective in self._scored(split):
            rng = stream("pretraining", split, "evaluation", objective)
            found = [
                self._scores(model, self._batch(objective, data, examples, rng))
                for data in self.corpora(split).values()
                if objective != "mrc" or has_soft_labels(data)
                for examples in evaluation_batches(_lengths(data, self.spec.text_only))
            ]
            items = np.concatenate([scores["items"] for scores in found])
            headline = f"{objective}_{'error' if objective == 'mrfr' else 'accuracy'}"
            metrics[headline] = float(items.mean())
            for name in ("matched", "mismatched"):
                if name in found[0]:
                    metrics[f"transport/{name}"] = float(np.concatenate([scores[name] for scores in found]).mean())
        if "itm" in self.shares and self.spec.foils:
            for data in self.corpora(split).values():
                metrics |= accuracy_by_foil(model, data)
        return Evaluation(headline, metrics, items, split)

    def _scored(self, split: str) -> tuple[Objective, ...]:
        """Return what is scored, the headline last: features where they are trained, classes where they are known."""
        if self.spec.text_only:
            return ("mlm",)
        known = any(has_soft_labels(data) for data in self.corpora(split).values())
        return ("mlm", *(("mrfr",) if "mrfr" in self.shares else ()), *(("mrc",) if known else ()), "itm")

    def _scores(self, model: Model, batch: PretrainingBatch) -> dict[str, np.ndarray]:
        outputs = model.backbone(batch.inputs.to(model.device))
        logits = predictions(model, outputs, batch).float().cpu()
        scores = {"items": item_scores(logits, batch).numpy()}
        if batch.match is not None and self.alignment:
            apart = distances(outputs, batch.inputs).cpu().numpy()
            match = batch.match.numpy() == 1
            scores |= {"matched": apart[match], "mismatched": apart[~match]}
        return scores

    def chance(self, split: str) -> float:
        """Return the score of guessing whether text and image match; 0 for words alone."""
        return 0.0 if self.spec.text_only else 0.5

    def labels(self) -> dict[str, str]:
        """Return nothing: words and classes are the vocabulary's and the detector's."""
        return {}

    def adopt(self, head: nn.Module, pretrained: dict[str, torch.Tensor]) -> None:
        """Go on with the pre-trained heads, whole: in pre-training they are part of the start."""
        own = head.state_dict()
        # Without any head that sees there is nothing, or BERT's head of words: the others are fresh, officially too.
        needed = self.shares if any(name.startswith(SEES) for name in pretrained) else ()
        for objective in needed:
            for name, value in own.items():
                if name.startswith(HEAD_OF[objective]) and _shape(pretrained, name) != tuple(value.shape):
                    raise UserError(
                        f"the initial weights have no head for the objective {objective} on this data: {name} should "
                        f"be {tuple(value.shape)}, found {_shape(pretrained, name) or 'nothing'}; start from weights "
                        f"that were pre-trained with it, or set its ratio to 0"
                    )
        fitting = {name: value for name, value in pretrained.items() if name in own and value.shape == own[name].shape}
        head.load_state_dict(own | fitting)


def predictions(model: Model, outputs: Outputs, batch: PretrainingBatch) -> torch.Tensor:
    """Return what the batch's objective is about: logits of hidden words [n, words], of hidden regions' classes
    [n, classes], or of matching [b, 2]; or hidden regions' features [n, f]. n counts what is hidden, row by row."""
    head, backbone = cast(PretrainingHead, model.head), model.backbone
    found: torch.Tensor
    if batch.words is not None:
        states = outputs.words[(batch.words != NOT_MASKED).to(model.device)]
        found = head.cls["predictions"](states, backbone.word_table())
    elif batch.match is not None:
        found = head.itm_output(outputs.pooled)
    else:
        assert batch.inputs.hidden_regions is not None
        states = outputs.regions[batch.inputs.hidden_regions.to(model.device)]
        if batch.features is not None:
            found = head.feat_regress(states, backbone.feature_projection())
        else:
            found = head.region_classifier(states)
    return found


def objective_loss(logits: torch.Tensor, batch: PretrainingBatch) -> torch.Tensor:
    """Return the mean loss of the batch's objective, without alignment."""
    if batch.words is not None:
        return F.cross_entropy(logits, batch.words[batch.words != NOT_MASKED].to(logits.device))
    if batch.match is not None:
        return F.cross_entropy(logits, batch.match.to(logits.device))
    if batch.features is not None:
        return F.mse_loss(logits, batch.features.to(logits.device))  # over regions and over the feature's numbers
    assert batch.classes is not None
    classes = batch.classes.to(logits.device)
    if batch.objective == "mrc":
        return mrc_loss(logits, classes).mean()
    return F.kl_div(F.log_softmax(logits, -1), classes, reduction="none").mean()  # over regions and classes


def item_scores(logits: torch.Tensor, batch: PretrainingBatch) -> torch.Tensor:
    """Return for each hidden or matched item 1 where it is right, 0 where not; regression's mean squared error."""
    if batch.features is not None:
        return (logits - batch.features).square().mean(-1)
    if batch.words is not None:
        right = logits.argmax(-1) == batch.words[batch.words != NOT_MASKED]
    elif batch.match is not None:
        right = logits.argmax(-1) == batch.match
    else:
        assert batch.classes is not None
        right = logits[:, 1:].argmax(-1) == batch.classes[:, 1:].argmax(-1)
    return right.float()


def distances(outputs: Outputs, inputs: Inputs) -> torch.Tensor:
    """Return the transport distance [b] between each row's words, [CLS] and [SEP] among them, and its regions."""
    device = outputs.sequence.device
    return transport_distance(
        outputs.words, inputs.token_mask.to(device), outputs.regions, inputs.region_mask.to(device)
    )


def alignment_loss(apart: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """Return the sum of matched pairs' distances less that of mismatched pairs', over the number of pairs."""
    sign = 2.0 * match.to(apart.device) - 1.0
    return (apart * sign).sum() / max(len(apart), 1)


def mrc_loss(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy [hidden] against the likeliest class but the background (the official target)."""
    return F.cross_entropy(logits, classes[:, 1:].argmax(-1) + 1, reduction="none")


def _lengths(data: Captions, text_only: bool) -> np.ndarray:
    return data.texts.lengths + (0 if text_only else data.regions.features.lengths[data.images])


def _shape(tensors: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
