"""From TOML and JSON to specs, with errors a user can act on: field, value, the nearest name, what is allowed."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from vltickets.errors import UserError, unknown
from vltickets.specs.backbones import BACKBONE_KINDS, BackboneSpec
from vltickets.specs.nodes import NODE_KINDS, Node

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Return `values` as a `model`; what does not fit is a `UserError` that names `where` and the field."""
    try:
        return model.model_validate(tuples(values))
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, model)}") from None


def parse_backbone(values: Any, where: str) -> BackboneSpec:
    """Return the backbone that a file's header describes; what does not fit is a `UserError` that names `where`."""
    kind = values.get("kind", "uniter") if isinstance(values, Mapping) else None
    if kind not in BACKBONE_KINDS:
        raise UserError(f"{where}: {unknown('kind of backbone', str(kind), BACKBONE_KINDS)}")
    return parse(BACKBONE_KINDS[kind], values, where)


def tuples(value: Any) -> Any:
    """Return the value with every list made a tuple: specs are frozen and hold no lists."""
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's content; a missing or broken file is a `UserError` that names it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe file") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read as a recipe ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None


def with_setting(values: dict[str, Any], setting: str) -> dict[str, Any]:
    """Return a copy of `values` with one `a.b=value` set; the value is read as TOML, and as text where it is not."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {setting!r}: expected KEY=VALUE, such as training.steps=200")
    try:
        value: Any = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    out: dict[str, Any] = copy.deepcopy(values)
    place = out
    *path, last = key.strip().split(".")
    for name in path:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {setting!r}: {name!r} is a value, not a table")
    place[last] = value
    return out


def node_from_json(value: Mapping[str, Any], load: Callable[[str], Node]) -> Node:
    """Return the node whose canonical JSON this is; `load` gives the nodes that it names by digest."""

    def resolve(item: Any) -> Any:
        if isinstance(item, Mapping):
            if set(item) == {"node"}:
                return load(item["node"])
            return {key: resolve(inner) for key, inner in item.items()}
        return tuple(resolve(inner) for inner in item) if isinstance(item, list) else item

    kind = value.get("kind")
    if kind not in NODE_KINDS:
        raise unknown("kind of node", str(kind), NODE_KINDS)
    fields = {key: resolve(item) for key, item in value.items()}
    return NODE_KINDS[kind].model_validate(fields)


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one sentence on one mistake, an unknown key first: a misspelt key explains a missing one."""
    mistakes = error.errors()
    first = next((item for item in mistakes if item["type"] == "extra_forbidden"), mistakes[0])
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return str(unknown("key", path, _keys_at(model, first["loc"][:-1], prefix=path.rpartition(".")[0])))
    if first["type"] == "missing":
        return f"missing key {path!r}"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = first.get("ctx", {})
        allowed = [name.strip(" '") for name in str(context.get("expected_tags", "")).split(",") if name.strip()]
        if not allowed:
            return f"{path!r} needs a key 'kind'"
        return str(unknown(f"kind at {path!r}", str(context.get("tag", "")).strip("'"), allowed))
    if first["type"] == "literal_error":
        allowed = [name.strip(" '") for name in str(first["ctx"]["expected"]).replace(" or ", ",").split(",")]
        return str(unknown(f"value of {path!r}", str(first["input"]), allowed))
    given = first["input"]
    message = first["msg"].removeprefix("Value error, ")
    if not path:
        return message  # it is about several keys, and names them
    return f"{path} = {given!r} ({type(given).__name__}): {message[0].lower()}{message[1:]}"


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...], prefix: str) -> list[str]:
    """Return the keys allowed at a place inside `model`, each with the path that leads to it."""
    place, parts = model, [str(part) for part in location]
    while parts:
        field = place.model_fields.get(parts.pop(0))
        inner = [] if field is None else _models_in(field.annotation)
        if len(inner) > 1 and parts:  # a union: pydantic names the chosen member by its tag, the next part of the path
            tag = parts.pop(0)
            inner = [item for item in inner if item.model_fields["kind"].default == tag]
        if not inner:
            return []
        place = inner[0]
    return [f"{prefix}.{name}" if prefix else name for name in place.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models named anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
