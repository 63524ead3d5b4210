"""A trained ticket as an ONNX graph, dense or with int8 weights, held against torch before the file appears.

The graph has the inputs of `data.Inputs` (batch, words and regions are free) and the head's logits as output, or a
backbone's states where the ticket has no head of one task. Pruned weights are in it as zeros: no runtime for ordinary
processors is faster for them; `int8` is dense inference with dynamic quantisation of the activations.
Needs the extra `onnx`, imported where it is used.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vltickets.backbones.protocol import Outputs
from vltickets.data import Inputs
from vltickets.deploy.trained import TrainedTicket, build_trained
from vltickets.errors import UserError
from vltickets.specs import Lxmert, Vilt
from vltickets.tasks.refcoco import PADDING_SCORE
from vltickets.tasks.vcr import VcrHead
from vltickets.tickets import Ticket

TOLERANCE = 1e-4  # between torch and onnxruntime, both float32
NEEDED = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
TRIED = ((4, 9, 6), (1, 1, 1), (6, 17, 9))  # examples, words, regions that a graph is held against torch on


@dataclass(frozen=True)
class OnnxGraph:
    """What was written: the names of inputs and outputs, and the largest difference to torch over the shapes tried.

    `largest` is the largest output of torch there, to judge the difference by.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    largest: float


