"""The shapes of backbones. What depends on the data (vocabulary, width of a region's feature) comes from the data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vltickets.errors import unknown
from vltickets.specs.spec import Spec


class Uniter(Spec):
    """UNITER: one stream of words and regions through post-LN BERT layers. The defaults are the official base size."""

    kind: Literal["uniter"] = "uniter"
    layers: int = Field(12, ge=1)
    hidden: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    intermediate: int = Field(3072, ge=1)
    positions: int = Field(512, ge=2)

    @model_validator(mode="after")
    def _divisible(self) -> Uniter:
        _check_heads(self.hidden, self.heads)
        return self


class Lxmert(Spec):
    """LXMERT: a stream of words and one of objects, then layers where they cross. The defaults are the official size.

    Source: official-models 4.
    """

    kind: Literal["lxmert"] = "lxmert"
    language_layers: int = Field(9, ge=1)
    object_layers: int = Field(5, ge=1)
    cross_layers: int = Field(5, ge=1)
    hidden: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    intermediate: int = Field(3072, ge=1)
    positions: int = Field(512, ge=2)

    @model_validator(mode="after")
    def _divisible(self) -> Lxmert:
        _check_heads(self.hidden, self.heads)
        return self


def _check_heads(hidden: int, heads: int) -> None:
    if hidden % heads:
        raise ValueError(f"hidden={hidden} can't be split among heads={heads}")


BackboneSpec = Annotated[Uniter | Lxmert, Field(discriminator="kind")]
BACKBONE_KINDS: dict[str, type[Uniter] | type[Lxmert]] = {"uniter": Uniter, "lxmert": Lxmert}

SIZES: dict[str, Uniter | Lxmert] = {
    "tiny": Uniter(layers=3, hidden=64, heads=4, intermediate=256, positions=64),
    "real": Uniter(layers=3, hidden=128, heads=4, intermediate=512, positions=64),
    "small": Uniter(layers=6, hidden=384, heads=12, intermediate=1536),
    "base": Uniter(),
    "large": Uniter(layers=24, hidden=1024, heads=16, intermediate=4096),
    "lxmert-tiny": Lxmert(
        language_layers=2, object_layers=1, cross_layers=2, hidden=64, heads=4, intermediate=256, positions=64
    ),
    "lxmert-base": Lxmert(),
}
# What the command line calls them: UNITER's sizes with its name before them, the others as they are.
NAMED: dict[str, Uniter | Lxmert] = {
    f"uniter-{size}" if isinstance(spec, Uniter) else size: spec for size, spec in SIZES.items()
}


def sized(name: str) -> Uniter | Lxmert:
    """Return the backbone of a named size, as recipes say it; an unknown name is a `UserError` that lists them."""
    if name not in SIZES:
        raise unknown("backbone size", name, SIZES)
    return SIZES[name]


def named(name: str) -> Uniter | Lxmert:
    """Return a backbone by its whole name, such as uniter-base; an unknown name is a `UserError` that lists them."""
    if name not in NAMED:
        raise unknown("backbone", name, NAMED)
    return NAMED[name]


def differences(first: Uniter | Lxmert, second: Uniter | Lxmert) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two backbones differ, with the value of each; None where one has no such field."""
    ours, theirs = first.model_dump(), second.model_dump()
    names = dict.fromkeys([*ours, *theirs])  # each once, in order
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
