"""The command line: parse, call, print. A user's mistake is one sentence and exit code 2; never a bare traceback."""

from __future__ import annotations

import os
import sys

import typer

from vltickets.cli.backbones import backbone_app
from vltickets.cli.console import fail
from vltickets.cli.data import data_app
from vltickets.cli.deploy import deploy_app
from vltickets.cli.deploy_bench import Several, bench
from vltickets.cli.deploy_run import run as deploy_run
from vltickets.cli.extract import extract
from vltickets.cli.machine import doctor
from vltickets.cli.planning import plan
from vltickets.cli.reporting import report, status
from vltickets.cli.sharing import pull, push, verify
from vltickets.cli.studies import demo, study_app
from vltickets.cli.tickets import evaluate, find, ticket_app
from vltickets.cli.weights import weights_app
from vltickets.errors import UserError

app = typer.Typer(
    name="vltickets",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Find lottery tickets in vision-and-language transformers, and test them. Exit codes: 0 done, 1 a run failed, "
    "2 a mistake in what was asked. A command that was interrupted goes on when it is given again.",
)
app.command("demo")(demo)
app.command("find")(find)
app.command("evaluate")(evaluate)
app.command("report")(report)
app.command("doctor")(doctor)
study_app.command("plan")(plan)
data_app.command("extract")(extract)
study_app.command("status")(status)
for name, command in (("verify", verify), ("push", push), ("pull", pull)):
    ticket_app.command(name)(command)
deploy_app.command("bench", cls=Several)(bench)
deploy_app.command("run")(deploy_run)
app.add_typer(study_app, name="study")
app.add_typer(ticket_app, name="ticket")
app.add_typer(weights_app, name="weights")
app.add_typer(data_app, name="data")
app.add_typer(backbone_app, name="backbone")
app.add_typer(deploy_app, name="deploy")


def main() -> None:
    """Run the command line; the entry point of `vltickets`. Usage errors are typer's own, with exit code 2 as well."""
    try:
        app()
    except UserError as error:
        fail(str(error))
        sys.exit(2)
    except (RuntimeError, OSError) as error:
        if "VLTICKETS_DEBUG" in os.environ:
            raise
        fail(f"{error} (set VLTICKETS_DEBUG=1 for the traceback)")
        sys.exit(1)
