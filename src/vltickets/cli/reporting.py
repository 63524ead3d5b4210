"""`vltickets report` and `study status`: what a store holds, without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vltickets.cli.console import screen
from vltickets.cli.watching import diverged, follow, status_json, status_lines
from vltickets.errors import UserError
from vltickets.store import Store

if TYPE_CHECKING:
    from vltickets.reports import Papers, Results

StoreOption = Annotated[Path, typer.Option("--store", help="Folder of results; a study goes on from what is in it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on the standard output, nothing else.")]


def status(
    name: Annotated[str | None, typer.Argument(help="A study of the store; all of them unless given.")] = None,
    store: StoreOption = Path("store"),
    watch: Annotated[bool, typer.Option("--watch", help="Look again until all is done; Ctrl-C ends it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say how far a study is: cells by artefact, runs under way, what diverged, the time left."""
    from vltickets.studies.status import Watch

    results = Store(store)
    if not (store / "store.json").exists():
        raise UserError(f"{store} is no store yet; `vltickets study run NAME --store {store}` makes it")
    if watch and as_json:
        raise UserError("--watch and --json do not go together: a program asks again by itself")
    watched = [Watch(results, one) for one in ([name] if name else results.studies())]
    if as_json:
        print(json.dumps([status_json(one) for one in watched]))
    elif watch:
        follow(watched, screen())
    else:
        for one in watched:
            for line in status_lines(one.look(), diverged(one)):
                screen().print(line, soft_wrap=True, markup=False)


def report(
    name: Annotated[str, typer.Argument(help="A study of the store.")],
    store: StoreOption = Path("store"),
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the page. Default: STORE/NAME.html.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the tables as Markdown too.")] = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Write the figure as PNG or SVG too; of several, FILE.NAME.png for each."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write LaTeX, CSV, PNG and PDF of each artefact into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the tables, the figures and the page from a store, without running anything."""
    from vltickets import reports

    found, page = Store(store), out or store / f"{name}.html"
    if found.study(name).get("study") in ("paper", "whole"):
        paper = reports.read_papers(found, name)
        reports.write_paper_page(paper, page)
        if markdown is not None:
            markdown.write_text(reports.paper_markdown(paper), encoding="utf-8")
        if figure is not None:
            for artefact, picture in reports.paper_figures(paper).items():
                figure.with_suffix(f".{artefact}.png").write_bytes(picture)
        if export is not None:
            files = reports.export_artefacts(paper, export)
            screen(to_stderr=as_json).print(f"{len(files)} files in {export}", soft_wrap=True)
        show_paper(paper, as_json, f"page: {page}")
        return
    if export is not None:
        raise UserError(
            f"--export is of the paper's artefacts; {name} is a study of one ticket: use --markdown, --figure"
        )
    results = reports.read_results(found, name)
    reports.write_page(results, page)
    if markdown is not None:
        markdown.write_text(reports.markdown_table(results), encoding="utf-8")
    if figure is not None:
        if figure.suffix == ".svg":
            figure.write_text(reports.figure_svg(results), encoding="utf-8")
        else:
            figure.write_bytes(reports.figure_png(results))
    show(results, as_json, f"page: {page}")


def show(results: Results, as_json: bool, last_line: str) -> None:
    """Print a study's table, or its rows as JSON, and a last line."""
    from vltickets import reports

    if as_json:
        print(json.dumps(reports.rows_as_json(results)))
        screen(to_stderr=True).print(last_line, soft_wrap=True)
        return
    reports.print_table(results, screen())
    screen().print(last_line, soft_wrap=True)


def show_paper(results: Papers, as_json: bool, last_line: str) -> None:
    """Print a paper study's tables, or its scores as JSON, and a last line."""
    from vltickets import reports

    if as_json:
        print(json.dumps(reports.paper_rows(results)))
    else:
        reports.print_paper(results, screen())
    screen(to_stderr=as_json).print(last_line, soft_wrap=True)
