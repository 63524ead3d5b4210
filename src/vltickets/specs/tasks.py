"""The tasks a model is trained on, pre-training among them: data, options, and the split its score is taken on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vltickets.specs.data import DataSpec
from vltickets.specs.spec import Spec


class TaskBase(Spec):
    """What all tasks share. `blind` zeroes region features and boxes in training and in testing (the blind floor)."""

    data: DataSpec
    split: str = Field("test", description="the held-out split that is scored")
    blind: bool = False


class Vqa(TaskBase):
    """Visual question answering: one answer of a fixed vocabulary; soft accuracy."""

    kind: Literal["vqa"] = "vqa"


class Nlvr2(TaskBase):
    """Is a sentence true of a pair of pictures? Accuracy. `head` names UNITER's variants."""

    kind: Literal["nlvr2"] = "nlvr2"
    head: Literal["paired", "paired-attn"] = "paired-attn"


class Matching(TaskBase):
    """Find a photo's caption among `candidates` fixed ones; trained as a softmax over 1 right and `negatives` wrong."""

    kind: Literal["matching"] = "matching"
    negatives: int = Field(3, ge=1)
    candidates: int = Field(20, ge=2)


class Objectives(Spec):
    """How often each pre-training objective is drawn for a step: ratios, not probabilities.

    `mrc` is hard masked-region classification, `mrc_kl` its form against the detector's soft labels.
    """

    mlm: float = Field(4.0, ge=0)
    mrc: float = Field(0.0, ge=0)
    mrc_kl: float = Field(2.0, ge=0)
    itm: float = Field(3.0, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Objectives:
        if not any((self.mlm, self.mrc, self.mrc_kl, self.itm)):
            raise ValueError("at least one objective needs a ratio above 0")
        return self


class Pretraining(TaskBase):
    """UNITER's pre-training on captions; one objective is drawn per step, as officially.

    `foils` is the share of image-text matching negatives that keep the image and take a false wording of its own
    caption, where the corpus has one; the others get another image, as officially. `text_only` trains MLM on captions
    without regions: the parent from which vision-language pre-training starts, as BERT is UNITER's.
    """

    kind: Literal["pretraining"] = "pretraining"
    objectives: Objectives = Objectives()
    foils: float = Field(0.0, ge=0, le=1)
    mask_words: float = Field(0.15, gt=0, le=1)
    mask_regions: float = Field(0.15, gt=0, le=1)
    text_only: bool = False


TaskSpec = Annotated[Vqa | Nlvr2 | Matching | Pretraining, Field(discriminator="kind")]
TASK_KINDS: dict[str, type[TaskBase]] = {"vqa": Vqa, "nlvr2": Nlvr2, "matching": Matching, "pretraining": Pretraining}
