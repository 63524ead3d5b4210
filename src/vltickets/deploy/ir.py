"""The sparse kernel as LLVM vector code in text, for any vector width: one generator, no C compiler.

What the code computes, for tiles of activations x [tiles, columns, 64 tokens] and packed weights w (`packing.py`):

    y[t, row, :] = epilogue(bias[row] + sum over the row's non-zeros of w[row, column] * x[t, column, :])

A row's 64 tokens are `accumulators` vectors of `lanes` floats. For a non-zero the code fetches its place and value,
spreads the value over a vector and does one multiply-add from memory for each accumulator. The sum of a row stays in y
from one block of columns to the next. The order of addition is fixed, whatever the threads.

Fetching from the first cache is what bounds it, so places are fetched four at a time, and a second set of accumulators
(a multiply-add need not wait for the one before) pays in long rows only. Measured on an Intel Xeon with AVX-512, at 50
to 90 % sparsity: the better number of sets 2 to 7 %; a place's address worked out once, up to 9 %; prefetching weights
up to 18 %, most where they exceed the second cache; prefetching activations 4 to 17 % with many tiles, up to 8 % with
one. What did not pay: spreading values from registers (-5 %), prefetching results (nothing or less, with one tile).

Loops are written with phi nodes, in the form that a compiler's middle end would leave them in: only its code generator
runs (`jit.py`), which takes milliseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from vltickets.deploy.packing import Layout
from vltickets.errors import UserError, unknown

Epilogue = Literal["linear", "gelu", "residual"]
NAME = "sparse_linear"
AHEAD = 256  # non-zeros from what a row computes with to what it prefetches
EACH = 32  # non-zeros that a row prefetches: two cache lines of float32, one of places

# GELU: x * (1/2 + c * P(2 (c / EDGE)^2 - 1)), c = x cut to +-EDGE; the bracket, cut to 0..1, is the normal distribution
# function to 1e-7. P was fitted to it by least squares, reweighted towards the smallest greatest error (Lawson), with
# 1e-7 to spare at the edge, so that the cut gives 0 and 1 exactly there. Greatest error against exact GELU: 6e-7 below
# 0, 8.4e-7 to x = 8 (torch's own: 1.2e-6), float32's rounding above. tests/deploy/test_kernel.py measures it.
EDGE = 5.6
GELU = (
    0.12625959515571594,
    -0.06305129826068878,
    0.04698082059621811,
    -0.0383448451757431,
    0.031971268355846405,
    -0.02632076106965542,
    0.02093074843287468,
    -0.01570328325033188,
    0.011025555431842804,
    -0.0076886918395757675,
    0.005256004631519318,
    -0.0026409251149743795,
    0.0008687471854500473,
    -0.0007989912992343307,
    0.0008212085231207311,
    -0.0002794205502141267,
)


@dataclass(frozen=True)
class Code:
    """Which code to generate.

    Args:
        layout: of the packed weights.
        epilogue: after the sum with the bias: nothing, exact (erf) GELU, or adding a residual of y's shape.
        lanes: floats in a vector; `layout.tile` is a multiple.
        sets: sets of accumulators, by turns, 1 or 2; see `sets_for`.
    """

    layout: Layout = field(default_factory=Layout)
    epilogue: Epilogue = "linear"
    lanes: int = 16
    sets: int = 1

    def __post_init__(self) -> None:
        if self.epilogue not in get_args(Epilogue):
            raise unknown("epilogue", self.epilogue, get_args(Epilogue))
        if self.lanes < 1 or self.layout.tile % self.lanes or self.sets not in (1, 2):
            raise UserError(
                f"a tile of {self.layout.tile} tokens needs vectors that divide it and 1 or 2 sets of accumulators, "
                f"got {self.lanes} lanes and {self.sets} sets"
            )

    @property
    def accumulators(self) -> int:
        """Vectors in a row of a tile."""
        return self.layout.tile // self.lanes


def sets_for(lanes: int, nonzeros: int, row_blocks: int) -> int:
    """Return how many sets of accumulators suit: two for long rows of four accumulators.

    Eight or more accumulators in a row fill the pipelines alone, and two sets of them would not fit the registers.
    """
    return 2 if lanes == 16 and nonzeros > 40 * row_blocks else 1


def generate(code: Code) -> str:
    """Return the LLVM module, as text, whose function `NAME` computes `tiles` tiles; its arguments, in order:

    x, y, residual (may be null without that epilogue), bias: pointers to float32; values, places, visits, sections:
    pointers to the packed arrays; blocks, tiles: int64; bytes from one tile of x to the next, and of y and residual.
    """
    return _Generator(code).module()


class _Generator:
    """Collects lines of code; a name of LLVM's stands for each value, and is its own when the value is read."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.layout = code.layout
        self.lines: list[str] = []
        self.names = 0
        self.vector = f"<{code.lanes} x float>"

    def name(self) -> str:
        """Return a new name, for a value emitted later."""
        self.names += 1
        return f"%v{self.names}"

    def let(self, expression: str) -> str:
        """Emit a value; return its name."""
        name = self.name()
        self.lines.append(f"  {name} = {expression}")
        return name

    def do(self, *lines: str) -> None:
        """Emit instructions and labels as they are."""
        self.lines += [line if line.endswith(":") else f"  {line}" for line in lines]

    def module(self) -> str:
        """Return the whole text."""
        vector, bits = self.vector, 32 * self.code.lanes
        gelu = self._gelu_function() if self.code.epilogue == "gelu" else []
        self.lines = []
        self._tiles()
        # Without the attributes, LLVM prefers vectors of 256 bits on some processors that have 512.
        return "\n".join(
            [
                f"declare {vector} @llvm.fma.v{self.code.lanes}f32({vector}, {vector}, {vector})",
                "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
                *gelu,
                f"define void @{NAME}(ptr %x, ptr %y, ptr %residual, ptr %bias, ptr %values, ptr %places, ptr %visits,"
                " ptr %sections, i64 %blocks, i64 %tiles, i64 %x_step, i64 %y_step) #0 {",
                *self.lines,
                "}",
                f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}',
                "",
            ]
        )

    def _tiles(self) -> None:
        """The loops over tiles and blocks; the sections of a block follow one another."""
        self.do("entry:", "%last_block = sub i64 %blocks, 1", "%some = icmp sgt i64 %tiles, 0")
        self.do("br i1 %some, label %tile, label %exit")
        self.do("tile:", "%t = phi i64 [ 0, %entry ], [ %t_next, %tile_end ]")
        for name in ("x", "y", "residual"):
            self.do(f"%{name}_t = phi ptr [ %{name}, %entry ], [ %{name}_next, %tile_end ]")
        self.do("br label %block", "block:", "%b = phi i64 [ 0, %tile ], [ %b_next, %block_end ]")
        self.do("%x_b = phi ptr [ %x_t, %tile ], [ %x_b_next, %block_end ]")
        self.do("%sections_b = phi ptr [ %sections, %tile ], [ %sections_next, %block_end ]")
        mark = len(self.lines)
        begin = [self.name() for _ in range(3)]
        self.do("%first = icmp eq i64 %b, 0", "%last = icmp eq i64 %b, %last_block")
        self.do(f"%visits_b = getelementptr i8, ptr {begin[2]}, i64 0")
        self.do(f"%x_b_next = getelementptr i8, ptr %x_b, i64 {self.layout.block * self.layout.column_bytes}")
        self.do("%t_next = add i64 %t, 1", "%more = icmp slt i64 %t_next, %tiles", "%not_last = xor i1 %last, true")
        self.do("%goes_on = or i1 %more, %not_last", "%x_soon = select i1 %goes_on, ptr %x_b_next, ptr %x_b")
        self.do("br label %section_0")
        skipped: Sequence[str] = begin
        visited: Sequence[str] = begin
        for remainder in range(self.layout.unroll):
            skipped, visited = self._section(remainder, skipped, visited)
        self.do(f"section_{self.layout.unroll}:")
        end = self._joined(self.layout.unroll, skipped, visited)
        self.lines[mark:mark] = [
            f"  {start} = phi ptr [ %{name}, %tile ], [ {stop}, %block_end ]"
            for name, start, stop in zip(("values", "places", "visits"), begin, end, strict=True)
        ]
        self.do("br label %block_end", "block_end:", "%b_next = add i64 %b, 1")
        self.do(f"%sections_next = getelementptr i32, ptr %sections_b, i64 {self.layout.unroll}")
        self.do("br i1 %last, label %tile_end, label %block", "tile_end:")
        for name, step in (("x", "x"), ("y", "y"), ("residual", "y")):
            self.do(f"%{name}_next = getelementptr i8, ptr %{name}_t, i64 %{step}_step")
        self.do("br i1 %more, label %tile, label %exit", "exit:", "ret void")

    def _joined(self, r: int, skipped: Sequence[str], visited: Sequence[str]) -> Sequence[str]:
        """Return the streams at the head of section `r`: as before the one above, which was empty, or as after it."""
        if not r:
            return skipped
        return [
            self.let(f"phi ptr [ {before}, %section_{r - 1} ], [ {after}, %row_end_{r - 1} ]")
            for before, after in zip(skipped, visited, strict=True)
        ]

    def _section(self, r: int, skipped: Sequence[str], visited: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        """The visits of rows with the remainder `r`. Takes and returns the streams of values, places and visits."""
        self.do(f"section_{r}:")
        streams = self._joined(r, skipped, visited)
        count = self.let(f"load i32, ptr {self.let(f'getelementptr i32, ptr %sections_b, i64 {r}')}")
        stop = self.let(f"getelementptr i64, ptr {streams[2]}, i64 {self.let(f'zext i32 {count} to i64')}")
        self.do(f"br i1 {self.let(f'icmp eq i32 {count}, 0')}, label %section_{r + 1}, label %row_{r}", f"row_{r}:")
        mark = len(self.lines)
        values, places, visit = (self.name() for _ in range(3))
        pair = self.let(f"load i64, ptr {visit}, align 4")
        row, turns = self.let(f"and i64 {pair}, {0xFFFFFFFF}"), self.let(f"lshr i64 {pair}, 32")
        at = self.let(f"mul i64 {row}, {self.layout.column_bytes}")
        y = self.let(f"getelementptr i8, ptr %y_t, i64 {at}")
        self._prefetch_weights(values, places)
        self._prefetch_activations(visit)
        sums = [*self._begin(r, row, y), *["zeroinitializer"] * (self.code.accumulators * (self.code.sets - 1))]
        sums, values_out, places_out = self._non_zeros(r, sums, values, places)
        sums, values_out, places_out = self._turns(r, turns, sums, values_out, places_out)
        self._end(r, y, at, sums)
        self.do(f"row_end_{r}:")
        after = (values_out, places_out, self.let(f"getelementptr i64, ptr {visit}, i64 1"))
        over = self.let(f"icmp eq ptr {after[2]}, {stop}")
        self.do(f"br i1 {over}, label %section_{r + 1}, label %row_{r}")
        self.lines[mark:mark] = [
            f"  {now} = phi ptr [ {before}, %section_{r} ], [ {later}, %row_end_{r} ]"
            for now, before, later in zip((values, places, visit), streams, after, strict=True)
        ]
        return streams, after

    def _prefetch(self, base: str, at: str | int, level: int) -> None:
        """Ask for a cache line in the first (3) or second (2) cache; an address behind an array's end does no harm."""
        address = self.let(f"getelementptr i8, ptr {base}, i64 {at}")
        self.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 {level}, i32 1)")

    def _prefetch_weights(self, values: str, places: str) -> None:
        """Ask for what the next rows will need of the packed weight."""
        for stream, size in ((values, 4 if self.layout.values == "float32" else 2), (places, 2)):
            for byte in range(AHEAD * size, (AHEAD + EACH) * size, 64):
                self._prefetch(stream, byte, 3)

    def _prefetch_activations(self, visit: str) -> None:
        """Ask for a line of the next block of activations, or of the next tile's first: another one at each visit."""
        here, start = self.let(f"ptrtoint ptr {visit} to i64"), self.let("ptrtoint ptr %visits_b to i64")
        line = self.let(f"shl i64 {self.let(f'sub i64 {here}, {start}')}, 3")  # a visit's 8 bytes to a line's 64
        size = self.layout.block * self.layout.column_bytes
        within = (1 << (size.bit_length() - 1)) - 1
        self._prefetch("%x_soon", self.let(f"and i64 {line}, {within}"), 2)

    def _begin(self, r: int, row: str, y: str) -> list[str]:
        """Return a row's first set of accumulators: the bias in the first block, in others the sum so far."""
        self.do(f"br i1 %first, label %from_bias_{r}, label %from_sum_{r}", f"from_bias_{r}:")
        bias = self._spread(self.let(f"load float, ptr {self.let(f'getelementptr float, ptr %bias, i64 {row}')}"))
        self.do(f"br label %begun_{r}", f"from_sum_{r}:")
        loaded = [self.let(f"load {self.vector}, ptr {address}, align 4") for address in self._addresses(y)]
        self.do(f"br label %begun_{r}", f"begun_{r}:")
        return [self.let(f"phi {self.vector} [ {bias}, %from_bias_{r} ], [ {one}, %from_sum_{r} ]") for one in loaded]

    def _turns(self, r: int, turns: str, sums: Sequence[str], values: str, places: str) -> tuple[list[str], str, str]:
        """The inner loop, `unroll` non-zeros a turn. Takes and returns sums, values and places."""
        before, inside, after = f"%begun_{r}", f"%turn_{r}", f"%summed_{r}"
        self.do(f"br i1 {self.let(f'icmp eq i64 {turns}, 0')}, label {after}, label {inside}", f"turn_{r}:")
        mark = len(self.lines)
        carried = [self.name() for _ in range(len(sums) + 3)]
        left, value, place, *current = carried
        later, value_out, place_out = self._non_zeros(self.layout.unroll, current, value, place)
        left_out = self.let(f"add i64 {left}, -1")
        self.do(f"br i1 {self.let(f'icmp eq i64 {left_out}, 0')}, label {after}, label {inside}", f"summed_{r}:")
        types = ["i64", "ptr", "ptr", *[self.vector] * len(sums)]
        starts, stops = [turns, values, places, *sums], [left_out, value_out, place_out, *later]
        phis = [
            f"phi {kind} [ {start}, {before} ], [ {stop}, {inside} ]"
            for kind, start, stop in zip(types, starts, stops, strict=True)
        ]
        out = [self.let(phi) for phi in phis[1:]]
        self.lines[mark:mark] = [f"  {name} = {phi}" for name, phi in zip(carried, phis, strict=True)]
        return out[2:], out[0], out[1]

    def _non_zeros(self, count: int, sums: Sequence[str], values: str, places: str) -> tuple[list[str], str, str]:
        """`count` non-zeros, in the sets of accumulators by turns. Takes and returns sums, values and places."""
        sums = list(sums)
        size = self.code.accumulators
        for k, place in enumerate(self._places(count, places)):
            weight = self._spread(self._value(values, k))
            # The empty assembly keeps the sum from being done anew in each address.
            x = self.let(f'call ptr asm "", "=r,0"(ptr {self.let(f"getelementptr i8, ptr %x_b, i64 {place}")})')
            first = k % self.code.sets * size
            for i, address in enumerate(self._addresses(x), start=first):
                loaded = self.let(f"load {self.vector}, ptr {address}, align 4")
                sums[i] = self._fma(weight, loaded, sums[i])
        kind = "float" if self.layout.values == "float32" else "i16"
        if not count:
            return sums, values, places
        return (
            sums,
            self.let(f"getelementptr {kind}, ptr {values}, i64 {count}"),
            self.let(f"getelementptr i16, ptr {places}, i64 {count}"),
        )

    def _places(self, count: int, places: str) -> list[str]:
        """Fetch `count` places as i64; in the inner loop all at once: loads are what the kernel has too many of."""
        if count < self.layout.unroll:
            addresses = [self.let(f"getelementptr i16, ptr {places}, i64 {k}") for k in range(count)]
            return [self.let(f"zext i16 {self.let(f'load i16, ptr {one}, align 2')} to i64") for one in addresses]
        kind = f"i{16 * count}"
        together = self.let(f"load {kind}, ptr {places}, align 2")
        if kind != "i64":
            together = self.let(f"zext {kind} {together} to i64")
        shifted = [together, *(self.let(f"lshr i64 {together}, {16 * k}") for k in range(1, count))]
        return [self.let(f"and i64 {one}, {0xFFFF}") for one in shifted]

    def _value(self, values: str, k: int) -> str:
        """Fetch a value as float32; a bfloat16 is the upper half of one."""
        if self.layout.values == "float32":
            return self.let(f"load float, ptr {self.let(f'getelementptr float, ptr {values}, i64 {k}')}, align 4")
        half = self.let(f"load i16, ptr {self.let(f'getelementptr i16, ptr {values}, i64 {k}')}, align 2")
        wide = self.let(f"shl i32 {self.let(f'zext i16 {half} to i32')}, 16")
        return self.let(f"bitcast i32 {wide} to float")

    def _end(self, r: int, y: str, at: str, sums: Sequence[str]) -> None:
        """Add up the sets, and keep the row's sum or, in the last block, its result."""
        size = self.code.accumulators
        if self.code.sets == 2:
            sums = [self.let(f"fadd {self.vector} {sums[i]}, {sums[i + size]}") for i in range(size)]
        if self.code.epilogue == "linear":
            self._store(y, sums)
            self.do(f"br label %row_end_{r}")
            return
        self.do(f"br i1 %last, label %finish_{r}, label %keep_{r}", f"keep_{r}:")
        self._store(y, sums)
        self.do(f"br label %row_end_{r}", f"finish_{r}:")
        if self.code.epilogue == "gelu":
            self.do(f"call void @gelu(ptr {y}, {', '.join(f'{self.vector} {one}' for one in sums)})")
        else:
            residual = self._addresses(self.let(f"getelementptr i8, ptr %residual_t, i64 {at}"))
            added = [self.let(f"load {self.vector}, ptr {address}, align 4") for address in residual]
            self._store(y, [self.let(f"fadd {self.vector} {a}, {b}") for a, b in zip(sums, added, strict=True)])
        self.do(f"br label %row_end_{r}")

    def _gelu_function(self) -> list[str]:
        """The function that stores GELU of a row; apart, because four sections call it."""
        sums = [f"%s{k}" for k in range(self.code.accumulators)]
        together = 4 if self.code.lanes != 8 else 2  # AVX2 has 16 registers, the others 32
        for k in range(0, len(sums), together):
            results = self._gelu(sums[k : k + together])
            address = self.let(f"getelementptr i8, ptr %y, i64 {k * self.code.lanes * 4}")
            self._store(address, results)
        arguments = ", ".join(f"{self.vector} {one}" for one in sums)
        return [f"define internal void @gelu(ptr %y, {arguments}) noinline #0 {{", *self.lines, "  ret void", "}"]

    def _gelu(self, x: Sequence[str]) -> list[str]:
        """GELU of some vectors, step by step side by side: none waits for its own last step. See `GELU`."""
        low, high = self._constant(-EDGE), self._constant(EDGE)
        cut = [self._larger(self._smaller(one, high), low) for one in x]
        square = [self.let(f"fmul {self.vector} {one}, {one}") for one in cut]
        s = [self._fma(one, self._constant(2 / EDGE**2), self._constant(-1.0)) for one in square]
        s2 = [self.let(f"fmul {self.vector} {one}, {one}") for one in s]
        even, odd = ([self._constant(GELU[start])] * len(x) for start in (14, 15))
        for k in range(12, -1, -2):
            even = [self._fma(a, b, self._constant(GELU[k])) for a, b in zip(even, s2, strict=True)]
            odd = [self._fma(a, b, self._constant(GELU[k + 1])) for a, b in zip(odd, s2, strict=True)]
        slope = [self._fma(o, one, e) for o, one, e in zip(odd, s, even, strict=True)]
        share = [self._fma(c, p, self._constant(0.5)) for c, p in zip(cut, slope, strict=True)]
        share = [self._larger(self._smaller(one, self._constant(1.0)), self._constant(0.0)) for one in share]
        return [self.let(f"fmul {self.vector} {a}, {b}") for a, b in zip(x, share, strict=True)]

    def _smaller(self, a: str, b: str) -> str:
        """The smaller of each pair; `b` where `a` is NaN. One instruction on x86."""
        test = self.let(f"fcmp olt {self.vector} {a}, {b}")
        return self.let(f"select <{self.code.lanes} x i1> {test}, {self.vector} {a}, {self.vector} {b}")

    def _larger(self, a: str, b: str) -> str:
        """The larger of each pair; `b` where `a` is NaN."""
        test = self.let(f"fcmp ogt {self.vector} {a}, {b}")
        return self.let(f"select <{self.code.lanes} x i1> {test}, {self.vector} {a}, {self.vector} {b}")

    def _fma(self, a: str, b: str, c: str) -> str:
        arguments = ", ".join(f"{self.vector} {one}" for one in (a, b, c))
        return self.let(f"call {self.vector} @llvm.fma.v{self.code.lanes}f32({arguments})")

    def _spread(self, scalar: str) -> str:
        one = self.let(f"insertelement {self.vector} poison, float {scalar}, i64 0")
        lanes = self.code.lanes
        return self.let(f"shufflevector {self.vector} {one}, {self.vector} poison, <{lanes} x i32> zeroinitializer")

    def _constant(self, value: float) -> str:
        """A vector of one number: LLVM writes a float32 as the bits of the float64 that equals it."""
        rounded = struct.unpack("<f", struct.pack("<f", value))[0]
        bits = struct.unpack("<Q", struct.pack("<d", rounded))[0]
        return "<" + ", ".join([f"float 0x{bits:016X}"] * self.code.lanes) + ">"

    def _addresses(self, base: str) -> list[str]:
        """The address of each vector of a row."""
        step = self.code.lanes * 4
        return [self.let(f"getelementptr i8, ptr {base}, i64 {k * step}") for k in range(self.code.accumulators)]

    def _store(self, base: str, vectors: Sequence[str]) -> None:
        for one, address in zip(vectors, self._addresses(base), strict=False):
            self.do(f"store {self.vector} {one}, ptr {address}, align 4")
