"""From a backbone's spec to a module, and to the names and shapes of its prunable weights."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import torch

from vltickets.backbones.uniter import UniterBackbone
from vltickets.errors import UserError
from vltickets.specs import BackboneSpec, HuggingFace, Lxmert, Recipe, Uniter, Vilt

if TYPE_CHECKING:
    from vltickets.backbones.adapters import Adapter
    from vltickets.backbones.lxmert import LxmertBackbone
    from vltickets.backbones.vilt import ViltBackbone


def build_backbone(
    spec: BackboneSpec, *, vocabulary: int, region_width: int, dropout: float, type_count: int = 2
) -> UniterBackbone | LxmertBackbone | ViltBackbone | Adapter:
    """Return an uninitialised backbone. `type_count` grows for tasks with more segments (NLVR2: 3).

    LXMERT's count is fixed; all but UNITER need transformers: what does not fit is a `UserError`. So are data of other
    sizes than the spec's masks are for.
    """
    spec.check_sizes(vocabulary=vocabulary, region_width=region_width)
    match spec:
        case Uniter():
            return UniterBackbone(
                spec, vocabulary=vocabulary, region_width=region_width, dropout=dropout, type_count=type_count
            )
        case Lxmert():
            if type_count != 2:
                raise UserError(f"LXMERT has 2 token types, {type_count} were asked for; use a UNITER for this")
            _check_transformers("an LXMERT")
            from vltickets.backbones.lxmert import LxmertBackbone  # not above: transformers takes seconds to load

            return LxmertBackbone(spec, vocabulary=vocabulary, region_width=region_width, dropout=dropout)
        case Vilt():
            _check_transformers("a ViLT")
            from vltickets.backbones.vilt import ViltBackbone  # not above, likewise

            return ViltBackbone(spec, vocabulary=vocabulary, dropout=dropout, type_count=type_count)
        case HuggingFace():
            _check_transformers(f"the Hugging Face model {spec.model}")
            from vltickets.backbones.adapters import adapter_of  # not above, likewise

            adapter = adapter_of(spec)
            return adapter(spec, vocabulary=vocabulary, region_width=region_width, dropout=dropout)


def check_recipe(recipe: Recipe, spec: BackboneSpec) -> None:
    """Refuse what only UNITER's encoder can do: with a `UserError`, before anything is run."""
    for option in ("packed", "compiled"):
        if getattr(recipe, option) and not isinstance(spec, Uniter):
            raise UserError(f"training.{option} = true is for UNITER, and the backbone is {spec.kind}; leave it out")


def _check_transformers(what: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{what} needs transformers: pip install 'vltickets[hf]'")


def prunable_shapes(spec: BackboneSpec) -> dict[str, tuple[int, ...]]:
    """Return the prunable weights' names and shapes, without any memory for them; they depend on the spec alone."""
    with torch.device("meta"):
        backbone = build_backbone(
            spec, vocabulary=spec.vocabulary or 1, region_width=spec.region_width or 1, dropout=0.0
        )
    return {name: tuple(weight.shape) for name, weight in backbone.prunable().items()}


def is_fused(spec: HuggingFace) -> bool:
    """Return whether the model's words see the picture; a dual encoder's do not. Needs transformers, see above."""
    _check_transformers(f"the Hugging Face model {spec.model}")
    from vltickets.backbones.adapters import adapter_of  # not above, likewise

    return adapter_of(spec).fused
