"""`vltickets deploy run`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vltickets.cli.console import screen
from vltickets.cli.deploy import KeptValues, TicketArgument
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.cli.studies import DataOption
from vltickets.errors import UserError
from vltickets.store import Store

if TYPE_CHECKING:
    from vltickets.deploy.answers import Answered
    from vltickets.tasks import Evaluation, Model

Row = dict[str, Any]


def run(
    ticket: TicketArgument,
    data: DataOption = None,
    split: Annotated[
        str | None, typer.Option(help="The split to answer; the one it was tested on unless given.")
    ] = None,
    store: StoreOption = Path("store"),
    threads: Annotated[int, typer.Option(min=1, help="Of the kernel and of torch.")] = 1,
    values: Annotated[KeptValues, typer.Option(help="bf16: the encoder's weights rounded, in half the memory.")] = (
        KeptValues.fp32
    ),
    batch: Annotated[
        int | None, typer.Option(min=1, help="Examples at once; as many as make 8192 tokens unless given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Compute the same densely too, and compare.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write each item's id and answer as JSON lines.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a split with a ticket's compiled model, whose encoder computes with the weights that are left only."""
    import torch

    from vltickets.deploy import compile_sparse, read_ticket
    from vltickets.deploy.answers import answer
    from vltickets.studies.scoring import ready_ticket
    from vltickets.tasks import LogitTask

    if out is not None and (out.is_dir() or out.resolve() == ticket.resolve()):
        raise UserError(f"{out} is a folder or what is read; name the file to write with --out FILE.jsonl")
    torch.set_num_threads(threads)
    known = Store(store) if (store / "store.json").exists() else None
    clock = _Clock()
    read = read_ticket(ticket)
    clock.lap("read")
    ready = ready_ticket(read, ticket, known, data, split)
    if not isinstance(ready.task, LogitTask):
        raise UserError(f"{ticket} is of {ready.task.name}, which has no answers; score it with `vltickets evaluate`")
    ready.task.region_width()  # reads the data, which no model needs for its first answer
    clock.lap("data")
    dense = ready.model().eval()
    clock.lap("build")
    model = compile_sparse(dense, values=values.value, threads=threads)
    clock.lap("compile")
    found = answer(model, ready.task, ready.split, threads=threads, batch=batch)
    row: Row = {"ticket": str(ticket), "task": ready.task.name, "split": ready.split, "sparsity": read.sparsity}
    row |= {"values": values.value, "threads": threads, "batch": batch}
    row |= _told(found) | _encoders(model) | _first(clock.laps, found)
    if check:
        row |= _apart(found, answer(dense, ready.task, ready.split, threads=threads, batch=batch))
    if out is not None:
        _write(found.evaluation, out)
    if as_json:
        print(json.dumps(row))
        return
    for line in _lines(row):
        screen().print(line, soft_wrap=True, markup=False)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a lap."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now


def _told(found: Answered) -> Row:
    of = found.evaluation
    told = {"items": len(of.items), "metric": of.headline, "score": of.score}
    return told | {"items_per_second": found.per_second}


def _apart(found: Answered, densely: Answered) -> Row:
    """Return the dense computation's own, and how the two differ."""
    from vltickets.deploy.answers import differ

    apart = differ(found, densely)
    return {
        "score_densely": densely.evaluation.score,
        "items_per_second_densely": densely.per_second,
        "answers_differ": apart.answers,
        "scores_differ": apart.scores,
        "logits_differ": apart.logit,
        "largest_logit": apart.largest,
    }


def _encoders(model: Model) -> Row:
    """Return what the compiled encoders are made of, and their bytes in memory."""
    from vltickets.deploy import SparseEncoder

    encoders = [one for one in model.modules() if isinstance(one, SparseEncoder)]
    kinds = {f"matrices_{kind}": sum(one.chosen[kind] for one in encoders) for kind in ("sparse", "dense")}
    return {"encoder_bytes": sum(one.nbytes for one in encoders), **kinds}


def _first(laps: dict[str, float], found: Answered) -> Row:
    """Return the seconds from the file to the first batch's answers.

    No part of them: the program's start, and reading the data. Part of "build" is that transformers loads, which an
    LXMERT and a ViLT need.
    """
    parts = {name: laps[name] for name in ("read", "build", "compile")} | {"answer": found.first}
    return {"seconds_to_first": sum(parts.values())} | {f"seconds_{name}": one for name, one in parts.items()}


def _write(evaluation: Evaluation, path: Path) -> None:
    from vltickets.store import write_file

    lines = (
        json.dumps({"id": name, "answer": given, "score": float(score)}, ensure_ascii=False)
        for (name, given), score in zip(evaluation.answers, evaluation.items, strict=True)
    )
    write_file(path, "".join(f"{line}\n" for line in lines).encode())


def _lines(row: Row) -> list[str]:
    """Return what is printed."""
    lines = [
        f"{row['task']}, {row['split']}: {row['metric']} {row['score']:.4f} of {row['items']} items, "
        f"{row['items_per_second']:.0f} items a second; {row['threads']} thread(s), {row['values']} values",
        f"{row['sparsity']:.2%} pruned: {row['matrices_sparse']} matrices sparse, {row['matrices_dense']} dense, "
        f"the encoder {row['encoder_bytes'] / 1e6:.2f} MB in memory",
        f"from the file to the first answers {row['seconds_to_first']:.2f} s: {row['seconds_read']:.2f} to read and "
        f"verify, {row['seconds_build']:.2f} to build the model, {row['seconds_compile']:.2f} to compile it, "
        f"{row['seconds_answer']:.3f} to answer the first batch",
    ]
    if "answers_differ" in row:
        ratio = row["items_per_second"] / row["items_per_second_densely"]
        lines.append(
            f"computed densely: {row['metric']} {row['score_densely']:.4f}, "
            f"{row['items_per_second_densely']:.0f} items a second (compiled {ratio:.2f} times as fast); "
            f"{row['answers_differ']} answers and {row['scores_differ']} scores differ, logits by at most "
            f"{row['logits_differ']:.1e} (they go up to {row['largest_logit']:.1f})"
        )
    return lines
