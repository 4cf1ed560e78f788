"""One tile of Winograd's algorithm in bfloat16, 16 channels at a time, written in LLVM's language: all sums of a tile
are additions of whole vectors, and most stay in registers.

    to_points_of(matrix, products)   points = matrix @ window @ matrix.T, bfloat16 to bfloat16
    to_pairs_of(matrix, products)    the same of two windows, whose points become pairs
    from_sums_of(matrix, products)   window = matrix @ sums @ matrix.T + bias, float32 to bfloat16

The matrix is written out: numbers of 0 cost nothing, 1 and -1 no multiplication.
"""

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from itertools import chain

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alexnet.kernels.gemm_block import F32, I64
from alexnet.kernels.winograd_matrices import Product

CHANNELS = 16  # at a time
LINE, BITS, WIDE_BITS = (ir.VectorType(kind, CHANNELS) for kind in (F32, ir.IntType(16), ir.IntType(32)))


def to_points_of(matrix: np.ndarray, products: Sequence[Product]):
    """Compiled: tile(source, at, line, pixel, points, tile, tall, channels, c) for flat arrays of bfloat16's bits.

    The window's rows lie `line` apart in the source from `at` on, its pixels `pixel`. The points of a sum lie beside
    each other, all of their `channels`, and so (tall, points, channels) for the tiles, one sum after the other.
    """
    of_sum = Counter(product.sum for product in products)

    @intrinsic
    def tile(typing, source, at, line, pixel, points, tile, tall, channels, c):
        whole = types.int64
        signature = types.void(source, whole, whole, whole, points, whole, whole, whole, whole)

        def emit(context, builder, signature, arguments):
            source, at, line, pixel, points, tile, tall, channels, c = arguments
            source, points = (_memory(context, builder, signature.args[i], arguments[i]) for i in (0, 4))
            values = _sandwich(builder, matrix, _read_window(builder, source, at, line, pixel, matrix.shape[1]))
            for i, (row, column, total) in enumerate(products):
                before = sum(count for other, count in of_sum.items() if other < total)
                place = builder.add(builder.mul(tall, I64(before)), builder.mul(tile, I64(of_sum[total])))
                place = builder.add(place, I64(i - before))
                place = _place(builder, points, builder.mul(place, channels), c)
                _write(builder, _bf16(builder, values[row][column]), place)
            return context.get_dummy_value()

        return signature, emit

    return tile


def to_pairs_of(matrix: np.ndarray, products: Sequence[Product], summed: bool = False):
    """Compiled: tiles(source, at, other_at, line, pixel, pairs, pair_at, point, sums, sums_at); pairs of 32 bits, those
    of the points `point` apart. With `summed` all numbers of both windows are added to the sums.
    """

    @intrinsic
    def tiles(typing, source, at, other_at, line, pixel, pairs, pair_at, point, sums, sums_at):
        whole = types.int64
        signature = types.void(source, whole, whole, whole, whole, pairs, whole, whole, sums, whole)

        def emit(context, builder, signature, arguments):
            source, at, other_at, line, pixel, pairs, pair_at, point, sums, sums_at = arguments
            source, pairs, sums = (_memory(context, builder, signature.args[i], arguments[i]) for i in (0, 5, 8))
            windows = [_read_window(builder, source, place, line, pixel, matrix.shape[1]) for place in (at, other_at)]
            if summed:
                place = _place(builder, sums, sums_at)
                numbers = [number for window in windows for row in window for number in row]
                _write(builder, reduce(builder.fadd, numbers, _read(builder, place, LINE)), place)
            one, other = (_sandwich(builder, matrix, window) for window in windows)
            for i, (row, column, _) in enumerate(products):
                low, high = (builder.zext(_bf16(builder, of[row][column]), WIDE_BITS) for of in (one, other))
                pair = builder.or_(low, builder.shl(high, WIDE_BITS([16] * CHANNELS)))
                _write(builder, pair, _place(builder, pairs, pair_at, builder.mul(point, I64(i))))
            return context.get_dummy_value()

        return signature, emit

    return tiles


def from_sums_of(matrix: np.ndarray, products: Sequence[Product]):
    """Compiled: tile(sums, sums_at, apart, bias, bias_at, target, at, line, pixel); sums, in the order of the products
    and `apart` from each other, and bias of float32, the target of bfloat16's bits, laid out as a window is.
    """

    @intrinsic
    def tile(typing, sums, sums_at, apart, bias, bias_at, target, at, line, pixel):
        whole = types.int64
        signature = types.void(sums, whole, whole, bias, whole, target, whole, whole, whole)

        def emit(context, builder, signature, arguments):
            sums, sums_at, apart, bias, bias_at, target, at, line, pixel = arguments
            sums, bias, target = (_memory(context, builder, signature.args[i], arguments[i]) for i in (0, 3, 5))
            lines = [[None] * matrix.shape[1] for _ in range(matrix.shape[1])]
            for i, (row, column, _) in enumerate(products):
                lines[row][column] = _read(builder, _place(builder, sums, sums_at, builder.mul(apart, I64(i))), LINE)
            more = _read(builder, _place(builder, bias, bias_at), LINE)
            values = chain(*_sandwich(builder, matrix, lines))
            for value, place in zip(
                values, chain(*_each_place(builder, target, at, line, pixel, len(matrix))), strict=True
            ):
                _write(builder, _bf16(builder, builder.fadd(value, more)), place)
            return context.get_dummy_value()

        return signature, emit

    return tile


def _sandwich(builder, matrix, lines) -> list[list]:
    """matrix @ lines @ matrix.T, of LLVM's values."""
    columns = [[_sum(builder, row, column) for row in matrix] for column in zip(*lines, strict=True)]
    return [[_sum(builder, row, line) for row in matrix] for line in zip(*columns, strict=True)]


def _sum(builder, weights, lines):
    """With a positive weight first, so that almost never something has to be negated."""
    terms = sorted(((w, line) for w, line in zip(weights, lines, strict=True) if w), key=lambda term: term[0] < 0)
    total = None
    for weight, line in terms:
        size = line if abs(weight) == 1 else builder.fmul(line, LINE([float(abs(weight))] * CHANNELS))
        if total is None:
            total = size if weight > 0 else builder.fneg(size)
        else:
            total = (builder.fadd if weight > 0 else builder.fsub)(total, size)
    return total


def _memory(context, builder, kind, array):
    return context.make_array(kind)(context, builder, array).data


def _place(builder, memory, *steps):
    for step in steps:
        memory = builder.gep(memory, [step])
    return memory


def _each_place(builder, memory, at, line, pixel, side: int) -> list[list]:
    return [
        [_place(builder, memory, at, builder.mul(line, I64(y)), builder.mul(pixel, I64(x))) for x in range(side)]
        for y in range(side)
    ]


def _read(builder, place, kind):
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=2)


def _read_window(builder, source, at, line, pixel, side: int) -> list[list]:
    return [
        [_float32(builder, _read(builder, place, BITS)) for place in row]
        for row in _each_place(builder, source, at, line, pixel, side)
    ]


def _float32(builder, bits):
    return builder.bitcast(builder.shl(builder.zext(bits, WIDE_BITS), WIDE_BITS([16] * CHANNELS)), LINE)


def _bf16(builder, value):
    """Rounded to nearest even by AVX-512 BF16's own instruction."""
    kind = ir.FunctionType(BITS, [LINE])
    narrow = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.cvtneps2bf16.512")
    return builder.call(narrow, [value])


def _write(builder, value, place):
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=2)
