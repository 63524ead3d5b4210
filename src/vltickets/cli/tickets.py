"""`vltickets find`, `evaluate` and `ticket show|compare`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vltickets.cli.console import following, screen, typed
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.cli.studies import DataOption, SetOption
from vltickets.errors import UserError
from vltickets.store import Store

if TYPE_CHECKING:
    from vltickets.specs import BackboneSpec
    from vltickets.store.masks import Densities
    from vltickets.tickets import Mask
    from vltickets.tickets.anatomy import Comparison

ticket_app = typer.Typer(no_args_is_help=True, help="Look at tickets, and compare them.")


def find(
    sparsity: Annotated[
        float | None, typer.Option(help="Share of the prunable weights to remove, in (0, 1); 0.7 unless given.")
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="Which weights go together: 2:4 (half of them, in one step), block-4x1 …")
    ] = "unstructured",
    out: Annotated[Path, typer.Option("--out", help="The ticket file to write.")] = Path("ticket.safetensors"),
    preset: Annotated[str, typer.Option(help="A preset or recipe that says task, start and training.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="The seed of the search.")] = 0,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights/--no-weights",
            help="Keep the trained weights in the file, for `evaluate`; --no-weights: the mask alone, far smaller.",
        ),
    ] = True,
    store: StoreOption = Path("store"),
    data: DataOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find one ticket by iterative magnitude pruning, test it, and write it to a file."""
    from vltickets.specs import Train, changed
    from vltickets.studies.loading import load_ticket_study
    from vltickets.studies.run import plan_study, run_studies
    from vltickets.studies.scoring import ticket_of
    from vltickets.tickets import NofM, Unstructured, pattern_of, save_ticket, zeros_at

    together = pattern_of(pattern)
    if sparsity is None:
        sparsity = together.sparsity if isinstance(together, NofM) else 0.7
    if isinstance(together, NofM) and sparsity != together.sparsity:
        raise UserError(f"the pattern {pattern} removes {together.sparsity:.4g} of the weights; leave --sparsity out")
    if zeros_at(sparsity, 1000) == 0:
        raise UserError(f"sparsity {sparsity} removes nothing; for 70 % write 0.7")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name the file to write with --out FILE.safetensors")
    recipe = load_ticket_study(preset, tuple(settings or ()))
    plain, levels = isinstance(together, Unstructured), tuple(level for level in recipe.levels if level < sparsity)
    study = changed(
        recipe,
        levels=(*levels, sparsity),
        random_levels=None,
        quoted=(sparsity,),
        seeds=(seed,),
        baselines=("full", "imp") if plain else ("full",),
        patterns=() if plain else (together.name,),
    )
    results = Store(store)
    name = f"find-{Path(preset).stem}-{sparsity:g}-seed{seed}" + ("" if plain else f"-{pattern.replace(':', 'of')}")
    searched = "imp" if plain else f"imp-{pattern}"
    planned = plan_study(name, study, results, data, weights_of=(searched, sparsity, seed))
    console = screen(to_stderr=as_json)
    console.print(f"{len(planned.work)} runs to do ({planned.steps_left} steps)")
    with following([planned], console) as listen:  # in this process: a search's rounds follow one another
        run_studies([planned], results, workers=0, listen=listen, command=typed())
    cell = planned.cells[-1]
    assert isinstance(cell.node, Train)
    ticket = ticket_of(cell.node, results)
    save_ticket(ticket if weights else ticket.without_weights(), out)
    full = results.record(planned.cells[0].node.digest).metrics["score"]
    score = ticket.provenance["metrics"]["score"]
    if as_json:
        row = {"ticket": str(out), "sparsity": ticket.mask.sparsity, "score": score, "full": full, "seed": seed}
        print(json.dumps(row))
        return
    console.print(f"{out}: {ticket.mask.sparsity:.2%} pruned, scores {score:.4f}; the dense model {full:.4f}")


def evaluate(
    what: Annotated[str, typer.Argument(help="A run's digest (or its beginning), a ticket file, or a packed one.")],
    data: DataOption = None,
    split: Annotated[str | None, typer.Option(help="The split to score; the run's own unless given.")] = None,
    store: StoreOption = Path("store"),
    as_json: JsonOption = False,
) -> None:
    """Score something finished on any folder of the same layout."""
    from vltickets.studies.scoring import find_run, score_run, score_ticket

    if _is_file(what):
        known = Store(store) if (store / "store.json").exists() else None
        evaluation = score_ticket(Path(what), known, data, split)
    else:
        results = _store_with(what, store)
        evaluation = score_run(find_run(what, results), results, data, split)
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
    file: Annotated[Path, typer.Argument(help="A ticket file, or a packed one.")],
    as_json: JsonOption = False,
) -> None:
    """Verify a ticket file and say what it is and where it came from."""
    from vltickets.deploy import read_ticket

    ticket = read_ticket(file)
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
        for name, what in (
            ("found_by", "found by"),
            ("criterion", "criterion"),
            ("pattern", "pattern"),
            ("train", "tested by run"),
            ("values", "values rounded since to"),
        )
        if name in known
    ]
    if "task" in known and "metrics" in known:
        told.append(
            f"task {known['task']['kind']}, seed {known.get('seed', '?')}, score {known['metrics']['score']:.4f}"
        )
    console.print("; ".join(told), soft_wrap=True)
    for name, sparsity in tensors.items():
        console.print(f"  {sparsity:6.1%}  {name}")


