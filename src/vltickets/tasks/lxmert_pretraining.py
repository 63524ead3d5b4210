"""LXMERT's pre-training as a task: masked words, matching, regions in three forms and answers, in every step.

UNITER draws one objective for each step; LXMERT hides words *and* regions of a batch, swaps half of its sentences, and
adds all losses of it, each with weight 1, those of regions times 1/0.15. So it is done here, because its objectives are
balanced by that sum, and because one pass serves them all. From the official code (official-models 4) come also:
labels of objects and attributes are asked of every region, weighted by the detector's confidence, features only of
masked ones; words and regions are asked of swapped pairs too, answers are not, for there the image has none.

Not as officially: a step is of one kind of sentence, captions or one task's questions, drawn by their number (regions
of several stores would stand in one batch else), and a swapped sentence is of the same kind; at least one word of each
sentence is hidden; where captions have foils, see `_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vltickets.data import (
    Captions,
    Groups,
    Inputs,
    Ragged,
    Source,
    assemble,
    check_soft_labels,
    region_shape,
    soft_targets,
    stream,
)
from vltickets.errors import UserError
from vltickets.specs import LxmertPretraining
from vltickets.tasks.answer_transfer import answer_table, fill_answers, normalised
from vltickets.tasks.answering import LxmertAnswerHead
from vltickets.tasks.foils import accuracy_by_foil
from vltickets.tasks.heads import ObjectHead, WordPrediction
from vltickets.tasks.masking import NOT_MASKED, mask_features, mask_words, other_sentences, stacked
from vltickets.tasks.protocol import PLAIN_TYPES, Evaluation, Model, evaluation_batches

NO_ANSWER = -1
VISUAL_SCALE = 1 / 0.15  # officially fixed, whatever share of the regions is masked
HEAD_OF = {
    "mlm": "cls.",
    "itm": "itm_output.",
    "objects": "obj_predict_head.decoder_dict.obj.",
    "attributes": "obj_predict_head.decoder_dict.attr.",
    "features": "obj_predict_head.decoder_dict.feat.",
}
Tensors = dict[str, torch.Tensor]


class LxmertPretrainingHead(nn.Module):
    """The heads under their official names; the decoder of words is tied to the word table, which is given at the call.

    `outputs` names what is predicted of regions (`obj`, `attr`, `feat`) and how many numbers each has.
    """

    def __init__(self, hidden: int, vocabulary: int, outputs: dict[str, int], answers: int) -> None:
        super().__init__()
        self.cls = nn.ModuleDict({"predictions": WordPrediction(hidden, vocabulary)})
        self.itm_output = nn.Linear(hidden, 2)
        self.obj_predict_head = ObjectHead(hidden, outputs)
        if answers:
            self.answer_head = LxmertAnswerHead(hidden, answers)


@dataclass(frozen=True)
class Sentences:
    """One kind of sentences with their images: captions, or a task's questions.

    `scores` [questions, labels] are the soft scores of the task's answers, `rows` [labels] their rows in the table.
    """

    captions: Captions
    scores: np.ndarray | None = None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class LxmertBatch:
    """A batch with the targets of every objective; `objective` says of which kind its sentences are.

    `words` [b, t]: hidden words, -1 where nothing is asked; `match` [b]: 1 where sentence and image belong together;
    `features` [b, r, f] of all regions, `hidden` [b, r] where they are masked; `classes` [b, r, c] soft labels, each
    region's summing to 1 and class 0 the background, zeros in padding; `answers` [b]: rows of the answer table, or -1.
    """

    objective: str
    inputs: Inputs
    words: torch.Tensor
    match: torch.Tensor
    features: torch.Tensor
    hidden: torch.Tensor
    classes: torch.Tensor
    answers: torch.Tensor


class LxmertPretrainingTask:
    """Pre-training on captions and questions. An example is a sentence with its image.

    Raises `UserError` where attributes are to be learnt and the data has none.
    """

    name = "lxmert_pretraining"
    type_rows = PLAIN_TYPES

    def __init__(self, spec: LxmertPretraining, source: Source, answers: list[str] | None = None) -> None:
        self.spec = spec
        self.source = source
        self.vocabulary = source.vocabulary
        self.weights = spec.objectives.used
        if not spec.questions:
            self.weights.pop("qa", None)
        if "attributes" in self.weights and not source.class_attributes:
            raise UserError(
                f"{source.folder}: its regions have no attributes, from which the objective attributes would learn; "
                "set attributes = 0.0 in the pre-training's objectives"
            )
        self._tables = {name: source.answers(name) for name in spec.questions}
        self.answers: list[str] = []
        if "qa" in self.weights:
            self.answers = answer_table(self._tables.values()) if answers is None else answers
        self._means = _one_hot(source.class_attributes)
        self.sentences = lru_cache(maxsize=4)(self._read)

    def _read(self, split: str) -> dict[str, Sentences]:
        """Return a split's sentences by kind."""
        found = {"captions": Sentences(self.source.captions(split))}
        rows = {normalised(answer): row for row, answer in reversed(list(enumerate(self.answers)))}
        for name, labels in self._tables.items():
            data = (self.source.vqa if name == "vqa" else self.source.gqa)(split, labels)
            places = np.array([rows.get(normalised(label), NO_ANSWER) for label in labels])
            found[name] = Sentences(Captions(data.texts, data.images, None, data.regions), data.scores, places)
        return found

    def _captions(self, split: str) -> dict[str, Captions]:
        return {name: data.captions for name, data in self.sentences(split).items()}

    def head(self, hidden: int, dropout: float) -> nn.Module:
        """Return the pre-training heads."""
        width, classes = region_shape(self._captions(self.spec.split))
        outputs = {"obj": classes - 1, "attr": self._means.shape[1], "feat": width}
        outputs = {name: count for name, count in outputs.items() if count > 0}
        return LxmertPretrainingHead(hidden, len(self.vocabulary), outputs, len(self.answers))

    def region_width(self) -> int:
        """Return the width of a region's feature."""
        return region_shape(self._captions(self.spec.split))[0]

    def lengths(self) -> Groups:
        """Return the tokens of each training sentence with its image, in groups by kind, drawn by their numbers.

        Before anything is trained on it the data is looked at: an objective whose labels are lacking, or regions that
        differ from those of the scored split, are a `UserError`.
        """
        return self._planned

    @cached_property
    def _planned(self) -> Groups:
        data = self._captions("train")
        scored = {f"{name}, {self.spec.split}": other for name, other in self._captions(self.spec.split).items()}
        for objective in ("objects", "attributes"):
            if objective in self.weights:
                check_soft_labels(data | scored, objective)
        _, classes = region_shape(data | scored)
        if "attributes" in self.weights and classes != len(self._means):
            raise UserError(f"attributes are known of {len(self._means)} classes, and the regions have {classes}")
        lengths = tuple(_lengths(captions) for captions in data.values())
        return Groups(tuple(data), lengths, tuple(float(len(group)) for group in lengths))

    def batch(self, examples: np.ndarray, rng: np.random.Generator) -> LxmertBatch:
        """Draw swapped sentences, masks and answers of these examples, which are all of one kind."""
        name, rows = self._planned.place(examples)
        return self._batch(name, self.sentences("train")[name], rows, rng)

    def _batch(
        self, name: str, data: Sentences, rows: np.ndarray, rng: np.random.Generator, *, masked: bool = True
    ) -> LxmertBatch:
        captions = data.captions
        texts, sentences, images, match = self._pairs(captions, rows, rng)
        shown = assemble(texts, sentences, captions.regions, images)
        tokens, words = shown.tokens, torch.full_like(shown.tokens, NOT_MASKED)
        features, hidden = shown.features, torch.zeros_like(shown.region_mask)
        if masked:
            vocabulary = self.vocabulary
            tokens, words = mask_words(tokens, rng, self.spec.mask_words, vocabulary.mask, vocabulary.content)
            # The false word of a foil is nothing to learn from an image that does not show it.
            words[torch.from_numpy(sentences >= len(captions.texts))] = NOT_MASKED
            features, hidden = mask_features(features, shown.region_mask, rng, self.spec.mask_regions, captions.regions)
        return LxmertBatch(
            objective=name,
            inputs=replace(shown, tokens=tokens, features=features),
            words=words,
            match=torch.from_numpy(match.astype(np.int64)),
            features=shown.features,
            hidden=hidden,
            classes=soft_targets(captions.regions, images),
            answers=torch.from_numpy(np.where(match, self._answers(data, sentences, rng), NO_ANSWER)),
        )

    def _pairs(
        self, data: Captions, rows: np.ndarray, rng: np.random.Generator
    ) -> tuple[Ragged, np.ndarray, np.ndarray, np.ndarray]:
        """Return texts, the rows of the sentences in them, the images, and whether they belong together.

        Half of the sentences are swapped, as officially. Where captions have foils and the spec wants them, each of
        the batch's first half stands there twice, as it is and mismatched, so that no style of wording gives it away.
        """
        images = data.images[rows]
        if "itm" not in self.weights:
            return data.texts, rows, images, np.ones(len(rows), dtype=bool)
        if data.foils is None or not self.spec.foils:
            match = rng.random(len(rows)) < 0.5
            return data.texts, np.where(match, rows, other_sentences(rng, rows, data.images)), images, match
        count = max(len(rows) // 2, 1)
        chosen, images = rows[:count], images[:count]
        foiled = rng.random(count) < self.spec.foils
        wrong = np.where(foiled, chosen + len(data.texts), other_sentences(rng, chosen, data.images))
        sentences = np.concatenate([chosen, wrong])
        return stacked(data.texts, data.foils), sentences, np.tile(images, 2), np.arange(2 * count) < count

    def _answers(self, data: Sentences, sentences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one answer [b] of each question, drawn by its score; -1 where there is none to ask."""
        if data.scores is None or data.rows is None or "qa" not in self.weights:
            return np.full(len(sentences), NO_ANSWER)
        sums = data.scores[sentences].cumsum(axis=1, dtype=np.float64)
        drawn = (sums > rng.random((len(sentences), 1)) * sums[:, -1:]).argmax(axis=1)
        found: np.ndarray = np.where(sums[:, -1] > 0, data.rows[drawn], NO_ANSWER)
        return found

    def loss(self, model: Model, batch: LxmertBatch) -> torch.Tensor:
        """Return the weighted sum of the batch's losses."""
        found = self.losses(model, batch)
        total = torch.zeros((), device=model.device)
        for objective, value in found.items():
            total = total + self.weights[objective] * value
        # Where nothing was asked there is nothing to learn, but the loop goes backward all the same.
        return total if found else next(model.parameters()).sum() * 0.0

    def losses(self, model: Model, batch: LxmertBatch) -> Tensors:
        """Return the mean loss of each objective that is used and that the batch asks of, without weights."""
        predicted = predictions(model, batch)
        device = model.device
        words, match, answers = (value.to(device) for value in (batch.words, batch.match, batch.answers))
        out: Tensors = {}
        if "mlm" in self.weights and len(predicted["mlm"]):
            out["mlm"] = F.cross_entropy(predicted["mlm"], words[words != NOT_MASKED])
        if "itm" in self.weights:
            out["itm"] = F.cross_entropy(predicted["itm"], match)
        there = batch.inputs.region_mask.to(device)
        for objective in ("objects", "attributes"):
            if objective in self.weights:
                labels, confidence = (value.to(device) for value in self.region_labels(objective, batch.classes))
                errors = F.cross_entropy(predicted[objective].transpose(1, 2), labels, reduction="none")
                out[objective] = _over_regions(errors * confidence, there)
        if "features" in self.weights:
            errors = F.smooth_l1_loss(predicted["features"], batch.features.to(device), reduction="none").mean(-1)
            out["features"] = _over_regions(errors * batch.hidden.to(device), there)
        if "qa" in self.weights and bool((asked := answers != NO_ANSWER).any()):
            out["qa"] = F.cross_entropy(predicted["qa"][asked], answers[asked])
        return out

    def region_labels(self, objective: str, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each region's likeliest object or attribute [b, r], and the detector's confidence in it [b, r].

        An object is a class without the background, so class 1 is object 0. An attribute's confidence is that of all
        classes that mean it.
        """
        sure = classes[..., 1:] if objective == "objects" else classes @ self._means
        confidence, labels = sure.max(-1)
        return labels, confidence

    def evaluate(self, model: Model, split: str) -> Evaluation:
        """Return how often each objective is right on a split, with fixed masks and swapped sentences.

        Words and regions are scored where they are masked (`features_error`: the mean smooth-L1), matching and answers
        on whole sentences and images; where captions have foils, matching also by what is false in them.
        """
        found: dict[str, list[np.ndarray]] = {}
        for masked in (True, False):
            rng = stream("lxmert_pretraining", split, "evaluation", "masked" if masked else "whole")
            for name, data in self.sentences(split).items():
                for rows in evaluation_batches(_lengths(data.captions)):
                    batch = self._batch(name, data, rows, rng, masked=masked)
                    for objective, items in self._scores(model, batch, masked).items():
                        found.setdefault(objective, []).append(items)
        metrics: dict[str, float] = {}
        items = np.zeros(0, dtype=np.float32)
        for objective in (name for name in ("mlm", "features", "objects", "attributes", "qa", "itm") if name in found):
            items = np.concatenate(found[objective])
            headline = f"{objective}_{'error' if objective == 'features' else 'accuracy'}"
            metrics[headline] = float(items.mean()) if len(items) else 0.0
        if "itm" in self.weights and self.spec.foils:
            for captions in self._captions(split).values():
                metrics |= accuracy_by_foil(model, captions)
        return Evaluation(headline, metrics, items, split)

    def _scores(self, model: Model, batch: LxmertBatch, masked: bool) -> dict[str, np.ndarray]:
        """Return the scores of what is asked, item by item: of words and regions, or of matching and answers."""
        predicted = {name: value.cpu() for name, value in predictions(model, batch).items()}
        out: Tensors = {}
        if masked:
            out["mlm"] = predicted["mlm"].argmax(-1) == batch.words[batch.words != NOT_MASKED]
            for objective in {"objects", "attributes"} & predicted.keys():
                labels, confidence = self.region_labels(objective, batch.classes)
                asked = batch.hidden & (confidence > 0)
                out[objective] = predicted[objective][asked].argmax(-1) == labels[asked]
            guesses, features = predicted["features"][batch.hidden], batch.features[batch.hidden]
            out["features"] = F.smooth_l1_loss(guesses, features, reduction="none").mean(-1)
        else:
            out["itm"] = predicted["itm"].argmax(-1) == batch.match
            if "qa" in predicted:
                asked = batch.answers != NO_ANSWER
                out["qa"] = predicted["qa"][asked].argmax(-1) == batch.answers[asked]
        return {name: value.float().numpy() for name, value in out.items() if name in self.weights}

    def chance(self, split: str) -> float:
        """Return the score of guessing whether sentence and image match; 0 where that is not asked."""
        return 0.5 if "itm" in self.weights else 0.0

    def labels(self) -> dict[str, str]:
        """Return the answer table in the order of the head's rows, one a line."""
        return {"answers": "\n".join(self.answers)} if self.answers else {}

    def adopt(self, head: nn.Module, pretrained: Tensors) -> None:
        """Go on with the pre-trained heads but that of answers, whose rows mean nothing without their list.

        A start with LXMERT's heads over regions must have those of the objectives used, in the data's size.
        """
        own = head.state_dict()
        whole = any(name.startswith("obj_predict_head.") for name in pretrained)
        for objective in (self.weights if whole else {}).keys() & HEAD_OF.keys():
            for name, value in own.items():
                found = pretrained.get(name)
                if name.startswith(HEAD_OF[objective]) and (found is None or found.shape != value.shape):
                    raise UserError(
                        f"the initial weights have no head for the objective {objective} on this data: {name} should "
                        f"be {tuple(value.shape)}, found {'nothing' if found is None else tuple(found.shape)}; start "
                        "from weights that were pre-trained with it, or set its weight to 0"
                    )
        fitting = {
            name: value
            for name, value in pretrained.items()
            if name in own and value.shape == own[name].shape and not name.startswith("answer_head.")
        }
        head.load_state_dict(own | fitting)

    def adopt_answers(self, head: nn.Module, pretrained: Tensors, known: list[str]) -> int:
        """Fill the answer head from a pre-trained one by the answers' texts; return how many were known."""
        inner = getattr(head, "answer_head", None)
        return fill_answers(inner, pretrained, known, self.answers) if isinstance(inner, LxmertAnswerHead) else 0


def predictions(model: Model, batch: LxmertBatch) -> Tensors:
    """Return in float32: logits of hidden words [n, words], of matching [b, 2], of answers [b, answers]; of each region
    logits of objects and attributes [b, r, n] and its feature [b, r, f]. What the head lacks is not there."""
    head = cast(LxmertPretrainingHead, model.head)
    outputs = model.backbone(batch.inputs.to(model.device))
    states = outputs.words[(batch.words != NOT_MASKED).to(model.device)]
    found: Tensors = {
        "mlm": head.cls["predictions"](states, model.backbone.word_table()),
        "itm": head.itm_output(outputs.pooled),
    }
    names = {"obj": "objects", "attr": "attributes", "feat": "features"}
    found |= {names[name]: value for name, value in head.obj_predict_head(outputs.regions).items()}
    if hasattr(head, "answer_head"):
        found["qa"] = head.answer_head(outputs.pooled)
    return {name: value.float() for name, value in found.items()}


def _over_regions(errors: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Return the mean of errors [b, r] over the regions that are there, with the official scale."""
    return (errors * there).sum() / there.sum().clamp(min=1) * VISUAL_SCALE


def _one_hot(class_attributes: tuple[int, ...]) -> torch.Tensor:
    """Return [classes, attributes]: 1 where a class means an attribute."""
    out = torch.zeros(len(class_attributes), max(class_attributes, default=-1) + 1)
    for row, attribute in enumerate(class_attributes):
        if attribute >= 0:
            out[row, attribute] = 1.0
    return out


def _lengths(data: Captions) -> np.ndarray:
    lengths: np.ndarray = data.texts.lengths + data.regions.features.lengths[data.images]
    return lengths
