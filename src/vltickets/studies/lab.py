"""The trainings and masks that the paper's artefacts are made of. All are nodes, so artefacts share what they can."""

from __future__ import annotations

from collections.abc import Iterator

from vltickets.specs import DataSpec, MaskSource, OneShot, Prune, RandomMask, Train, Trained, changed
from vltickets.studies.config import task_on
from vltickets.studies.graph import Cell
from vltickets.studies.paper_config import Paper
from vltickets.studies.starts import pretraining_stage, starts
from vltickets.tickets import iterative_magnitude_pruning

PRETRAINING = "pretraining"
RANDOM = "random"
ONE_SHOT = "one-shot"


class Lab:
    """Trainings of one paper study over one source of data. A source of masks is a task, `pretraining`,
    or one of the controls `random` and `one-shot`."""

    def __init__(self, study: Paper, data: DataSpec) -> None:
        self.study = study
        self.data = data
        self.tasks: tuple[str, ...] = tuple(study.tasks)
        self.theta0, _ = starts(study, data)
        self._masks: dict[tuple[str, int, bool], dict[float, MaskSource]] = {}

    def train(self, task: str, seed: int, mask: MaskSource | None = None, *, adversarial: bool = False) -> Train:
        """Return the fine-tuning of a task from θ₀, under a mask; adversarial where asked for."""
        return Train(
            backbone=self.study.shape,
            task=task_on(task, self.study.tasks[task].options, self.data, self.study.split),  # type: ignore[index]
            start=self.theta0,
            recipe=self.study.recipe_of(task, adversarial=adversarial),
            mask=mask,
            seed=seed,
        )

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
            backbone=self.study.shape,
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

    def masks(self, source: str, seed: int, *, adversarial: bool = False) -> dict[float, MaskSource]:
        """Return a source's mask at every level: those of iterative magnitude pruning, or of a control."""
        key = (source, seed, adversarial)
        if key not in self._masks:
            make = {RANDOM: self._random, ONE_SHOT: self._one_shot}.get(source)
            found = self._searched(source, seed, adversarial) if make is None else {}
            self._masks[key] = found if make is None else {level: make(level, seed) for level in self.study.levels}
        return self._masks[key]

    def _random(self, level: float, seed: int) -> MaskSource:
        return RandomMask(backbone=self.study.shape, sparsity=level, seed=seed)

    def _one_shot(self, level: float, seed: int) -> MaskSource:
        return OneShot(backbone=self.study.shape, start=self.theta0, sparsity=level)  # one for all seeds

    def _searched(self, source: str, seed: int, adversarial: bool) -> dict[float, MaskSource]:
        def train(mask: MaskSource | None) -> Train:
            if source == PRETRAINING:
                return self.pretrain(seed, mask)
            return self.train(source, seed, mask, adversarial=adversarial)

        rounds = iterative_magnitude_pruning(
            train=train,
            prune=lambda trained, sparsity: Prune(train=trained, sparsity=sparsity),
            levels=self.study.levels,
        )
        return {step.sparsity: step.mask for step in rounds}

    def full(self, task: str, artefact: str, *, adversarial: bool = False) -> Iterator[Cell]:
        """Yield the dense cells of a task."""
        for seed in self.study.seeds:
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
    ) -> Iterator[Cell]:
        """Yield the cells of a source's tickets on a task, seed s's mask for seed s."""
        for seed in self.study.seeds:
            masks = self.masks(source, seed, adversarial=found_adversarially)
            for level in levels:
                node = self.train(task, seed, masks[level], adversarial=adversarial)
                baseline = f"{source}-adversarial" if found_adversarially else source
                yield Cell(baseline, level, seed, node, task=task, adversarial=adversarial, artefacts=(artefact,))
