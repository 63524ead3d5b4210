"""Check our UNITER against golden vectors of the official modules: `python tests/golden_check.py DIR [--packed]`.

DIR (or DIR/uniter) holds `manifest.json` and one safetensors file a case. Prints the largest error of each case and
exits with 1 where one is past 1e-5, 2 where the folder is not of that layout. Golden places hold valid tokens only:
the official code packs each row's regions right behind its words, ours follow the padded text. With `--packed` the
encoder computes valid tokens only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from vltickets.backbones import Outputs, UniterBackbone, build_backbone
from vltickets.data import Inputs
from vltickets.specs import Uniter
from vltickets.tasks.answering import AnswerHead, answer_loss
from vltickets.tasks.heads import PretrainingHead
from vltickets.tasks.matching import MatchingHead
from vltickets.tasks.nlvr2 import PairedAttentionHead, PairedHead
from vltickets.tasks.pretraining import mrc_loss
from vltickets.tasks.refcoco import RegionHead
from vltickets.tasks.retrieval import rank_loss
from vltickets.tasks.transport import transport_distance
from vltickets.tasks.vcr import VcrHead

TOLERANCE = 1e-5
Tensors = dict[str, torch.Tensor]
Errors = dict[str, float]


@dataclass
class Case:
    """One file: its tensors by part, and our backbone with the case's weights."""

    inputs: Tensors
    expected: Tensors
    state: Tensors
    backbone: UniterBackbone

    def batch(self, *, masked: bool = False) -> Inputs:
        """Return our batch of the case's inputs."""
        given = self.inputs
        return Inputs(
            tokens=given["input_ids"].long(),
            token_mask=torch.arange(given["input_ids"].shape[1]) < given["txt_lens"][:, None],
            features=given["masked_img_feat"] if masked else given["img_feat"],
            boxes=given["img_pos_feat"],
            region_mask=torch.arange(given["img_feat"].shape[1]) < given["num_bbs"][:, None],
            region_types=given.get("img_type_ids", torch.ones(given["img_feat"].shape[:2])).long(),
            hidden_regions=given["img_masks"].bool() if masked else None,
            token_types=given["txt_type_ids"].long() if "txt_type_ids" in given else None,
        )

    def load(self, head: nn.Module) -> Any:
        """Return the head with the case's weights; the heads of other tasks in the file are left alone."""
        own = {key: value for key, value in self.state.items() if key in head.state_dict()}
        head.load_state_dict(own)
        return head.eval()

    def error(self, name: str, got: torch.Tensor) -> float:
        """Return the largest difference to an expected output of the same numbers."""
        return float((self.expected[name] - got.reshape(self.expected[name].shape)).abs().max())


def open_case(folder: Path, name: str, manifest: dict[str, Any], packed: bool) -> Case:
    """Read a case of the manifest."""
    config = manifest["config"]
    data = load_file(folder / f"{name}.safetensors")
    parts: dict[str, Tensors] = {"in": {}, "out": {}, "state": {}}
    for key, value in data.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    trunk = {key.removeprefix("uniter."): value for key, value in parts["state"].items() if key.startswith("uniter.")}
    backbone = build_backbone(
        Uniter(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            positions=config["max_position_embeddings"],
        ),
        vocabulary=len(trunk["embeddings.word_embeddings.weight"]),
        region_width=manifest["img_dim"],
        dropout=0.1,
        type_count=len(trunk["embeddings.token_type_embeddings.weight"]),
    ).eval()
    assert isinstance(backbone, UniterBackbone)
    backbone.load_state_dict(trunk)
    backbone.packed = packed
    return Case(parts["in"], parts["out"], parts["state"], backbone)


def trunk_errors(case: Case, inputs: Inputs, outputs: Outputs) -> Errors:
    """Compare the sequence, token by token at the valid places, and the pooled output, where the case has them."""
    errors = {}
    if "pooled" in case.expected:
        errors["pooled"] = case.error("pooled", outputs.pooled)
    if "sequence" in case.expected:
        valid = torch.cat([inputs.token_mask, inputs.region_mask], 1)
        theirs = case.expected["sequence"][case.inputs["attn_masks"].bool()]
        errors["sequence"] = float((theirs - outputs.sequence[valid]).abs().max())
    return errors


def pretraining(case: Case) -> Errors:
    """MLM, feature regression, both classifications, matching, and the transport distances."""
    hidden, words = case.backbone.hidden, case.backbone.embeddings.word_embeddings.weight
    width = case.inputs["img_feat"].shape[-1]
    head = case.load(PretrainingHead(hidden, len(words), case.expected["mrc_scores"].shape[1], width))
    inputs = case.batch()
    outputs = case.backbone(inputs)
    errors = trunk_errors(case, inputs, outputs)
    labels = case.inputs["txt_labels"].long()
    scores = head.cls["predictions"](outputs.words[labels != -1], words)
    errors["mlm_scores"] = case.error("mlm_scores", scores)
    errors["mlm_loss"] = case.error("mlm_loss", F.cross_entropy(scores, labels[labels != -1], reduction="none"))
    match = head.itm_output(outputs.pooled)
    targets = case.inputs["itm_targets"].long()
    errors["itm_scores"] = case.error("itm_scores", match)
    errors["itm_loss"] = case.error("itm_loss", F.cross_entropy(match, targets, reduction="none"))
    distance = transport_distance(outputs.words, inputs.token_mask, outputs.regions, inputs.region_mask)
    errors["ot_dist_pos"] = case.error("ot_dist_pos", distance[targets == 1])
    errors["ot_dist_neg"] = case.error("ot_dist_neg", distance[targets == 0])
    masked = case.batch(masked=True)
    assert masked.hidden_regions is not None
    states = case.backbone(masked).regions[masked.hidden_regions]
    features = head.feat_regress(states, case.backbone.img_embeddings.img_linear.weight)
    errors["mrfr_pred"] = case.error("mrfr_pred", features)
    squared = F.mse_loss(features, case.inputs["feat_targets"], reduction="none")
    errors["mrfr_loss"] = case.error("mrfr_loss", squared)
    classes = head.region_classifier(states)
    errors["mrc_scores"] = case.error("mrc_scores", classes)
    errors["mrc_loss"] = case.error("mrc_loss", mrc_loss(classes, case.inputs["label_targets"]))
    kl = F.kl_div(classes.log_softmax(-1), case.inputs["label_targets"], reduction="none")
    errors["mrc_kl_loss"] = case.error("mrc_kl_loss", kl)
    return errors


