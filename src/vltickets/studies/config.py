"""What a study's recipe may say: what all have in common, and the study of one ticket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vltickets.errors import UserError
from vltickets.specs import (
    OFFICIAL_OBJECTIVES,
    TASK_KINDS,
    UNSTRUCTURED,
    BackboneSpec,
    Corpora,
    HuggingFace,
    Lxmert,
    LxmertObjectives,
    Objectives,
    PatternName,
    Prunable,
    Recipe,
    Spec,
    TaskSpec,
    changed,
    parse,
    sized,
)
from vltickets.specs.coverage import USUAL_PARTS

Baseline = Literal[
    "theta0",
    "full",
    "full-2x",
    "blind",
    "imp",
    "random",
    "random-layerwise",
    "text-only",
    "shuffled-within",
    "shuffled-all",
    "random-start",
    "scratch",
    "one-shot",
]


TaskName = Literal["vqa", "gqa", "vcr", "nlvr2", "nlvr1", "snli_ve", "refcoco", "retrieval", "matching"]
BackboneName = Literal[
    "tiny",
    "real",
    "small",
    "base",
    "large",
    "lxmert-tiny",
    "lxmert-base",
    "vilt-tiny",
    "vilt-real",
    "vilt-base",
    "clip-tiny",
    "siglip-tiny",
    "blip-tiny",
    "flava-tiny",
    "bridgetower-tiny",
    "visualbert-tiny",
]
METRICS = {"vcr": "Q→AR", "retrieval": "image R@1"}  # the headline of tasks that are not scored by plain accuracy


class WorldSize(Spec):
    """The embedded world's size."""

    seed: int = 0
    scenes: int = Field(15000, ge=1)
    examples: int = Field(6000, ge=1)
    heldout: int = Field(4000, ge=1)


class Stage(Spec):
    """One stage of pre-training."""

    training: Recipe
    objectives: Objectives = OFFICIAL_OBJECTIVES
    corpora: Corpora | None = Field(None, description="caption corpora to mix; else the folder's captions")
    foils: float = Field(0.0, ge=0, le=1)
    mask_words: float = Field(0.15, gt=0, le=1)
    mask_regions: float = Field(0.15, gt=0, le=1)
    lxmert: LxmertObjectives | None = Field(None, description="LXMERT's own, all in each step, not `objectives`")
    questions: tuple[Literal["vqa", "gqa"], ...] | None = Field(None, description="asked with `lxmert`; else both")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Stage:
        if self.lxmert is None and self.questions is not None:
            raise ValueError("questions are asked in LXMERT's own pre-training: they need a table `lxmert`")
        if self.lxmert is not None and self.corpora is not None:
            raise ValueError("LXMERT's own pre-training reads captions and questions; leave `corpora` out")
        return self


class Pretrain(Spec):
    """How θ₀ is made: a text-only stage first where there is one (θ₀′, its parent), then vision and language."""

    text: Stage | None = None
    vision_language: Stage
    seed: int = 0
    start: str | None = Field(None, description="a file of imported weights, θ₀′, instead of a text-only stage")

    @model_validator(mode="after")
    def _one_parent(self) -> Pretrain:
        if self.start is not None and self.text is not None:
            raise ValueError("[pretraining] has both `start` and a table [pretraining.text]; keep one")
        if self.text is not None and self.text.lxmert is not None:
            raise ValueError("[pretraining.text] hides words alone; the table lxmert is for vision_language")
        return self


class Schedule(Spec):
    """Levels by rule: `rate` of the original weights a round (linear), or of the remaining ones (geometric)."""

    schedule: Literal["linear", "geometric"]
    rate: float = Field(0.1, gt=0, lt=1)
    until: float = Field(0.9, gt=0, lt=1)


