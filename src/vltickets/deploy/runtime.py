"""Whole encoders on the sparse kernel: a model whose layers compute with their weights' non-zeros only.

Between the encoder's two ends states are feature-major tiles [tiles, features, 64], with the valid tokens of a batch
packed one behind the other: padding costs nothing. Buffers are kept and grow with the largest batch; the feed-forward
part goes through the tiles a few at a time, so that its wide states stay in the second cache.
"""

from __future__ import annotations

import copy
import importlib
import math
import threading
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from vltickets.backbones.uniter import Encoder
from vltickets.deploy.attention import Attention, Plan, kept_zeros
from vltickets.deploy.choice import Linear, Settings, linear
from vltickets.deploy.jit import Target
from vltickets.deploy.layers import MATRICES, LayerParts, parts_of
from vltickets.deploy.linear import TILE, SparseLinear, from_tiles, to_tiles
from vltickets.deploy.norm import TiledNorm
from vltickets.errors import UserError, unknown

ShortValues = Literal["fp32", "bf16"]
AnyModule = TypeVar("AnyModule", bound=nn.Module)
HF_ENCODERS = tuple(  # of transformers
    f"{name}Encoder"
    for name in ("Bert", "Camembert", "Electra", "Flava", "Roberta", "Vilt", "VisualBert", "XLMRoberta")
)


class SparseLayer:
    """One transformer layer on tiles."""

    def __init__(self, parts: LayerParts, settings: Settings) -> None:
        self.norm_first, self.threads = parts.norm_first, settings.threads
        epilogues = dict(zip(MATRICES, ("linear",) * 3 + ("residual", "gelu", "residual"), strict=True))
        self.linears: dict[str, Linear] = {
            name: linear(getattr(parts, name).weight, getattr(parts, name).bias, epilogue, settings)  # type: ignore[arg-type]
            for name, epilogue in epilogues.items()
        }
        self.norms = [TiledNorm(norm.weight, norm.bias, norm.eps, settings.target) for norm in parts.norms]
        self.hidden, self.wide = parts.query.out_features, parts.up.out_features

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in memory."""
        return sum(part.nbytes for part in (*self.linears.values(), *self.norms))

    def run(self, buffers: Buffers, attention: Attention, plan: Plan) -> None:
        """Replace the states, the first of the buffers, by this layer's."""
        states, q, k, v, context = buffers.whole
        source = self.norms[0].run(states, context) if self.norm_first else states
        for name, out in (("query", q), ("key", k), ("value", v)):
            self.linears[name].run(source, out)
        attention.run((q, k, v), context, plan)
        attended = self.linears["mixed"].run(context, q, states)
        if not self.norm_first:
            self.norms[0].run(attended, attended)
        for first in range(0, len(states), self.threads):
            some = slice(first, first + self.threads)
            part = attended[some]
            source = self.norms[1].run(part, k[some]) if self.norm_first else part
            self.linears["down"].run(self.linears["up"].run(source, buffers.wide[: len(part)]), states[some], part)
            if not self.norm_first:
                self.norms[1].run(states[some], states[some])


class Buffers:
    """The memory of a stack of layers, for at least as many tiles as a batch has.

    All of it begins as zeros: what lies in places without a token must be finite.
    """

    def __init__(self, hidden: int, wide: int, threads: int) -> None:
        self.hidden = hidden
        self.wide = kept_zeros(threads, wide, TILE)
        self.room = kept_zeros(5, 0, hidden, TILE)
        self.whole: list[Tensor] = []

    def take(self, tiles: int) -> Tensor:
        """Make room for so many tiles; return where the states belong."""
        if tiles > self.room.shape[1]:
            self.room = kept_zeros(5, tiles, self.hidden, TILE)
        self.whole = [one[:tiles] for one in self.room]
        return self.whole[0]


