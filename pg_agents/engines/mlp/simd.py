"""What Numba cannot say in Python: vector instructions, calls through an address, and waiting for another thread.

Everything here is an intrinsic: a few lines that write LLVM instructions where a compiled function calls them. Numba's
loops are good at element-wise work, but not at matrix products, which live from keeping a tile of the result in
registers. Addresses are byte addresses as int64; strides count float32 elements.

Numba keeps compiled kernels until `kernels.py` changes, whatever happens here: `kernels.SIMD` has to follow this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from pg_agents.engines.mlp.weights import MAX_COEFFICIENTS

LANES = 16  # float32 numbers in a vector; LLVM splits it where the machine's are shorter

# A tile should fill the registers and not spill: AVX-512 has 32 of 16 numbers, AVX2 16 of 8.
_MANY_REGISTERS = bool(llvm.get_host_cpu_features().get("avx512f", False))
TILE_ROWS = 8 if _MANY_REGISTERS else 4
WIDE_ROWS = 4
WIDE_LANES = 4 * LANES if _MANY_REGISTERS else LANES


# Functions that only compiled ones call need no wrapper for Python, nor a place on the disk.
inner = {"nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_f32, _i32, _i64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_vector = ir.VectorType(_f32, LANES)


def _element(builder: Any, base: Any, index: Any) -> Any:
    return builder.gep(base, [index])


def _as_vector(builder: Any, pointer: Any, offset: int = 0) -> Any:
    return builder.bitcast(_element(builder, pointer, ir.Constant(_i64, offset)), _vector.as_pointer())


def _make_product_tile(rows: int, vectors: int) -> Any:
    """C[rows, 16 vectors] = (C or 0) + Σ_k A(m, k) B[k, :], with all of C in registers."""

    @intrinsic
    def tile(typing_context, a, a_row, a_column, b, b_row, c, c_row, depth, accumulate):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            a, a_row, a_column, b, b_row, c, c_row, depth, accumulate = arguments
            floats = _f32.as_pointer()
            a, b, c = (builder.inttoptr(address, floats) for address in (a, b, c))
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(_vector, [_vector] * 3), f"llvm.fma.v{LANES}f32"
            )
            results = []
            for m in range(rows):
                row = _element(builder, c, builder.mul(c_row, ir.Constant(_i64, m)))
                results += [_as_vector(builder, row, LANES * v) for v in range(vectors)]

            with builder.if_else(builder.icmp_signed("!=", accumulate, ir.Constant(_i64, 0))) as (then, otherwise):
                with then:
                    loaded = [builder.load(pointer, align=4) for pointer in results]
                    then_block = builder.block
                with otherwise:
                    otherwise_block = builder.block
            starts = []
            for value in loaded:
                start = builder.phi(_vector)
                start.add_incoming(value, then_block)
                start.add_incoming(ir.Constant(_vector, [0.0] * LANES), otherwise_block)
                starts.append(start)

            before, loop = builder.block, builder.append_basic_block("product")
            after = builder.append_basic_block("product.end")
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(_i64)
            k.add_incoming(ir.Constant(_i64, 0), before)
            sums = [builder.phi(_vector) for _ in starts]
            for total, start in zip(sums, starts, strict=True):
                total.add_incoming(start, before)
            b_k = _element(builder, b, builder.mul(k, b_row))
            b_vectors = [builder.load(_as_vector(builder, b_k, LANES * v), align=4) for v in range(vectors)]
            a_k = builder.mul(k, a_column)
            updated = []
            for m in range(rows):
                index = builder.add(a_k, builder.mul(a_row, ir.Constant(_i64, m)))
                number = builder.load(_element(builder, a, index), align=4)
                first = builder.insert_element(ir.Constant(_vector, ir.Undefined), number, ir.Constant(_i32, 0))
                everywhere = ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES)
                number = builder.shuffle_vector(first, ir.Constant(_vector, ir.Undefined), everywhere)
                for v in range(vectors):
                    updated.append(builder.call(fma, [number, b_vectors[v], sums[m * vectors + v]]))
            following = builder.add(k, ir.Constant(_i64, 1))
            k.add_incoming(following, loop)
            for total, value in zip(sums, updated, strict=True):
                total.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
            builder.position_at_end(after)
            for value, pointer in zip(updated, results, strict=True):
                builder.store(value, pointer, align=4)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 9), generate

    return tile


_wide_tile = _make_product_tile(WIDE_ROWS, WIDE_LANES // LANES)
_wide_row = _make_product_tile(1, WIDE_LANES // LANES)
_tile = _make_product_tile(TILE_ROWS, 1)
_row = _make_product_tile(1, 1)


@njit(**inner)
def product(a, a_row, a_column, b, b_row, c, c_row, m, n, k, accumulate):
    """C (m, n) = A (m, k) B (k, n), or C += A B.

    A(i, l) lies at `a + 4 (i a_row + l a_column)`, so A may be a transpose; B and C have rows without gaps between
    their columns, and room for `n` columns, which must be a multiple of 16.
    """
    column = 0
    while column < n:
        b_column, c_column = b + 4 * column, c + 4 * column
        i = 0
        if n - column >= WIDE_LANES:
            while i < m:
                a_i, c_i = a + 4 * i * a_row, c_column + 4 * i * c_row
                if i + WIDE_ROWS <= m:
                    _wide_tile(a_i, a_row, a_column, b_column, b_row, c_i, c_row, k, accumulate)
                    i += WIDE_ROWS
                else:
                    _wide_row(a_i, a_row, a_column, b_column, b_row, c_i, c_row, k, accumulate)
                    i += 1
            column += WIDE_LANES
        else:
            while i < m:
                a_i, c_i = a + 4 * i * a_row, c_column + 4 * i * c_row
                if i + TILE_ROWS <= m:
                    _tile(a_i, a_row, a_column, b_column, b_row, c_i, c_row, k, accumulate)
                    i += TILE_ROWS
                else:
                    _row(a_i, a_row, a_column, b_column, b_row, c_i, c_row, k, accumulate)
                    i += 1
            column += LANES


@intrinsic
def _transpose_tile(typing_context, source, source_row, target, target_row):
    """Target (16, 16) = sourceᵀ, by four rounds that exchange halves, quarters, pairs and single numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, source_row, target, target_row = arguments
        source, target = (builder.inttoptr(address, _f32.as_pointer()) for address in (source, target))

        def row(base: Any, stride: Any, i: int) -> Any:
            return _as_vector(builder, _element(builder, base, builder.mul(stride, ir.Constant(_i64, i))))

        vectors = [builder.load(row(source, source_row, i), align=4) for i in range(LANES)]
        step = LANES // 2
        while step:
            # Lanes of the first vector are numbered from 0, of the second from 16.
            low = [lane if not lane & step else LANES + lane - step for lane in range(LANES)]
            high = [lane + step if not lane & step else LANES + lane for lane in range(LANES)]
            for i in range(LANES):
                if not i & step:
                    pair = vectors[i], vectors[i + step]
                    for place, lanes in ((i, low), (i + step, high)):
                        mask = ir.Constant(ir.VectorType(_i32, LANES), lanes)
                        vectors[place] = builder.shuffle_vector(*pair, mask)
            step //= 2
        for i, vector in enumerate(vectors):
            builder.store(vector, row(target, target_row, i), align=4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 4), generate


