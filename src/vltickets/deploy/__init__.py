"""Deployment: tickets as small files, as files of other libraries, and packed for sparse kernels. No studies."""

from vltickets.deploy.ir import Code, Epilogue
from vltickets.deploy.jit import Compiled, Processor, Target, compile_kernel, host_target, processor
from vltickets.deploy.linear import TILE, SparseLinear, from_tiles, to_tiles
from vltickets.deploy.packed_file import load_packed, read_ticket, save_packed
from vltickets.deploy.packing import Layout, PackedMatrix, Values, pack, unpack
from vltickets.deploy.runtime import SparseEncoder, compile_sparse
from vltickets.deploy.trained import TrainedTicket, build_trained

__all__ = [
    "TILE",
    "Code",
    "Compiled",
    "Epilogue",
    "Layout",
    "PackedMatrix",
    "Processor",
    "SparseEncoder",
    "SparseLinear",
    "Target",
    "TrainedTicket",
    "Values",
    "build_trained",
    "compile_kernel",
    "compile_sparse",
    "from_tiles",
    "host_target",
    "load_packed",
    "pack",
    "processor",
    "read_ticket",
    "save_packed",
    "to_tiles",
    "unpack",
]
