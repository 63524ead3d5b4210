"""Self-attention on feature-major tiles as LLVM vector code: one head, for as many queries as a vector has lanes.

A query's place in the vector is its place in the tile, so that queries and results are loaded and stored as they lie;
a number of a key is spread over the vector and multiplied with the queries, `KEYS` keys at a time, whose sums stay in
registers. Scores go to a scratch of one vector a key, which the first cache holds; softmax runs along it, lane by lane.
What a vector computes for tokens of other examples is not stored.
"""

from __future__ import annotations

import math
import struct

NAME = "attention"
KEYS = 8  # sums in registers at once: keys in the first product, features in the second; 6, 12 and 14 were slower

# exp(x) = 2^k * exp(r), k = round(x / log 2), |r| <= log(2) / 2, by Taylor's series: its next term is 7e-9 at the ends.
LOG2E = math.log2(math.e)
LOG2_HIGH = 0.693359375  # of few bits, so that k times it is exact
LOG2_LOW = math.log(2) - LOG2_HIGH
TAYLOR = tuple(1 / math.factorial(n) for n in range(8))
LEAST = -87.0  # below, exp is taken for that of this: about 1e-38, nothing beside the largest, which is 1


def attention_code(lanes: int) -> str:
    """Return the LLVM module, as text, whose function `NAME` computes one example's attention for `heads` heads.

    Arguments: q and out (pointers to float32, at the first feature of the vector of queries), k, v (at the first
    feature of the example's first tile), scratch (a vector for each key, and KEYS more); int64: the width of a head,
    heads, the first key's place in its tile, keys, bytes of a tile; the scale of scores, float32; int32: the first lane
    to be stored, and the one behind the last.
    """
    return _Attention(lanes).module()


