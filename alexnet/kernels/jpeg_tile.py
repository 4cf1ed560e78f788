"""The pieces of a JPEG decoder that work on whole vectors, written in LLVM's language.

    eight_bytes(memory, at)                         the next 64 bits, first bit on top
    put_eight_bytes(memory, at, bits)               and back
    inverse_dct(...)                                16 blocks of 8 x 8, side by side
    pixels(planes, y, near, far, cr, out, to)       32 pixels of a row, red, green and blue, from halved colour

All is done in whole numbers, as libjpeg does it (its "islow" transform and "fancy" upsampling), so that every pixel is
the same. Sources: ITU-T T.81, A.3.3; Loeffler, Ligtenberg, Moschytz, ICASSP 1989; JFIF 1.02.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BLOCKS = 16  # transformed at a time
COLUMNS = 16  # of halved colour at a time
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))

# Cosines of the transform with 13 binary places, named as in the paper's figure: differences and sums of c1 ... c7.
FRACTION = 13
EVEN = {"z1": 0.541196100, "x6": -1.847759065, "x2": 0.765366865}
ODD = {"x7": 0.298631336, "x5": 2.053119869, "x3": 3.072711026, "x1": 1.501321110}
ODD_SUMS = {"x7+x1": -0.899976223, "x5+x3": -2.562915447, "x7+x3": -1.961570560, "x5+x1": -0.390180644}
ALL_ODD = 1.175875602


@intrinsic
def eight_bytes(typing, memory, at):
    """Bytes at ... at + 7 of a flat uint8 array as one uint64, the first on top."""

    def emit(context, builder, signature, arguments):
        place = _at(builder, _memory(context, builder, signature, arguments, 0), arguments[1], I64)
        return builder.bswap(builder.load(place, align=1))

    return types.uint64(memory, types.uint64), emit


@intrinsic
def put_eight_bytes(typing, memory, at, bits):
    """A uint64 to bytes at ... at + 7 of a flat uint8 array, its top first."""

    def emit(context, builder, signature, arguments):
        place = _at(builder, _memory(context, builder, signature, arguments, 0), arguments[1], I64)
        builder.store(builder.bswap(arguments[2]), place, align=1)
        return context.get_dummy_value()

    return types.void(memory, types.uint64, types.uint64), emit


@intrinsic
def inverse_dct(typing, coefficients, at, factors, factor_at, plane, to, line):
    """int16 (64, BLOCKS) from `at` on, times the int32 (64,) from `factor_at` on, to 8 rows of BLOCKS * 8 bytes, `line`
    apart, from `to` on.
    """

    def emit(context, builder, signature, arguments):
        source, factors, target = (_memory(context, builder, signature, arguments, i) for i in (0, 2, 4))
        _, at, _, factor_at, _, to, line = arguments
        narrow, wide = ir.VectorType(I16, BLOCKS), ir.VectorType(I32, BLOCKS)

        def read(i: int) -> ir.Value:
            place = _at(builder, source, builder.add(at, I64(i * BLOCKS)), narrow)
            factor = builder.load(builder.gep(factors, [builder.add(factor_at, I64(i))]))
            return builder.mul(builder.sext(builder.load(place, align=2), wide), _every(builder, wide, factor))

        columns = [_eight(builder, [read(8 * row + column) for row in range(8)], FRACTION - 2) for column in range(8)]
        for row in range(8):
            bytes_8 = [_byte(builder, x) for x in _eight(builder, [column[row] for column in columns], FRACTION + 5)]
            place = builder.add(to, builder.mul(line, I64(row)))
            words = _interleave(builder, *(_word(builder, bytes_8[i : i + 4]) for i in (0, 4)))
            builder.store(words, _at(builder, target, place, words.type), align=1)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(coefficients, whole, factors, whole, plane, whole, whole), emit


def _eight(b: ir.IRBuilder, x: list[ir.Value], places: int) -> list[ir.Value]:
    """The transform of 8 numbers, each a vector; `places` binary places are rounded off."""
    t3 = _times(b, b.add(x[2], x[6]), EVEN["z1"])
    t2, t3 = b.add(t3, _times(b, x[6], EVEN["x6"])), b.add(t3, _times(b, x[2], EVEN["x2"]))
    t0, t1 = (_shifted(b, combine(x[0], x[4]), FRACTION) for combine in (b.add, b.sub))
    even = [b.add(t0, t3), b.add(t1, t2), b.sub(t1, t2), b.sub(t0, t3)]

    pairs = {"x7+x1": (7, 1), "x5+x3": (5, 3), "x7+x3": (7, 3), "x5+x1": (5, 1)}
    sums = {name: b.add(x[i], x[j]) for name, (i, j) in pairs.items()}
    every = _times(b, b.add(sums["x7+x3"], sums["x5+x1"]), ALL_ODD)
    sums = {name: _times(b, value, ODD_SUMS[name]) for name, value in sums.items()}
    of_3, of_1 = (b.add(sums[name], every) for name in ("x7+x3", "x5+x1"))
    near, far = sums["x7+x1"], sums["x5+x3"]
    parts = {1: (near, of_1), 3: (far, of_3), 5: (far, of_1), 7: (near, of_3)}
    odd = [b.add(_times(b, x[i], ODD[f"x{i}"]), b.add(*parts[i])) for i in (1, 3, 5, 7)]

    both = [b.add(e, o) for e, o in zip(even, odd, strict=True)] + [
        b.sub(e, o) for e, o in zip(even[::-1], odd[::-1], strict=True)
    ]
    return [_rounded(b, value, places) for value in both]


@intrinsic
def pixels(typing, planes, y, near, far, cr, out, to):
    """2 * COLUMNS pixels side by side, interleaved, to `out` from `to` on.

    All places are in `planes`: y of brightness; near and far of the blue difference in the rows that are nearest and
    second nearest; the red difference lies `cr` behind it. One column to the left and right is read as well.
    """

    def emit(context, builder, signature, arguments):
        source, target = (_memory(context, builder, signature, arguments, i) for i in (0, 5))
        _, y, near, far, cr, _, to = arguments
        blue = _upsampled(builder, source, near, far)
        red = _upsampled(builder, source, builder.add(near, cr), builder.add(far, cr))
        grey = _read_bytes(builder, source, y, 2 * COLUMNS)
        for i, part in enumerate(_interleaved_rgb(builder, *_rgb(builder, grey, blue, red))):
            place = builder.add(to, I64(i * 2 * COLUMNS))
            builder.store(part, _at(builder, target, place, part.type), align=1)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(planes, whole, whole, whole, whole, out, whole), emit


def _upsampled(b: ir.IRBuilder, source: ir.Value, near: ir.Value, far: ir.Value) -> ir.Value:
    """int16 (2 * COLUMNS): colour between 3 : 1 of the two rows and 3 : 1 of the two columns, less 128."""

    def column(offset: int) -> ir.Value:
        rows = (_read_bytes(b, source, b.add(row, I64(offset)), COLUMNS) for row in (near, far))
        return _three_to_one(b, *rows)

    before, here, after = (column(offset) for offset in (-1, 0, 1))
    left, right = (
        b.lshr(b.add(_three_to_one(b, here, beside), _all(here.type, half)), _all(here.type, 4))
        for beside, half in ((before, 8), (after, 7))
    )
    both = _interleave(b, left, right)
    return b.sub(both, _all(both.type, 128))


def _three_to_one(b: ir.IRBuilder, near: ir.Value, far: ir.Value) -> ir.Value:
    return b.add(b.mul(near, _all(near.type, 3)), far)


def _rgb(b: ir.IRBuilder, y: ir.Value, cb: ir.Value, cr: ir.Value) -> list[ir.Value]:
    """int8 vectors. R = y + 1.402 cr, G = y - 0.34414 cb - 0.71414 cr, B = y + 1.772 cb, each sum rounded once.

    Whole multiples are taken out first, so that the rest of R and of B fits the high half of a product of 16 bits.
    """
    wide = ir.VectorType(I32, y.type.count)
    red = b.add(b.add(y, cr), _share(b, cr, 91881 - (1 << 16)))
    blue = b.add(b.add(y, b.add(cb, cb)), _share(b, cb, 116130 - (2 << 16)))
    shares = (b.mul(b.sext(x, wide), _all(wide, n)) for x, n in ((cb, -22554), (cr, (1 << 16) - 46802)))
    green = b.sub(b.add(y, b.trunc(_rounded(b, b.add(*shares), 16), y.type)), cr)
    return [b.trunc(_clamped(b, x), ir.VectorType(I8, y.type.count)) for x in (red, green, blue)]


def _share(b: ir.IRBuilder, x: ir.Value, of_65536: int) -> ir.Value:
    """int16 x * of_65536 / 65536, rounded; 17 places would not fit, so the high half of 2 x is rounded by one place."""
    wide = ir.VectorType(I32, x.type.count)
    product = b.mul(b.sext(b.add(x, x), wide), _all(wide, of_65536))
    return _rounded(b, b.trunc(b.ashr(product, _all(wide, 16)), x.type), 1)


def _interleaved_rgb(b: ir.IRBuilder, red: ir.Value, green: ir.Value, blue: ir.Value) -> list[ir.Value]:
    """Three vectors that hold, one after the other, r g b r g b ..."""
    n = red.type.count
    red_green = b.shuffle_vector(red, green, _places(range(2 * n)))
    blue = b.shuffle_vector(blue, blue, _places(range(2 * n)))
    first = (0, n, 2 * n)  # of each colour in the two vectors
    order = [first[i % 3] + i // 3 for i in range(3 * n)]
    return [b.shuffle_vector(red_green, blue, _places(order[i : i + n])) for i in (0, n, 2 * n)]


def _interleave(b: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    n = left.type.count
    return b.shuffle_vector(left, right, _places([i + side for i in range(n) for side in (0, n)]))


def _places(numbers) -> ir.Constant:
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(I32, len(numbers)), numbers)


def _byte(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """Transformed numbers are centred on 0, pixels on 128."""
    return _clamped(b, b.add(x, _all(x.type, 128)))


def _clamped(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    zero, most = _all(x.type, 0), _all(x.type, 255)
    x = b.select(b.icmp_signed("<", x, zero), zero, x)
    return b.select(b.icmp_signed(">", x, most), most, x)


def _word(b: ir.IRBuilder, bytes_4: list[ir.Value]) -> ir.Value:
    """Four bytes of 32 bits each as one number, the first lowest, as they then lie in memory."""
    word, *others = bytes_4
    for i, byte in enumerate(others, 1):
        word = b.or_(word, b.shl(byte, _all(byte.type, 8 * i)))
    return word


def _times(b: ir.IRBuilder, x: ir.Value, cosine: float) -> ir.Value:
    return b.mul(x, _all(x.type, round(cosine * (1 << FRACTION))))


def _shifted(b: ir.IRBuilder, x: ir.Value, places: int) -> ir.Value:
    return b.shl(x, _all(x.type, places))


def _rounded(b: ir.IRBuilder, x: ir.Value, places: int) -> ir.Value:
    """x / 2**places, halves upwards."""
    return b.ashr(b.add(x, _all(x.type, 1 << (places - 1))), _all(x.type, places))


def _all(kind: ir.VectorType, number: int) -> ir.Constant:
    return ir.Constant(kind, [number] * kind.count)


def _every(b: ir.IRBuilder, kind: ir.VectorType, value: ir.Value) -> ir.Value:
    one = b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return b.shuffle_vector(one, one, _places([0] * kind.count))


def _read_bytes(b: ir.IRBuilder, source: ir.Value, at: ir.Value, count: int) -> ir.Value:
    """`count` bytes as int16."""
    value = b.load(_at(b, source, at, ir.VectorType(I8, count)), align=1)
    return b.zext(value, ir.VectorType(I16, count))


def _memory(context, builder, signature, arguments, i: int) -> ir.Value:
    return context.make_array(signature.args[i])(context, builder, arguments[i]).data


def _at(b: ir.IRBuilder, memory: ir.Value, at: ir.Value, kind: ir.Type) -> ir.Value:
    return b.bitcast(b.gep(memory, [at]), kind.as_pointer())
