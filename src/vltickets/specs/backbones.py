"""The shapes of backbones. What depends on the data (vocabulary, width of a region's feature) comes from the data."""

from __future__ import annotations

from typing import Literal

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
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} can't be split among heads={self.heads}")
        return self


SIZES: dict[str, Uniter] = {
    "tiny": Uniter(layers=3, hidden=64, heads=4, intermediate=256, positions=64),
    "real": Uniter(layers=3, hidden=128, heads=4, intermediate=512, positions=64),
    "small": Uniter(layers=6, hidden=384, heads=12, intermediate=1536),
    "base": Uniter(),
    "large": Uniter(layers=24, hidden=1024, heads=16, intermediate=4096),
}


def sized(name: str) -> Uniter:
    """Return the UNITER of a named size; an unknown name is a `UserError` that lists them."""
    if name not in SIZES:
        raise unknown("backbone size", name, SIZES)
    return SIZES[name]