def answers(case: Case) -> Errors:
    """The answer head of VQA and of visual entailment."""
    head = case.load(AnswerHead(case.backbone.hidden, case.expected["scores"].shape[1]))
    inputs = case.batch()
    outputs = case.backbone(inputs)
    scores = head(outputs.pooled)
    errors = trunk_errors(case, inputs, outputs) | {"scores": case.error("scores", scores)}
    if "loss" in case.expected:
        errors["loss"] = case.error("loss", answer_loss(scores, case.inputs["targets"]))
    return errors


def vcr(case: Case) -> Errors:
    """The candidate head: the score is the logit of class 1."""
    head = case.load(VcrHead(case.backbone.hidden))
    inputs = case.batch()
    outputs = case.backbone(inputs)
    return trunk_errors(case, inputs, outputs) | {"scores": case.error("scores", head(outputs.pooled)[:, 1])}


def refcoco(case: Case) -> Errors:
    """The region head with one layer or two."""
    layers = 1 if "re_output.weight" in case.state else 2
    head = case.load(RegionHead(case.backbone.hidden, layers))
    inputs = case.batch()
    outputs = case.backbone(inputs)
    scores = head(outputs.regions, inputs.region_mask)
    loss = F.cross_entropy(scores, case.inputs["targets"].long(), reduction="none")
    own = {"scores": case.error("scores", scores), "loss": case.error("loss", loss)}
    return trunk_errors(case, inputs, outputs) | own


def retrieval(case: Case) -> Errors:
    """The rank head and its loss over groups of three."""
    head = case.load(MatchingHead(case.backbone.hidden))
    inputs = case.batch()
    outputs = case.backbone(inputs)
    scores = head(outputs.pooled)
    loss = rank_loss(scores.view(len(case.expected["rank_loss"]), -1), 0.2)
    own = {"scores": case.error("scores", scores), "rank_loss": case.error("rank_loss", loss)}
    return trunk_errors(case, inputs, outputs) | own


def nlvr2(case: Case) -> Errors:
    """The two heads over pairs of rows."""
    hidden, heads = case.backbone.hidden, case.backbone.spec.heads
    paired = case.load(PairedAttentionHead(hidden, heads, 0.1) if "fc.0.weight" in case.state else PairedHead(hidden))
    inputs = case.batch()
    outputs = case.backbone(inputs)
    scores = paired(outputs)
    loss = F.cross_entropy(scores, case.inputs["targets"].long(), reduction="none")
    return trunk_errors(case, inputs, outputs) | {
        "scores": case.error("scores", scores),
        "loss": case.error("loss", loss),
    }


CHECKS: dict[str, Callable[[Case], Errors]] = {
    "pretraining": pretraining,
    "vqa": answers,
    "ve": answers,
    "vcr": vcr,
    "refcoco_mlp1": refcoco,
    "refcoco_mlp2": refcoco,
    "retrieval": retrieval,
    "nlvr2_paired": nlvr2,
    "nlvr2_paired_attn": nlvr2,
}


@torch.no_grad()
def check(folder: Path, name: str, manifest: dict[str, Any], packed: bool = False) -> Errors:
    """Return the largest error of each output of a case; every expected output must have been compared."""
    case = open_case(folder, name, manifest, packed)
    errors = CHECKS[name](case)
    if missed := sorted(set(case.expected) - set(errors)):
        raise ValueError(f"{folder / name}.safetensors: no check for the outputs {', '.join(missed)}")
    return errors


def main(arguments: list[str]) -> int:
    """Print the largest error of each case, and return the exit code."""
    packed = "--packed" in arguments
    arguments = [argument for argument in arguments if argument != "--packed"]
    if len(arguments) != 1:
        print("usage: python tests/golden_check.py DIR [--packed]", file=sys.stderr)
        return 2
    folder = next(
        (path for path in (Path(arguments[0]), Path(arguments[0]) / "uniter") if (path / "manifest.json").is_file()),
        None,
    )
    if folder is None:
        print(f"{arguments[0]}: no manifest.json there; expected a folder of golden vectors", file=sys.stderr)
        return 2
    manifest = json.loads((folder / "manifest.json").read_text())
    worst = 0.0
    for name in manifest["cases"]:
        if name not in CHECKS:
            print(f"{folder}: no check is known for the case {name!r}", file=sys.stderr)
            return 2
        errors = check(folder, name, manifest, packed)
        output, largest = max(errors.items(), key=lambda item: item[1])
        print(f"{name:20} {largest:.1e} ({output}; {len(errors)} outputs)")
        worst = max(worst, *(error if error == error else float("inf") for error in errors.values()))
    print(f"largest error {worst:.1e}, allowed {TOLERANCE:.0e}: {'agrees' if worst <= TOLERANCE else 'DIFFERS'}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
