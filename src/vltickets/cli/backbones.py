"""`vltickets backbone show`: the weights of a backbone, and which of them a mask covers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from vltickets.cli.console import screen
from vltickets.specs import PARTS, named

backbone_app = typer.Typer(no_args_is_help=True, help="Look at backbones.")


@backbone_app.callback()
def backbones() -> None:
    """Look at backbones."""


@backbone_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="uniter-base, uniter-tiny, lxmert-base, vilt-base, …")],
    prunable: Annotated[
        str | None,
        typer.Option("--prunable", help="What masks are to cover, such as encoder,pooler,embeddings,projection."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, nothing else.")] = False,
) -> None:
    """List every weight: prunable or not, why, how many numbers, and their share of the whole."""
    spec = named(name)
    from vltickets.backbones.listing import list_weights, official_covering, unused_weights  # not above: torch

    if prunable is not None:
        spec = official_covering(spec, tuple(part.strip() for part in prunable.split(",")))
    weights = list_weights(spec)
    unused = unused_weights(spec, weights)
    total = sum(weight.count for weight in weights)
    covered = sum(weight.count for weight in weights if weight.prunable)
    parts = {part: sum(weight.count for weight in weights if weight.part == part) for part in PARTS}
    if as_json:
        rows = [
            {
                "name": weight.name,
                "shape": weight.shape,
                "count": weight.count,
                "share": weight.count / total,
                "prunable": weight.prunable,
                "reason": weight.reason,
            }
            for weight in weights
        ]
        print(
            json.dumps(
                {
                    "backbone": name,
                    "total": total,
                    "prunable": covered,
                    "parts": [
                        {"part": part, "count": count, "share": count / total, "prunable": part in spec.prunable}
                        for part, count in parts.items()
                    ],
                    "unused": [asdict(one) for one in unused],
                    "weights": rows,
                }
            )
        )
        return
    table = Table(box=None, pad_edge=False)
    for title, side in (
        ("weight", "left"),
        ("shape", "right"),
        ("numbers", "right"),
        ("share", "right"),
        ("prunable", "left"),
    ):
        table.add_column(title, justify=side, overflow="fold")  # type: ignore[arg-type]
    for weight in weights:
        table.add_row(
            weight.name,
            " x ".join(map(str, weight.shape)),
            f"{weight.count:,}",
            f"{weight.count / total:.2%}",
            f"{'yes' if weight.prunable else 'no'}: {weight.reason}",
        )
    console = screen()
    console.print(table)
    console.print(f"{name}: {covered:,} of {total:,} weights are prunable ({covered / total:.1%}), heads apart")
    for part, count in parts.items():
        told = f"{part}: {count:,} ({count / total:.1%}), {'prunable' if part in spec.prunable else 'not prunable'}"
        console.print(told, soft_wrap=True)
    for why, what in dict.fromkeys((one.why, one.what) for one in unused):
        tasks = ", ".join(one.task for one in unused if (one.why, one.what) == (why, what))
        console.print(f"unused: {what} in {tasks}: {why}", soft_wrap=True)