class Common(Spec):
    """What every kind of study says: the data, the backbone, where its θ₀ comes from, and the seeds.

    `prunable` is what its masks cover. The sizes that this takes from the data are filled in when it is planned.
    """

    title: str
    note: str = ""
    data: Literal["world", "folder"] = "world"
    layout: Literal["official", "flickr8k", "photos"] | None = Field(None, description="of the folder; else it is seen")
    world: WorldSize = WorldSize()
    backbone: BackboneName | HuggingFace = Field("tiny", description="a name, or a table for a Hugging Face model")
    prunable: Prunable = USUAL_PARTS
    vocabulary: int | None = Field(None, ge=1, description="words of the data, where embeddings are prunable")
    region_width: int | None = Field(None, ge=1, description="of the data, where the projection is prunable")
    split: str = "test"
    start: Literal["shipped", "pretrained", "fresh", "imported"] = "pretrained"
    weights: str | None = Field(None, description="the file of imported weights, for start = 'imported'")
    pretraining: Pretrain | None = None
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    seeds: tuple[int, ...] = (0, 1, 2)

    @model_validator(mode="after")
    def _grounded(self) -> Self:
        if (
            not self.levels
            or list(self.levels) != sorted(set(self.levels))
            or not 0 < self.levels[0] <= self.levels[-1] < 1
        ):
            raise ValueError(f"levels = {self.levels}: sparsities must rise, inside (0, 1)")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: at least one seed, none twice")
        if self.start == "shipped" and (self.backbone, self.data) != ("tiny", "world"):
            raise ValueError("start = 'shipped' is for the tiny backbone in the embedded world; use 'pretrained'")
        if (self.start == "imported") != (self.weights is not None):
            raise ValueError("start = 'imported' and weights = 'FILE.safetensors' go together")
        if self.data == "world" and self.split not in ("dev", "test"):
            raise ValueError(f"split = {self.split!r}: the embedded world is scored on dev or test")
        own = self.pretraining is not None and self.pretraining.vision_language.lxmert is not None
        if own and not isinstance(self.named_shape, Lxmert):
            raise ValueError(f"[pretraining.vision_language.lxmert] is for an LXMERT, and backbone = {self.backbone!r}")
        if self.start == "pretrained" and self.pretraining is None:
            raise ValueError("start = 'pretrained' needs a table [pretraining]")
        for size in {"vocabulary", "region_width"} - set(self.sizes_needed):
            if getattr(self, size) is not None:
                raise ValueError(f"{size}: nothing of that size is among prunable = {list(self.prunable)}")
        return self

    def among_levels(self, name: str, chosen: tuple[float, ...]) -> None:
        """Raise `ValueError` unless every chosen sparsity is a round of the search."""
        if odd := [level for level in chosen if level not in self.levels]:
            raise ValueError(f"{name} = {chosen}: {odd[0]} is not among the levels")

    @property
    def shape(self) -> BackboneSpec:
        """The backbone's shape, and what its masks cover."""
        return changed(
            self.named_shape, prunable=self.prunable, vocabulary=self.vocabulary, region_width=self.region_width
        )

    @property
    def named_shape(self) -> BackboneSpec:
        """The backbone as it is named, whatever masks cover."""
        return self.backbone if isinstance(self.backbone, HuggingFace) else sized(self.backbone)

    @property
    def sizes_needed(self) -> tuple[str, ...]:
        """The sizes, `vocabulary` and `region_width`, that its masks take from the data."""
        return self.named_shape.sizes_needed(self.prunable)

    @property
    def weight_file(self) -> Path | None:
        """The file of imported weights that the study needs, if any."""
        if self.start == "imported":
            return None if self.weights is None else Path(self.weights)
        stages = self.pretraining if self.start == "pretrained" else None
        return None if stages is None or stages.start is None else Path(stages.start)


def task_on(name: str, options: dict[str, Any], data: Any, split: str, *, blind: bool = False) -> TaskSpec:
    """Return a task over a source of data, with a recipe's options for it."""
    if odd := sorted({"kind", "data", "blind"} & set(options)):
        raise UserError(f"options of the task {name}: {odd[0]!r} is not among them; it follows from the study")
    values = {"split": split, **options, "kind": name, "data": data, "blind": blind}
    task: TaskSpec = parse(TASK_KINDS[name], values, f"options of the task {name}")  # type: ignore[assignment]
    return task


class Study(Common):
    """A ticket, searched and tested: one task, one start, sparsities, seeds and baselines.

    `levels` are the rounds of the search and the sparsities of `imp`: a list, or in a recipe a table that `Schedule`
    describes; `random` runs at them too unless `random_levels` names fewer; the other sparse baselines run at `quoted`.
    `patterns` ("2:4", "block-4x1") are searched for beside single weights: blocks at the same levels, n:m at its own.
    """

    study: Literal["first-ticket"] = "first-ticket"
    task: TaskName = "vqa"
    options: dict[str, Any] = Field({}, description="the task's own keys, such as head, boxes, hard_negatives")
    training: Recipe
    random_levels: tuple[float, ...] | None = None
    quoted: tuple[float, ...] = (0.7,)
    baselines: tuple[Baseline, ...] = ("full", "full-2x", "blind", "imp", "random", "shuffled-within", "one-shot")
    patterns: tuple[PatternName, ...] = Field(
        (), description="each adds rows imp-PATTERN and, with random, random-PATTERN"
    )
    rewind: float = Field(0.0, ge=0, lt=1, description="share of the steps to rewind to, instead of θ₀")

    @model_validator(mode="after")
    def _sound(self) -> Study:
        self.among_levels("quoted", self.quoted)
        self.among_levels("random_levels", self.random_levels or ())
        if odd := [one for one in self.patterns if self.patterns.count(one) > 1 or one == UNSTRUCTURED]:
            raise ValueError(f"patterns = {self.patterns}: {odd[0]!r} is there twice (single weights are `imp`)")
        stages = self.pretraining if self.start == "pretrained" else None
        if "text-only" in self.baselines and stages is not None and stages.text is None and stages.start is None:
            raise ValueError("the baseline text-only needs a table [pretraining.text]: the weights θ₀ started from")
        if self.start == "fresh" and "one-shot" in self.baselines:
            raise ValueError("the baseline one-shot ranks pre-trained weights; of fresh ones it would be a random mask")
        if self.start == "imported" and "text-only" in self.baselines:
            raise ValueError("the baseline text-only is for weights pre-trained here; leave it out with 'imported'")
        return self

    @property
    def metric(self) -> str:
        """What the score is called."""
        return METRICS.get(self.task, "accuracy")

    def task_on(self, data: Any, *, blind: bool = False) -> TaskSpec:
        """Return the study's task over a source of data."""
        return task_on(self.task, self.options, data, self.split, blind=blind)
