"""Vision-language models of the library transformers behind our protocol, one small class a model (docs/adapters.md).

The modules of this package load transformers, which takes seconds: each is imported when its model is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from vltickets.backbones.adapters.base import Adapter, Sizes, States, last_valid, product, sight_of, stack_of, words_of
from vltickets.errors import UserError, unknown
from vltickets.specs import HuggingFace

OWN = {
    "blip": "Blip",
    "bridgetower": "BridgeTower",
    "clip": "Clip",
    "flava": "Flava",
    "siglip": "Siglip",
    "visualbert": "VisualBert",
}
ENTRY_POINTS = "vltickets.adapters"  # the group under which an installed package names its adapters

_registered: dict[str, type[Adapter]] = {}

__all__ = [
    "Adapter",
    "Sizes",
    "States",
    "adapter_of",
    "last_valid",
    "product",
    "register",
    "sight_of",
    "stack_of",
    "words_of",
]


def register(name: str, adapter: type[Adapter]) -> None:
    """Make an adapter known in this process under a name; one that is taken is a `UserError`.

    Studies that run in several processes find adapters by the entry points of installed packages instead.
    """
    if name in OWN or _registered.get(name, adapter) is not adapter:
        raise UserError(f"there is an adapter called {name!r} already; register yours under another name")
    _registered[name] = adapter


def adapter_of(spec: HuggingFace) -> type[Adapter]:
    """Return a model's adapter; an unknown model is a `UserError` that lists those there are."""
    if spec.model in OWN:
        return getattr(import_module(f"vltickets.backbones.adapters.{spec.model}"), OWN[spec.model])  # type: ignore[no-any-return]
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if spec.model not in _registered and spec.model in installed:
        _registered[spec.model] = installed[spec.model].load()
    if spec.model not in _registered:
        raise unknown("Hugging Face model", spec.model, [*OWN, *_registered, *installed])
    return _registered[spec.model]
