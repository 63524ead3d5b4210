"""The trainings and masks that the paper's artefacts are made of. All are nodes, so artefacts share what they can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache

from vltickets.specs import (
    DataSpec,
    MaskSource,
    OneShot,
    Prune,
    RandomMask,
    Recipe,
    Rewound,
    Start,
    Train,
    Trained,
    changed,
)
from vltickets.studies.config import task_on
from vltickets.studies.graph import Cell
from vltickets.studies.paper_config import Paper
from vltickets.studies.starts import imported_weights, pretraining_stage, starts
from vltickets.studies.verdicts import highest_by_means
from vltickets.tickets import iterative_magnitude_pruning

PRETRAINING = "pretraining"
RANDOM = "random"
ONE_SHOT = "one-shot"
HEADLINES = {"retrieval": ("score", "tr@1")}  # the metrics that are columns of the paper's tables; else the score alone

Metrics = Callable[[Train], Mapping[str, float] | None]


def nothing_finished(node: Train) -> None:
    """The metrics of a run where nothing is known yet."""


class Lab:
    """Trainings of one paper study over one source of data. A source of masks is a task, `pretraining`,
    or one of the controls `random` and `one-shot`. `metrics` tells those of a finished training."""

    def __init__(self, study: Paper, data: DataSpec, metrics: Metrics = nothing_finished) -> None:
        self.study = study
        self.data = data
        self.metrics = metrics
        self.tasks: tuple[str, ...] = tuple(study.tasks)
        self.theta0, self.text_only = starts(study, data)
        if study.text_weights is not None:
            self.text_only = imported_weights(study.text_weights)
        self._shape = study.shape
        # Thousands of trainings share few tasks and recipes: each is read and checked once.
        self._task = cache(lambda name: task_on(name, study.tasks[name].options, data, study.split))
        self._recipe = cache(study.recipe_of)
        self._masks: dict[tuple[str, int, bool, float], dict[float, MaskSource]] = {}

    def train(
        self,
        task: str,
        seed: int,
        mask: MaskSource | None = None,
        *,
        start: Start | None = None,
        adversarial: bool = False,
        recipe: Recipe | None = None,
    ) -> Train:
        """Return the fine-tuning of a task, from θ₀ unless given, under a mask; adversarial where asked for."""
        return Train(
            backbone=self._shape,
            task=self._task(task),
            start=start or self.theta0,
            recipe=recipe or self._recipe(task, adversarial=adversarial),
            mask=mask,
            seed=seed,
        )

    def rewound(self, task: str, seed: int, share: float) -> Start:
        """Return θᵢ of the dense run, i a share of its steps; θ₀ where that is no step."""
        whole = self.train(task, seed)
        step = round(share * whole.recipe.steps)
        return Rewound(train=changed(whole, until=step)) if step else self.theta0

    def pretrain(self, seed: int, mask: MaskSource | None = None) -> Train:
        """Return a round of pre-training, from θ₀ and the pre-trained heads.

        Its batches are not those that made θ₀: its seed comes after pre-training's own.
        """
        whole, universal = self._pretraining(), self.study.universal
        recipe = changed(
            whole.recipe,
            steps=max(round(universal.share * whole.recipe.steps), 1),
            learning_rate=universal.learning_rate or whole.recipe.learning_rate,
            warmup=whole.recipe.warmup if universal.warmup is None else universal.warmup,
        )
        return Train(
            backbone=self._shape,
            task=whole.task,
            start=self.theta0,
            recipe=recipe,
            mask=mask,
            seed=whole.seed + 1 + seed,
        )

    def _pretraining(self) -> Train:
        """Return the pre-training that made θ₀; where θ₀ was imported, the one that the recipe describes."""
        if isinstance(self.theta0, Trained):
            return self.theta0.train
        stages = self.study.pretraining
        assert stages is not None
        return pretraining_stage(self.study, stages.vision_language, self.data, self.theta0, stages.seed)

    def masks(
        self, source: str, seed: int, *, adversarial: bool = False, rewind: float = 0.0
    ) -> dict[float, MaskSource]:
        """Return a source's mask at every level: those of iterative magnitude pruning, or of a control."""
        key = (source, seed, adversarial, rewind)
        if key not in self._masks:
            make = {RANDOM: self._random, ONE_SHOT: self._one_shot}.get(source)
            found = self._searched(source, seed, adversarial, rewind) if make is None else {}
            self._masks[key] = found if make is None else {level: make(level, seed) for level in self.study.levels}
        return self._masks[key]

    def _random(self, level: float, seed: int) -> MaskSource:
        return RandomMask(backbone=self._shape, sparsity=level, seed=seed)

    def _one_shot(self, level: float, seed: int) -> MaskSource:
        return OneShot(backbone=self._shape, start=self.theta0, sparsity=level)  # one for all seeds

    def _searched(self, source: str, seed: int, adversarial: bool, rewind: float) -> dict[float, MaskSource]:
        rewound = self.rewound(source, seed, rewind) if rewind else None

        def train(mask: MaskSource | None) -> Train:
            if source == PRETRAINING:
                return self.pretrain(seed, mask)
            start = None if mask is None else rewound  # the first round is the dense run, from θ₀
            return self.train(source, seed, mask, adversarial=adversarial, start=start)

        rounds = iterative_magnitude_pruning(
            train=train,
            prune=lambda trained, sparsity: Prune(train=trained, sparsity=sparsity),
            levels=self.study.levels,
        )
        return {step.sparsity: step.mask for step in rounds}

    def full(
        self, task: str, artefact: str, *, adversarial: bool = False, seeds: tuple[int, ...] | None = None
    ) -> Iterator[Cell]:
        """Yield the dense cells of a task."""
        for seed in self.study.seeds if seeds is None else seeds:
            node = self.train(task, seed, adversarial=adversarial)
            yield Cell("full", 0.0, seed, node, task=task, adversarial=adversarial, artefacts=(artefact,))

    def tickets(
        self,
        source: str,
        task: str,
        levels: tuple[float, ...],
        artefact: str,
        *,
        found_adversarially: bool = False,
        adversarial: bool = False,
        seeds: tuple[int, ...] | None = None,
    ) -> Iterator[Cell]:
        """Yield the cells of a source's tickets on a task, seed s's mask for seed s."""
        for seed in self.study.seeds if seeds is None else seeds:
            masks = self.masks(source, seed, adversarial=found_adversarially)
            for level in levels:
                node = self.train(task, seed, masks[level], adversarial=adversarial)
                baseline = f"{source}-adversarial" if found_adversarially else source
                yield Cell(baseline, level, seed, node, task=task, adversarial=adversarial, artefacts=(artefact,))

    def highest(self, task: str) -> tuple[float, ...]:
        """Return the highest sparsity of a task's own tickets by the paper's rule, for each of its headline metrics.

        Nothing for a metric as long as a run is missing to say so, or where already the lowest level fails.
        """
        found = (self._highest(task, metric) for metric in HEADLINES.get(task, ("score",)))
        return tuple(sorted({level for level in found if level}))

    def _highest(self, task: str, metric: str) -> float | None:
        def scores(level: float) -> dict[int, float] | None:
            nodes = {s: self.train(task, s, self.masks(task, s)[level] if level else None) for s in self.study.seeds}
            known = {seed: metrics[metric] for seed, node in nodes.items() if (metrics := self.metrics(node))}
            return known if len(known) == len(nodes) else None

        return highest_by_means(scores(0.0), {level: scores(level) for level in self.study.levels})
