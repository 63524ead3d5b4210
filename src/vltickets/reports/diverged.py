"""Which of a study's cells have no number because a training diverged, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vltickets.reports import wording
from vltickets.store import Store, divergence, divergences_behind


def diverged_cells(store: Store, cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each cell (as a study keeps them) whose training, or one it needs, diverged."""
    named: dict[str, list[str]] = {}
    for cell in cells:
        named.setdefault(str(cell["node"]), []).append(_name(cell))
    behind = divergences_behind(store, named)
    sentences = []
    for digest, names in named.items():
        what, mark = ", ".join(dict.fromkeys(names)), behind.get(digest)
        if mark is not None:
            whose = "its training" if mark.digest == digest else f"run {mark.digest[:8]}, which it needs,"
            count = "once" if mark.times == 1 else f"{mark.times} times with the same seed"
            sentences.append(f"{what} has no number: {whose} diverged {count} ({mark.message}).")
        elif (store.root / "runs" / digest / "record.json").exists() and divergence(store, digest):
            sentences.append(f"{what} diverged once and was trained again with the same seed, which went well.")
    return sentences


def _name(cell: Mapping[str, Any]) -> str:
    level = f" {wording.percent(float(cell['sparsity']))}" if cell["sparsity"] else ""
    task = f" on {cell['task']}" if cell.get("task") else ""
    how = ", adversarial," if cell.get("adversarial") else ""
    return f"{cell['baseline']}{level}{task}{how} seed {cell['seed']}"
