"""A trained ticket as a Hugging Face folder with exact zeros, read back and checked before it appears.

LXMERT and ViLT become folders of transformers' own classes (`save_pretrained`), with the head inside where transformers
has a class for the task. UNITER has no class there: its weights stand under the official names, with a config.json and
a README that says how vltickets loads them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from vltickets.backbones.checkpoints import read_checkpoint
from vltickets.deploy.trained import TrainedTicket, build_trained
from vltickets.errors import UserError
from vltickets.specs import Lxmert, Uniter, Vilt
from vltickets.tasks.answering import LxmertAnswerHead, ViltAnswerHead
from vltickets.tasks.nlvr2 import ViltPairedHead
from vltickets.tickets import Ticket, save_ticket

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Arrays = Mapping[str, np.ndarray]
USUAL_DROPOUT = 0.1  # of a recipe that names none
WEIGHTS, TICKET, HEAD = "model.safetensors", "ticket.safetensors", "head.safetensors"
README = """# {title}

A ticket with its trained weights, written by vltickets: {sparsity:.2%} of {prunable} prunable weights are exactly 0.
`ticket.safetensors` is its mask and where it came from; `vltickets ticket verify ticket.safetensors --weights .` holds
the weights to it.

```python
{code}
```
{notes}"""
UNITER_CODE = """import json

from safetensors.torch import load_file
from vltickets.backbones import build_backbone
from vltickets.specs import Uniter

config, weights = json.load(open("config.json")), load_file("model.safetensors")
sizes = dict(vocabulary=config["vocab_size"], region_width=config["img_dim"], type_count=config["type_vocab_size"])
model = build_backbone(Uniter(**config["vltickets"]["backbone"]), dropout=0.0, **sizes)
model.load_state_dict({n.removeprefix("uniter."): w for n, w in weights.items() if n.startswith("uniter.")})"""
LIBRARY_CODE = """from transformers import {name}

model = {name}.from_pretrained(".")"""
HEAD_NOTE = "\nThe task's head stands beside it, under its official names: `head.safetensors`.\n"
VILT_NOTE = (
    "\ntransformers has one epsilon for all norms of a ViLT, 1e-6 here; the norm of the texts' embeddings was trained "
    "with 1e-12.\nIt takes whole pictures (`pixel_values`); vltickets reads the same pictures as patches.\n"
)


@dataclass(frozen=True)
class HuggingFaceFolder:
    """What was written: the class that loads it (None for UNITER's), and the masked weights found exactly 0."""

    path: Path
    architecture: str | None
    zeros: int


def export_hugging_face(ticket: Ticket, path: Path) -> HuggingFaceFolder:
    """Write a trained ticket as a new folder; it appears only once it was read back with the same bits.

    Raises `UserError` for a ticket without weights or of another module, and where something is at `path` already.
    """
    model = build_trained(ticket)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already; name a new folder with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        if isinstance(model.spec, Uniter):
            architecture, written = None, _write_uniter(ticket, model.spec, folder)
        else:
            architecture, written = _write_library(ticket, model, folder)
        save_ticket(ticket.without_weights(), folder / TICKET)
        if "vocabulary" in ticket.labels:
            (folder / "vocab.txt").write_text(ticket.labels["vocabulary"], encoding="utf-8")
        if isinstance(model.spec, Uniter):
            read_checkpoint(folder, model.spec)  # as `weights import` reads it, to start studies from
        zeros = _check(ticket, folder, written)
        if path.exists():
            path.rmdir()
        shutil.move(folder, path)
    return HuggingFaceFolder(path, architecture, zeros)


def _write_uniter(ticket: Ticket, spec: Uniter, folder: Path) -> dict[str, str]:
    """Write UNITER's files; return the name in `model.safetensors` of each of the ticket's weights."""
    names = {name: _official(name) for name in ticket.weights}
    save_file({official: ticket.weights[name] for name, official in names.items()}, folder / WEIGHTS, {"format": "pt"})
    shape = {name.removeprefix("backbone."): array.shape for name, array in ticket.weights.items()}
    config = {
        "model_type": "uniter",
        "vocab_size": shape["embeddings.word_embeddings.weight"][0],
        "type_vocab_size": shape["embeddings.token_type_embeddings.weight"][0],
        "img_dim": shape["img_embeddings.img_linear.weight"][1],
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate,
        "max_position_embeddings": spec.positions,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config | _labels(ticket) | _about(ticket), indent=2) + "\n")
    (folder / "README.md").write_text(_readme(ticket, "UNITER", UNITER_CODE, ""), encoding="utf-8")
    return names


def _official(name: str) -> str:
    """Return the name in an official fine-tuned checkpoint: the trunk under `uniter.`, the head bare."""
    part, _, rest = name.partition(".")
    return f"uniter.{rest}" if part == "backbone" else rest


