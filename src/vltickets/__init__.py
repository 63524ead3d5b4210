"""Lottery tickets in vision-and-language transformers: found, tested, reported.

`find_ticket` finds a ticket of any `torch.nn.Module` in your own loop, `prune` makes one without training,
`load_ticket` reads one from a file, and `compile_sparse` makes a model with a ticket's zeros fast on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vltickets.deploy import compile_sparse
    from vltickets.tickets import (
        Block,
        Criterion,
        HoldZeros,
        Mask,
        Movement,
        NofM,
        Ticket,
        Unstructured,
        find_ticket,
        lightning_callback,
        load_ticket,
        save_ticket,
        trainer_callback,
    )
    from vltickets.tickets import prune_module as prune

__version__ = "0.1.0"
__all__ = [
    "Block",
    "Criterion",
    "HoldZeros",
    "Mask",
    "Movement",
    "NofM",
    "Ticket",
    "Unstructured",
    "__version__",
    "compile_sparse",
    "find_ticket",
    "lightning_callback",
    "load_ticket",
    "prune",
    "save_ticket",
    "trainer_callback",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import vltickets` does not wait for torch."""
    if name in __all__:
        if name == "compile_sparse":
            from vltickets import deploy

            return deploy.compile_sparse
        from vltickets import tickets

        return getattr(tickets, "prune_module" if name == "prune" else name)  # `tickets.prune` works on scores
    raise AttributeError(f"module 'vltickets' has no attribute {name!r}")
