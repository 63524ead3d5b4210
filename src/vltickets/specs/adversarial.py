"""How a training is made adversarial. Sources: Gan et al. (AAAI 2022), eq. 2-5; VILLA's released code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vltickets.specs.spec import Spec


class Adversarial(Spec):
    """Perturbations δ of words and regions, moved against the model within each training step. δ starts at zero.

    `form` says what a step minimises. `paper`: L_std + R_at + α·R_kl (eq. 2-5), one δ ascended on the loss for both
    regularisers. `villa`: the mean over the ascent of the loss at δ plus α times the KL term, with no separate clean
    loss. The defaults are VILLA's released settings for VQA, NLVR2 and VE; the paper names none of its own.
    A block is the words, or the regions, of one row of the backbone's batch; its size is its Frobenius norm.
    """

    form: Literal["paper", "villa"] = "villa"
    steps: int = Field(3, ge=0, description="K; 0 is standard training")
    step_size: float = Field(1e-3, gt=0, description="how far a block moves in one ascent step")
    bound: float | None = Field(None, gt=0, description="ε, the largest size of a block; none: no bound, as VILLA")
    kl_weight: float = Field(1.5, ge=0, description="α")
    perturb: Literal["words", "regions", "both", "alternating"] = "words"
