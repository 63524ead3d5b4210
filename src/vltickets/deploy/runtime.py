"""Whole encoders on the sparse kernel: a model whose layers compute with their weights' non-zeros only.

Here is what stands in for each kind of encoder, called as it is; how the layers compute is in `stacks.py`.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from vltickets.backbones.uniter import Encoder
from vltickets.deploy.choice import Settings
from vltickets.deploy.jit import Target
from vltickets.deploy.layers import cross_parts_of, parts_of
from vltickets.deploy.stacks import CrossStack, SparseStack
from vltickets.errors import UserError, unknown

ShortValues = Literal["fp32", "bf16"]
AnyModule = TypeVar("AnyModule", bound=nn.Module)
HF_ENCODERS = tuple(  # of transformers
    f"{name}Encoder"
    for name in ("Bert", "Camembert", "Electra", "Flava", "Roberta", "Vilt", "VisualBert", "XLMRoberta")
)


class SparseEncoder(nn.Module):
    """Stands in for the encoder of a compiled model; its layers are no parameters. Made by `compile_sparse`.

    `nbytes`: bytes of its weights in memory. `chosen`: how many of its matrices are kept sparse and how many dense.
    """

    def __init__(self, stack: SparseStack | CrossStack) -> None:
        super().__init__()
        self.stack = stack
        self.eval()

    @property
    def nbytes(self) -> int:
        """Bytes of its weights in memory."""
        return self.stack.nbytes

    @property
    def chosen(self) -> dict[str, int]:
        """How many matrices are kept "sparse" and how many "dense"."""
        return self.stack.chosen

    @property
    def nonzeros(self) -> int:
        """How many weights of its matrices are not 0."""
        return sum(one.nonzeros for one in self.stack.linears)

    def _check(self, states: Tensor) -> None:
        """Refuse to train, and what is not computed here."""
        if self.training:
            raise UserError("a compiled model only infers: call .eval() on it, and train the model it was made from")
        if states.requires_grad and torch.is_grad_enabled():
            raise UserError("a compiled model has no gradients: use torch.no_grad(), or the model it was made from")
        if states.device.type != "cpu" or states.dtype != torch.float32:
            raise UserError(
                f"a compiled model computes in float32 on the CPU, got {states.dtype} on {states.device}; move it there"
            )


class SparseSelfEncoder(SparseEncoder):
    """An encoder of one stream, whose tokens attend to each other."""

    stack: SparseStack

    def __init__(self, layers: Sequence[nn.Module], settings: Settings) -> None:
        super().__init__(SparseStack([parts_of(layer) for layer in layers], settings))

    def _run(self, states: Tensor, valid: Tensor) -> Tensor:
        self._check(states)
        _check_first(valid)
        return self.stack.run(states, valid)


def _check_first(valid: Tensor) -> None:
    if len(valid) and not bool(valid[:, 0].all()):
        raise UserError("a compiled model needs the first token of each example to be valid, but one is padding")


class SparseUniterEncoder(SparseSelfEncoder):
    """The same with the calls of UNITER's encoder."""

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """Return the last layer's states [b, j, d]; zeros where `bias` [b, 1, 1, j], of padding, is not 0."""
        return self._run(states, bias[:, 0, 0] == 0)

    def first(self, states: Tensor, bias: Tensor) -> Tensor:
        """Return the last layer's state of the first token alone [b, 1, d]."""
        return self.forward(states, bias)[:, :1]


class SparseHfEncoder(SparseSelfEncoder):
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


class SparseLxmertEncoder(SparseEncoder):
    """The same with the call of transformers' `LxmertEncoder`; the projections of features and boxes stay dense."""

    stack: CrossStack

    def __init__(self, encoder: Any, settings: Settings) -> None:
        words, objects = ([parts_of(layer) for layer in stream] for stream in (encoder.layer, encoder.r_layers))
        super().__init__(CrossStack(words, objects, [cross_parts_of(layer) for layer in encoder.x_layers], settings))
        self.visn_fc = copy.deepcopy(encoder.visn_fc).eval()

    @property
    def layer(self) -> list[Callable[[Tensor, Tensor | None], tuple[Tensor]]]:
        """What a text without an image goes through: here one call for all layers of words."""
        return [self._words_alone]

    def forward(
        self,
        lang_feats: Tensor,
        lang_attention_mask: Tensor | None,
        visual_feats: Tensor,
        visual_pos: Tensor,
        visual_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
    ) -> Any:
        """Return, as the library does, the states of objects and of words: the last alone, those before are not kept.

        Masks: None, or of padding [b, 1, 1, t or r]. Attentions are refused.
        """
        if output_attentions:
            raise UserError("a compiled encoder returns its last states only, but was given output_attentions")
        objects = self.visn_fc(visual_feats, visual_pos)
        self._check(lang_feats)
        valid, present = _valid(lang_feats, lang_attention_mask), _valid(objects, visual_attention_mask)
        _check_first(valid)
        if not bool(present.any(1).all()):
            raise UserError("a compiled LXMERT needs a region in each example that stands beside others with regions")
        words, objects = self.stack.run(lang_feats, valid, objects, present)
        return ((objects,), None), ((words,), None), None

    def _words_alone(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor]:
        self._check(states)
        valid = _valid(states, mask)
        _check_first(valid)
        return (self.stack.run_words(states, valid),)


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
        model: holds an encoder of UNITER's, LXMERT's or of a Hugging Face model in `HF_ENCODERS` (ViLT, BERT, …); a
            backbone, a task's model, or any other module. Left alone.
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
        elif type(module).__name__ == "LxmertEncoder" and hasattr(module, "x_layers"):
            compiled[id(module)] = SparseLxmertEncoder(module, settings)
        elif type(module).__name__ in HF_ENCODERS and hasattr(module, "layer"):
            compiled[id(module)] = SparseHfEncoder(list(module.layer), settings)  # type: ignore[arg-type]
    if not compiled:
        raise UserError(
            f"{type(model).__name__} has no encoder that can be compiled; UNITER and LXMERT have, and of Hugging "
            f"Face's {', '.join(name.removesuffix('Encoder') for name in HF_ENCODERS)}"
        )
    copied: AnyModule = copy.deepcopy(model, compiled)
    return copied.eval().requires_grad_(False)
