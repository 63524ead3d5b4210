"""Tickets in loops of others: callbacks for Hugging Face's Trainer and for Lightning, imported when asked for.

accelerate needs none: `with ticket.held(model, optimizer):` takes what `accelerator.prepare` returned.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from vltickets.errors import UserError
from vltickets.tickets.holding import HoldZeros, unwrapped
from vltickets.tickets.ticket_file import Ticket

if TYPE_CHECKING:
    from transformers import TrainerCallback


def trainer_callback(ticket: Ticket | HoldZeros, part: str = "") -> TrainerCallback:
    """Return a callback for `transformers.Trainer` that holds a ticket from the beginning of training to its end.

    `ticket` may also be the `hold` that `find_ticket` gives a round. `part` names the submodule that the ticket is of,
    the model itself unless given. Gradients are zeroed in the backward pass, hence before the Trainer clips them (its
    own `on_pre_optimizer_step` comes after). A training that broke off leaves the hooks in place; the next begins anew.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise UserError('this callback needs transformers: pip install "vltickets[hf]"') from None

    class TicketCallback(TrainerCallback):
        """Holds the ticket between the Trainer's own calls."""

        def __init__(self) -> None:
            self.stack = ExitStack()

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.stack.close()
            self.stack.enter_context(_held(ticket, given["model"], part, [given["optimizer"]]))

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.stack.close()

    return TicketCallback()


def lightning_callback(ticket: Ticket | HoldZeros, part: str = "") -> Any:
    """Return a callback for Lightning's `Trainer` that holds a ticket from the beginning of training to its end.

    `ticket` and `part` are as for `trainer_callback`; where the LightningModule keeps the model as `self.model`, `part`
    is "model".
    """
    Callback = _lightning().Callback

    class TicketCallback(Callback):  # type: ignore[misc, valid-type]
        """Holds the ticket between Lightning's own calls."""

        def __init__(self) -> None:
            self.stack = ExitStack()

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.stack.close()
            self.stack.enter_context(_held(ticket, pl_module, part, trainer.optimizers))

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.stack.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.stack.close()

    return TicketCallback()


def _lightning() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise UserError("this callback needs Lightning: pip install lightning")


def _held(
    ticket: Ticket | HoldZeros, model: nn.Module, part: str, optimizers: list[Optimizer]
) -> AbstractContextManager[HoldZeros]:
    if isinstance(ticket, HoldZeros):
        return ticket.attached_to(*optimizers)
    try:
        module = unwrapped(model).get_submodule(part)
    except AttributeError:
        raise UserError(f"the model has no part {part!r} to hold the ticket in") from None
    return ticket.held(module, *optimizers)
