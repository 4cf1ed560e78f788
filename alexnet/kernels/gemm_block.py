"""The innermost block of a matrix product, written in LLVM's language: numba's own vectors would not stay in registers.

    block_of(rows, vectors)     c (rows, vectors * VECTOR) = a @ panel, or c += a @ panel

Every step of the depth multiplies a column of a, number by number, with one line of the panel; all sums stay in
registers until the end. So a step needs rows + vectors reads for rows * vectors multiply-adds.

With `number=PAIR` what stands for a number of a and of the panel is two of bfloat16, neighbours in depth, whose
products are both added to a sum of float32 (AVX-512 BF16).
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from alexnet.kernels.compiled import wide_vectors

VECTOR = 16 if wide_vectors() else 8  # float32 in one
F32, I64 = ir.FloatType(), ir.IntType(64)
LINE = ir.VectorType(F32, VECTOR)
PAIR = ir.IntType(32)  # two of bfloat16


def block_of(rows: int, vectors: int, number: ir.Type = F32):
    """The compiled block: of a, the panel and c flat arrays from places a_at, panel_at, c_at on (counted in numbers, or
    pairs); the panel (depth, vectors * VECTOR) is dense, and depth at least 1.
    """

    @intrinsic
    def block(typing, a, a_at, a_row, a_depth, panel, panel_at, c, c_at, c_row, depth, add):
        whole = types.int64
        signature = types.void(a, whole, whole, whole, panel, whole, c, whole, whole, whole, types.boolean)

        def emit(context, builder, signature, arguments):
            a, a_at, a_row, a_depth, panel, panel_at, c, c_at, c_row, depth, add = arguments
            a, panel, c = (
                builder.bitcast(context.make_array(signature.args[i])(context, builder, array).data, kind.as_pointer())
                for i, array, kind in ((0, a, number), (4, panel, number), (6, c, F32))
            )
            a, panel = _moved(builder, a, a_at), _moved(builder, panel, panel_at)
            sums = _sums(builder, a, a_row, a_depth, panel, rows, vectors, depth)
            places = {(r, v): _moved(builder, c, c_at, builder.mul(c_row, I64(r)), I64(v * VECTOR)) for r, v in sums}
            with builder.if_else(add) as (onto, over):
                with onto:
                    for each, place in places.items():
                        _write_line(builder, builder.fadd(_read_line(builder, place), sums[each]), place)
                with over:
                    for each, place in places.items():
                        _write_line(builder, sums[each], place)
            return context.get_dummy_value()

        return signature, emit

    return block


def _each(rows: int, vectors: int) -> list[tuple[int, int]]:
    return [(r, v) for r in range(rows) for v in range(vectors)]


def _sums(builder, a, a_row, a_depth, panel, rows: int, vectors: int, depth) -> dict:
    """The loop over the depth; {(row, vector): LLVM's value of its sum}.

    Every third row of a has a pointer, from which the next two are one and two steps away: a pointer for each row would
    not find a register.
    """
    before, loop, after = builder.block, *map(builder.append_basic_block, ("depth", "summed"))
    begins = [_moved(builder, a, builder.mul(a_row, I64(r))) for r in range(0, rows, 3)]
    builder.branch(loop)
    builder.position_at_end(loop)
    k, line = builder.phi(I64), builder.phi(panel.type)
    thirds = [builder.phi(a.type) for _ in begins]
    sums = {place: builder.phi(LINE) for place in _each(rows, vectors)}
    of_panel = [_read_line(builder, _moved(builder, line, I64(v * VECTOR))) for v in range(vectors)]
    steps = [I64(0), a_row, builder.mul(a_row, I64(2))]
    of_a = [_read_everywhere(builder, _moved(builder, thirds[r // 3], steps[r % 3])) for r in range(rows)]
    added = {(r, v): _multiply_add(builder, of_a[r], of_panel[v], total) for (r, v), total in sums.items()}
    following = builder.add(k, I64(1))
    carried = [(k, I64(0), following), (line, panel, _moved(builder, line, I64(vectors * VECTOR)))]
    carried += [(third, begin, _moved(builder, third, a_depth)) for third, begin in zip(thirds, begins, strict=True)]
    carried += [(sums[place], LINE(None), added[place]) for place in sums]
    for phi, first, then in carried:
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    return added


def _multiply_add(builder, a, b, total):
    if a.type == LINE:
        name, order = f"llvm.fma.v{VECTOR}f32", (a, b, total)
    else:
        name, order = "llvm.x86.avx512bf16.dpbf16ps.512", (total, a, b)
    kind = ir.FunctionType(LINE, [each.type for each in order])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), order)


def _moved(builder, pointer, *steps):
    for step in steps:
        pointer = builder.gep(pointer, [step])
    return pointer


def _read_line(builder, pointer):
    line = ir.VectorType(pointer.type.pointee, VECTOR)
    return builder.load(builder.bitcast(pointer, line.as_pointer()), align=4)


def _write_line(builder, line, pointer):
    builder.store(line, builder.bitcast(pointer, line.type.as_pointer()), align=4)


def _read_everywhere(builder, pointer):
    """One number in all places of a line."""
    nothing, places = (
        ir.VectorType(pointer.type.pointee, VECTOR)(ir.Undefined),
        ir.VectorType(ir.IntType(32), VECTOR)(None),
    )
    first = builder.insert_element(nothing, builder.load(pointer), ir.IntType(32)(0))
    return builder.shuffle_vector(first, nothing, places)
