"""The learning rate as a function of the step."""

from __future__ import annotations

from vltickets.specs import Recipe


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the share of the peak rate at a step (from 0): linear warm-up, hold, linear decay to 0.

    The official schedule has no hold. The first step moves, and so does the last.
    """
    warmup = round(recipe.warmup * recipe.steps)
    held = round(recipe.hold * recipe.steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step < warmup + held:
        return 1.0
    return (recipe.steps - step) / max(recipe.steps - warmup - held, 1)
