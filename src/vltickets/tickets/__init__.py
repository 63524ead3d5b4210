"""Tickets: masks and their anatomy, pruning, schedules, initialisations, the search, the ticket file. No studies."""

from vltickets.tickets.anatomy import chance_overlap, compare, densities, overlap
from vltickets.tickets.holding import HoldZeros
from vltickets.tickets.initialisations import initialise, shipped
from vltickets.tickets.mask import Mask
from vltickets.tickets.pruning import prune, prune_by_magnitude, prune_like, random_scores, zeros_at
from vltickets.tickets.schedules import geometric, linear
from vltickets.tickets.search import find_ticket, iterative_magnitude_pruning
from vltickets.tickets.ticket_file import Ticket, load_ticket, save_ticket

__all__ = [
    "HoldZeros",
    "Mask",
    "Ticket",
    "chance_overlap",
    "compare",
    "densities",
    "find_ticket",
    "geometric",
    "initialise",
    "iterative_magnitude_pruning",
    "linear",
    "load_ticket",
    "overlap",
    "prune",
    "prune_by_magnitude",
    "prune_like",
    "random_scores",
    "save_ticket",
    "shipped",
    "zeros_at",
]
