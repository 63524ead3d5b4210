"""What of a backbone a mask covers: its prunable parts, and the sizes of theirs that only the data knows."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from vltickets.errors import UserError
from vltickets.specs.spec import Spec

Part = Literal["encoder", "pooler", "embeddings", "projection"]
PARTS: tuple[Part, ...] = get_args(Part)
USUAL_PARTS: tuple[Part, ...] = ("encoder", "pooler")


def _in_order(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the parts in one order, so that two spellings of one choice are one value."""
    if not parts or len(set(parts)) < len(parts):
        raise ValueError(f"prunable = {list(parts)}: at least one of {', '.join(PARTS)}, none twice")
    return tuple(part for part in PARTS if part in parts)


Prunable = Annotated[tuple[Part, ...], AfterValidator(_in_order)]


class Coverage(Spec):
    """What masks of a backbone cover. By default the encoder's matrices and the pooler, whose shapes no data decides.

    `embeddings` is the word table, `projection` the matrices that take the picture in. Where these are covered, a mask
    has as many weights as the data has words and its regions numbers, so that the backbone names both: `vocabulary`,
    `region_width`. They stay None otherwise. Position and type tables are never covered (docs/protocol.md).
    """

    # Which size comes from the data, part by part.
    data_sizes: ClassVar[dict[Part, str]] = {"embeddings": "vocabulary", "projection": "region_width"}

    prunable: Prunable = USUAL_PARTS
    vocabulary: int | None = Field(None, ge=1, description="words of the table, where it is prunable")
    region_width: int | None = Field(None, ge=1, description="numbers of a region's feature, where it is prunable")

    @model_validator(mode="after")
    def _sized(self) -> Coverage:
        needed = self.sizes_needed(self.prunable)
        for size in ("vocabulary", "region_width"):
            if (getattr(self, size) is not None) != (size in needed):
                why = "it is the size of what is" if size in needed else "nothing of that size is"
                raise ValueError(f"{size} = {getattr(self, size)}: {why} among prunable = {list(self.prunable)}")
        return self

    @classmethod
    def sizes_needed(cls, prunable: tuple[str, ...]) -> tuple[str, ...]:
        """Return the sizes that only the data knows, of masks that cover these parts."""
        return tuple(size for part, size in cls.data_sizes.items() if part in prunable)

    def check_sizes(self, *, vocabulary: int, region_width: int) -> None:
        """Refuse data of other sizes than masks of this backbone are for, with `UserError`."""
        given = {"vocabulary": vocabulary, "region_width": region_width}
        what = {"vocabulary": ("a word table", "words"), "region_width": ("a projection of region features", "numbers")}
        for name, found in given.items():
            wanted = getattr(self, name)
            if wanted not in (None, found):
                table, of = what[name]
                raise UserError(
                    f"the masks of this backbone cover {table} of {wanted} {of} and the data has {found}; use the data "
                    f"they were made for, or leave that part out of `prunable`"
                )

    def described(self) -> dict[str, Any]:
        """Return the fields as plain JSON. What masks cover is left out where it is the usual, as in older files."""
        usual = {"prunable", "vocabulary", "region_width"} if self.prunable == USUAL_PARTS else set()
        return self.model_dump(mode="json", exclude=usual)
