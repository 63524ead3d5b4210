"""Tickets that travel: weights held against them, a folder or the Hub as the way, and Hugging Face's own files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vltickets as vlt
from vltickets.errors import UserError
from vltickets.specs import Uniter, weight_places
from vltickets.tickets import Mask, Ticket, check_weights, hub, load_ticket, save_ticket

SHAPES = {"first.weight": (6, 5), "last.weight": (3, 6)}


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Module()
    model.first, model.last = nn.Linear(5, 6), nn.Linear(6, 3)
    return model


@pytest.fixture
def ticket() -> Ticket:
    return vlt.prune(net(), 0.5)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_base_size_mask_is_at_most_11_mb(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    shapes = {name: place.shape for name, place in weight_places(Uniter()).items()}
    bits = {
        name: draw.integers(0, 256, place.size // 8, dtype=np.uint8) for name, place in weight_places(Uniter()).items()
    }
    mask = Mask.unpacked(bits, shapes)
    path = tmp_path / "base.safetensors"
    save_ticket(Ticket(Uniter(), mask, {}), path)
    assert mask.total == 85_524_480
    assert path.stat().st_size <= 11_000_000
    assert load_ticket(path).mask.digest == mask.digest


def test_a_ticket_that_leaves_the_layers_alone_comes_back(tmp_path: Path) -> None:
    backbone = Uniter(prunable=("pooler",))
    mask = Mask.dense({name: place.shape for name, place in weight_places(backbone).items()})
    save_ticket(Ticket(backbone, mask, {}), tmp_path / "t.safetensors")
    assert load_ticket(tmp_path / "t.safetensors") == Ticket(backbone, mask, {})


def test_without_weights_only_the_mask_and_where_it_came_from_are_kept(tmp_path: Path, ticket: Ticket) -> None:
    weights = {name: np.where(ticket.mask[name], 1, 0).astype(np.float32) for name in ticket.mask}
    whole = Ticket(None, ticket.mask, ticket.provenance, weights, {"vocabulary": "a\nb\n"})
    save_ticket(whole, tmp_path / "whole.safetensors")
    save_ticket(whole.without_weights(), tmp_path / "mask.safetensors")
    found = load_ticket(tmp_path / "mask.safetensors")
    assert (found.mask, found.provenance) == (ticket.mask, ticket.provenance)
    assert (found.weights, found.labels) == ({}, {})
    assert (tmp_path / "whole.safetensors").stat().st_size > (tmp_path / "mask.safetensors").stat().st_size + 4 * 48


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_what_is_pruned_becomes_positive_zero_whatever_it_was_and_the_rest_stays(dtype: torch.dtype) -> None:
    mask = Mask({"w": torch.tensor([[True, False, False], [False, True, True]])})
    weight = torch.tensor([[-1.5, -2.0, float("nan")], [float("-inf"), float("inf"), -0.0]]).to(dtype)
    turned = weight.t().contiguous().t()  # not contiguous: as a transposed layer's weight
    for one in (weight, turned):
        mask.apply_({"w": one})
        assert one.tolist() == [[-1.5, 0.0, 0.0], [0.0, float("inf"), 0.0]]
        assert torch.signbit(one).tolist() == [[True, False, False], [False, False, True]]


# Weights on disk, held against a ticket


def saved(folder: Path, model: nn.Module, prefix: str = "") -> Path:
    save_file({prefix + name: value for name, value in model.state_dict().items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("prefix", ["", "backbone.", "bert.encoder."])
def test_weights_that_are_0_where_the_mask_prunes_match(tmp_path: Path, ticket: Ticket, prefix: str) -> None:
    model = net()
    ticket.apply_(model)
    path = saved(tmp_path, model, prefix)
    for given in (path, tmp_path):
        assert check_weights(ticket, given) == vlt.tickets.WeightsMatch("pruned", 48)


def test_one_pruned_weight_that_is_not_0_is_named(tmp_path: Path, ticket: Ticket) -> None:
    model = net()
    ticket.apply_(model)
    with torch.no_grad():
        place = (~ticket.mask["last.weight"]).nonzero()[0]
        model.last.weight[tuple(place)] = 1e-30
    with pytest.raises(UserError, match=r"1 weights that it prunes are not 0, first in last\.weight"):
        check_weights(ticket, saved(tmp_path, model))


def test_the_dense_start_that_a_ticket_names_by_hash_matches_and_no_other(tmp_path: Path, ticket: Ticket) -> None:
    import hashlib

    path = saved(tmp_path, net())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    of_it = Ticket(None, ticket.mask, {"start": {"kind": "imported", "name": "x", "sha256": digest}})
    assert check_weights(of_it, path).match == "start"
    saved(tmp_path, net(seed=1))
    with pytest.raises(UserError, match="24 weights that it prunes are not 0"):
        check_weights(of_it, path)


def test_weights_of_another_model_and_other_files_are_refused(tmp_path: Path, ticket: Ticket) -> None:
    save_file({"first.weight": torch.zeros(5, 6), "last.weight": torch.zeros(3, 6)}, tmp_path / "turned.safetensors")
    save_file({"first.weight": torch.zeros(6, 5)}, tmp_path / "half.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "half.safetensors").read_bytes()[:-1])
    (tmp_path / "model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("turned.safetensors", r"of another model: first\.weight has shape \(5, 6\), the ticket's mask \(6, 5\)"),
        ("half.safetensors", r"of another model: .*'last\.weight', the file has none that ends so"),
        ("torn.safetensors", "no safetensors file, or damaged"),
        ("model.bin", "from .safetensors only"),
        ("empty", "has no .safetensors file"),
        ("absent.safetensors", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=says):
            check_weights(ticket, tmp_path / name)


# A folder that stands for the Hub


def test_a_ticket_pushed_to_a_folder_is_pulled_from_it(tmp_path: Path, ticket: Ticket) -> None:
    repo = str(tmp_path / "hub" / "mine")
    assert hub.push(ticket, "# card", repo) == repo
    assert names_in(Path(repo)) == ["README.md", "ticket.safetensors"]
    assert (Path(repo) / "README.md").read_text() == "# card"
    out = tmp_path / "here.safetensors"
    assert hub.pull(repo, out) == load_ticket(out) == ticket
    hub.push(ticket, "# better card", repo)  # its own folder may be written again
    assert (Path(repo) / "README.md").read_text() == "# better card"
    assert hub.pull(repo, out) == ticket  # the same file, so nothing is lost


def test_a_damaged_ticket_is_not_accepted_and_nothing_is_written(tmp_path: Path, ticket: Ticket) -> None:
    repo, out = tmp_path / "mine", tmp_path / "out" / "here.safetensors"
    hub.push(ticket, "", str(repo))
    content = bytearray((repo / "ticket.safetensors").read_bytes())
    content[-1] ^= 1 << 6
    (repo / "ticket.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged: its mask is not the one its header names"):
        hub.pull(str(repo), out)
    assert names_in(tmp_path) == ["mine"]


def test_a_pull_does_not_replace_another_file(tmp_path: Path, ticket: Ticket) -> None:
    hub.push(ticket, "", str(tmp_path / "mine"))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is already there and is another file"):
        hub.pull(str(tmp_path / "mine"), tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path, ticket: Ticket) -> None:
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(UserError, match="it is not a ticket's"):
        hub.push(ticket, "# card", str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "my project"
    assert names_in(tmp_path) == ["README.md"]
    with pytest.raises(UserError, match=r"has no ticket\.safetensors"):
        hub.pull(str(tmp_path), tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="a folder, which has no revisions"):
        hub.pull(str(tmp_path), tmp_path / "t.safetensors", revision="main")


# The Hub, spoken to over HTTP by the real huggingface_hub: a server of a few lines answers as the Hub does


class Shelf(ThreadingHTTPServer):
    """A Hub with at most one repository, me/there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.private = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


