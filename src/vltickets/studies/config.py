"""A study's recipe: what a TOML file may say, and what the presets say."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from vltickets.errors import unknown
from vltickets.specs import (
    OFFICIAL_OBJECTIVES,
    TASK_KINDS,
    Objectives,
    Recipe,
    Spec,
    TaskSpec,
    Uniter,
    parse,
    read_toml,
    sized,
    with_setting,
)

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
    foils: float = Field(0.0, ge=0, le=1)
    mask_words: float = Field(0.15, gt=0, le=1)
    mask_regions: float = Field(0.15, gt=0, le=1)


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
        return self


class Schedule(Spec):
    """Levels by rule: `rate` of the original weights a round (linear), or of the remaining ones (geometric)."""

    schedule: Literal["linear", "geometric"]
    rate: float = Field(0.1, gt=0, lt=1)
    until: float = Field(0.9, gt=0, lt=1)


class Study(Spec):
    """A ticket, searched and tested: one task, one start, sparsities, seeds and baselines.

    `levels` are the rounds of the search and the sparsities of `imp`: a list, or in a recipe a table that `Schedule`
    describes; `random` runs at them too unless `random_levels` names fewer; the other sparse baselines run at `quoted`.
    """

    study: Literal["first-ticket"] = "first-ticket"
    title: str
    note: str = ""
    data: Literal["world", "folder"] = "world"
    layout: Literal["official", "flickr8k", "photos"] | None = Field(None, description="of the folder; else it is seen")
    world: WorldSize = WorldSize()
    backbone: Literal["tiny", "real", "small", "base", "large"] = "tiny"
    task: Literal["vqa", "gqa", "vcr", "nlvr2", "nlvr1", "snli_ve", "refcoco", "retrieval", "matching"] = "vqa"
    options: dict[str, Any] = Field({}, description="the task's own keys, such as head, boxes, hard_negatives")
    split: str = "test"
    start: Literal["shipped", "pretrained", "fresh", "imported"] = "pretrained"
    weights: str | None = Field(None, description="the file of imported weights, for start = 'imported'")
    pretraining: Pretrain | None = None
    training: Recipe
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    random_levels: tuple[float, ...] | None = None
    quoted: tuple[float, ...] = (0.7,)
    seeds: tuple[int, ...] = (0, 1, 2)
    baselines: tuple[Baseline, ...] = ("full", "full-2x", "blind", "imp", "random", "shuffled-within", "one-shot")
    rewind: float = Field(0.0, ge=0, lt=1, description="share of the steps to rewind to, instead of θ₀")

    @model_validator(mode="after")
    def _sound(self) -> Study:
        if (
            not self.levels
            or list(self.levels) != sorted(set(self.levels))
            or not 0 < self.levels[0] <= self.levels[-1] < 1
        ):
            raise ValueError(f"levels = {self.levels}: sparsities must rise, inside (0, 1)")
        for name, chosen in (("quoted", self.quoted), ("random_levels", self.random_levels or ())):
            if odd := [level for level in chosen if level not in self.levels]:
                raise ValueError(f"{name} = {chosen}: {odd[0]} is not among the levels")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: at least one seed, none twice")
        stages = self.pretraining if self.start == "pretrained" else None
        if "text-only" in self.baselines and stages is not None and stages.text is None and stages.start is None:
            raise ValueError("the baseline text-only needs a table [pretraining.text]: the weights θ₀ started from")
        if self.start == "shipped" and (self.backbone, self.data) != ("tiny", "world"):
            raise ValueError("start = 'shipped' is for the tiny backbone in the embedded world; use 'pretrained'")
        if (self.start == "imported") != (self.weights is not None):
            raise ValueError("start = 'imported' and weights = 'FILE.safetensors' go together")
        if self.start == "imported" and "text-only" in self.baselines:
            raise ValueError("the baseline text-only is for weights pre-trained here; leave it out with 'imported'")
        if self.data == "world" and self.split not in ("dev", "test"):
            raise ValueError(f"split = {self.split!r}: the embedded world is scored on dev or test")
        if self.start == "pretrained" and self.pretraining is None:
            raise ValueError("start = 'pretrained' needs a table [pretraining]")
        return self

    @property
    def metric(self) -> str:
        """What the score is called."""
        return METRICS.get(self.task, "accuracy")

    @property
    def uniter(self) -> Uniter:
        """The backbone's shape."""
        return sized(self.backbone)

    @property
    def weight_file(self) -> Path | None:
        """The file of imported weights that the study needs, if any."""
        if self.start == "imported":
            return None if self.weights is None else Path(self.weights)
        stages = self.pretraining if self.start == "pretrained" else None
        return None if stages is None or stages.start is None else Path(stages.start)

    def task_on(self, data: Any, *, blind: bool = False) -> TaskSpec:
        """Return the study's task over a source of data."""
        values = {**self.options, "kind": self.task, "data": data, "split": self.split, "blind": blind}
        task: TaskSpec = parse(TASK_KINDS[self.task], values, f"options of the task {self.task}")  # type: ignore[assignment]
        return task


def presets() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = resources.files("vltickets") / "recipes"
    return {Path(str(item)).stem: Path(str(item)) for item in folder.iterdir() if item.name.endswith(".toml")}


def load_study(name: str, settings: tuple[str, ...] = ()) -> Study:
    """Return a preset, or the recipe in a TOML file, with `a.b=value` settings applied.

    Raises `UserError` that names the nearest preset, or the file and the key that does not fit.
    """
    known = presets()
    path = known.get(name) or Path(name)
    if name not in known and path.suffix != ".toml":
        raise unknown("study or preset", name, known)
    values = read_toml(path)
    for setting in settings:
        values = with_setting(values, setting)
    where = str(path) if name not in known else f"recipe {name}"
    if isinstance(values.get("levels"), dict):
        values["levels"] = levels_of(parse(Schedule, values["levels"], f"{where}, levels"))
    _resolve(values, "weights", path.parent)
    if isinstance(values.get("pretraining"), dict):
        _resolve(values["pretraining"], "start", path.parent)
    return parse(Study, values, where)


def _resolve(values: dict[str, Any], key: str, folder: Path) -> None:
    """Make a file's name relative to the recipe's folder where it is there, else to the current one."""
    name = values.get(key)
    if isinstance(name, str) and (folder / name).exists():
        values[key] = str(folder / name)


def levels_of(schedule: Schedule) -> tuple[float, ...]:
    """Return the levels of a schedule, to four digits."""
    from vltickets.tickets import schedules  # not above: it brings torch, for which no recipe should wait

    rule = schedules.linear if schedule.schedule == "linear" else schedules.geometric
    return tuple(round(level, 4) for level in rule(schedule.rate, schedule.until))