@njit(**inner)
def transpose(source, source_row, target, target_row, m, n):
    """Target (n, m) = source (m, n)ᵀ, in tiles: both need room for multiples of 16."""
    for i in range(0, m, LANES):
        for j in range(0, n, LANES):
            _transpose_tile(
                source + 4 * (i * source_row + j), source_row, target + 4 * (j * target_row + i), target_row
            )


def _make_pointer(element: Any, of: Any) -> Any:
    @intrinsic
    def pointer(typing_context, address):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], element.as_pointer())

        return types.CPointer(of)(types.int64), generate

    return pointer


# The numbers at an address, to be indexed. Numba's arrays would do as well, and take LLVM twice the time.
floats = _make_pointer(_f32, types.float32)
doubles = _make_pointer(ir.DoubleType(), types.float64)
integers = _make_pointer(_i64, types.int64)
flags = _make_pointer(ir.IntType(8), types.uint8)


def make_function_caller(n_arguments: int) -> Any:
    """A call of the C function at an address, whose arguments and result are int64."""

    @intrinsic
    def call(typing_context, address, *arguments):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = ir.FunctionType(_i64, [_i64] * n_arguments).as_pointer()
            numbers = [builder.extract_value(arguments[1], i) for i in range(n_arguments)]
            return builder.call(builder.inttoptr(arguments[0], function), numbers)

        return types.int64(types.int64, types.StarArgTuple((types.int64,) * n_arguments)), generate

    return call


call_policy, call_environment = make_function_caller(5), make_function_caller(10)


def _make_caller(n_coefficients: int) -> Any:
    @intrinsic
    def call(typing_context, address, *arguments):
        n_arguments = 3 + n_coefficients

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            function = ir.FunctionType(_f32, [_f32] * n_arguments).as_pointer()
            packed = arguments[1]
            numbers = [builder.extract_value(packed, i) for i in range(n_arguments)]
            return builder.call(builder.inttoptr(arguments[0], function), numbers)

        numbers = types.StarArgTuple((types.float32,) * n_arguments)
        return types.float32(types.int64, numbers), generate

    return call


_call_0, _call_1, _call_2, _call_3 = (_make_caller(n) for n in range(MAX_COEFFICIENTS + 1))


@njit(**inner)
def call_weight(address, log_prob, ratio, advantage, coefficients, n_coefficients):
    """Call the compiled `weight(log_prob, ratio, advantage, *coefficients)` at an address.

    An address, because Numba's cache on disk misses for a function that takes another as its argument.
    """
    if n_coefficients == 0:
        return _call_0(address, log_prob, ratio, advantage)
    if n_coefficients == 1:
        return _call_1(address, log_prob, ratio, advantage, coefficients[0])
    if n_coefficients == 2:
        return _call_2(address, log_prob, ratio, advantage, coefficients[0], coefficients[1])
    return _call_3(address, log_prob, ratio, advantage, coefficients[0], coefficients[1], coefficients[2])


@intrinsic
def publish(typing_context, address, value):
    """Write an int64 such that who reads it with `observe` also sees all that was written before."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], builder.inttoptr(arguments[0], _i64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def observe(typing_context, address):
    """Read an int64 that another thread may write."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(builder.inttoptr(arguments[0], _i64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


def _make_call_without_arguments(name: str | None, result: Any) -> Any:
    @intrinsic
    def call(typing_context):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if name is not None:
                function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, []), name)
                builder.call(function, [])
            return context.get_dummy_value()

        return types.void(), generate

    return call


_IS_X86 = llvm.get_default_triple().split("-")[0] in ("x86_64", "i386", "i686")
# In a loop that waits: leave the core's units to its other hyperthread; and, when it takes long, the core to others.
spin: Callable[[], None] = _make_call_without_arguments("llvm.x86.sse2.pause" if _IS_X86 else None, ir.VoidType())
give_way: Callable[[], None] = _make_call_without_arguments(
    "sched_yield" if os.name == "posix" and sys.platform != "emscripten" else None, _i32
)
