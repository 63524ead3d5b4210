"""Tickets: masks and their anatomy, criteria, patterns, pruning, schedules, starts, search, file. No studies."""

from vltickets.tickets.anatomy import chance_overlap, compare, densities, overlap
from vltickets.tickets.callbacks import lightning_callback, trainer_callback
from vltickets.tickets.criteria import CRITERIA, Criterion, Evidence, Movement, criterion_of
from vltickets.tickets.holding import HoldZeros
from vltickets.tickets.initialisations import initialise, shipped
from vltickets.tickets.mask import Mask
from vltickets.tickets.patterns import Block, NofM, Pattern, Unstructured, pattern_of
from vltickets.tickets.pruning import prune, prune_by_magnitude, prune_like, random_scores, zeros_at
from vltickets.tickets.schedules import custom, geometric, linear, one_shot, schedule_levels
from vltickets.tickets.search import find_ticket, iterative_magnitude_pruning, prune_module
from vltickets.tickets.ticket_file import Ticket, load_ticket, save_ticket
from vltickets.tickets.weight_files import WeightsMatch, check_weights

__all__ = [
    "CRITERIA",
    "Block",
    "Criterion",
    "Evidence",
    "HoldZeros",
    "Mask",
    "Movement",
    "NofM",
    "Pattern",
    "Ticket",
    "Unstructured",
    "WeightsMatch",
    "chance_overlap",
    "check_weights",
    "compare",
    "criterion_of",
    "custom",
    "densities",
    "find_ticket",
    "geometric",
    "initialise",
    "iterative_magnitude_pruning",
    "lightning_callback",
    "linear",
    "load_ticket",
    "one_shot",
    "overlap",
    "pattern_of",
    "prune",
    "prune_by_magnitude",
    "prune_like",
    "prune_module",
    "random_scores",
    "save_ticket",
    "schedule_levels",
    "shipped",
    "trainer_callback",
    "zeros_at",
]