def _write_library(ticket: Ticket, model: TrainedTicket, folder: Path) -> tuple[str, dict[str, str]]:
    """Write a folder of transformers; return the class's name, and the name there of each of the ticket's weights."""
    library, prefixes = _library_model(ticket, model)
    ours = {name: array for name, array in ticket.weights.items() if name.startswith(tuple(prefixes))}
    names = {name: _renamed(name, prefixes) for name in ours}
    library.load_state_dict({names[name]: torch.from_numpy(np.array(array)) for name, array in ours.items()})
    with _without_bars():
        library.save_pretrained(folder)
        again = type(library).from_pretrained(folder).state_dict()
    head = {name.removeprefix("head."): array for name, array in ticket.weights.items() if name not in ours}
    if head:
        save_file(head, folder / HEAD, {"format": "pt"})
    architecture = type(library).__name__
    notes = (HEAD_NOTE if head else "") + (VILT_NOTE if isinstance(model.spec, Vilt) else "")
    code = LIBRARY_CODE.format(name=architecture)
    (folder / "README.md").write_text(_readme(ticket, architecture, code, notes), encoding="utf-8")
    for name in ours:
        if not torch.equal(again[names[name]], torch.from_numpy(np.array(ticket.weights[name]))):
            raise RuntimeError(f"{folder}: transformers reads other numbers for {names[name]} than were written")
    return architecture, names


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers' progress bars off the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _library_model(ticket: Ticket, model: TrainedTicket) -> tuple[PreTrainedModel, dict[str, str]]:
    """Return transformers' model for a ticket's task, and by which of its prefixes it has our weights."""
    import transformers

    config = model.backbone.config  # type: ignore[attr-defined]
    config = type(config).from_dict(config.to_dict() | _labels(ticket))
    recipe = ticket.provenance.get("recipe")
    config.hidden_dropout_prob = (recipe if isinstance(recipe, dict) else {}).get("dropout", USUAL_DROPOUT)
    head = model.head
    if isinstance(model.spec, Lxmert):
        config.attention_probs_dropout_prob = config.hidden_dropout_prob  # a ViLT drops nothing there
        if isinstance(head, LxmertAnswerHead):
            config.num_qa_labels = head.logit_fc[3].out_features
            return transformers.LxmertForQuestionAnswering(config), {"backbone.": "lxmert.", "head.": "answer_head."}
        return transformers.LxmertModel(config), {"backbone.": ""}
    if isinstance(head, ViltAnswerHead):
        config.num_labels = head.vqa_classifier[3].out_features
        prefixes = {"backbone.": "vilt.", "head.vqa_classifier.": "classifier."}
        return transformers.ViltForQuestionAnswering(config), prefixes
    if isinstance(head, ViltPairedHead):
        config.num_images, config.num_labels = 2, 2
        prefixes = {"backbone.": "vilt.", "head.nlvr2_classifier.": "classifier."}
        return transformers.ViltForImagesAndTextClassification(config), prefixes
    return transformers.ViltModel(config), {"backbone.": ""}


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    ours = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[ours] + name.removeprefix(ours)


def _labels(ticket: Ticket) -> dict[str, Any]:
    """Return the answers as configurations have them."""
    if "answers" not in ticket.labels:
        return {}
    answers = ticket.labels["answers"].split("\n")
    return {"id2label": dict(enumerate(answers)), "label2id": {answer: row for row, answer in enumerate(answers)}}


def _about(ticket: Ticket) -> dict[str, Any]:
    assert ticket.backbone is not None
    task = ticket.provenance.get("task")
    kind = task.get("kind") if isinstance(task, dict) else None
    about = {"backbone": ticket.backbone.described(), "mask": ticket.mask.digest, "sparsity": ticket.sparsity}
    return {"vltickets": about | ({"task": kind} if kind else {})}


def _readme(ticket: Ticket, title: str, code: str, notes: str) -> str:
    return README.format(title=title, sparsity=ticket.sparsity, prunable=ticket.mask.total, code=code, notes=notes)


def _check(ticket: Ticket, folder: Path, names: Mapping[str, str]) -> int:
    """Hold the file to the ticket bit by bit; return how many masked weights are 0 in it."""
    found = load_file(folder / WEIGHTS)
    for name, written in names.items():
        if written not in found or not np.array_equal(found[written], ticket.weights[name], equal_nan=True):
            raise RuntimeError(f"{folder / WEIGHTS} was written wrongly: {written} is not the ticket's {name}")
    zeros = 0
    for name in ticket.mask:
        pruned = found[names[f"backbone.{name}"]][~ticket.mask[name].numpy()]
        if pruned.any():
            raise RuntimeError(f"{folder / WEIGHTS} was written wrongly: {name} is not 0 where the mask prunes")
        zeros += pruned.size
    return zeros
