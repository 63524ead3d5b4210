"""`vltickets weights make` and `weights import`: where θ₀ comes from."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from vltickets.cli.console import following, screen
from vltickets.cli.reporting import JsonOption, StoreOption
from vltickets.cli.studies import DataOption, SetOption
from vltickets.errors import UserError
from vltickets.store import Store

weights_app = typer.Typer(no_args_is_help=True, help="Make initial weights, or import official ones.")


@weights_app.command("make")
def make(
    preset: Annotated[str, typer.Argument(help="A preset or recipe with a table [pretraining].")] = "demo",
    out: Annotated[Path, typer.Option("--out", help="Folder for the weights.")] = Path("weights"),
    store: StoreOption = Path("store"),
    data: DataOption = None,
    settings: SetOption = None,
) -> None:
    """Pre-train θ₀ and its text-only parent as a recipe says, and write them as fp16 safetensors with their record."""
    from vltickets.specs import Train, Trained
    from vltickets.studies.executors import execute
    from vltickets.studies.graph import plan
    from vltickets.studies.loading import load_study
    from vltickets.studies.run import plan_study
    from vltickets.studies.shipping import write_weights
    from vltickets.studies.starts import starts

    study = load_study(preset, (*(settings or ()), 'start="pretrained"'))
    results = Store(store)
    planned = plan_study(preset, study, results, data)
    theta0, text_only = starts(study, planned.data)
    named = {"theta0": theta0, "text-only": text_only}
    nodes: dict[str, Train] = {name: start.train for name, start in named.items() if isinstance(start, Trained)}
    work = tuple(plan(nodes.values(), results))
    with following([replace(planned, cells=(), work=work)], screen()) as listen:
        execute(work, results, workers=0, listen=listen)
    for name, node in nodes.items():
        file = out / f"{name}.safetensors"
        size = write_weights(results, node, file, recipe=preset)
        metrics = ", ".join(f"{key} {value:.3f}" for key, value in results.record(node.digest).metrics.items())
        screen().print(f"{file}: {size / 1e3:.0f} kB, run {node.digest}, {metrics}", soft_wrap=True)


@weights_app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="A .pt, .pth, .ckpt, .bin or .safetensors file, or a Hugging Face folder.")
    ],
    backbone: Annotated[str, typer.Option("--backbone", help="uniter-base, uniter-large, lxmert-base, vilt-base, …")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write. Default: NAME.imported.safetensors.")
    ] = None,
    vocabulary: Annotated[Path | None, typer.Option("--vocabulary", help="The checkpoint's vocab.txt.")] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="LXMERT's all_ans.json: VQA and GQA start from its answer head.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an official checkpoint under our names, checked, as one safetensors file a study can start from."""
    from vltickets.backbones.checkpoints import read_checkpoint, write_import
    from vltickets.specs import named

    spec = named(backbone)
    target = out or Path(f"{file.stem}.imported.safetensors")
    if target.resolve() == file.resolve():
        raise UserError(f"{target} is the checkpoint itself; name another file with --out")
    checkpoint = read_checkpoint(file, spec, vocabulary, answers)
    write_import(checkpoint, target, source=file.name)
    report = asdict(checkpoint.report)
    named_answers = {} if checkpoint.answers is None else {"answers": len(checkpoint.answers)}
    if as_json:
        print(json.dumps({"file": str(target), "source_sha256": checkpoint.sha256, **report, **named_answers}))
        return
    screen().print(f"{target}: {len(report['mapped'])} tensors mapped", soft_wrap=True)
    if checkpoint.answers is not None:
        screen().print(f"answers of the answer head named: {len(checkpoint.answers)}", soft_wrap=True)
    for title, key in (
        ("missing, to start random", "missing"),
        ("unexpected, left out", "unexpected"),
        ("grown", "grown"),
    ):
        screen().print(f"{title}: {', '.join(report[key]) or 'none'}", soft_wrap=True, markup=False)
    for note in report["notes"]:
        screen().print(f"note: {note}", soft_wrap=True, markup=False)