def export_onnx(ticket: Ticket, path: Path, *, int8: bool = False) -> OnnxGraph:
    """Write a trained ticket as one ONNX file, checked through onnxruntime.

    Raises `UserError` where the extra `onnx` is missing, for a ticket without weights or of another module, and for a
    graph that would not fit one file of 2 GB; `RuntimeError`, and no file, where a float32 graph is off by over 1e-4.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install 'vltickets[onnx]'")
    if sum(array.nbytes for array in ticket.weights.values()) > 1.9e9:
        raise UserError("the model's weights take over 1.9 GB, and an ONNX file is at most 2 GB")
    graph = _Graph(build_trained(ticket))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        written = Path(temporary) / "float32.onnx"
        _write(graph, ticket, written)
        if int8:
            written = _quantised(written)
        difference, largest = _compared(graph, written)
        if not int8 and not difference <= TOLERANCE:
            raise RuntimeError(f"onnxruntime is off by {difference:.1e} from torch, over {TOLERANCE}; nothing written")
        written.replace(path)
    return OnnxGraph(path, graph.inputs, graph.outputs, difference, largest)


class _Graph(nn.Module):
    """A trained ticket as a function of tensors, and of those only that its kind looks at."""

    def __init__(self, model: TrainedTicket) -> None:
        super().__init__()
        self.model = model
        self.inputs: tuple[str, ...] = ("tokens", "token_mask", "features", "boxes", "region_mask")
        if not isinstance(model.spec, Lxmert):
            self.inputs += ("region_types",)
        if isinstance(model.head, VcrHead):
            self.inputs += ("token_types",)
        self.outputs = ("logits",) if model.head is not None else ("sequence", "pooled")
        if isinstance(model.spec, Vilt):
            model.backbone.placed = placed_by_formula  # type: ignore[attr-defined]

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits, or the states and the pooled [CLS]."""
        named = dict(zip(self.inputs, tensors, strict=True))
        named.setdefault("region_types", torch.ones_like(named["region_mask"], dtype=torch.int64))
        found = self.model(Inputs(**named))
        return (found.sequence, found.pooled) if isinstance(found, Outputs) else found

    def example(self, examples: int, words: int, regions: int) -> tuple[torch.Tensor, ...]:
        """Return random inputs of that shape, seeded; every second row is padded."""
        random = torch.Generator().manual_seed(examples)
        rows, spec, backbone = examples * self.model.rows_per_example, self.model.spec, self.model.backbone
        token_mask, region_mask = torch.ones(rows, words, dtype=torch.bool), torch.ones(rows, regions, dtype=torch.bool)
        token_mask[1::2, words - 1 :], region_mask[1::2, regions - 2 :] = False, False
        width = spec.pixels.width if isinstance(spec, Vilt) else _region_width(backbone)
        boxes = torch.rand(rows, regions, 7, generator=random)
        if isinstance(spec, Vilt):  # cells of a picture two patches high
            across = -(-regions // 2)
            cell = torch.arange(regions)
            boxes[..., :2] = torch.stack([cell % across / across, cell // across / 2], dim=-1)
            boxes[..., 4:6] = torch.tensor([1 / across, 1 / 2])
        named = {
            "tokens": torch.randint(0, len(backbone.word_table()), (rows, words), generator=random),
            "token_mask": token_mask,
            "features": torch.randn(rows, regions, width, generator=random),
            "boxes": boxes,
            "region_mask": region_mask,
            "region_types": torch.ones(rows, regions, dtype=torch.int64),
            "token_types": torch.randint(0, 2, (rows, words), generator=random),
        }
        return tuple(named[name] for name in self.inputs)


def _region_width(backbone: Any) -> int:
    projection: nn.Linear = backbone.perturbed_places().regions  # of UNITER and LXMERT
    return projection.in_features


def placed_by_formula(table: torch.Tensor, boxes: torch.Tensor, grid: int) -> torch.Tensor:
    """Return the same as `backbones.vilt.placed`, without a step for each shape of picture, which no graph can hold."""
    sides = boxes[:, :1, 4:6]
    counts = torch.where(sides > 0, (1 / sides.clamp(min=1e-6)).round(), torch.ones_like(sides))
    cells = (boxes[..., :2] * counts).round()
    at = cells * (grid - 1) / (counts - 1).clamp(min=1)  # in cells of the learned grid, [b, r, 2] across and down
    low = at.floor().clamp(0, grid - 1)
    part = (at - low)[..., None]
    low, high = low.long(), (low.long() + 1).clamp(max=grid - 1)

    def learned(across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        return table[down[..., 1] * grid + across[..., 0]]

    above = torch.lerp(learned(low, low), learned(high, low), part[..., 0, :])
    below = torch.lerp(learned(low, high), learned(high, high), part[..., 0, :])
    return torch.lerp(above, below, part[..., 1, :])


def _write(graph: _Graph, ticket: Ticket, path: Path) -> None:
    """Write the graph with what a program needs beside it (answers, where it is from) as metadata."""
    names = graph.inputs
    pairs = torch.export.Dim("examples", min=1)
    rows = 2 * pairs if graph.model.rows_per_example == 2 else pairs
    words, regions = torch.export.Dim("words", min=1), torch.export.Dim("regions", min=1)
    shapes = {name: {0: rows, 1: words if name.startswith("token") else regions} for name in names}
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            graph.example(*TRIED[0]),
            input_names=list(names),
            output_names=list(graph.outputs),
            dynamic_shapes=(tuple(shapes[name] for name in names),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        about = {"mask": ticket.mask.digest, "sparsity": ticket.sparsity, "task": ticket.provenance.get("task")}
        program.model.metadata_props["vltickets"] = json.dumps(about, sort_keys=True)
        if "answers" in ticket.labels:
            program.model.metadata_props["answers"] = ticket.labels["answers"]
        program.save(path, external_data=False)


def _quantised(path: Path) -> Path:
    """Write the graph with int8 weights beside it, a scale for each row; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    with _quiet():
        quantize_dynamic(path, target, weight_type=QuantType.QInt8, per_channel=True)
    return target


def _compared(graph: _Graph, path: Path) -> tuple[float, float]:
    """Return the largest difference between onnxruntime's and torch's outputs, and torch's largest output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    difference, largest = 0.0, 0.0
    for shape in TRIED:
        tensors = graph.example(*shape)
        with torch.inference_mode():
            found = graph(*tensors)
        expected = found if isinstance(found, tuple) else (found,)
        given = {name: value.numpy() for name, value in zip(graph.inputs, tensors, strict=True)}
        for ours, theirs in zip(expected, session.run(list(graph.outputs), given), strict=True):
            difference = max(difference, float((ours - torch.from_numpy(theirs)).abs().max()))
            largest = max(largest, float(ours[ours > PADDING_SCORE].abs().max()))
    return difference, largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the quantiser's remarks to themselves: axes with one name, torchvision not installed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (UserWarning, FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(before)
