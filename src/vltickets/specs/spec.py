"""The base of every frozen value that describes work, its canonical JSON and its hash. Knows no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

DIGEST_LENGTH = 20


class Spec(BaseModel):
    """A frozen, typed value. Unknown fields are refused; a field at its default stays out of the hash.

    So a new field with a neutral default renames no finished run. When the *meaning* of a class or of one of its
    defaults changes, `version` goes up by one, and with it every hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    is_node: ClassVar[bool] = False

    @cached_property
    def digest(self) -> str:
        """Hash of the canonical JSON: twenty hexadecimal digits that name this value everywhere."""
        return hash_json(canonical(self))

    def model_post_init(self, context: Any) -> None:
        """Hash at once: children are hashed before their parents, so a chain of any length needs no deep recursion."""
        _ = self.digest

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As `changed`: pydantic's own would keep the old digest and check nothing."""
        return changed(self, **(update or {}))

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, value: Any) -> Any:
        """Take off a version written into canonical JSON, and refuse another than this class has."""
        if isinstance(value, Mapping) and "version" in value:
            if value["version"] != cls.version:
                raise ValueError(f"version {value['version']} of {cls.__name__}; this vltickets has {cls.version}")
            return {name: item for name, item in value.items() if name != "version"}
        return value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Spec) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def hash_json(value: Any) -> str:
    """Return the digest of a JSON value in its canonical spelling (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def canonical(value: Any, *, nested: bool = False) -> Any:
    """Return the plain JSON form of a spec: its kind, and the fields that differ from their defaults.

    A node inside another value is named by its digest alone, so a chain of rounds has a JSON as long as its nodes,
    not as long as all their ancestors together.
    """
    if isinstance(value, Spec):
        if nested and value.is_node:
            return {"node": value.digest}
        out: dict[str, Any] = {}
        if value.version != 1:
            out["version"] = value.version
        for name, field in type(value).model_fields.items():
            item = getattr(value, name)
            if name == "kind" or field.is_required() or item != field.get_default(call_default_factory=True):
                out[name] = canonical(item, nested=True)
        return out
    if isinstance(value, tuple | list):
        return [canonical(item, nested=True) for item in value]
    if isinstance(value, Mapping):
        return {key: canonical(item, nested=True) for key, item in value.items()}
    return value


SomeSpec = TypeVar("SomeSpec", bound=Spec)


def changed(spec: SomeSpec, **fields: Any) -> SomeSpec:
    """Return a spec with some fields changed; everything is checked, and hashed, anew."""
    same = {name: getattr(spec, name) for name in type(spec).model_fields}
    return type(spec).model_validate(same | fields)
