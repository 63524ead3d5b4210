"""From generated code to a function: compiled at run time by llvmlite for the processor at hand, or not at all.

llvmlite (the extra `deploy`) is imported only here, and only where a kernel is asked for. Without it, or on a processor
without fused multiply-add, `host_target` is None, and `linear.py` computes the same by plain torch.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vltickets.deploy.ir import NAME, Code, generate
from vltickets.errors import UserError


@dataclass(frozen=True)
class Processor:
    """What the processor can do, as far as it matters here; False where that can't be known.

    `avx512`: AVX-512F. `avx2`: AVX2 with FMA. `neon`: of 64-bit ARM. `bf16`, `amx`: AVX512_BF16 and AMX, with either of
    which torch's dense bfloat16 may be faster than any sparse float32.
    """

    name: str
    avx512: bool = False
    avx2: bool = False
    neon: bool = False
    bf16: bool = False
    amx: bool = False


@dataclass(frozen=True)
class Target:
    """For what to compile: LLVM's name and features of a processor, and how many floats its vectors hold."""

    processor: str
    features: str
    lanes: int


@dataclass(frozen=True)
class Compiled:
    """A kernel in memory. `call` takes the arguments of `ir.generate` as integers and frees Python's lock meanwhile."""

    code: Code
    target: Target
    call: Callable[..., None]
    seconds: float  # to generate and compile
    engine: Any  # owns the machine code, which lives as long as this


@cache
def processor() -> Processor:
    """Ask LLVM, which also knows what the system allows; without llvmlite, Linux."""
    llvm = _llvm()
    if llvm is None:
        path = Path("/proc/cpuinfo")
        words = set(path.read_text().replace("_", "").split()) if path.exists() else set()
        name = platform.machine()
    else:
        words = {feature.replace("-", "") for feature, has in llvm.get_host_cpu_features().items() if has}
        name = llvm.get_host_cpu_name()
    return Processor(
        name,
        avx512="avx512f" in words,
        avx2={"avx2", "fma"} <= words,
        neon=platform.machine().lower() in ("arm64", "aarch64"),
        bf16="avx512bf16" in words,
        amx="amxbf16" in words,
    )


@cache
def host_target() -> Target | None:
    """Return the best target of this machine, or None where llvmlite or fused multiply-add is missing."""
    llvm, has = _llvm(), processor()
    if llvm is None or not (has.avx512 or has.avx2 or has.neon):
        return None
    features = ",".join(f"{'+' if on else '-'}{name}" for name, on in sorted(llvm.get_host_cpu_features().items()))
    return Target(has.name, features, 16 if has.avx512 else 8 if has.avx2 else 4)


# Code for AVX2 on any x86 that has it, and for 64-bit ARM: to test one width on a machine that has more.
AVX2 = Target("haswell", "", lanes=8)
NEON = Target("generic", "+neon", lanes=4)


_lock = threading.Lock()
_compiled: dict[tuple[Code, Target], Compiled] = {}


def compile_kernel(code: Code, target: Target) -> Compiled:
    """Return the kernel for `code` and `target`; each is compiled once in a process, in some tens of milliseconds.

    Raises:
        UserError: where llvmlite is missing, or the processor can't run the target's code.
    """
    _needed()
    has = processor()
    if not {16: has.avx512, 8: has.avx2, 4: has.avx2 or has.neon}.get(target.lanes, False):
        raise UserError(f"this processor ({has.name}) can't run code for vectors of {target.lanes} floats")
    with _lock:
        if (code, target) not in _compiled:
            started = time.perf_counter()
            engine, address = machine_code(generate(code), target, NAME)
            call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 8, *[ctypes.c_int64] * 4)(address)
            _compiled[code, target] = Compiled(code, target, call, time.perf_counter() - started, engine)
        return _compiled[code, target]


def assembly(code: Code, target: Target, triple: str) -> str:
    """Return the assembly text for `code` on another system, such as "aarch64-unknown-linux-gnu"; nothing is run."""
    llvm = _needed()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=target.processor, features=target.features, opt=3
    )
    module = llvm.parse_assembly(generate(code))
    module.verify()
    return str(machine.emit_assembly(module))


def machine_code(text: str, target: Target, name: str) -> tuple[Any, int]:
    """Compile LLVM text in memory; return the engine, which must be kept, and the address of the function `name`."""
    llvm = _needed()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=target.processor, features=target.features, opt=3, jit=True
    )
    module = llvm.parse_assembly(text)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine, int(engine.get_function_address(name))


def _needed() -> Any:
    llvm = _llvm()
    if llvm is None:
        raise UserError('compiling the sparse kernel needs llvmlite: pip install "vltickets[deploy]"')
    return llvm


@cache
def _llvm() -> Any:
    """Return llvmlite's binding, set up, or None where it is not installed."""
    if importlib.util.find_spec("llvmlite") is None:
        return None
    llvm = importlib.import_module("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm
