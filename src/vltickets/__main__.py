"""`python -m vltickets`."""

from vltickets.cli import main

main()
