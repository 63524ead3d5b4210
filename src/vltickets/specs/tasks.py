"""The tasks a model is trained on, pre-training among them: data, options, and the split its score is taken on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vltickets.specs.data import DataSpec
from vltickets.specs.spec import Spec


class TaskBase(Spec):
    """What all tasks share. `blind` zeroes region features and boxes in training and in testing (the blind floor).

    `augment` changes training pictures by that many operations of RandAugment, for backbones that take patches
    (`data/augmentation.py`): ViLT's fine-tuning officially has 2 of magnitude 9, its pre-training none.
    """

    data: DataSpec
    split: str = Field("test", description="the held-out split that is scored")
    blind: bool = False
    augment: int = Field(0, ge=0, le=14, description="RandAugment's operations on each training picture; 0: none")
    magnitude: int = Field(9, ge=0, le=30, description="RandAugment's strength, of 30")


class Vqa(TaskBase):
    """Visual question answering: one answer of a fixed vocabulary; soft accuracy."""

    kind: Literal["vqa"] = "vqa"


class Gqa(TaskBase):
    """Compositional questions with one answer; exact match."""

    kind: Literal["gqa"] = "gqa"


class Vcr(TaskBase):
    """Which of four answers, and which of four rationales; Q→AR: both right."""

    kind: Literal["vcr"] = "vcr"


class SnliVe(TaskBase):
    """Visual entailment: contradiction, entailment or neutral; accuracy."""

    kind: Literal["snli_ve"] = "snli_ve"


class Refcoco(TaskBase):
    """RefCOCO+: the region an expression means, trained on ground-truth boxes, scored on `boxes` (val^d: detected).

    `head_layers` is the official `mlp`: 1 or 2.
    """

    kind: Literal["refcoco"] = "refcoco"
    boxes: Literal["true", "detected"] = "detected"
    head_layers: Literal[1, 2] = 2


class Retrieval(TaskBase):
    """Flickr30k retrieval of images and texts; R@1, 5, 10.

    A right pair is held against `negatives` wrong images and one wrong caption; or, with `hard_negatives`, against that
    many of the hardest of a `pool` of images, and of captions.
    """

    kind: Literal["retrieval"] = "retrieval"
    margin: float = Field(0.2, gt=0)
    negatives: int = Field(1, ge=1)
    hard_negatives: int = Field(0, ge=0)
    pool: int = Field(399, ge=1)
    images: int | None = Field(None, ge=2, description="score on this many images of the split, its first; else on all")

    @model_validator(mode="after")
    def _pooled(self) -> Retrieval:
        if self.hard_negatives > self.pool:
            raise ValueError(f"hard_negatives = {self.hard_negatives} can't be chosen from a pool of {self.pool}")
        return self


class Nlvr2(TaskBase):
    """Is a sentence true of a pair of pictures? Accuracy. `head` names UNITER's variants."""

    kind: Literal["nlvr2"] = "nlvr2"
    head: Literal["paired", "triplet", "paired-attn"] = "paired-attn"


class Nlvr1(TaskBase):
    """NLVR v1, where NLVR2's photos can't be had: is a sentence true of one drawn picture? Accuracy."""

    kind: Literal["nlvr1"] = "nlvr1"


class Matching(TaskBase):
    """Find a photo's caption among `candidates` fixed ones; trained as a softmax over 1 right and `negatives` wrong."""

    kind: Literal["matching"] = "matching"
    negatives: int = Field(3, ge=1)
    candidates: int = Field(20, ge=2)


class Objectives(Spec):
    """How often each pre-training objective is drawn for a step: ratios, not probabilities.

    `mrc` is hard masked-region classification, `mrc_kl` its form against the detector's soft labels, `mrfr` the
    regression of a masked region's feature. `wra` is no ratio but the weight of word-region alignment, which is added
    to image-text matching's loss. `OFFICIAL_OBJECTIVES` is UNITER's mix; a table that leaves some out gets what stands
    here.
    """

    mlm: float = Field(4.0, ge=0)
    mrc: float = Field(0.0, ge=0)
    mrc_kl: float = Field(2.0, ge=0)
    itm: float = Field(3.0, ge=0)
    mrfr: float = Field(0.0, ge=0)
    wra: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Objectives:
        if not any((self.mlm, self.mrc, self.mrc_kl, self.mrfr, self.itm)):
            raise ValueError("at least one objective needs a ratio above 0")
        if self.wra and not self.itm:
            raise ValueError("wra is part of image-text matching's steps: it needs an itm above 0")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """How often each objective that is used is drawn, adding up to 1."""
        ratios = {name: ratio for name, ratio in self.model_dump(exclude={"wra"}).items() if ratio}
        return {name: ratio / sum(ratios.values()) for name, ratio in ratios.items()}


