"""The state of a training under way, in one safetensors file that is visible whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from vltickets.store import write_file


@dataclass
class Checkpoint:
    """`step` is the next step to do; `curve` and `seconds` are of all sittings; `sums` is the open curve point.

    `parts` are the curves of what a task draws its steps from, such as pre-training's objectives; `part_sums` their
    open points.
    """

    step: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    sums: tuple[float, int] = (0.0, 0)
    parts: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    part_sums: dict[str, tuple[float, int]] = field(default_factory=dict)

    def note(self, step: int, loss: float, *, point: int, end: int, part: str | None = None) -> None:
        """Take in a step's loss; every `point` steps, and at the end, their mean becomes a point of the curve.

        The same for the curve of the step's `part`, where it has one.
        """
        if part is not None:
            total, count = self.part_sums.get(part, (0.0, 0))
            self.part_sums[part] = (total + loss, count + 1)
        total, count = self.sums[0] + loss, self.sums[1] + 1
        self.step = step + 1
        if self.step % point == 0 or self.step == end:
            self.curve.append((self.step, total / count))
            for name, (part_total, part_count) in self.part_sums.items():
                self.parts.setdefault(name, []).append((self.step, part_total / part_count))
            self.part_sums = {}
            total, count = 0.0, 0
        self.sums = (total, count)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Checkpoint) -> None:
    """Write weights, optimiser state, step and curve. No random state: every draw is a function of the step."""
    tensors = {f"model.{name}": weight.detach().contiguous() for name, weight in model.named_parameters()}
    for name, values in _optimizer_state(model, optimizer).items():
        tensors |= {f"optimizer.{name}.{key}": value.contiguous() for key, value in values.items()}
    metadata = {
        "step": str(state.step),
        "curve": json.dumps(state.curve),
        "seconds": repr(state.seconds),
        "sums": json.dumps(state.sums),
        "parts": json.dumps(state.parts),
        "part_sums": json.dumps(state.part_sums),
    }
    write_file(path, save(tensors, metadata))


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint | None:
    """Fill model and optimiser from a checkpoint; None, and nothing changed, where there is none to be read."""
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (FileNotFoundError, SafetensorError):
        return None
    state = optimizer.state
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(tensors[f"model.{name}"])
            prefix = f"optimizer.{name}."
            values = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if values:
                state[weight] = {key: value.to(weight.device) for key, value in values.items()}
    total, count = json.loads(metadata["sums"])
    return Checkpoint(
        step=int(metadata["step"]),
        curve=_points(json.loads(metadata["curve"])),
        seconds=float(metadata["seconds"]),
        sums=(float(total), int(count)),
        parts={name: _points(curve) for name, curve in json.loads(metadata.get("parts", "{}")).items()},
        part_sums={
            name: (total, count) for name, (total, count) in json.loads(metadata.get("part_sums", "{}")).items()
        },
    )


def _points(values: list[list[float]]) -> list[tuple[int, float]]:
    return [(int(step), float(loss)) for step, loss in values]


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    return {name: optimizer.state[weight] for name, weight in model.named_parameters() if weight in optimizer.state}
