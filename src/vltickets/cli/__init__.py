"""The command line. Thin: parse, call, print."""

from vltickets.cli.main import main

__all__ = ["main"]
