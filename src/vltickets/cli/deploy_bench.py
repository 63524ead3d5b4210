"""`vltickets deploy bench`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperCommand

from vltickets.cli.console import screen
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.errors import UserError
from vltickets.store import Store

if TYPE_CHECKING:
    from vltickets.deploy.bench import Bench, Row
    from vltickets.tickets import Ticket

RIVALS = {
    "torch_fp32": "torch fp32",
    "onnxruntime_fp32": "onnxruntime fp32",
    "int8": "int8",
    "torch_bf16": "torch bf16",
}
SHORT = {
    "torch_fp32": "torch",
    "onnxruntime_fp32": "onnxrt",
    "int8": "int8",
    "torch_bf16": "bf16",
}  # as a table has room for
SEVERAL = ("--sparsity", "--batch", "--tokens")


class BenchValues(StrEnum):
    """Types in which a compiled encoder keeps its weights."""

    fp32 = "fp32"
    bf16 = "bf16"


class Several(TyperCommand):
    """A command whose options take several numbers behind one name: `--batch 1 16` is `--batch 1 --batch 16`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option's name before each further number."""
        spread: list[str] = []
        option: str | None = None
        for arg in args:
            if option and len(spread) > 1 and spread[-2] == option and _is_number(arg):
                spread += [option, arg]
                continue
            if arg in SEVERAL:
                option = arg
            spread.append(arg)
        return super().parse_args(ctx, spread)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def bench(
    tickets: Annotated[
        list[Path] | None, typer.Argument(metavar="[TICKET]…", help="Files of UNITER's tickets with trained weights.")
    ] = None,
    size: Annotated[
        str, typer.Option(help="Without a ticket: random weights of this size (base, large or small).")
    ] = "base",
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Without a ticket: shares of zeros of random masks, as 0.7 0.8 0.9.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Examples at once: 1 16.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(help="Words and regions of an example: 56.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of all that is measured.")] = 1,
    turns: Annotated[int, typer.Option(min=2, help="How often each computes each, by turns.")] = 9,
    values: Annotated[BenchValues, typer.Option(help="How ours keeps weights.")] = BenchValues.fp32,
    minimum_sparsity: Annotated[
        float | None, typer.Option(help="Keep matrices sparse from here on; unless given, what is faster here.")
    ] = None,
    store: StoreOption = Path("store"),
    figure: Annotated[Path | None, typer.Option(help="Write a picture of it: FILE.png or FILE.svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how much faster a sparse encoder is here than dense torch, onnxruntime, int8 and bf16."""
    import torch

    from vltickets.deploy.bench import Bench

    if figure and figure.suffix not in (".png", ".svg"):
        raise UserError(f"{figure}: name a file that ends in .png or .svg")
    if tickets and sparsity:
        raise UserError("a ticket has its own sparsity: leave out --sparsity, or the ticket")
    torch.set_num_threads(threads)
    what = Bench(
        batches=tuple(batch or (1, 16)),
        tokens=tuple(tokens or (56,)),
        threads=threads,
        turns=turns,
        values=values.value,
        minimum_sparsity=minimum_sparsity,
    )
    rows = _rows(tickets or [], size, sparsity or [0.7, 0.8, 0.9], what, store)
    if figure:
        from vltickets.reports.speedups import draw_speedups

        draw_speedups(rows, figure)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _show(rows)


def _rows(tickets: Sequence[Path], size: str, sparsities: Sequence[float], what: Bench, store: Path) -> list[Row]:
    from vltickets.deploy import read_ticket
    from vltickets.deploy.bench import bench_random, bench_tickets

    if not tickets:
        return list(bench_random(size, sparsities, what))
    found = [(read_ticket(path), path) for path in tickets]
    known = Store(store) if (store / "store.json").exists() else None
    return list(bench_tickets([(ticket, _about(ticket, path, known)) for ticket, path in found], what))


def _about(ticket: Ticket, path: Path, store: Store | None) -> Row:
    """Return what a ticket says of itself: its task and accuracy, and the dense model's, there or in the store."""
    of = ticket.provenance
    metrics, score = of.get("metrics") or {}, (of.get("metrics") or {}).get("score")
    names = [name for name, value in metrics.items() if name != "score" and value == score]
    return {
        "weights": str(path),
        "mask": of.get("found_by", "of the ticket"),
        "task": (of.get("task") or {}).get("kind"),
        "metric": min(names, key=len, default=None),
        "accuracy": score,
        "dense_accuracy": _dense_score(ticket, store),
        "ticket_sparsity": ticket.sparsity,
        "file_bytes": path.stat().st_size,
    }


def _dense_score(ticket: Ticket, store: Store | None) -> float | None:
    """Return the score of the dense model of the same task, start, recipe and seed."""
    from vltickets.reports.card import read_known

    own = ticket.provenance.get("dense") or {}
    if "score" in own or store is None:
        return own.get("score")
    records = read_known(store, str(ticket.provenance.get("train", ""))).dense
    seed = ticket.provenance.get("seed")
    return next((one.metrics["score"] for one in records if one.spec.get("seed") == seed), None)


def _show(rows: Sequence[Row]) -> None:
    """Print the table, what it is of, and where dense wins."""
    console = screen()
    of_tickets = "accuracy" in rows[0]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    own = ("task", "size", "score", "dense") if of_tickets else ()
    ratios = tuple(f"x {SHORT[rival]}" for rival in RIVALS if any(row[f"speedup_vs_{rival}"] for row in rows))
    for name in (*own, "sparse", "batch", *ratios, "MB"):
        table.add_column(name, justify="left" if name in ("task", "size") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(_whose(row) if of_tickets else ()),
            f"{row['sparsity']:.1%}",
            f"{row['batch']}x{row['tokens']}",
            *(_ratio(row, rival) for rival in RIVALS if f"x {SHORT[rival]}" in ratios),
            f"{row['bytes'] / 1e6:.{1 if row['bytes'] > 1e7 else 2}f}",
        )
    console.print(table)
    for line in _notes(rows):
        console.print(line, soft_wrap=True)


def _whose(row: Row) -> tuple[str, ...]:
    return row["task"] or "-", row["size"], _score(row["accuracy"]), _score(row["dense_accuracy"])


def _score(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _ratio(row: Row, rival: str) -> str:
    value = row[f"speedup_vs_{rival}"]
    return "-" if value is None else f"{value:.2f}±{row[f'spread_vs_{rival}']:.2f}"


def _notes(rows: Sequence[Row]) -> list[str]:
    """Return what must stand beside the numbers."""
    from vltickets.deploy import host_target, processor

    first, has = rows[0], processor()
    if "accuracy" in first:
        whose = "The encoders of " + "; ".join(
            f"{name}, {row['file_bytes'] / 1e6:.2f} MB on disk"
            for name, row in {row["weights"]: row for row in rows}.items()
        )
        metrics = ", ".join(dict.fromkeys(row["metric"] or "unknown" for row in rows))
        whose += f". Score, dense: {metrics} of the ticket and of the dense model, in %. "
    else:
        whose = f"Random weights of UNITER's size {first['size']}, under random masks. "
    kept = ", ".join(
        f"{row['sparsity']:.0%}: {row['matrices_sparse']} sparse, {row['matrices_dense']} dense"
        for row in {row["sparsity"]: row for row in rows}.values()
    )
    lines = [
        f"{whose}{first['threads']} thread(s) of {has.name}, {first['values']} values.",
        "batch: examples x tokens of each. x: dense time / sparse time, median over turns ± half the quartiles' "
        "distance, against dense torch fp32, onnxruntime fp32, onnxruntime's dynamic int8, and torch bf16; the last "
        "two's results differ from the model's.",
        f"Matrices: {kept}. Dense fp32: {first['dense_bytes'] / 1e6:.1f} MB. Largest difference from the dense states: "
        f"{max(row['largest_difference'] for row in rows):.1e}.",
    ]
    lines += [
        f"Dense wins at {row['sparsity']:.1%}, batch {row['batch']}, {row['tokens']} tokens: {RIVALS[row['fastest']]}."
        for row in rows
        if row["fastest"] in RIVALS
    ]
    if first["speedup_vs_int8"] is None:
        lines.append("Not measured: onnxruntime fp32 and int8 (install onnx and onnxruntime).")
    if first["speedup_vs_torch_bf16"] is None:
        lines.append("Not measured: torch bf16, which this processor has no instructions for.")
    if host_target() is None:
        lines.append("No kernel can be compiled here (llvmlite or fused multiply-add is missing): plain torch ran.")
    return lines
