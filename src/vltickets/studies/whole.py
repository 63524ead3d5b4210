"""The whole paper: several studies in one store, one for each backbone, run and reported as one."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, model_validator

from vltickets.errors import UserError, unknown
from vltickets.specs import Spec
from vltickets.studies.paper_config import Artefact

SHOWN_WITH = {"figure4": "table3", "figure6": "figure3", "figure7": "table4"}  # the same cells
NAMES: tuple[str, ...] = (*get_args(Artefact), *SHOWN_WITH)


class Whole(Spec):
    """Studies, by the names of their recipes, that together are the paper. They share what is the same by hash."""

    study: Literal["whole"]
    title: str
    note: str = ""
    parts: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Whole:
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts = {self.parts}: each of them once")
        return self


def chosen(names: str) -> frozenset[str]:
    """Return the artefacts that a list such as `table2,fig8` names, under the names of their modules.

    Raises `UserError` that names the nearest artefact.
    """
    found = set()
    for part in filter(None, (name.strip().lower() for name in names.split(","))):
        name = part if part.startswith("figure") else part.replace("fig", "figure", 1)
        if name not in NAMES:
            raise unknown("artefact", part, NAMES)
        found.add(SHOWN_WITH.get(name, name))
    if not found:
        raise UserError(f"--only {names!r} names no artefact; they are {', '.join(NAMES)}")
    return frozenset(found)
