"""What the recipe of the paper's artefacts may say: its tasks, the universal ticket, adversarial training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vltickets.specs import Adversarial, Lxmert, Recipe, Spec, Vilt, parse
from vltickets.studies.config import Common, TaskName

Artefact = Literal["table1", "figure2", "table2", "table3", "table4", "figure3", "figure5", "table5", "figure8"]
# Figure 6 comes with Figure 3, Figure 4 with Table 3, Figure 7 with Table 4: the same cells.
WHOSE: dict[Artefact, type[Lxmert] | type[Vilt]] = {"table3": Lxmert, "table4": Vilt}
LEVELS: dict[str, Artefact] = {  # which artefact a choice of levels is of
    "transfer_levels": "figure3",
    "universal_levels": "table2",
    "overlap_levels": "figure8",
    "adversarial_levels": "table5",
}
OF_PRETRAINING: tuple[Artefact, ...] = ("figure2", "table2", "figure3", "table5", "figure8")  # its tickets are in these
ARTEFACTS: tuple[Artefact, ...] = ("table1", "figure2", "table2", "figure3", "figure5", "table5", "figure8")


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
    pre-training ticket and the controls to each task. Table 1 shows each task at the highest sparsity that its tickets
    of `seeds` hold: cells that can be planned only when those are done. `quoted_seeds` are run for that table alone:
    the sparsity was not picked on them.
    """

    study: Literal["paper"]
    artefacts: tuple[Artefact, ...] = ARTEFACTS
    training: Recipe
    tasks: dict[TaskName, TaskPlan]
    universal: Universal = Universal()
    text_weights: str | None = Field(None, description="imported text-only weights, θ₀′ of Table 1, if θ₀ is imported")
    quoted_seeds: tuple[int, ...] = Field((), description="fresh seeds of Table 1, beside `seeds`")
    full_twice: bool = Field(False, description="in Table 1, the dense model at twice the steps too")
    rewind_tasks: tuple[TaskName, ...] = Field(("vqa",), description="of Figure 2")
    rewind_shares: tuple[float, ...] = Field((0.05, 0.1, 0.2, 0.5), description="of the steps, to rewind to")
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
        if odd := sorted(set(self.seeds) & set(self.quoted_seeds)):
            raise ValueError(f"quoted_seeds = {self.quoted_seeds}: {odd[0]} is among the seeds, so it is not fresh")
        if odd_shares := [share for share in self.rewind_shares if not 0 < share < 1]:
            raise ValueError(f"rewind_shares = {self.rewind_shares}: {odd_shares[0]} is no share inside (0, 1)")
        if len(set(self.artefacts)) < len(self.artefacts):
            raise ValueError(f"artefacts = {self.artefacts}: each of them once")
        if {"figure5", "table5"} & set(self.artefacts) and self.adversarial is None:
            raise ValueError("Figure 5 and Table 5 need a table [adversarial]")
        for artefact, kind in WHOSE.items():
            if artefact in self.artefacts and not isinstance(self.named_shape, kind):
                raise ValueError(f"{artefact} is of a {kind.__name__}, and the backbone is {self.backbone!r}")
        for chosen, artefact in (("adversarial_tasks", "figure5"), ("rewind_tasks", "figure2")):
            unplanned = [name for name in getattr(self, chosen) if name not in self.tasks]
            if unplanned and artefact in self.artefacts:
                raise ValueError(f"{chosen} = {getattr(self, chosen)}: no table [tasks.{unplanned[0]}]")
        if self.text_weights is not None and self.start != "imported":
            raise ValueError("text_weights go with start = 'imported'; a θ₀ pre-trained here has [pretraining.text]")
        universal = [name for name in self.artefacts if name in OF_PRETRAINING]
        if universal and (self.start in ("shipped", "fresh") or self.pretraining is None):
            raise ValueError(
                f"{universal[0]} has the universal ticket, which goes on with pre-training: it needs a table "
                "[pretraining], and "
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
