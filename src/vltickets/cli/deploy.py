"""`vltickets deploy pack|unpack|export`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import screen
from vltickets.cli.reporting import JsonOption
from vltickets.errors import UserError

deploy_app = typer.Typer(no_args_is_help=True, help="Trained tickets: small, fast, or for other libraries.")


class KeptValues(StrEnum):
    """Types of the values in a packed file."""

    fp32 = "fp32"
    bf16 = "bf16"


class ExportForm(StrEnum):
    """Forms of other libraries."""

    hf = "hf"
    onnx = "onnx"
    int8 = "onnx-int8"


TicketArgument = Annotated[
    Path, typer.Argument(metavar="TICKET", help="A ticket file with trained weights, or a packed file.")
]


@deploy_app.command("pack")
def pack(
    ticket: TicketArgument,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    values: Annotated[
        KeptValues, typer.Option(help="fp32: the same numbers again; bf16: half the size, rounded.")
    ] = KeptValues.fp32,
    as_json: JsonOption = False,
) -> None:
    """Write a ticket's trained weights as a bit a weight and the values it keeps; `evaluate` scores the file."""
    from vltickets.deploy import read_ticket, save_packed

    _check_out(out, ticket)
    found = read_ticket(ticket)
    save_packed(found, out, values=values.value)
    size, dense = out.stat().st_size, sum(array.nbytes for array in found.weights.values())
    row = {
        "file": str(out),
        "values": values.value,
        "sparsity": found.sparsity,
        "bytes": size,
        "dense_bytes": dense,
        "mask": found.mask.digest,
    }
    if as_json:
        print(json.dumps(row))
        return
    screen().print(
        f"{out}: {size / 1e6:.2f} MB, {size / dense:.2f} of the dense weights' {dense / 1e6:.2f} MB; "
        f"{found.sparsity:.2%} of {found.mask.total} weights pruned, values {values.value}",
        soft_wrap=True,
    )


@deploy_app.command("unpack")
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A packed file.")],
    out: Annotated[Path, typer.Option("--out", help="A .safetensors file, or a folder for model.safetensors.")],
    as_json: JsonOption = False,
) -> None:
    """Verify a packed file and write its weights as dense float32 safetensors, with exact zeros."""
    from safetensors.numpy import save

    from vltickets.deploy import load_packed
    from vltickets.store import write_file

    target = out if out.suffix == ".safetensors" else out / "model.safetensors"
    _check_out(target, file)
    ticket = load_packed(file)
    write_file(target, save(ticket.weights, {"format": "pt"}))
    if as_json:
        print(json.dumps({"file": str(target), "tensors": len(ticket.weights), "mask": ticket.mask.digest}))
        return
    screen().print(f"{target}: {len(ticket.weights)} dense tensors, 0 wherever the mask prunes", soft_wrap=True)


@deploy_app.command("export")
def export(
    ticket: TicketArgument,
    to: Annotated[ExportForm, typer.Option("--to", help="hf: a Hugging Face folder; onnx; onnx-int8: int8 weights.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, or of hf the new folder.")],
    as_json: JsonOption = False,
) -> None:
    """Write the trained model for other libraries, and check it there: exact zeros, the same outputs."""
    from vltickets.deploy import read_ticket

    if to is ExportForm.hf:
        from vltickets.deploy.hugging_face import export_hugging_face

        folder = export_hugging_face(read_ticket(ticket), out)
        row: dict[str, object] = {"path": str(out), "to": to.value, "zeros": folder.zeros, "class": folder.architecture}
        how = f"transformers' {folder.architecture}" if folder.architecture else "vltickets, as its README says"
        told = f"{folder.zeros} exact zeros; to be loaded by {how}"
    else:
        from vltickets.deploy.onnx_graph import export_onnx

        _check_out(out, ticket)
        graph = export_onnx(read_ticket(ticket), out, int8=to is ExportForm.int8)
        row = {"path": str(out), "to": to.value, "inputs": graph.inputs, "outputs": graph.outputs}
        row |= {"difference": graph.difference, "largest_output": graph.largest, "bytes": out.stat().st_size}
        told = (
            f"{out.stat().st_size / 1e6:.2f} MB, takes {', '.join(graph.inputs)}, gives {', '.join(graph.outputs)}; "
            f"off by at most {graph.difference:.1e} from torch (outputs up to {graph.largest:.1e})"
        )
    if as_json:
        print(json.dumps(row))
        return
    screen().print(f"{out}: {told}", soft_wrap=True, markup=False)


def _check_out(out: Path, source: Path) -> None:
    if out.is_dir():
        raise UserError(f"{out} is a folder; name the file to write with --out FILE.safetensors")
    if out.resolve() == source.resolve():
        raise UserError(f"{out} is what is read; name another file with --out")