COMMIT = "a" * 40


class Answers(BaseHTTPRequestHandler):
    server: Shelf

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/there/revision/absent"):
            self.refuse(404, "RevisionNotFound")
        elif path.startswith("/api/models/me/there/tree/"):
            self.say([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in self.server.files])
        elif path.startswith("/api/models/me/there"):
            self.say({"id": "me/there", "sha": COMMIT})
        elif path.startswith("/me/there/resolve/") and path.rpartition("/")[2] in self.server.files:
            self.send(self.server.files[path.rpartition("/")[2]])
        elif path.startswith("/me/there/resolve/"):
            self.refuse(404, "EntryNotFound")
        else:
            self.refuse(404, "RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create" and json.loads(body)["organization"] == "me":
            self.say({"url": f"{self.server.address}/me/there", "id": "me/there"})
        elif self.path == "/api/validate-yaml":
            self.say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self.say(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
            )
        elif "/commit/" in self.path:
            self.commit(body)
        else:
            self.refuse(403, "")

    def commit(self, body: bytes) -> None:
        import base64

        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.say({"commitUrl": f"{self.server.address}/me/there/commit/{COMMIT}", "commitOid": COMMIT})

    def say(self, value: Any) -> None:
        self.send(json.dumps(value).encode())

    def send(self, content: bytes) -> None:
        self.send_response(200)
        for name, value in (("ETag", '"e"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    pytest.importorskip("huggingface_hub", reason="the Hub needs huggingface_hub (vltickets[hub])")
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    with Shelf() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_ticket_goes_to_the_hub_and_comes_back(shelf: Shelf, tmp_path: Path, ticket: Ticket) -> None:
    where = hub.push(ticket, "---\ntags: []\n---\n# card", "me/there", endpoint=shelf.address)
    assert where.endswith("/me/there")
    assert sorted(shelf.files) == ["README.md", "ticket.safetensors"]
    assert hub.pull("me/there", tmp_path / "t.safetensors", endpoint=shelf.address) == ticket
    assert names_in(tmp_path) == ["t.safetensors"]


def test_what_the_hub_refuses_is_one_sentence(shelf: Shelf, tmp_path: Path, ticket: Ticket) -> None:
    out = tmp_path / "t.safetensors"

    def refused(repo: str, **more: str) -> str:
        with pytest.raises(UserError) as caught:
            hub.pull(repo, out, **{"endpoint": shelf.address, **more})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such repository, or no right to see it" in refused("me/absent")
    assert "has no ticket.safetensors" in refused("me/there")
    assert "at revision 'absent': the repository has no such revision" in refused("me/there", revision="absent")
    assert "is called NAME or OWNER/NAME" in refused("me/there/deeper")
    shelf.files["ticket.safetensors"] = b"not a ticket"
    assert "is not a ticket, or damaged" in refused("me/there")
    shelf.shutdown()
    shelf.server_close()
    assert "the Hub can't be reached" in refused("me/there")
    with pytest.raises(UserError, match="can't push to me/there: the Hub can't be reached"):
        hub.push(ticket, "", "me/there", endpoint=shelf.address)
    assert names_in(tmp_path) == []


def test_a_push_without_the_right_and_over_another_s_card_is_refused(shelf: Shelf, ticket: Ticket) -> None:
    with pytest.raises(UserError, match="can't push to you/there: not allowed"):
        hub.push(ticket, "", "you/there", endpoint=shelf.address)
    shelf.files["README.md"] = b"another model"
    with pytest.raises(UserError, match="it is not a ticket's"):
        hub.push(ticket, "", "me/there", endpoint=shelf.address)
    assert shelf.files == {"README.md": b"another model"}


# Hugging Face's own files


def test_a_pruned_hugging_face_model_comes_back_from_its_folder_with_exact_zeros(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViltConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViltForQuestionAnswering(config).eval()
    ticket = vlt.prune(model, 0.6)
    ticket.apply_(model)
    model.save_pretrained(tmp_path / "model")
    loaded = transformers.ViltForQuestionAnswering.from_pretrained(tmp_path / "model").eval()
    for name in ticket.mask:
        weight = loaded.get_parameter(name)
        assert torch.equal(weight != 0, ticket.mask[name]), name
    assert check_weights(ticket, tmp_path / "model").match == "pruned"
    inputs = {
        "input_ids": torch.randint(0, 30, (2, 7)),
        "pixel_values": torch.randn(2, 3, 16, 16),
        "pixel_mask": torch.ones(2, 16, 16, dtype=torch.long),
    }
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    ticket.apply_(loaded)
    assert all(torch.equal(before[name], value) for name, value in loaded.state_dict().items())
