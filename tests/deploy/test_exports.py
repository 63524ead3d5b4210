"""Exports hold the ticket's numbers: transformers, vltickets and onnxruntime read them and give the same answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from vltickets.backbones import build_backbone, prunable_shapes
from vltickets.data import Inputs
from vltickets.deploy import build_trained
from vltickets.deploy.hugging_face import export_hugging_face
from vltickets.errors import UserError
from vltickets.specs import BackboneSpec, Lxmert, Pixels, Uniter, Vilt, named
from vltickets.tasks.answering import AnswerHead, LxmertAnswerHead, ViltAnswerHead
from vltickets.tasks.nlvr2 import LxmertPairedHead, PairedAttentionHead, PairedHead, TripletHead, ViltPairedHead
from vltickets.tasks.refcoco import RegionHead
from vltickets.tasks.vcr import VcrHead
from vltickets.tickets import Mask, Ticket, check_weights, load_ticket, prune, random_scores

SIZES: dict[str, BackboneSpec] = {
    "uniter": Uniter(layers=1, hidden=16, heads=2, intermediate=32, positions=32),
    "lxmert": Lxmert(language_layers=1, object_layers=1, cross_layers=1, hidden=16, heads=2, intermediate=32),
    "vilt": Vilt(layers=1, hidden=16, heads=2, intermediate=32, positions=32, pixels=Pixels(patch=4, shorter=12)),
}
HEADS: dict[str, Callable[[], nn.Module]] = {
    "uniter answers": lambda: AnswerHead(16, 3),
    "uniter paired": lambda: PairedHead(16),
    "uniter triplet": lambda: TripletHead(16),
    "uniter attention": lambda: PairedAttentionHead(16, 2, 0.0),
    "uniter regions": lambda: RegionHead(16, 2),
    "uniter choices": lambda: VcrHead(16),
    "lxmert answers": lambda: LxmertAnswerHead(16, 3),
    "lxmert paired": lambda: LxmertPairedHead(16),
    "vilt answers": lambda: ViltAnswerHead(16, 3),
    "vilt paired": lambda: ViltPairedHead(16),
}
WORDS, WIDTH = 20, 8
transformers_needed = pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers (vltickets[hf])")


def trained(name: str) -> tuple[Ticket, nn.Module, nn.Module]:
    """Return a ticket of a toy model with random weights, and its backbone and head."""
    spec = SIZES[name.split()[0]]
    torch.manual_seed(0)
    types = 4 if "choices" in name else 2 if spec.kind == "lxmert" or "answers" in name else 3
    backbone = build_backbone(spec, vocabulary=WORDS, region_width=WIDTH, dropout=0.1, type_count=types).eval()
    backbone.initialise(torch.Generator().manual_seed(1), 0.3)
    head = HEADS[name]().eval()
    shapes = prunable_shapes(spec)
    mask = prune(random_scores(0, shapes), Mask.dense(shapes), 0.7)
    mask.apply_(backbone.prunable())
    model = nn.ModuleDict({"backbone": backbone, "head": head})
    weights = {key: value.detach().numpy().copy() for key, value in model.state_dict().items()}
    provenance = {"task": {"kind": "vqa"}, "recipe": {"dropout": 0.2}}
    vocabulary = "".join(f"w{number}\n" for number in range(WORDS))
    return Ticket(spec, mask, provenance, weights, {"answers": "yes\nno\n2", "vocabulary": vocabulary}), backbone, head


def inputs_of(name: str, rows: int, words: int, regions: int) -> Inputs:
    """Return random inputs; a ViLT's regions are the patches of pictures that are two patches high."""
    vilt = name.startswith("vilt")
    boxes, cell, across = torch.rand(rows, regions, 7), torch.arange(regions), max(regions // 2, 1)
    if vilt:
        boxes[..., 0], boxes[..., 1] = cell % across / across, cell // across / (regions / across)
        boxes[..., 4], boxes[..., 5] = 1 / across, across / regions
    token_mask, region_mask = torch.ones(rows, words, dtype=torch.bool), torch.ones(rows, regions, dtype=torch.bool)
    token_mask[0, -1] = region_mask[0, -1] = False
    return Inputs(
        tokens=torch.randint(1, WORDS, (rows, words)),
        token_mask=token_mask,
        features=torch.randn(rows, regions, 48 if vilt else WIDTH),
        boxes=boxes,
        region_mask=region_mask,
        region_types=torch.ones(rows, regions, dtype=torch.int64),
    )


@transformers_needed
@pytest.mark.parametrize("name", HEADS)
def test_a_trained_model_is_built_from_a_ticket_s_weights_alone(name: str) -> None:
    ticket, backbone, head = trained(name)
    model = build_trained(ticket)
    assert type(model.head) is type(head)
    inputs = inputs_of(name, 4, 5, 4)
    with torch.no_grad():
        outputs = backbone(inputs)
        paired = "paired" in name or "triplet" in name or "attention" in name
        given = (
            (outputs,) if paired else (outputs.regions, inputs.region_mask) if "regions" in name else (outputs.pooled,)
        )
        assert torch.equal(model(inputs), head(*given))
    assert model.rows_per_example == (2 if "paired" in name or "attention" in name else 1)


def test_what_is_no_trained_ticket_of_a_backbone_is_refused(tmp_path: Path) -> None:
    ticket = trained("uniter answers")[0]
    lacking = Ticket(ticket.backbone, ticket.mask, {}, {"backbone.pooler.dense.weight": np.zeros((16, 16))})
    for wrong, says in (
        (ticket.without_weights(), "a mask without trained weights"),
        (Ticket(None, ticket.mask, {}, ticket.weights), "a module of your own"),
        (Ticket(named("clip-tiny"), ticket.mask, {}, ticket.weights), "an adapter's model, clip, is not built"),
        (lacking, "no whole uniter: they lack 'backbone.embeddings"),
    ):
        with pytest.raises(UserError, match=says):
            export_hugging_face(wrong, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export_hugging_face(ticket, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_uniter_s_folder_loads_as_its_readme_says_and_holds_the_zeros(tmp_path: Path) -> None:
    ticket, backbone, _ = trained("uniter answers")
    found = export_hugging_face(ticket, tmp_path / "hf")
    assert (found.architecture, found.zeros) == (None, ticket.mask.total - ticket.mask.kept)
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    assert {"uniter.encoder.layer.0.output.dense.weight", "vqa_output.3.bias"} <= set(weights)
    mask = load_ticket(tmp_path / "hf" / "ticket.safetensors")
    assert check_weights(mask, tmp_path / "hf").match == "pruned"
    code = (tmp_path / "hf" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = f"{code}\nimport torch\ntorch.save(model.state_dict(), 'again.pt')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "hf", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = torch.load(tmp_path / "hf" / "again.pt", weights_only=True)
    assert all(torch.equal(again[name], value) for name, value in backbone.state_dict().items())


@transformers_needed
def test_lxmert_s_folder_answers_the_same_in_transformers(tmp_path: Path) -> None:
    import transformers

    ticket, backbone, head = trained("lxmert answers")
    found = export_hugging_face(ticket, tmp_path / "hf")
    assert (found.architecture, found.zeros) == ("LxmertForQuestionAnswering", ticket.mask.total - ticket.mask.kept)
    model = transformers.LxmertForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    assert (model.config.id2label[2], model.config.hidden_dropout_prob) == ("2", 0.2)
    for name, keep in ((name, ticket.mask[name]) for name in ticket.mask):
        assert not model.lxmert.get_parameter(name)[~keep].any()
    inputs = inputs_of("lxmert", 4, 5, 3)
    with torch.no_grad():
        theirs = model(
            input_ids=inputs.tokens,
            attention_mask=inputs.token_mask,
            visual_feats=inputs.features,
            visual_pos=inputs.boxes[..., :4],
            visual_attention_mask=inputs.region_mask,
        ).question_answering_score
        torch.testing.assert_close(theirs, head(backbone(inputs).pooled), atol=1e-5, rtol=1e-5)


@transformers_needed
def test_vilt_s_folder_answers_the_same_of_whole_pictures(tmp_path: Path) -> None:
    import transformers

    ticket, backbone, head = trained("vilt answers")
    found = export_hugging_face(ticket, tmp_path / "hf")
    assert (found.architecture, found.zeros) == ("ViltForQuestionAnswering", ticket.mask.total - ticket.mask.kept)
    model = transformers.ViltForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    assert model.config.id2label == {0: "yes", 1: "no", 2: "2"}
    pictures = torch.randn(2, 3, 12, 12)
    patches = pictures.unfold(2, 4, 4).unfold(3, 4, 4)  # [b, 3, down, across, 4, 4]
    cell = torch.arange(9)
    boxes = torch.zeros(2, 9, 7)
    boxes[..., 0], boxes[..., 1], boxes[..., 4:6] = cell % 3 / 3, cell // 3 / 3, 1 / 3
    inputs = inputs_of("vilt", 2, 5, 2)
    given = Inputs(
        inputs.tokens,
        inputs.token_mask,
        patches.permute(0, 2, 3, 1, 4, 5).reshape(2, 9, 48),
        boxes,
        torch.ones(2, 9, dtype=torch.bool),
        torch.ones(2, 9, dtype=torch.int64),
    )
    with torch.no_grad():
        theirs = model(
            input_ids=inputs.tokens,
            attention_mask=inputs.token_mask,
            pixel_values=pictures,
            pixel_mask=torch.ones(2, 12, 12),
        ).logits
        # transformers has one epsilon for all norms, and these embeddings are small: see the folder's README.
        torch.testing.assert_close(theirs, head(backbone(given).pooled), atol=1e-4, rtol=1e-4)


@transformers_needed
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("lxmert paired", "LxmertModel"),
        ("vilt paired", "ViltForImagesAndTextClassification"),
    ],
)
def test_other_heads_are_inside_where_transformers_has_them_and_beside_where_not(
    tmp_path: Path, name: str, architecture: str
) -> None:
    ticket, _, head = trained(name)
    assert export_hugging_face(ticket, tmp_path / "hf").architecture == architecture
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == [architecture]
    beside = tmp_path / "hf" / "head.safetensors"
    assert beside.exists() == (name == "lxmert paired")
    if beside.exists():
        assert load_file(beside).keys() == head.state_dict().keys()


ONNX_NEEDED = "needs onnx, onnxruntime and onnxscript (vltickets[onnx])"


@transformers_needed
@pytest.mark.parametrize("name", ["uniter answers", "uniter paired", "lxmert answers", "vilt answers"])
def test_a_graph_answers_the_same_in_onnxruntime_for_any_shape(tmp_path: Path, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason=ONNX_NEEDED)
    onnx = pytest.importorskip("onnx", reason=ONNX_NEEDED)
    from vltickets.deploy.onnx_graph import export_onnx

    ticket, _, _ = trained(name)
    graph = export_onnx(ticket, tmp_path / "m.onnx")
    assert graph.difference <= 1e-4 < graph.largest
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["answers"] == "yes\nno\n2"
    model = build_trained(ticket)
    for rows, words, regions in ((2, 3, 2), (8, 7, 12)):
        inputs = inputs_of(name, rows, words, regions)
        (found,) = session.run(["logits"], {name: getattr(inputs, name).numpy() for name in graph.inputs})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(inputs), atol=1e-4, rtol=1e-4)
    if name.startswith("lxmert"):
        return  # the visual side of its last layer answers no question, and is not in the graph
    held = (onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "m.onnx").graph.initializer)
    assert sum(int((array == 0).sum()) for array in held) >= ticket.mask.total - ticket.mask.kept


def test_an_int8_graph_says_how_far_it_is_off(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason=ONNX_NEEDED)
    onnx = pytest.importorskip("onnx", reason=ONNX_NEEDED)
    from vltickets.deploy.onnx_graph import export_onnx

    graph = export_onnx(trained("uniter answers")[0], tmp_path / "m.onnx", int8=True)
    assert 0 < graph.difference < 0.2 * graph.largest
    types = {one.data_type for one in onnx.load(tmp_path / "m.onnx").graph.initializer if len(one.dims) == 2}
    assert onnx.TensorProto.INT8 in types


def test_a_graph_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason=ONNX_NEEDED)
    from vltickets.deploy import onnx_graph

    monkeypatch.setattr(onnx_graph, "TOLERANCE", 0.0)
    with pytest.raises(RuntimeError, match=r"onnxruntime is off by .* from torch"):
        onnx_graph.export_onnx(trained("uniter answers")[0], tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
