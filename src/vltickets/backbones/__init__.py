"""Vision-language transformers behind one protocol, and which of their weights are prunable. Knows no tasks."""

from vltickets.backbones.building import build_backbone, check_recipe, is_fused, prunable_shapes
from vltickets.backbones.protocol import Backbone, Outputs, Places
from vltickets.backbones.uniter import UniterBackbone, initialise_module
from vltickets.specs import Place, weight_places

__all__ = [
    "Backbone",
    "Outputs",
    "Place",
    "Places",
    "UniterBackbone",
    "build_backbone",
    "check_recipe",
    "initialise_module",
    "is_fused",
    "prunable_shapes",
    "weight_places",
]