class SparseStack:
    """The layers of an encoder, without what is its model's own. Threads of Python's may share it; they take turns."""

    def __init__(self, layers: Sequence[LayerParts], settings: Settings) -> None:
        if not layers or len({(layer.heads, layer.query.out_features) for layer in layers}) > 1:
            raise UserError("an encoder can be compiled where it has layers, all of one width and number of heads")
        self.layers = [SparseLayer(layer, settings) for layer in layers]
        self.hidden = self.layers[0].hidden
        self.attention = Attention(self.hidden, layers[0].heads, settings.threads, settings.target)
        self.buffers = Buffers(self.hidden, max(layer.wide for layer in self.layers), settings.threads)
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise UserError("a compiled model can't be copied or saved; compile the model it was made from once more")

    def run(self, states: Tensor, valid: Tensor) -> Tensor:
        """Return the last layer's states [b, j, d] of states [b, j, d]; zeros where `valid` [b, j] is false."""
        whole = bool(valid.all())
        lengths = [valid.shape[1]] * len(valid) if whole else valid.sum(1).tolist()
        tokens = states.reshape(-1, self.hidden) if whole else states[valid]
        with self.lock, torch.no_grad():
            to_tiles(tokens, self.buffers.take(-(-len(tokens) // TILE)))
            plan = self.attention.plan(lengths)
            for layer in self.layers:
                layer.run(self.buffers, self.attention, plan)
            result = from_tiles(self.buffers.whole[0], len(tokens))
        if whole:
            return result.view(states.shape)
        out = torch.zeros_like(states)
        out[valid] = result
        return out


class SparseEncoder(nn.Module):
    """Stands in for the encoder of a compiled model; it has no parameters. Made by `compile_sparse`.

    `nbytes`: bytes of its weights in memory. `chosen`: how many of its matrices are kept sparse and how many dense.
    """

    def __init__(self, layers: Sequence[nn.Module], settings: Settings) -> None:
        super().__init__()
        self.stack = SparseStack([parts_of(layer) for layer in layers], settings)
        self.eval()

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in memory."""
        return sum(layer.nbytes for layer in self.stack.layers)

    @property
    def chosen(self) -> dict[str, int]:
        """How many matrices are kept "sparse" and how many "dense"."""
        kinds = [isinstance(one, SparseLinear) for layer in self.stack.layers for one in layer.linears.values()]
        return {"sparse": sum(kinds), "dense": len(kinds) - sum(kinds)}

    @property
    def nonzeros(self) -> int:
        """How many weights of its matrices are not 0."""
        return sum(one.nonzeros for layer in self.stack.layers for one in layer.linears.values())

    def _run(self, states: Tensor, valid: Tensor) -> Tensor:
        if self.training:
            raise UserError("a compiled model only infers: call .eval() on it, and train the model it was made from")
        if states.requires_grad and torch.is_grad_enabled():
            raise UserError("a compiled model has no gradients: use torch.no_grad(), or the model it was made from")
        if states.device.type != "cpu" or states.dtype != torch.float32:
            raise UserError(
                f"a compiled model computes in float32 on the CPU, got {states.dtype} on {states.device}; move it there"
            )
        if len(valid) and not bool(valid[:, 0].all()):
            raise UserError("a compiled model needs the first token of each example to be valid, but one is padding")
        return self.stack.run(states, valid)


class SparseUniterEncoder(SparseEncoder):
    """The same with the calls of UNITER's encoder."""

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """Return the last layer's states [b, j, d]; zeros where `bias` [b, 1, 1, j], of padding, is not 0."""
        return self._run(states, bias[:, 0, 0] == 0)

    def first(self, states: Tensor, bias: Tensor) -> Tensor:
        """Return the last layer's state of the first token alone [b, 1, d]."""
        return self.forward(states, bias)[:, :1]


class SparseHfEncoder(SparseEncoder):
    """The same with the call of a Hugging Face encoder."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Return the library's output with the last states; an option that asks for more is refused.

        `attention_mask`: None, or [b, 1, 1 or j, j], of padding alone, either added (0 is valid) or boolean.
        """
        for name in ("output_attentions", "output_hidden_states", "past_key_values", "encoder_hidden_states"):
            if options.get(name):
                raise UserError(f"a compiled encoder returns its last states only, but was given {name}")
        output = importlib.import_module("transformers.modeling_outputs").BaseModelOutputWithPastAndCrossAttentions
        states = self._run(hidden_states, _valid(hidden_states, attention_mask))
        return output(last_hidden_state=states)


def _valid(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return which tokens are valid [b, j]; a mask that is not of padding alone is refused."""
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool)
    fits = mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[3] == states.shape[1]
    if not fits or not bool((mask == mask[:, :, :1]).all()):
        raise UserError(f"a compiled encoder takes masks of padding [b, 1, 1, j], got one of shape {list(mask.shape)}")
    first = mask[:, 0, 0]
    return (first if mask.dtype == torch.bool else first == 0).expand(states.shape[:2])


def compile_sparse(
    model: AnyModule,
    *,
    values: ShortValues = "fp32",
    threads: int = 1,
    minimum_sparsity: float | None = None,
    target: Target | Literal["host"] | None = "host",
) -> AnyModule:
    """Return a copy of a model, for inference on the CPU, whose encoder computes with its non-zero weights only.

    The copy is called as the model is, and everything but the encoder (embeddings, pooler, heads) stays as it was. It
    has the model's states at all valid tokens, to float32's rounding, and zeros at padding. Apply the ticket first
    (`ticket.apply_(model)`): a weight counts as pruned where it is exactly 0.

    Args:
        model: holds an encoder of UNITER's or of a Hugging Face model in `HF_ENCODERS` (ViLT, BERT, …); a backbone, a
            task's model, or any other module. Left alone.
        values: "bf16" rounds the encoder's matrices to bfloat16 and keeps them in half the memory; it computes in
            float32 all the same.
        threads: of the kernel. Set torch's own, which compute attention, by `torch.set_num_threads`.
        minimum_sparsity: matrices with at least this share of zeros are kept sparse, others dense; None measures, for
            each shape and density, what is faster here. 0 keeps all sparse.
        target: for which processor to compile; None, or without llvmlite: plain torch.

    Raises:
        UserError: where the model has no such encoder, or its layers compute something else.
    """
    if values not in get_args(ShortValues):
        raise unknown("type of values", values, get_args(ShortValues))
    if threads < 1:
        raise UserError(f"a compiled model needs 1 thread or more, got {threads}")
    if minimum_sparsity is not None and not (minimum_sparsity >= 0 and math.isfinite(minimum_sparsity)):
        raise UserError(f"minimum_sparsity is a share of zeros, 0 or more, got {minimum_sparsity}")
    settings = Settings("bfloat16" if values == "bf16" else "float32", threads, minimum_sparsity, target)
    compiled: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, Encoder):
            compiled[id(module)] = SparseUniterEncoder(list(module.layer), settings)
        elif type(module).__name__ in HF_ENCODERS and hasattr(module, "layer"):
            compiled[id(module)] = SparseHfEncoder(list(module.layer), settings)  # type: ignore[arg-type]
    if not compiled:
        raise UserError(
            f"{type(model).__name__} has no encoder that can be compiled; UNITER has, and of Hugging Face's "
            f"{', '.join(name.removesuffix('Encoder') for name in HF_ENCODERS)}"
        )
    copied: AnyModule = copy.deepcopy(model, compiled)
    return copied.eval().requires_grad_(False)
