"""The trained model of a ticket, built from its weights alone: no data, no store, no training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from vltickets.backbones import build_backbone
from vltickets.backbones.protocol import Backbone, Outputs
from vltickets.data import Inputs
from vltickets.errors import UserError
from vltickets.specs import BackboneSpec, HuggingFace, Lxmert, Uniter, Vilt
from vltickets.tasks.answering import AnswerHead, LxmertAnswerHead, ViltAnswerHead
from vltickets.tasks.matching import MatchingHead
from vltickets.tasks.nlvr2 import LxmertPairedHead, PairedAttentionHead, PairedHead, TripletHead, ViltPairedHead
from vltickets.tasks.refcoco import RegionHead
from vltickets.tasks.vcr import VcrHead
from vltickets.tickets import Ticket

PAIRED_HEADS = (PairedHead, PairedAttentionHead, LxmertPairedHead, ViltPairedHead)
OF_STATES = (*PAIRED_HEADS, TripletHead)  # heads that take all of a backbone's outputs
Weights = Mapping[str, np.ndarray]


class TrainedTicket(nn.Module):
    """f(x; m⊙θ, φ) in evaluation mode. `head` is None where the ticket's weights have no head of one task."""

    backbone: Backbone

    def __init__(self, spec: BackboneSpec, backbone: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone  # type: ignore[assignment]
        self.head = head

    @property
    def rows_per_example(self) -> int:
        """Rows of the inputs that make one example: 2 where two images are read in two passes (NLVR2), else 1."""
        return 2 if isinstance(self.head, PAIRED_HEADS) else 1

    def forward(self, inputs: Inputs) -> torch.Tensor | Outputs:
        """Return the head's logits (answers [b, n]; RefCOCO+ a score a region [b, r]); without a head the outputs."""
        outputs = self.backbone(inputs)
        if self.head is None:
            return outputs
        if isinstance(self.head, OF_STATES):
            logits: torch.Tensor = self.head(outputs)
        elif isinstance(self.head, RegionHead):
            logits = self.head(outputs.regions, inputs.region_mask)
        else:
            logits = self.head(outputs.pooled)
        return logits


def build_trained(ticket: Ticket) -> TrainedTicket:
    """Return the trained model of a ticket of the package's backbones, sized by its weights.

    Raises `UserError` for a ticket of another module, or of a model that comes by an adapter, for one without weights,
    and where the weights do not fill the backbone.
    """
    if ticket.backbone is None:
        raise UserError("this is a ticket of a module of your own: build the module, and load the weights into it")
    if not ticket.weights:
        raise UserError("this ticket is a mask without trained weights; find it again with `vltickets find`")
    spec = ticket.backbone
    if isinstance(spec, HuggingFace):
        raise UserError(
            f"an adapter's model, {spec.model}, is not built from a ticket yet; `deploy pack` and `evaluate` take it"
        )
    vocabulary, region_width, types = _sizes(spec, ticket.weights)
    # No memory for weights that are replaced at once; but a ViLT has buffers that no weights replace.
    with torch.device("cpu" if isinstance(spec, Vilt) else "meta"):
        backbone = build_backbone(spec, vocabulary=vocabulary, region_width=region_width, dropout=0.0, type_count=types)
        head = _head(ticket.weights, spec)
    _fill(backbone, ticket.weights, "backbone.")
    if head is not None:
        _fill(head, ticket.weights, "head.")
    return TrainedTicket(spec, backbone, head).eval().requires_grad_(False)


def _sizes(spec: Uniter | Lxmert | Vilt, weights: Weights) -> tuple[int, int, int]:
    """Return the words, the width of a region's feature, and the token types that weights are for."""
    texts = "embeddings.text_embeddings." if isinstance(spec, Vilt) else "embeddings."
    picture = {"uniter": "img_embeddings.img_linear.weight", "lxmert": "encoder.visn_fc.visn_fc.weight"}.get(spec.kind)
    try:
        words = len(weights[f"backbone.{texts}word_embeddings.weight"])
        width = weights[f"backbone.{picture}"].shape[1] if picture else spec.pixels.width  # type: ignore[union-attr]
        types = 2 if isinstance(spec, Lxmert) else len(weights["backbone.embeddings.token_type_embeddings.weight"])
    except (KeyError, IndexError) as error:
        raise UserError(f"the ticket's weights are no whole {spec.kind}: they lack {error}") from None
    return words, width, types


def _head(weights: Weights, spec: Uniter | Lxmert | Vilt) -> nn.Module | None:
    """Return the uninitialised head that weights `head.*` are of, told by the official names and the shapes."""
    d = spec.hidden
    found = {name.removeprefix("head."): array.shape for name, array in weights.items() if name.startswith("head.")}
    if "cls.predictions.bias" in found or any(name.startswith("cls.") for name in found):
        return None  # pre-training has many
    first = {name.partition(".")[0] for name in found}
    last = {name: shape for name, shape in found.items() if name.endswith(".3.weight")}
    if len(last) == 1 and first <= {"vqa_output", "logit_fc", "vqa_classifier", "nlvr2_classifier"}:
        (name, shape), kind = next(iter(last.items())), next(iter(first))
        paired = found[name.replace(".3.", ".0.")][1:] == (2 * d,)
        if kind == "logit_fc":
            return LxmertPairedHead(d) if paired else LxmertAnswerHead(d, shape[0])
        if kind == "nlvr2_classifier":
            return ViltPairedHead(d)
        return (AnswerHead if kind == "vqa_output" else ViltAnswerHead)(d, shape[0])
    if "attn1" in first:
        return PairedAttentionHead(d, spec.heads, 0.0)
    if first == {"nlvr2_output"}:
        return PairedHead(d) if found["nlvr2_output.weight"][1:] == (2 * d,) else TripletHead(d)
    if first == {"re_output"}:
        return RegionHead(d, 1 if "re_output.weight" in found else 2)
    return MatchingHead(d) if first == {"rank_output"} else VcrHead(d) if first == {"vcr_output"} else None


def _fill(module: nn.Module, weights: Weights, prefix: str) -> None:
    """Give a module the weights of its names, in their own memory."""
    own = {
        name.removeprefix(prefix): torch.from_numpy(np.require(array, requirements="W"))
        for name, array in weights.items()
        if name.startswith(prefix)
    }
    try:
        module.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise UserError(f"the ticket's weights do not fit its model: {str(error).splitlines()[-1].strip()}") from None
