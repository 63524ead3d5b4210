"""The adversarial step: the gradients of a batch whose words and regions are perturbed against the model.

Two forms stand side by side, the paper's (Gan et al., AAAI 2022, eq. 2-5) and VILLA's as released (official-models 6);
docs/protocol.md says how they differ. Perturbations δ enter where the backbone says (`perturbed_places`), by hooks, so
tasks and backbones know nothing of them.

Axes: b rows of the backbone's batch (several an example in VCR, NLVR2 and the ranking tasks), n words or regions,
d their width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, cast

import torch
from torch import nn

from vltickets.backbones import Backbone
from vltickets.errors import UserError
from vltickets.specs import Adversarial, Recipe
from vltickets.tasks import LogitTask, Model, Task

Modality = Literal["words", "regions"]
Autocast = Callable[[], AbstractContextManager[Any]]
Backward = Callable[[torch.Tensor], object]

BOTH: tuple[Modality, ...] = ("words", "regions")
SMALLEST_NORM = 1e-8  # VILLA's floor of the gradient's norm: a block without gradient stays where it is


def adversary_of(model: Model, task: Task, recipe: Recipe, autocast: Autocast, backward: Backward) -> Adversary | None:
    """Return what makes a recipe's adversarial gradients; None for a recipe of standard training, K = 0 among them.

    Raises `UserError` for a task that has no logits.
    """
    if recipe.adversarial is None or recipe.adversarial.steps == 0:
        return None
    if not isinstance(task, LogitTask):
        raise UserError(
            f"the task {task.name} gives no logits, which adversarial training needs; "
            "leave [training.adversarial] out of its recipe"
        )
    return Adversary(model, task, recipe.adversarial, recipe.dropout > 0, autocast, backward)


class Adversary:
    """Adds the adversarial gradients of batches to a model's parameters.

    `delta` is the last batch's perturbation. `dropout` says whether two passes over the same inputs differ: where they
    don't, VILLA's form has one pass fewer to do. Every pass draws its own dropout.
    """

    def __init__(
        self, model: Model, task: LogitTask, spec: Adversarial, dropout: bool, autocast: Autocast, backward: Backward
    ) -> None:
        self.model, self.task, self.spec = model, task, spec
        self.dropout, self.autocast, self.backward = dropout, autocast, backward
        self.delta = Perturbation(model.backbone)

    def gradients(self, batch: Any, share: float, step: int) -> float:
        """Add the gradients of `share` times the batch's objective; return that value."""
        self.delta = Perturbation(self.model.backbone)
        with self.autocast():
            batch = self.task.settled(self.model, batch)
        return self._paper(batch, share, step) if self.spec.form == "paper" else self._villa(batch, share)

    def _paper(self, batch: Any, share: float, step: int) -> float:
        """L_std + R_at + α·R_kl, both regularisers at one δ that was ascended K times on L (eq. 5).

        `alternating` perturbs words in even steps of the optimiser, regions in odd ones.
        """
        perturb = self.spec.perturb
        modalities = (BOTH[step % 2],) if perturb == "alternating" else _modalities(perturb)
        for _ in range(self.spec.steps):
            loss = self._loss(self._logits(batch, modalities), batch)
            self._ascend(self.delta.gradients(loss))
        clean, perturbed = self._logits(batch), self._logits(batch, modalities)
        return self._pull(share * (self._loss(clean, batch) + self._loss(perturbed, batch, clean)))

    def _villa(self, batch: Any, share: float) -> float:
        """Mean over K steps of the loss at δ plus α times the KL to the clean pass; δ moves after each but the last.

        The clean pass is done once and gets gradient from every step's KL term. VILLA goes back through it in each
        step; here its logits collect those gradients and go back once: the same sum, K - 1 backward passes fewer.
        `alternating` goes through words alone, then regions alone, in every step.
        """
        steps, perturb = self.spec.steps, self.spec.perturb
        turns = [(one,) for one in BOTH] if perturb == "alternating" else [_modalities(perturb)]
        clean: CleanPass | None = None
        value = 0.0
        if not self.dropout:
            # The first step, at δ = 0, is the clean pass: its KL term is zero, and one graph does for both.
            clean = CleanPass(self._logits(batch, _modalities(perturb)))
            value += self._pull(share / steps * self._loss(clean.leaf, batch))
            if steps > 1:
                self._ascend(self.delta.gradients(clean.logits, clean.gradient()))
        elif self.spec.kl_weight:
            clean = CleanPass(self._logits(batch))
        for k in range(0 if self.dropout else 1, steps):
            for modalities in turns:
                loss = self._loss(self._logits(batch, modalities), batch, None if clean is None else clean.leaf)
                value += self._pull(share / (steps * len(turns)) * loss)
            if k < steps - 1:
                self._ascend(self.delta.collected())
        if clean is not None:
            self.backward((clean.logits * clean.gradient()).sum())
        return value

    def _pull(self, loss: torch.Tensor) -> float:
        """Add a loss's gradients, and return its value."""
        self.backward(loss)
        return loss.item()

    def _logits(self, batch: Any, modalities: tuple[Modality, ...] = ()) -> torch.Tensor:
        with self.delta.added(modalities), self.autocast():
            logits = self.task.logits(self.model, batch)
        return logits

    def _loss(self, logits: torch.Tensor, batch: Any, clean: torch.Tensor | None = None) -> torch.Tensor:
        """Return the task's loss, and where clean logits are given α times the KL term; neither side is detached."""
        with self.autocast():
            loss = self.task.loss_of(logits, batch)
            if clean is None or not self.spec.kl_weight:
                return loss
            return loss + self.spec.kl_weight * self.task.divergence(logits, clean)

    def _ascend(self, gradients: list[torch.Tensor]) -> None:
        self.delta.ascend(gradients, self.spec.step_size, self.spec.bound)


