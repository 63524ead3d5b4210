"""Zeros hold in loops we do not own: a plain one, accelerate's, Hugging Face's Trainer, Lightning. Tickets travel."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional as F

import vltickets as vlt
from vltickets.errors import UserError

STEPS, CLIP = 5, 0.05
Optimizer = torch.optim.Optimizer
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "RMSprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, weight_decay=0.1),
}


class Net(nn.Module):
    """Answers with a loss, as Hugging Face's models do."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": F.mse_loss(self.last(self.first(x).relu())[:, 0], labels)}


def net(width: int = 16, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(width)


def ticket_of(model: nn.Module) -> vlt.Ticket:
    return vlt.prune(model, 0.7, criterion="magnitude-layerwise")  # both layers keep some, so all gradients flow


def examples() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": torch.randn(6, generator=generator), "labels": torch.tensor(3.0)} for _ in range(8 * STEPS)]


def batches() -> Iterator[dict[str, torch.Tensor]]:
    rows = examples()
    for start in range(0, len(rows), 8):
        yield {key: torch.stack([row[key] for row in rows[start : start + 8]]) for key in ("x", "labels")}


def zeros_hold(model: nn.Module, ticket: vlt.Ticket, optimizer: Optimizer | None = None) -> bool:
    weights = {name: model.get_parameter(name) for name in ticket.mask}
    if optimizer is not None:
        for name, weight in weights.items():
            kept = ticket.mask[name]
            for value in optimizer.state[weight].values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    assert not bool(value[~kept].any()), "the optimizer remembers pruned weights"
    return all(not bool(weight[~ticket.mask[name]].any()) for name, weight in weights.items())


def plain_loop(model: nn.Module, optimizer: Optimizer, after: Callable[[], None] = lambda: None) -> None:
    for batch in batches():
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        after()


def by_hand(model: nn.Module, ticket: vlt.Ticket, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The reference: a loop that calls the hook itself, before it clips."""
    hold = vlt.HoldZeros(model, ticket.mask)
    for batch in batches():
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        hold.before_step(model)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        hold.after_step(model)
    return model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_hold_in_a_plain_loop_which_becomes_the_one_that_calls_the_hook(name: str) -> None:
    model, ticket = net(), ticket_of(net())
    optimizer = OPTIMIZERS[name](model)
    checked: list[bool] = []
    with ticket.held(model, optimizer):
        assert zeros_hold(model, ticket)
        plain_loop(model, optimizer, lambda: checked.append(zeros_hold(model, ticket, optimizer)))
    assert checked == [True] * STEPS
    other = net()
    assert same(model.state_dict(), by_hand(other, ticket, OPTIMIZERS[name](other)))  # the clipped norm is the same too
    assert not same(model.state_dict(), net().state_dict())
    plain_loop(model, optimizer)
    assert not zeros_hold(model, ticket)  # outside, nothing is held


def test_zeros_hold_with_a_closure_and_with_gradients_that_came_from_elsewhere() -> None:
    model, ticket = net(), ticket_of(net())
    optimizer = OPTIMIZERS["SGD"](model)
    batch = next(batches())
    model(**batch)["loss"].backward()  # before `with`: no hook saw it
    with ticket.held(model, optimizer):
        optimizer.step()
        assert zeros_hold(model, ticket, optimizer)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = model(**batch)["loss"]
            loss.backward()
            return loss

        optimizer.step(closure)
        assert zeros_hold(model, ticket, optimizer)
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)  # by no backward pass
        optimizer.step()
        assert zeros_hold(model, ticket, optimizer)


def test_an_optimizer_with_a_past_is_held_too() -> None:
    model, ticket = net(), ticket_of(net())
    optimizer = OPTIMIZERS["AdamW"](model)
    plain_loop(model, optimizer)
    with ticket.held(model, optimizer):
        plain_loop(model, optimizer, lambda: None)
        assert zeros_hold(model, ticket)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_hold_in_accelerate_whose_step_accumulates(name: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    ticket, model = ticket_of(net()), net()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(model, OPTIMIZERS[name](model))
    checked = []
    with ticket.held(model, optimizer):
        for batch in batches():
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch)["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
                checked.append(zeros_hold(accelerator.unwrap_model(model), ticket, optimizer))
    assert checked == [True] * STEPS
    assert not same(model.state_dict(), net().state_dict())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch 2.13's own, on first use
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_models_are_seen_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, ticket = net(), ticket_of(net())
    ticket.apply_(wrap(model))
    assert zeros_hold(model, ticket)


def hugging_face(model: nn.Module, optimizer: Optimizer | None, folder: Path, *callbacks: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=8,
        max_grad_norm=CLIP,
        train_sampling_strategy="sequential",
        learning_rate=0.01,
        weight_decay=0.1,
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    return transformers.Trainer(
        model, arguments, train_dataset=examples(), optimizers=(optimizer, None), callbacks=list(callbacks)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_hold_in_hugging_face_s_trainer(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, ticket, checked = net(), ticket_of(net()), []

    class Watch(transformers.TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            checked.append(zeros_hold(given["model"], ticket, given["optimizer"]))

    trainer = hugging_face(model, OPTIMIZERS[name](model), tmp_path, vlt.trainer_callback(ticket), Watch())
    trainer.train()
    assert checked == [True] * STEPS
    other = net()
    assert same(model.state_dict(), by_hand(other, ticket, OPTIMIZERS[name](other)))
    model(**next(batches()))["loss"].backward()
    assert bool(model.first.weight.grad[~ticket.mask["first.weight"]].any())  # after training, the hooks are gone
    del trainer


def test_a_ticket_is_found_with_hugging_face_s_trainer_as_the_loop(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model, started = net(), []

    def train(model: nn.Module, hold: vlt.HoldZeros) -> None:
        started.append(int((model.get_parameter("first.weight") == 0).sum()))
        hugging_face(model, None, tmp_path, vlt.trainer_callback(hold)).train()

    ticket = vlt.find_ticket(model, train, levels=[0.3, 0.6])
    assert started[0] == 0 < started[1]
    assert ticket.mask.total - ticket.mask.kept == round(0.6 * ticket.mask.total)
    assert zeros_hold(model, ticket)


def test_a_trainer_s_part_may_be_held_and_one_it_lacks_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = net()
    ticket = vlt.prune(model.first, 0.5)
    hugging_face(model, None, tmp_path, vlt.trainer_callback(ticket, "first")).train()
    assert not bool(model.first.weight[~ticket.mask["weight"]].any())
    with pytest.raises(UserError, match="no part 'third'"):
        hugging_face(model, None, tmp_path, vlt.trainer_callback(ticket, "third")).train()


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*num_workers.*", "ignore:.*log_every_n.*")
def test_zeros_hold_in_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed here")
    model, ticket, checked = net(), ticket_of(net()), []

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            return self.model(**batch)["loss"]

        def configure_optimizers(self) -> Optimizer:
            return OPTIMIZERS["AdamW"](self)

        def on_train_batch_end(self, *_: Any) -> None:
            checked.append(zeros_hold(self.model, ticket))

    loader = torch.utils.data.DataLoader(examples(), batch_size=8)
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        gradient_clip_val=CLIP,
        callbacks=[vlt.lightning_callback(ticket, "model")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Module(), loader)
    assert checked == [True] * STEPS


def test_lightning_that_is_not_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)  # what Python does where it is not installed
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    with pytest.raises(UserError, match="needs Lightning: pip install lightning"):
        vlt.lightning_callback(vlt.prune(net(), 0.5))


def test_a_ticket_saved_and_loaded_makes_exact_zeros_in_a_fresh_model(tmp_path: Path) -> None:
    model = net()
    found = vlt.find_ticket(model, lambda model, hold: None, levels=[0.5, 0.7])
    found.save(tmp_path / "t.safetensors")
    loaded = vlt.load_ticket(str(tmp_path / "t.safetensors"))
    assert loaded == found
    assert loaded.provenance["found_by"] == "find_ticket"
    assert (
        loaded.provenance["start"]["sha256"] == vlt.prune(net(), 0.1, prunable=everything).provenance["start"]["sha256"]
    )
    fresh = net(seed=5)
    before = fresh.first.weight.clone()
    loaded.apply_(fresh)
    assert torch.equal(fresh.first.weight, torch.where(found.mask["first.weight"], before, 0))
    assert sum(int((fresh.get_parameter(name) == 0).sum()) for name in found.mask) == round(0.7 * 112)
    with safe_open(tmp_path / "t.safetensors", "numpy") as file:
        header = json.loads(file.metadata()["vltickets"])
        assert sum(file.get_tensor(key).nbytes for key in file.keys()) == 96 // 8 + 16 // 8  # noqa: SIM118
    assert header["shapes"] == {"first.weight": [16, 6], "last.weight": [1, 16]}
    assert (header["sparsity"], header["mask"]) == (found.sparsity, found.mask.digest)


def everything(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("use", ["apply_", "held"])
@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: net(17), r"'first\.weight' of shape \(16, 6\), the model has one of shape \(17, 6\)"),
        (lambda: nn.Sequential(nn.Linear(6, 16)), r"'first\.weight' of shape \(16, 6\), the model has no weight"),
    ],
)
def test_another_model_is_refused_and_left_alone(use: str, other: Callable[[], nn.Module], says: str) -> None:
    model, ticket = other(), ticket_of(net())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=says):
        ticket.apply_(model) if use == "apply_" else ticket.held(model, optimizer)
    assert same(model.state_dict(), before)


def test_an_optimizer_of_another_model_is_refused() -> None:
    with (
        pytest.raises(UserError, match="has none of the mask's weights"),
        vlt.prune(net(), 0.5).held(net(), OPTIMIZERS["SGD"](net())),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header["shapes"].update({"first.weight": [6, 16]}), "its mask is not the one its header names"),
        (lambda header: header["shapes"].update({"first.weight": [2**62 + 24, 4]}), "first.weight should have"),
        (lambda header: header["shapes"].update({"first.weight": [-16, -6]}), "not lists of whole numbers"),
        (lambda header: header["shapes"].update({"first.weight": "96"}), "not lists of whole numbers"),
        (lambda header: header.update(shapes=[]), "not lists of whole numbers"),
        (lambda header: header.pop("shapes"), "its header lacks shapes"),
        (lambda header: header["shapes"].pop("first.weight"), "it differs in first.weight"),
        (lambda header: header.update(format=1), "its header lacks backbone"),
    ],
)
def test_a_file_that_lies_about_its_shapes_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    path = tmp_path / "t.safetensors"
    ticket_of(net()).save(path)
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["vltickets"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(header)
    save_file(arrays, path, {"vltickets": json.dumps(header)})
    with pytest.raises(UserError, match=says):
        vlt.load_ticket(path)
