"""From a preset's name or a TOML file to a study."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from vltickets.errors import UserError, unknown
from vltickets.specs import parse, read_toml, with_setting
from vltickets.studies.config import Schedule, Study
from vltickets.studies.paper_config import Paper
from vltickets.studies.whole import Whole


def presets() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = resources.files("vltickets") / "recipes"
    return {Path(str(item)).stem: Path(str(item)) for item in folder.iterdir() if item.name.endswith(".toml")}


def load_study(name: str, settings: tuple[str, ...] = ()) -> Study | Paper:
    """Return a preset, or the recipe in a TOML file, with `a.b=value` settings applied.

    Raises `UserError` that names the nearest preset, or the file and the key that does not fit.
    """
    values, path, where = _values(name)
    if values.get("study") == "whole":
        raise UserError(f"{name} is several studies ({', '.join(map(str, values.get('parts', ())))}); name one of them")
    for setting in settings:
        values = with_setting(values, setting)
    if isinstance(values.get("levels"), dict):
        values["levels"] = levels_of(parse(Schedule, values["levels"], f"{where}, levels"))
    _resolve(values, "weights", path.parent)
    _resolve(values, "text_weights", path.parent)
    if isinstance(values.get("pretraining"), dict):
        _resolve(values["pretraining"], "start", path.parent)
    kinds: dict[str, type[Study] | type[Paper]] = {"first-ticket": Study, "paper": Paper}
    kind = values.get("study", "first-ticket")
    if kind not in kinds:
        raise unknown("kind of study", str(kind), kinds)
    return parse(kinds[kind], values, where)


def load_studies(name: str, settings: tuple[str, ...] = ()) -> tuple[Whole | None, dict[str, Study | Paper]]:
    """Return the studies of a recipe by name: those of the whole paper, and how they are told as one; or one alone.

    A setting is for every part, unless a part's name stands before it: `paper-vilt.seeds=[0]`.
    """
    values, path, where = _values(name)
    if values.get("study") != "whole":
        return None, {Path(name).stem: load_study(name, settings)}
    whole = parse(Whole, values, where)
    studies: dict[str, Study | Paper] = {}
    for part in whole.parts:
        others = tuple(f"{other}." for other in whole.parts if other != part)
        own = tuple(setting.removeprefix(f"{part}.") for setting in settings if not setting.startswith(others))
        beside = path.parent / part
        study = load_study(str(beside) if beside.is_file() else part, own)
        studies[Path(part).stem] = study
        if not isinstance(study, Paper):
            raise UserError(f"{where}: the part {part} is no study of the paper's artefacts (study = 'paper')")
    return whole, studies


def _values(name: str) -> tuple[dict[str, Any], Path, str]:
    """Return what a recipe says, its file, and its name for messages."""
    known = presets()
    path = known.get(name) or Path(name)
    if name not in known and path.suffix != ".toml":
        raise unknown("study or preset", name, known)
    return read_toml(path), path, str(path) if name not in known else f"recipe {name}"


def load_ticket_study(name: str, settings: tuple[str, ...] = ()) -> Study:
    """Return a study of one ticket; the paper's is a `UserError` here."""
    study = load_study(name, settings)
    if isinstance(study, Paper):
        raise UserError(f"{name} is a study of several tasks: vltickets study run {name}")
    return study


def _resolve(values: dict[str, Any], key: str, folder: Path) -> None:
    """Make a file's name relative to the recipe's folder where it is there, else to the current one."""
    name = values.get(key)
    if isinstance(name, str) and (folder / name).exists():
        values[key] = str(folder / name)


def levels_of(schedule: Schedule) -> tuple[float, ...]:
    """Return the levels of a schedule, to four digits."""
    from vltickets.tickets import schedules  # not above: it brings torch, for which no recipe should wait

    rule = schedules.linear if schedule.schedule == "linear" else schedules.geometric
    return tuple(round(level, 4) for level in rule(schedule.rate, schedule.until))
