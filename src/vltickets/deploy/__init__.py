"""Deployment: tickets packed for sparse kernels, which are compiled for the processor at hand. No studies."""

from vltickets.deploy.ir import Code, Epilogue
from vltickets.deploy.jit import Compiled, Processor, Target, compile_kernel, host_target, processor
from vltickets.deploy.linear import TILE, SparseLinear, from_tiles, to_tiles
from vltickets.deploy.packing import Layout, PackedMatrix, Values, pack, unpack
from vltickets.deploy.runtime import SparseEncoder, compile_sparse

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
    "Values",
    "compile_kernel",
    "compile_sparse",
    "from_tiles",
    "host_target",
    "pack",
    "processor",
    "to_tiles",
    "unpack",
]
