"""`vltickets find`, `evaluate` and `ticket show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import following, screen, typed
from vltickets.cli.studies import DataOption, JsonOption, SetOption, StoreOption
from vltickets.errors import UserError
from vltickets.store import Store

ticket_app = typer.Typer(no_args_is_help=True, help="Look at ticket files.")


def find(
    sparsity: Annotated[float, typer.Option(help="Share of the prunable weights to remove, in (0, 1).")] = 0.7,
    out: Annotated[Path, typer.Option("--out", help="The ticket file to write.")] = Path("ticket.safetensors"),
    preset: Annotated[str, typer.Option(help="A preset or recipe that says task, start and training.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="The seed of the search.")] = 0,
    store: StoreOption = Path("store"),
    data: DataOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find one ticket by iterative magnitude pruning, test it, and write it to a file."""
    from vltickets.specs import Train, changed
    from vltickets.studies.loading import load_ticket_study
    from vltickets.studies.run import plan_study, run_study
    from vltickets.studies.scoring import ticket_of
    from vltickets.tickets import save_ticket, zeros_at

    if zeros_at(sparsity, 1000) == 0:
        raise UserError(f"sparsity {sparsity} removes nothing; for 70 % write 0.7")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name the file to write with --out FILE.safetensors")
    recipe = load_ticket_study(preset, tuple(settings or ()))
    levels = (*(level for level in recipe.levels if level < sparsity), sparsity)
    study = changed(
        recipe, levels=levels, random_levels=None, quoted=(sparsity,), seeds=(seed,), baselines=("full", "imp")
    )
    results = Store(store)
    name = f"find-{Path(preset).stem}-{sparsity:g}-seed{seed}"
    planned = plan_study(name, study, results, data, weights_of=("imp", sparsity, seed))
    console = screen(to_stderr=as_json)
    console.print(f"{len(planned.work)} runs to do ({planned.steps_left} steps)")
    with following(planned, console) as listen:  # in this process: a search's rounds follow one another
        run_study(planned, results, workers=0, listen=listen, command=typed())
    cell = planned.cells[-1]
    assert isinstance(cell.node, Train)
    ticket = ticket_of(cell.node, results)
    save_ticket(ticket, out)
    full = results.record(planned.cells[0].node.digest).metrics["score"]
    score = ticket.provenance["metrics"]["score"]
    if as_json:
        row = {"ticket": str(out), "sparsity": ticket.mask.sparsity, "score": score, "full": full, "seed": seed}
        print(json.dumps(row))
        return
    console.print(f"{out}: {ticket.mask.sparsity:.2%} pruned, scores {score:.4f}; the dense model {full:.4f}")


def evaluate(
    what: Annotated[str, typer.Argument(help="A run's digest (or its beginning), or a ticket file.")],
    data: DataOption = None,
    split: Annotated[str | None, typer.Option(help="The split to score; the run's own unless given.")] = None,
    store: StoreOption = Path("store"),
    as_json: JsonOption = False,
) -> None:
    """Score something finished on any folder of the same layout."""
    from vltickets.studies.scoring import find_run, score_run, score_ticket

    known = Store(store) if (store / "store.json").exists() else None
    if Path(what).suffix == ".safetensors" or Path(what).exists():
        evaluation = score_ticket(Path(what), known, data, split)
    elif known is None:
        raise UserError(f"{what} is no ticket file, and {store} is no store; name it with --store DIR")
    else:
        evaluation = score_run(find_run(what, known), known, data, split)
    if as_json:
        print(
            json.dumps({"what": what, "split": evaluation.split, "items": len(evaluation.items), **evaluation.metrics})
        )
        return
    for name, value in evaluation.metrics.items():
        screen().print(f"{name}: {value:.4f}")
    screen().print(f"{len(evaluation.items)} items")


@ticket_app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A ticket file.")],
    as_json: JsonOption = False,
) -> None:
    """Verify a ticket file and say what it is and where it came from."""
    from vltickets.tickets import load_ticket

    ticket = load_ticket(file)
    mask = ticket.mask
    tensors = {name: 1 - int(mask[name].count_nonzero()) / mask[name].numel() for name in mask}
    summary = {
        "file": str(file),
        "sparsity": mask.sparsity,
        "pruned": mask.total - mask.kept,
        "prunable": mask.total,
        "mask": mask.digest,
        "trained_weights": bool(ticket.weights),
        "provenance": ticket.provenance,
    }
    if as_json:
        print(json.dumps(summary | {"tensors": tensors}))
        return
    console = screen()
    console.print(f"{file}: {mask.sparsity:.2%} of {mask.total} prunable weights pruned ({summary['pruned']} zeros)")
    known = ticket.provenance
    told = [f"mask {mask.digest}"]
    told += [
        f"{what} {known[name]}"
        for name, what in (("found_by", "found by"), ("train", "tested by run"))
        if name in known
    ]
    if "task" in known and "metrics" in known:
        told.append(
            f"task {known['task']['kind']}, seed {known.get('seed', '?')}, score {known['metrics']['score']:.4f}"
        )
    console.print("; ".join(told), soft_wrap=True)
    for name, sparsity in tensors.items():
        console.print(f"  {sparsity:6.1%}  {name}")