class CleanPass:
    """The logits of the clean pass, and a leaf of the same values that collects the gradients reaching them."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.leaf = logits.detach().requires_grad_()

    def gradient(self) -> torch.Tensor:
        """Return what has been collected so far."""
        return cast(torch.Tensor, self.leaf.grad).clone()


class Perturbation:
    """One batch's δ: a block for the words and one for the regions of each row, zero at first.

    A task may send a batch through the backbone in several calls (retrieval's pools of images and of captions): each
    has blocks of its own, by its place in that order, so every pass over the batch must make the same calls. A call
    without gradients is not perturbed. Padding never is.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = cast(nn.Module, backbone)
        self.places = backbone.perturbed_places()
        self.blocks: dict[tuple[int, Modality], torch.Tensor] = {}  # [b, n, d] by call of the backbone
        self.valid: dict[tuple[int, Modality], torch.Tensor] = {}  # [b, n, 1], false at padding
        self._masks: dict[Modality, torch.Tensor] = {}
        self._call = -1

    @contextmanager
    def added(self, modalities: tuple[Modality, ...]) -> Iterator[None]:
        """Add the blocks of these modalities in every call of the backbone, as long as the context lasts."""
        self._call = -1
        hooks = []
        if modalities:
            hooks.append(self.backbone.register_forward_pre_hook(self._new_call))
        if "words" in modalities:
            hooks.append(self.places.words.register_forward_hook(lambda _, args, out: self._plus("words", out)))
        if "regions" in modalities:
            hooks.append(self.places.regions.register_forward_pre_hook(lambda _, args: self._plus("regions", *args)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _new_call(self, backbone: nn.Module, args: tuple[Any, ...]) -> None:
        self._call += 1
        self._masks = {"words": args[0].token_mask, "regions": args[0].region_mask}

    def _plus(self, modality: Modality, states: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return states
        key = (self._call, modality)
        if key not in self.blocks:
            self.blocks[key] = torch.zeros_like(states, dtype=torch.float32, requires_grad=True)
            self.valid[key] = self._masks[modality][..., None]
        return states + self.blocks[key]

    def gradients(self, output: torch.Tensor, pull: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the gradients of a scalar, or of `pull` · output, block by block; parameters get none.

        With `pull` the graph is kept.
        """
        blocks = list(self.blocks.values())
        return list(torch.autograd.grad(output, blocks, pull, retain_graph=pull is not None)) if blocks else []

    def collected(self) -> list[torch.Tensor]:
        """Return the gradients that backward passes left at the blocks."""
        return [cast(torch.Tensor, block.grad) for block in self.blocks.values()]

    def ascend(self, gradients: list[torch.Tensor], step_size: float, bound: float | None) -> None:
        """Move each block along its gradient by `step_size`, then back into the ball of radius `bound` (eq. 5)."""
        for (key, block), gradient in zip(list(self.blocks.items()), gradients, strict=True):
            gradient = gradient * self.valid[key]
            moved = block.detach() + step_size * gradient / block_norms(gradient).clamp(min=SMALLEST_NORM)
            self.blocks[key] = (moved if bound is None else project(moved, bound)).requires_grad_()


def block_norms(blocks: torch.Tensor) -> torch.Tensor:
    """Return the Frobenius norm [b, 1, 1] of each row's block [n, d]."""
    norms: torch.Tensor = torch.linalg.vector_norm(blocks, dim=(1, 2), keepdim=True)
    return norms


def project(blocks: torch.Tensor, bound: float) -> torch.Tensor:
    """Return blocks [b, n, d], those longer than `bound` shortened to it, the others untouched."""
    norms = block_norms(blocks)
    return torch.where(norms > bound, blocks * (bound / norms), blocks)


def _modalities(perturb: str) -> tuple[Modality, ...]:
    return (perturb,) if perturb in BOTH else BOTH
