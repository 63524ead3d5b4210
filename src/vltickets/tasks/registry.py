"""The one place where tasks are listed: from a task's spec to the task."""

from __future__ import annotations

from vltickets.backbones import is_fused
from vltickets.data import Source
from vltickets.errors import UserError
from vltickets.specs import (
    BackboneSpec,
    Gqa,
    HuggingFace,
    Lxmert,
    LxmertPretraining,
    Matching,
    Nlvr1,
    Nlvr2,
    Pixels,
    Pretraining,
    Refcoco,
    Retrieval,
    SnliVe,
    TaskSpec,
    Vcr,
    Vilt,
    Vqa,
)
from vltickets.tasks.answering import AnswerHead, LxmertAnswerHead, ViltAnswerHead
from vltickets.tasks.augmentation import augment_training
from vltickets.tasks.gqa import GqaTask
from vltickets.tasks.lxmert_pretraining import LxmertPretrainingTask
from vltickets.tasks.matching import MatchingTask
from vltickets.tasks.nlvr1 import Nlvr1Task
from vltickets.tasks.nlvr2 import LxmertNlvr2Task, Nlvr2Task, ViltNlvr2Task
from vltickets.tasks.pretraining import PretrainingTask
from vltickets.tasks.protocol import Task
from vltickets.tasks.refcoco import RefcocoTask
from vltickets.tasks.retrieval import RetrievalTask
from vltickets.tasks.snli_ve import SnliVeTask
from vltickets.tasks.vcr import VcrTask
from vltickets.tasks.vqa import VqaTask


def build_task(spec: TaskSpec, source: Source, backbone: BackboneSpec, labels: dict[str, str] | None = None) -> Task:
    """Return the task over a source of data, with the heads of the backbone's kind.

    `labels` are a trained model's own, where it is scored elsewhere.
    """
    check_task(spec, backbone)
    source = source.for_places(backbone.positions)
    pixels = pixels_of(backbone)
    if pixels is None:
        return _build(spec, source, backbone, labels)
    task = _build(spec, source.seen_as(pixels), backbone, labels)
    if spec.augment:
        augment_training(task, spec, pixels)
    return task


def pixels_of(backbone: BackboneSpec) -> Pixels | None:
    """Return how a backbone takes pictures; None where it takes a detector's regions."""
    return backbone.pixels if isinstance(backbone, Vilt | HuggingFace) else None


def _build(spec: TaskSpec, source: Source, backbone: BackboneSpec, labels: dict[str, str] | None) -> Task:
    lxmert, vilt = isinstance(backbone, Lxmert), isinstance(backbone, Vilt)
    answer_head = LxmertAnswerHead if lxmert else ViltAnswerHead if vilt else AnswerHead
    foreign = isinstance(backbone, HuggingFace)
    given = (labels or {}).get("answers")
    answers = None if given is None else given.split("\n")
    match spec:
        case Vqa():
            return VqaTask(spec, source, answers, answer_head)
        case Gqa():
            return GqaTask(spec, source, answers, answer_head)
        case Vcr():
            return VcrTask(spec, source)
        case Nlvr2():
            task = LxmertNlvr2Task if lxmert or foreign else ViltNlvr2Task if vilt else Nlvr2Task
            return task(spec, source, backbone.heads)
        case Nlvr1():
            return Nlvr1Task(spec, source)
        case SnliVe():
            return SnliVeTask(spec, source)
        case Refcoco():
            return RefcocoTask(spec, source)
        case Retrieval():
            return RetrievalTask(spec, source)
        case Matching():
            return MatchingTask(spec, source)
        case Pretraining():
            regions = pixels_of(backbone) is None
            return PretrainingTask(spec, source, tied_features=not (lxmert or foreign), regions=regions)
        case LxmertPretraining():
            return LxmertPretrainingTask(spec, source, answers)


def check_task(spec: TaskSpec, backbone: BackboneSpec) -> None:
    """Refuse a task that a backbone of this kind can't do, with `UserError`."""
    if isinstance(backbone, Vilt):
        _check_for_patches(spec)
    if isinstance(backbone, HuggingFace):
        _check_for_adapter(spec, backbone)
    if spec.augment and pixels_of(backbone) is None:
        raise UserError(
            f"the task {spec.kind} has augment = {spec.augment}, which changes pictures, and this backbone takes a "
            "detector's regions; leave it out, or use a ViLT"
        )
    if not isinstance(backbone, Lxmert):
        if isinstance(spec, LxmertPretraining):
            raise UserError(f"LXMERT's own pre-training is for an LXMERT, and the backbone is a {backbone.kind}")
        return
    if isinstance(spec, Vcr):
        raise UserError("the task vcr needs 4 token types, and LXMERT has 2; use a UNITER for it")
    if isinstance(spec, Nlvr2) and spec.head == "triplet":
        raise UserError(
            "NLVR2's head 'triplet' needs region types to tell its two images apart, and LXMERT has none; leave `head` "
            "out: LXMERT has its own, over two passes"
        )


def _check_for_patches(spec: TaskSpec) -> None:
    if isinstance(spec, Vcr | Refcoco):
        raise UserError(f"the task {spec.kind} is about regions, and ViLT takes patches; use a UNITER for it")
    if isinstance(spec, Nlvr2) and spec.head == "triplet":
        raise UserError("ViLT reads NLVR2's images in two passes; leave `head` = 'triplet' out: ViLT has its own head")
    if isinstance(spec, Pretraining) and not spec.text_only:
        asked = [name for name in ("mrc", "mrc_kl", "mrfr") if getattr(spec.objectives, name)]
        if asked:
            raise UserError(
                f"ViLT hides no regions: set {', '.join(asked)} to 0 in the objectives (its own are mlm, itm and wra)"
            )


def _check_for_adapter(spec: TaskSpec, backbone: HuggingFace) -> None:
    """Refuse what the adapter's model can't do: regions to one that takes pixels, hidden words to a dual encoder."""
    name = f"the Hugging Face model {backbone.model}"
    if isinstance(spec, Vcr):
        raise UserError(f"the task vcr needs 4 token types, and {name} has none of its own; use a UNITER for it")
    if isinstance(spec, Refcoco | Nlvr1) and backbone.pixels is not None:
        raise UserError(f"the task {spec.kind} is about regions, and {name} takes pixels here; use a UNITER for it")
    if isinstance(spec, Nlvr2) and spec.head == "triplet":
        raise UserError(f"{name} reads NLVR2's images in two passes; leave `head` = 'triplet' out")
    if not isinstance(spec, Pretraining):
        return
    if spec.text_only:
        raise UserError(f"{name} is not pre-trained on words alone here; leave out the stage [pretraining.text]")
    fused, asked = is_fused(backbone), spec.objectives.model_dump()
    refused = {"wra": "aligns no words with regions"}
    if backbone.pixels is not None:
        refused |= dict.fromkeys(("mrc", "mrc_kl", "mrfr"), "hides no regions")
    if not fused:
        refused |= {"mlm": "is a dual encoder: its words see no picture"}
    for objective, why in refused.items():
        if asked.get(objective):
            raise UserError(f"{name} {why}: set {objective} to 0 in the objectives")