# The released configs' ratios, the same for all corpora, and their weight of WRA (official-models 2).
OFFICIAL_OBJECTIVES = Objectives(mlm=4.0, mrfr=2.0, mrc_kl=2.0, itm=3.0, wra=0.1)


class Corpora(Spec):
    """How often a step is of each caption corpus: ratios, not probabilities; 0 leaves a corpus out.

    Officially 2, 3, 3, 2 on all data (20, 30, 30, 20 %), 1, 1, 0, 0 in-domain. Official ratios are those of pairs of
    an objective and a corpus, but the product of two, so both are drawn by themselves here.
    Source: official-models 2.
    """

    coco: float = Field(0.0, ge=0)
    vg: float = Field(0.0, ge=0)
    cc: float = Field(0.0, ge=0)
    sbu: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Corpora:
        if not any((self.coco, self.vg, self.cc, self.sbu)):
            raise ValueError("at least one corpus (coco, vg, cc, sbu) needs a ratio above 0")
        return self


class Pretraining(TaskBase):
    """UNITER's pre-training on captions; one objective is drawn per step, as officially.

    `foils` is the share of image-text matching negatives that keep the image and take a false wording of its own
    caption, where the corpus has one; the others get another image, as officially. `text_only` trains MLM on captions
    without regions: the parent from which vision-language pre-training starts, as BERT is UNITER's. `corpora` mixes
    several corpora; without it there is one, the captions of `data`.
    """

    kind: Literal["pretraining"] = "pretraining"
    # Its default was another mix once. No version tells: only text-only nodes ever left it out, and they read none.
    objectives: Objectives = OFFICIAL_OBJECTIVES
    corpora: Corpora | None = None
    foils: float = Field(0.0, ge=0, le=1)
    mask_words: float = Field(0.15, gt=0, le=1)
    mask_regions: float = Field(0.15, gt=0, le=1)
    text_only: bool = False


class LxmertObjectives(Spec):
    """The weights of LXMERT's pre-training losses, which are all losses of each batch; 0 leaves one out.

    `objects` and `attributes` are the labels of regions, `features` the features of masked ones; `qa` is the answers of
    the questions among the sentences. Officially every weight is 1 (official-models 4).
    """

    mlm: float = Field(1.0, ge=0)
    itm: float = Field(1.0, ge=0)
    objects: float = Field(1.0, ge=0)
    attributes: float = Field(1.0, ge=0)
    features: float = Field(1.0, ge=0)
    qa: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> LxmertObjectives:
        if not self.used:
            raise ValueError("at least one objective needs a weight above 0")
        return self

    @property
    def used(self) -> dict[str, float]:
        """The weights above 0, by objective."""
        return {name: weight for name, weight in self.model_dump().items() if weight}


class LxmertPretraining(TaskBase):
    """LXMERT's pre-training on captions and questions: every objective is a loss of the same batch.

    `questions` are the tasks whose training questions are sentences too, and whose answers are asked. `foils` is the
    share of captions' mismatches that are a false wording of the caption, where the data has one; the others, and all
    of questions, are the sentence of another image, as officially.
    """

    kind: Literal["lxmert_pretraining"] = "lxmert_pretraining"
    objectives: LxmertObjectives = LxmertObjectives()
    questions: tuple[Literal["vqa", "gqa"], ...] = ("vqa", "gqa")
    foils: float = Field(0.0, ge=0, le=1)
    mask_words: float = Field(0.15, gt=0, le=1)
    mask_regions: float = Field(0.15, gt=0, le=1)

    @model_validator(mode="after")
    def _asked(self) -> LxmertPretraining:
        if len(set(self.questions)) < len(self.questions):
            raise ValueError(f"questions = {self.questions}: none twice")
        if self.objectives.used.keys() <= {"qa"} and not self.questions:
            raise ValueError(
                "the objective qa is the answers of questions: name some, or give another a weight above 0"
            )
        return self


TaskSpec = Annotated[
    Vqa | Gqa | Vcr | Nlvr2 | Nlvr1 | SnliVe | Refcoco | Retrieval | Matching | Pretraining | LxmertPretraining,
    Field(discriminator="kind"),
]
TASK_KINDS: dict[str, type[TaskBase]] = {
    "vqa": Vqa,
    "gqa": Gqa,
    "vcr": Vcr,
    "nlvr2": Nlvr2,
    "nlvr1": Nlvr1,
    "snli_ve": SnliVe,
    "refcoco": Refcoco,
    "retrieval": Retrieval,
    "matching": Matching,
    "pretraining": Pretraining,
    "lxmert_pretraining": LxmertPretraining,
}