class _Attention:
    def __init__(self, lanes: int) -> None:
        self.lanes, self.vector = lanes, f"<{lanes} x float>"
        self.lines: list[str] = []
        self.names = 0

    def let(self, expression: str) -> str:
        """Emit a value; return its name."""
        self.names += 1
        self.lines.append(f"  %v{self.names} = {expression}")
        return f"%v{self.names}"

    def do(self, *lines: str) -> None:
        """Emit instructions and labels as they are."""
        self.lines += [line if line.endswith(":") else f"  {line}" for line in lines]

    def fma(self, a: str, b: str, c: str) -> str:
        v = self.vector
        return f"call {v} @llvm.fma.v{self.lanes}f32({v} {a}, {v} {b}, {v} {c})"

    def spread(self, scalar: str, kind: str = "float") -> str:
        """Return a vector of one number."""
        vector = f"<{self.lanes} x {kind}>"
        one = self.let(f"insertelement {vector} poison, {kind} {scalar}, i64 0")
        return self.let(f"shufflevector {vector} {one}, {vector} poison, <{self.lanes} x i32> zeroinitializer")

    def constant(self, number: float) -> str:
        """Return a vector of one constant, rounded to float32 as LLVM's text needs it."""
        exact = struct.unpack("<f", struct.pack("<f", number))[0]
        bits = struct.unpack("<Q", struct.pack("<d", exact))[0]
        return f"<{', '.join([f'float 0x{bits:016X}'] * self.lanes)}>"

    def module(self) -> str:
        """Return the whole text."""
        v, n, bits = self.vector, self.lanes, 32 * self.lanes
        self.do("entry:")
        scale = self.spread("%scale_in")
        iota = f"<{', '.join(f'i32 {lane}' for lane in range(n))}>"
        above = self.let(f"icmp sge <{n} x i32> {iota}, {self.spread('%low', 'i32')}")
        below = self.let(f"icmp slt <{n} x i32> {iota}, {self.spread('%high', 'i32')}")
        self.mask = self.let(f"and <{n} x i1> {above}, {below}")
        self.do("%head_bytes = mul i64 %width, 256", "br label %head", "head:")
        self.do("%h = phi i64 [ 0, %entry ], [ %h_next, %features_end ]")
        self.do("%h_at = mul i64 %h, %head_bytes")
        for name in "qkvo":
            self.do(f"%{name}_h = getelementptr i8, ptr %{name}, i64 %h_at")
        self._scores()
        self._softmax(scale)
        self._context()
        self.do("%h_next = add i64 %h, 1", "%h_more = icmp slt i64 %h_next, %heads")
        self.do("br i1 %h_more, label %head, label %exit", "exit:", "ret void")
        functions = [f"{v} @llvm.fma.v{n}f32({v}, {v}, {v})", f"{v} @llvm.maxnum.v{n}f32({v}, {v})"]
        functions += [f"{v} @llvm.rint.v{n}f32({v})", f"void @llvm.masked.store.v{n}f32.p0({v}, ptr, i32, <{n} x i1>)"]
        return "\n".join(
            [
                *(f"declare {function}" for function in functions),
                f"define void @{NAME}(ptr %q, ptr %o, ptr %k, ptr %v, ptr %scratch, i64 %width, i64 %heads, i64 %first,"
                " i64 %keys, i64 %tile_bytes, float %scale_in, i32 %low, i32 %high) #0 {",
                *self.lines,
                "}",
                f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}',
                "",
            ]
        )

    def _key_place(self, base: str, key: str) -> str:
        """Return where a key's first feature lies; `key` counts the example's own."""
        place = self.let(f"add i64 {key}, %first")
        tile = self.let(f"mul i64 {self.let(f'lshr i64 {place}, 6')}, %tile_bytes")
        inside = self.let(f"and i64 {place}, 63")
        at = self.let(f"add i64 {tile}, {self.let(f'shl i64 {inside}, 2')}")
        return self.let(f"getelementptr i8, ptr {base}, i64 {at}")

    def _scores(self) -> None:
        """Scores of KEYS keys at a time into the scratch; the last few are computed again rather than read beyond."""
        v = self.vector
        self.do("br label %keys_on", "keys_on:", "%j = phi i64 [ 0, %head ], [ %j_next, %dots_end ]")
        self.do("%last_key = sub i64 %keys, 1")
        places = []
        for k in range(KEYS):
            key = self.let(f"add i64 %j, {k}")
            inside = self.let(f"icmp slt i64 {key}, %keys")
            places.append(self._key_place("%k_h", self.let(f"select i1 {inside}, i64 {key}, i64 %last_key")))
        self.do("br label %dots", "dots:", "%f = phi i64 [ 0, %keys_on ], [ %f_next, %dots ]")
        self.do(*(f"%d{k} = phi {v} [ zeroinitializer, %keys_on ], [ %d{k}_next, %dots ]" for k in range(KEYS)))
        self.do("%f_at = shl i64 %f, 8", "%q_f = getelementptr i8, ptr %q_h, i64 %f_at")
        self.do(f"%q_v = load {v}, ptr %q_f, align 4")
        for k, place in enumerate(places):
            number = self.let(f"load float, ptr {self.let(f'getelementptr i8, ptr {place}, i64 %f_at')}, align 4")
            self.do(f"%d{k}_next = {self.fma(self.spread(number), '%q_v', f'%d{k}')}")
        self.do("%f_next = add i64 %f, 1", "%f_more = icmp slt i64 %f_next, %width")
        self.do("br i1 %f_more, label %dots, label %dots_end", "dots_end:")
        for k in range(KEYS):
            at = self.let(f"getelementptr {v}, ptr %scratch, i64 {self.let(f'add i64 %j, {k}')}")
            self.do(f"store {v} %d{k}_next, ptr {at}, align 4")
        self.do(f"%j_next = add i64 %j, {KEYS}", "%j_more = icmp slt i64 %j_next, %keys")
        self.do("br i1 %j_more, label %keys_on, label %largest_on")

    def _softmax(self, scale: str) -> None:
        """exp(scale * (score - the largest)) into the scratch, and their sum; the scale is positive."""
        v = self.vector
        self.do("largest_on:", "br label %largest", "largest:")
        self.do("%l = phi i64 [ 0, %largest_on ], [ %l_next, %largest ]")
        self.do(f"%top = phi {v} [ {self.constant(-3e38)}, %largest_on ], [ %top_next, %largest ]")
        self.do(f"%l_at = getelementptr {v}, ptr %scratch, i64 %l", f"%l_v = load {v}, ptr %l_at, align 4")
        self.do(f"%top_next = call {v} @llvm.maxnum.v{self.lanes}f32({v} %top, {v} %l_v)")
        self.do("%l_next = add i64 %l, 1", "%l_more = icmp slt i64 %l_next, %keys")
        self.do("br i1 %l_more, label %largest, label %exp", "exp:")
        self.do("%e = phi i64 [ 0, %largest ], [ %e_next, %exp ]")
        self.do(f"%sum = phi {v} [ zeroinitializer, %largest ], [ %sum_next, %exp ]")
        self.do(f"%e_at = getelementptr {v}, ptr %scratch, i64 %e", f"%e_v = load {v}, ptr %e_at, align 4")
        below = self.let(f"fsub {v} %e_v, %top_next")
        power = self._exp(self.let(f"fmul {v} {below}, {scale}"))
        self.do(f"store {v} {power}, ptr %e_at, align 4", f"%sum_next = fadd {v} %sum, {power}")
        self.do("%e_next = add i64 %e, 1", "%e_more = icmp slt i64 %e_next, %keys")
        self.do("br i1 %e_more, label %exp, label %exp_end", "exp_end:")
        self.do(f"%share = fdiv {v} {self.constant(1.0)}, %sum_next", "br label %features")

    def _exp(self, x: str) -> str:
        """Return exp of a vector that is at most 0."""
        v, n = self.vector, self.lanes
        x = self.let(f"call {v} @llvm.maxnum.v{n}f32({v} {x}, {v} {self.constant(LEAST)})")
        turns = self.let(f"call {v} @llvm.rint.v{n}f32({v} {self.let(f'fmul {v} {x}, {self.constant(LOG2E)}')})")
        rest = self.let(self.fma(turns, self.constant(-LOG2_HIGH), x))
        rest = self.let(self.fma(turns, self.constant(-LOG2_LOW), rest))
        power = self.constant(TAYLOR[-1])
        for term in TAYLOR[-2::-1]:
            power = self.let(self.fma(power, rest, self.constant(term)))
        whole = self.let(f"fptosi {v} {turns} to <{n} x i32>")
        shifted = self.let(f"shl <{n} x i32> {whole}, <{', '.join(['i32 23'] * n)}>")
        bits = self.let(f"add <{n} x i32> {self.let(f'bitcast {v} {power} to <{n} x i32>')}, {shifted}")
        return self.let(f"bitcast <{n} x i32> {bits} to {v}")

    def _context(self) -> None:
        """The weighted sums of KEYS features at a time; the last few are computed again rather than read beyond."""
        v, n = self.vector, self.lanes
        self.do("features:", "%c = phi i64 [ 0, %exp_end ], [ %c_next, %mix_end ]", "%last = sub i64 %width, 1")
        offsets = []
        for k in range(KEYS):
            feature = self.let(f"add i64 %c, {k}")
            inside = self.let(f"icmp slt i64 {feature}, %width")
            offsets.append(self.let(f"shl i64 {self.let(f'select i1 {inside}, i64 {feature}, i64 %last')}, 8"))
        self.do("br label %mix", "mix:", "%m = phi i64 [ 0, %features ], [ %m_next, %mix ]")
        self.do(*(f"%a{k} = phi {v} [ zeroinitializer, %features ], [ %a{k}_next, %mix ]" for k in range(KEYS)))
        self.do(f"%m_at = getelementptr {v}, ptr %scratch, i64 %m", f"%m_v = load {v}, ptr %m_at, align 4")
        place = self._key_place("%v_h", "%m")
        for k, offset in enumerate(offsets):
            number = self.let(f"load float, ptr {self.let(f'getelementptr i8, ptr {place}, i64 {offset}')}, align 4")
            self.do(f"%a{k}_next = {self.fma(self.spread(number), '%m_v', f'%a{k}')}")
        self.do("%m_next = add i64 %m, 1", "%m_more = icmp slt i64 %m_next, %keys")
        self.do("br i1 %m_more, label %mix, label %mix_end", "mix_end:")
        for k, offset in enumerate(offsets):
            result = self.let(f"fmul {v} %a{k}_next, %share")
            at = self.let(f"getelementptr i8, ptr %o_h, i64 {offset}")
            self.do(f"call void @llvm.masked.store.v{n}f32.p0({v} {result}, ptr {at}, i32 4, <{n} x i1> {self.mask})")
        self.do(f"%c_next = add i64 %c, {KEYS}", "%c_more = icmp slt i64 %c_next, %width")
        self.do("br i1 %c_more, label %features, label %features_end", "features_end:")
