"""The shapes of backbones. What depends on the data (vocabulary, width of a region's feature) comes from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from vltickets.errors import UserError, unknown
from vltickets.specs.coverage import PARTS, USUAL_PARTS, Coverage, Part
from vltickets.specs.spec import Spec, changed


class Uniter(Coverage):
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


class Lxmert(Coverage):
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


class Pixels(Spec):
    """How a picture becomes patches. The defaults are ViLT's: shorter side 384, patches of 32, values in [-1, 1].

    The picture is scaled until its shorter side is `shorter` or its longer one 1333/800 of that, whichever comes first,
    and both are cut down to whole patches. Source: official-models 5.
    """

    patch: int = Field(32, ge=1)
    shorter: int = Field(384, ge=1)
    mean: float = Field(0.5, description="taken from each of a pixel's numbers in [0, 1], before they are divided by")
    std: float = Field(0.5, gt=0)

    @model_validator(mode="after")
    def _whole(self) -> Pixels:
        if self.shorter % self.patch:
            raise ValueError(f"shorter={self.shorter} is no whole number of patches of {self.patch}")
        return self

    @property
    def width(self) -> int:
        """Numbers in one patch: three colors of each pixel."""
        return 3 * self.patch**2

    @property
    def grid(self) -> int:
        """Patches along the shorter side."""
        return self.shorter // self.patch


class Vilt(Coverage):
    """ViLT: one stream of words and patches of pixels through pre-LN layers. The defaults are the official size, B/32.

    Source: official-models 5.
    """

    data_sizes: ClassVar[dict[Part, str]] = {"embeddings": "vocabulary"}  # a patch is as large as `pixels` says
    kind: Literal["vilt"] = "vilt"
    layers: int = Field(12, ge=1)
    hidden: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    intermediate: int = Field(3072, ge=1)
    positions: int = Field(40, ge=2)
    pixels: Pixels = Pixels()

    @model_validator(mode="after")
    def _divisible(self) -> Vilt:
        _check_heads(self.hidden, self.heads)
        return self


Value = bool | int | float | str


class HuggingFace(Coverage):
    """A vision-language model of the library transformers, through the adapter of that name (docs/adapters.md).

    `layers` counts those of each of the model's stacks, `hidden` is the width of all of them. Where `pixels` is left
    out the model takes region features. `options` are further values of the library's configuration, such as
    `text_config.hidden_act`; in a recipe they are a table. What its masks cover, the adapter says.
    """

    data_sizes: ClassVar[dict[Part, str]] = {}
    kind: Literal["hugging-face"] = "hugging-face"
    model: str = Field(min_length=1, description="the adapter's name: clip, siglip, blip, or one of your own")
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    heads: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    positions: int = Field(64, ge=2)
    pixels: Pixels | None = None
    options: tuple[tuple[str, Value], ...] = ()

    @field_validator("options", mode="before")
    @classmethod
    def _sorted(cls, given: Any) -> Any:
        pairs = given.items() if isinstance(given, Mapping) else given
        if not isinstance(given, Mapping | tuple | list) or any(len(tuple(pair)) != 2 for pair in pairs):
            raise ValueError("options are a table, or pairs of a name and a value")
        out = sorted((str(name), value) for name, value in pairs)
        if len({name for name, _ in out}) < len(out):
            raise ValueError(f"options name one thing twice: {[name for name, _ in out]}")
        return tuple(out)

    @model_validator(mode="after")
    def _divisible(self) -> HuggingFace:
        if self.prunable != USUAL_PARTS:
            raise ValueError(f"prunable = {list(self.prunable)}: the model's adapter says that; leave it out")
        _check_heads(self.hidden, self.heads)
        return self


def _check_heads(hidden: int, heads: int) -> None:
    if hidden % heads:
        raise ValueError(f"hidden={hidden} can't be split among heads={heads}")


BackboneSpec = Annotated[Uniter | Lxmert | Vilt | HuggingFace, Field(discriminator="kind")]
BACKBONE_KINDS: dict[str, type[Uniter] | type[Lxmert] | type[Vilt] | type[HuggingFace]] = {
    "uniter": Uniter,
    "lxmert": Lxmert,
    "vilt": Vilt,
    "hugging-face": HuggingFace,
}

# The world's pictures as they are: 36 pixels, nine patches, black at zero.
DRAWN = Pixels(patch=12, shorter=36, mean=0.0, std=0.4)


def _tiny(model: str, pixels: Pixels | None = DRAWN) -> HuggingFace:
    return HuggingFace(model=model, layers=2, hidden=64, heads=4, intermediate=256, pixels=pixels)


SIZES: dict[str, BackboneSpec] = {
    "tiny": Uniter(layers=3, hidden=64, heads=4, intermediate=256, positions=64),
    "real": Uniter(layers=3, hidden=128, heads=4, intermediate=512, positions=64),
    "small": Uniter(layers=6, hidden=384, heads=12, intermediate=1536),
    "base": Uniter(),
    "large": Uniter(layers=24, hidden=1024, heads=16, intermediate=4096),
    "lxmert-tiny": Lxmert(
        language_layers=2, object_layers=1, cross_layers=2, hidden=64, heads=4, intermediate=256, positions=64
    ),
    "lxmert-base": Lxmert(),
    "vilt-tiny": Vilt(
        layers=3,
        hidden=64,
        heads=4,
        intermediate=256,
        positions=64,
        pixels=DRAWN,
    ),
    # For small photos: 96 pixels, 36 patches of a square one.
    "vilt-real": Vilt(
        layers=3, hidden=128, heads=4, intermediate=512, positions=64, pixels=Pixels(patch=16, shorter=96)
    ),
    "vilt-base": Vilt(),
    "clip-tiny": _tiny("clip"),
    "siglip-tiny": _tiny("siglip"),
    "blip-tiny": _tiny("blip"),
    "flava-tiny": _tiny("flava"),
    "bridgetower-tiny": _tiny("bridgetower"),
    "visualbert-tiny": _tiny("visualbert", None),
}
# What the command line calls them: UNITER's sizes with its name before them, the others as they are.
NAMED: dict[str, BackboneSpec] = {
    f"uniter-{size}" if isinstance(spec, Uniter) else size: spec for size, spec in SIZES.items()
}


def sized(name: str) -> BackboneSpec:
    """Return the backbone of a named size, as recipes say it; an unknown name is a `UserError` that lists them."""
    if name not in SIZES:
        raise unknown("backbone size", name, SIZES)
    return SIZES[name]


def named(name: str) -> BackboneSpec:
    """Return a backbone by its whole name, such as uniter-base; an unknown name is a `UserError` that lists them."""
    if name not in NAMED:
        raise unknown("backbone", name, NAMED)
    return NAMED[name]


def covering(spec: BackboneSpec, prunable: tuple[str, ...], *, vocabulary: int, region_width: int) -> BackboneSpec:
    """Return the backbone whose masks cover these of `PARTS`, on data of these sizes; another part is a `UserError`."""
    for part in prunable:
        if part not in PARTS:
            raise unknown("part of a backbone", part, PARTS)
    if not prunable or len(set(prunable)) < len(prunable):
        raise UserError(f"prunable parts {','.join(prunable)}: name at least one of {', '.join(PARTS)}, none twice")
    sizes = {"vocabulary": vocabulary, "region_width": region_width}
    needed = spec.sizes_needed(prunable)
    given = {name: size if name in needed else None for name, size in sizes.items()}
    return changed(spec, prunable=prunable, **given)


def differences(first: BackboneSpec, second: BackboneSpec) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two backbones differ, with the value of each; None where one has no such field."""
    ours, theirs = first.model_dump(), second.model_dump()
    names = dict.fromkeys([*ours, *theirs])  # each once, in order
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
