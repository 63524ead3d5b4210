"""What a compiled encoder is measured against: dense runs of the same layers, each as fast as it is commonly made."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vltickets.deploy.jit import processor
from vltickets.deploy.layers import LayerParts

Run = Callable[[Tensor], Any]
TORCH, ORT, INT8, BF16 = "torch_fp32", "onnxruntime_fp32", "int8", "torch_bf16"
RIVALS = (TORCH, ORT, INT8, BF16)


class DenseStack(nn.Module):
    """An encoder's layers for examples of one length, in plain torch: one matrix for query, key and value, and SDPA.

    Of post-norm layers only (UNITER, BERT).
    """

    def __init__(self, layers: Sequence[LayerParts]) -> None:
        super().__init__()
        self.heads = layers[0].heads
        for k, layer in enumerate(layers):
            fused = (layer.query, layer.key, layer.value)
            matrices = {
                "qkv": (torch.cat([one.weight for one in fused]), torch.cat([one.bias for one in fused])),
                "mixed": (layer.mixed.weight, layer.mixed.bias),
                "up": (layer.up.weight, layer.up.bias),
                "down": (layer.down.weight, layer.down.bias),
                "norm_0": (layer.norms[0].weight, layer.norms[0].bias),
                "norm_1": (layer.norms[1].weight, layer.norms[1].bias),
            }
            for name, (weight, bias) in matrices.items():
                self.register_buffer(f"{name}_{k}_weight", weight.detach().clone())
                self.register_buffer(f"{name}_{k}_bias", bias.detach().clone())
        self.count, self.eps = len(layers), layers[0].norms[0].eps

    def forward(self, states: Tensor) -> Tensor:
        """Return the last layer's states [b, j, d]."""
        b, j, _ = states.shape
        d = len(self.get_buffer("norm_0_0_weight"))  # a number to the exporter too
        for k in range(self.count):
            qkv = self._linear("qkv", k, states).view(b, j, 3, self.heads, d // self.heads)
            q, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            context = functional.scaled_dot_product_attention(q, key, value).transpose(1, 2).reshape(b, j, d)
            attended = self._norm("norm_0", k, self._linear("mixed", k, context) + states)
            wide = functional.gelu(self._linear("up", k, attended))
            states = self._norm("norm_1", k, self._linear("down", k, wide) + attended)
        return states

    def _part(self, name: str, k: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"{name}_{k}_weight"), self.get_buffer(f"{name}_{k}_bias")

    def _linear(self, name: str, k: int, x: Tensor) -> Tensor:
        return functional.linear(x, *self._part(name, k))

    def _norm(self, name: str, k: int, x: Tensor) -> Tensor:
        weight, bias = self._part(name, k)
        return functional.layer_norm(x, (len(weight),), weight, bias, self.eps)


def rivals(layers: Sequence[LayerParts], threads: int) -> dict[str, Run]:
    """Return what runs the layers densely, by name: torch; where onnx and onnxruntime are installed, theirs in fp32 and
    int8; where the processor multiplies bfloat16 in hardware, torch in that.

    Each takes states [b, j, d] of examples of one length. int8 is onnxruntime's dynamic quantisation; its results and
    bfloat16's differ from the model's.
    """
    dense = DenseStack(layers).eval()
    found: dict[str, Run] = {TORCH: dense}
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        with tempfile.TemporaryDirectory() as folder:
            found |= _onnx(dense, layers[0].query.in_features, threads, Path(folder))
    if processor().amx or processor().bf16:
        short = copy.deepcopy(dense).bfloat16()
        found[BF16] = lambda states: short(states.bfloat16()).float()
    return found


def _onnx(dense: DenseStack, hidden: int, threads: int, folder: Path) -> dict[str, Run]:
    """Export the layers, quantise them, and open both in onnxruntime."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    path, small = folder / "dense.onnx", folder / "int8.onnx"
    axes = {"states": {0: "b", 1: "j"}, "out": {0: "b", 1: "j"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        states = torch.zeros(2, 8, hidden)
        torch.onnx.export(
            dense, (states,), str(path), input_names=["states"], output_names=["out"], dynamic_axes=axes, dynamo=False
        )
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises on what makes no difference here
    importlib.import_module("onnxruntime.quantization").quantize_dynamic(str(path), str(small), per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3

    def opened(file: Path) -> Run:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def run(states: Tensor) -> np.ndarray:
            out: np.ndarray = session.run(None, {"states": states.numpy()})[0]
            return out

        return run

    return {ORT: opened(path), INT8: opened(small)}
