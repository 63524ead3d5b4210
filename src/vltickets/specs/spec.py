"""The base of every frozen value that describes work, its canonical JSON and its hash. Knows no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

DIGEST_LENGTH = 20
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


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
        return _hash(_spelled(self) if self.is_node else self._text)

    @cached_property
    def _text(self) -> str:
        """The canonical JSON's spelling, kept: thousands of nodes share one backbone, task and recipe."""
        return _spelled(self)

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
    return _hash(_json(value))


def canonical(value: Any, *, nested: bool = False) -> Any:
    """Return the plain JSON form of a spec: its kind, and the fields that differ from their defaults.

    A node inside another value is named by its digest alone, so a chain of rounds has a JSON as long as its nodes,
    not as long as all their ancestors together.
    """
    if isinstance(value, Spec):
        if nested and value.is_node:
            return {"node": value.digest}
        out: dict[str, Any] = {} if value.version == 1 else {"version": value.version}
        return out | {name: canonical(item, nested=True) for name, item in _told(value)}
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


def _told(spec: Spec) -> Iterator[tuple[str, Any]]:
    """Yield the fields that are part of a spec's JSON: its kind, and those that differ from their defaults."""
    for name, always, default in _fields(type(spec)):
        item = getattr(spec, name)
        if always or item != default:
            yield name, item


@cache
def _fields(cls: type[Spec]) -> tuple[tuple[str, bool, Any], ...]:
    """Return each field's name, whether it is always told, and its default."""
    return tuple(
        (name, name == "kind" or field.is_required(), field.get_default(call_default_factory=True))
        for name, field in cls.model_fields.items()
    )


def _spelled(spec: Spec) -> str:
    """Return the spelling of `canonical(spec)`, put together from those of its parts."""
    parts = {name: _spelling(item) for name, item in _told(spec)}
    if spec.version != 1:
        parts["version"] = str(spec.version)
    return "{" + ",".join(f'"{name}":{parts[name]}' for name in sorted(parts)) + "}"


def _spelling(item: Any) -> str:
    if isinstance(item, Spec):
        return f'{{"node":"{item.digest}"}}' if item.is_node else item._text
    return _json(canonical(item, nested=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]
