"""Lottery tickets in vision-and-language transformers: found, tested, reported.

`find_ticket` finds a ticket of any `torch.nn.Module` in your own loop; `load_ticket` reads one from a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vltickets.tickets import Mask, Ticket, find_ticket, load_ticket, save_ticket

__version__ = "0.1.0"
__all__ = ["Mask", "Ticket", "__version__", "find_ticket", "load_ticket", "save_ticket"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import vltickets` does not wait for torch."""
    if name in __all__:
        from vltickets import tickets

        return getattr(tickets, name)
    raise AttributeError(f"module 'vltickets' has no attribute {name!r}")
