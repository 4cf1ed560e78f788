"""Compiles every Triton kernel for compute capability 9.0, for the shapes of as_run: needs no GPU. A script, because
triton must be imported without its interpreter. Prints the name of each.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet.kernels import crop_triton, lrn_triton, pool_triton, update_triton
from alexnet.kernels.gpu import BLOCK

CHANNELS = {"outer": (1, 1, 0, 1), "inner": (48, 1, 2, 5)}
SAME_MAP = {"outer": (27, 27 * 256, 2, 5), "inner": (27, 256, 2, 5)}
NUMBERS = ("k", "a")


def compile_for_hopper(kernel, types: dict[str, str], constants: dict) -> None:
    """`types` of the pointers; other arguments are int32 or float32 by their name."""
    rest = {name: "fp32" if name in NUMBERS else "i32" for name in kernel.arg_names}
    signature = rest | types | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(ASTSource(kernel, signature, places), target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]
    print(kernel.__name__)


for number in ("*bf16", "*fp32"):
    for window in (CHANNELS, SAME_MAP):
        constants = {"beta": 0.75, **window, "WIDE": False, "BLOCK": BLOCK}
        back = constants | {f"{axis}_back": window[axis] for axis in window}
        compile_for_hopper(lrn_triton._forward, {"x": number, "y": number}, constants)
        compile_for_hopper(lrn_triton._weigh, {"x": number, "g": number, "t": "*fp32"}, constants)
        compile_for_hopper(lrn_triton._backward, {"x": number, "g": number, "t": "*fp32", "dx": number}, back)
    pointers = {"w": "*fp32", "v": "*fp32", "gradient": number, "copy": "*bf16", "go": "*u8", "numbers": "*fp32"}
    for guard in (False, True):
        compile_for_hopper(update_triton._update, pointers, {"COPY": True, "GUARD": guard, "BLOCK": BLOCK})
    pointers = {"squares": "*u8", "drawn": "*i32", "mean": "*fp32", "scales": "*fp32", "out": number}
    for resized in (False, True):
        sizes = {"SIZE": 256, "CROP": 224, "RESIZED": resized, "BLOCK": BLOCK}
        compile_for_hopper(crop_triton._cut, pointers, sizes)
    sizes = {"C": 96, "H": 55, "W": 55, "OH": 27, "OW": 27, "SIZE": 3, "STRIDE": 2, "WIDE": False, "BLOCK": BLOCK}
    compile_for_hopper(pool_triton._forward, {"x": number, "y": number, "places": "*u8"}, sizes)
    compile_for_hopper(pool_triton._backward, {"g": number, "dx": number, "places": "*u8"}, sizes)
