"""`vltickets ticket verify|push|pull`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vltickets.cli.console import screen
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.store import Store

if TYPE_CHECKING:
    from vltickets.tickets import Ticket

EndpointOption = Annotated[str | None, typer.Option(help="The Hub's address; Hugging Face's unless given.")]
WEIGHTS_HELP = "Carry the trained weights, if there are any; --no-weights: the mask and where it came from alone."


def verify(
    file: Annotated[Path, typer.Argument(help="A ticket file, or a packed one.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="A model's .safetensors file, or its save_pretrained folder: is it 0 where the mask prunes?"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a ticket's counts, hashes, shapes, sparsity and zeros; exit code 2 where something does not match."""
    from vltickets.deploy import read_ticket
    from vltickets.tickets import check_weights

    ticket = read_ticket(file)
    found = None if weights is None else check_weights(ticket, weights)
    if as_json:
        print(json.dumps(_summary(ticket, file) | {"weights": None if found is None else found.match}))
        return
    what = "mask and trained weights" if ticket.weights else "a mask alone"
    screen().print(
        f"{file} is whole: {what}, {ticket.sparsity:.2%} of {ticket.mask.total} weights in {len(ticket.mask.shapes)} "
        f"tensors pruned, hash {ticket.mask.digest}",
        soft_wrap=True,
    )
    if found is not None:
        fits = "is 0 wherever it prunes" if found.match == "pruned" else "is the dense start that it names by hash"
        screen().print(f"{weights} {fits}", soft_wrap=True)


def push(
    file: Annotated[Path, typer.Argument(metavar="TICKET", help="A ticket file.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub, or a folder (./NAME) that stands for one.")],
    to: Annotated[
        Path | None, typer.Option(help="Write what would be uploaded into this folder, and upload nothing.")
    ] = None,
    store: StoreOption = Path("store"),
    weights: Annotated[bool, typer.Option("--weights/--no-weights", help=WEIGHTS_HELP)] = True,
    base_model: Annotated[str | None, typer.Option(help="The Hub's name of the model it was found from.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a ticket, write its model card, and put both on the Hugging Face Hub or into a folder."""
    from vltickets.reports import CardTicket, card
    from vltickets.tickets import hub, load_ticket

    ticket = load_ticket(file)
    ticket = ticket if weights else ticket.without_weights()
    known = Store(store) if (store / "store.json").exists() else None
    mask = ticket.mask
    of_it = CardTicket(
        backbone=ticket.backbone,
        mask=mask.digest,
        pruned=mask.total - mask.kept,
        prunable=mask.total,
        tensors=len(mask.shapes),
        has_weights=bool(ticket.weights),
        provenance=ticket.provenance,
    )
    text = card(of_it, repo, store=known, base_model=base_model)
    if to is not None:
        hub.write_repo(ticket, text, to)
        where = str(to)
    else:
        where = hub.push(ticket, text, repo, endpoint=endpoint, private=private)
    if as_json:
        print(json.dumps(_summary(ticket, file) | {"where": where}))
        return
    screen().print(f"{where}: {hub.TICKET_NAME} and {hub.CARD_NAME}", soft_wrap=True)


def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub, or a folder that `ticket push` wrote.")],
    out: Annotated[Path | None, typer.Option(help="The file to write. Default: NAME.safetensors.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit; the newest unless given.")] = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a ticket, verify it, and keep it only where it is whole."""
    from vltickets.tickets import hub

    path = out or Path(f"{Path(repo).expanduser().resolve().name}.safetensors")
    ticket = hub.pull(repo, path, revision=revision, endpoint=endpoint)
    if as_json:
        print(json.dumps(_summary(ticket, path)))
        return
    screen().print(f"{path}: verified, {ticket.sparsity:.2%} of {ticket.mask.total} weights pruned", soft_wrap=True)


def _summary(ticket: Ticket, file: Path) -> dict[str, object]:
    return {
        "file": str(file),
        "mask": ticket.mask.digest,
        "sparsity": ticket.sparsity,
        "pruned": ticket.mask.total - ticket.mask.kept,
        "prunable": ticket.mask.total,
        "trained_weights": bool(ticket.weights),
    }
