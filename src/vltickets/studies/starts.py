"""What a study starts from: θ₀, its text-only parent θ₀′, and the pre-training that makes them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from vltickets.errors import UserError
from vltickets.specs import (
    DataSpec,
    Fresh,
    Imported,
    LxmertPretraining,
    Pretraining,
    Start,
    TaskSpec,
    Train,
    Trained,
)
from vltickets.studies.config import Common, Pretrain, Stage
from vltickets.tickets import shipped


def starts(study: Common, data: DataSpec) -> tuple[Start, Start | None]:
    """Return θ₀ and its text-only parent θ₀′ (None where θ₀ had no text-only stage)."""
    if study.start == "shipped":
        return shipped("theta0"), shipped("text-only")
    if study.start == "fresh":  # for data that nothing was pre-trained on
        return Fresh(), None
    if study.start == "imported":
        return imported(study), None
    assert study.pretraining is not None
    text, theta0 = pretraining_nodes(study, study.pretraining, data)
    if study.pretraining.start is not None:
        return Trained(train=theta0), imported(study)
    return Trained(train=theta0), None if text is None else Trained(train=text)


def imported(study: Common) -> Imported:
    """Return the spec of the study's file of imported weights; a missing file is a `UserError`."""
    path = study.weight_file
    assert path is not None
    return imported_weights(path)


def imported_weights(path: str | Path) -> Imported:
    """Return the spec of a file of imported weights; a missing file is a `UserError`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; `vltickets weights import` makes it")
    with path.open("rb") as file:
        return Imported(name=path.stem, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def pretraining_nodes(study: Common, pretrain: Pretrain, data: DataSpec) -> tuple[Train | None, Train]:
    """Return the trainings that make θ₀′ (None without a text-only stage) and θ₀."""
    start: Start = Fresh(seed=pretrain.seed) if pretrain.start is None else imported(study)
    text = None
    if pretrain.text is not None:
        text = pretraining_stage(study, pretrain.text, data, start, pretrain.seed, text_only=True)
        start = Trained(train=text)
    return text, pretraining_stage(study, pretrain.vision_language, data, start, pretrain.seed)


def pretraining_stage(
    study: Common, stage: Stage, data: DataSpec, start: Start, seed: int, *, text_only: bool = False
) -> Train:
    """Return the training of one stage of pre-training."""
    task = _pretraining_task(stage, data, text_only)
    backbone = study.named_shape  # whatever the study's masks cover: no mask had a part in making θ₀
    return Train(backbone=backbone, task=task, start=start, recipe=stage.training, seed=seed)


def _pretraining_task(stage: Stage, data: DataSpec, text_only: bool) -> TaskSpec:
    if stage.lxmert is not None:
        return LxmertPretraining(
            data=data,
            split="dev",
            objectives=stage.lxmert,
            foils=stage.foils,
            mask_words=stage.mask_words,
            mask_regions=stage.mask_regions,
            questions=("vqa", "gqa") if stage.questions is None else stage.questions,
        )
    return Pretraining(
        data=data,
        split="dev",
        objectives=stage.objectives,
        corpora=stage.corpora,
        foils=stage.foils,
        mask_words=stage.mask_words,
        mask_regions=stage.mask_regions,
        text_only=text_only,
    )
