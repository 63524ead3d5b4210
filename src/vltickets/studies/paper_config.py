"""What the recipe of the paper's artefacts may say: its tasks, the universal ticket, adversarial training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vltickets.specs import Adversarial, Lxmert, Recipe, Spec, Vilt, parse
from vltickets.studies.config import Common, TaskName

Artefact = Literal["table2", "table3", "table4", "figure3", "figure5", "table5", "figure8"]
# Table 3 comes with Figure 4, Table 4 with Figure 7: the same cells.
WHOSE: dict[Artefact, type[Lxmert] | type[Vilt]] = {"table3": Lxmert, "table4": Vilt}
LEVELS: dict[str, Artefact] = {  # which artefact a choice of levels is of
    "transfer_levels": "figure3",
    "universal_levels": "table2",
    "overlap_levels": "figure8",
    "adversarial_levels": "table5",
}
ARTEFACTS: tuple[Artefact, ...] = ("table2", "figure3", "figure5", "table5", "figure8")


class TaskPlan(Spec):
    """One task of the paper: its options, and what differs from the study's tables `training` and `adversarial`."""

    options: dict[str, Any] = Field({})
    training: dict[str, Any] = Field({})
    adversarial: dict[str, Any] = Field({})


class Universal(Spec):
    """How the universal ticket is looked for: iterative magnitude pruning on the pre-training tasks.

    A round is `share` of the pre-training's steps, from θ₀ and the pre-trained heads, with fresh optimiser state. The
    paper does not say how its rounds are scheduled; here each warms up over `warmup` of its steps to `learning_rate`
    and decays to 0, as pre-training did, and both are pre-training's own where they are not given.
    """

    share: float = Field(0.1, gt=0, le=1)
    learning_rate: float | None = Field(None, gt=0)
    warmup: float | None = Field(None, ge=0, lt=1)


class Paper(Common):
    """The paper's tables and figures as one graph: whatever two of them need is done once.

    `levels` are the rounds of every search. Transfer is shown at `transfer_levels`, from each task's ticket, the
    pre-training ticket and the controls to each task.
    """

    study: Literal["paper"]
    artefacts: tuple[Artefact, ...] = ARTEFACTS
    training: Recipe
    tasks: dict[TaskName, TaskPlan]
    universal: Universal = Universal()
    controls: tuple[Literal["random", "one-shot"], ...] = Field(
        ("random",), description="beside the tickets of Figure 3"
    )
    transfer_levels: tuple[float, ...] = (0.5, 0.7, 0.9)
    universal_levels: tuple[float, ...] = Field((0.5, 0.6, 0.7, 0.8), description="of Table 2")
    overlap_levels: tuple[float, ...] = Field((0.6, 0.7), description="of Figure 8")
    adversarial: Adversarial | None = Field(None, description="for Figure 5 and Table 5")
    adversarial_levels: tuple[float, ...] = Field((0.6, 0.7), description="of Table 5")
    adversarial_tasks: tuple[TaskName, ...] = Field(("vqa", "vcr", "refcoco"), description="of Figure 5")

    @model_validator(mode="after")
    def _sound(self) -> Paper:
        for name, artefact in LEVELS.items():
            if artefact in self.artefacts:
                self.among_levels(name, getattr(self, name))
        if not self.tasks:
            raise ValueError("the paper needs at least one table [tasks.NAME]")
        if len(set(self.artefacts)) < len(self.artefacts):
            raise ValueError(f"artefacts = {self.artefacts}: each of them once")
        if {"figure5", "table5"} & set(self.artefacts) and self.adversarial is None:
            raise ValueError("Figure 5 and Table 5 need a table [adversarial]")
        for artefact, kind in WHOSE.items():
            if artefact in self.artefacts and not isinstance(self.named_shape, kind):
                raise ValueError(f"{artefact} is of a {kind.__name__}, and the backbone is {self.backbone!r}")
        odd = [name for name in self.adversarial_tasks if name not in self.tasks]
        if odd and "figure5" in self.artefacts:
            raise ValueError(f"adversarial_tasks = {self.adversarial_tasks}: no table [tasks.{odd[0]}]")
        if self.start in ("shipped", "fresh") or self.pretraining is None:
            raise ValueError(
                "the universal ticket goes on with pre-training: it needs a table [pretraining], and "
                "start = 'pretrained' or 'imported'"
            )
        for name in self.tasks:
            self.recipe_of(name, adversarial=True)
        return self

    def recipe_of(self, task: str, *, adversarial: bool = False) -> Recipe:
        """Return how a task is fine-tuned."""
        plan = self.tasks[task]  # type: ignore[index]
        values = self.training.model_dump() | plan.training
        if adversarial and self.adversarial is not None:
            own = self.adversarial.model_dump() | plan.adversarial
            values["adversarial"] = parse(Adversarial, own, f"tasks.{task}.adversarial").model_dump()
        return parse(Recipe, values, f"tasks.{task}.training")