@ticket_app.command("compare")
def compare(
    tickets: Annotated[
        list[str], typer.Argument(help="Ticket files, or digests (or their beginnings) of masks and sparse trainings.")
    ],
    store: StoreOption = Path("store"),
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the overlaps as PNG or SVG too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how much tickets overlap, what chance would give, and where in the backbone each keeps its weights."""
    from vltickets.backbones import weight_places
    from vltickets.store.masks import check_same_backbone
    from vltickets.tickets import anatomy

    if len(tickets) < 2 or len(set(tickets)) < len(tickets):
        raise UserError(f"compare at least two different tickets; {', '.join(tickets)} was asked for")
    found = {what: _mask(what, store) for what in tickets}
    check_same_backbone({what: backbone for what, (backbone, _) in found.items()})
    masks = {what: mask for what, (_, mask) in found.items()}
    compared = anatomy.compare(masks)
    places = weight_places(found[tickets[0]][0])
    densities = {what: anatomy.densities(mask, places) for what, mask in masks.items()}
    if figure is not None:
        _draw(compared, figure)
    if as_json:
        rows = [
            {"ticket": what, "mask": mask.digest, "kept": mask.kept, "prunable": mask.total, **asdict(densities[what])}
            for what, mask in masks.items()
        ]
        print(json.dumps({"tickets": rows, "overlap": compared.overlap, "chance": compared.chance}))
        return
    _print_overlaps(compared, densities)


def _is_file(what: str) -> bool:
    return Path(what).suffix == ".safetensors" or Path(what).exists()


def _store_with(what: str, store: Path) -> Store:
    if not (store / "store.json").exists():
        raise UserError(f"{what} is no ticket file, and {store} is no store; name it with --store DIR")
    return Store(store)


def _mask(what: str, store: Path) -> tuple[BackboneSpec, Mask]:
    """Return the mask, with its backbone, of a ticket file or of a node of the store."""
    from vltickets.deploy import read_ticket
    from vltickets.studies.scoring import mask_of

    if _is_file(what):
        ticket = read_ticket(Path(what))
        if ticket.backbone is None:
            raise UserError(f"{what} is a ticket of a module of your own, which has no known layers to compare by")
        return ticket.backbone, ticket.mask
    return mask_of(what, _store_with(what, store))


def _draw(compared: Comparison, path: Path) -> None:
    from vltickets import reports

    names = [Path(name).name.removesuffix(".safetensors") for name in compared.names]
    if len(set(names)) < len(names):
        names = list(compared.names)
    cells = {
        (one, other): reports.Overlap(compared.overlap[i][j], compared.chance[i][j], pairs=1)
        for i, one in enumerate(names)
        for j, other in enumerate(names)
        if i != j
    }
    cells |= {(name, name): reports.Overlap() for name in names}
    reports.draw_overlap({"": reports.OverlapResults(tuple(names), cells)}, path)


def _print_overlaps(compared: Comparison, densities: dict[str, Densities]) -> None:
    """Print the matrix and the densities, in per cent; tickets are numbered, since names are long."""
    console = screen()
    numbers = [str(number) for number in range(1, len(compared.names) + 1)]
    for number, name in zip(numbers, compared.names, strict=True):
        console.print(f"{number}: {name}, {densities[name].total:.2%} kept", markup=False, soft_wrap=True)
    rows = [
        (number, *(f"{100 * found:.1f} ({100 * chance:.1f})" for found, chance in zip(*pair, strict=True)))
        for number, *pair in zip(numbers, compared.overlap, compared.chance, strict=True)
    ]
    console.print()
    console.print(_table("overlap in % (by chance)", numbers, rows))
    console.print()
    shown = [densities[name] for name in compared.names]
    rows = [(f"layer {layer}", *(f"{100 * one.layers[layer]:.1f}" for one in shown)) for layer in shown[0].layers]
    rows += [(kind, *(f"{100 * one.kinds[kind]:.1f}" for one in shown)) for kind in shown[0].kinds]
    rows += [(stream, *(f"{100 * one.modalities[stream]:.1f}" for one in shown)) for stream in shown[0].modalities]
    console.print(_table("kept in %", numbers, rows))


def _table(title: str, numbers: list[str], rows: list[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(title, no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
