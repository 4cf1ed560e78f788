"""The first training on a machine compiles its loops on several cores, from before PyTorch is loaded.

numba compiles one function after the other and keeps what it has made on disk, so it is waited for once. Helpers begin
with what a step meets last, while the training loads PyTorch, draws its weights and then compiles what it meets first.
Nothing here, nor in the loops, imports PyTorch.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from alexnet import cores
from alexnet.data import augment, cut_jpegs
from alexnet.kernels import (
    blocks_numba,
    gemm_numba,
    lrn_map_numba,
    lrn_numba,
    mask_numba,
    pool_numba,
    update_numba,
    winograd_numba,
)
from alexnet.kernels import winograd_bf16_kernels as at_points
from alexnet.kernels import winograd_bf16_numba as winograd_bf16
from alexnet.kernels.compiled import has, wide_vectors
from alexnet.kernels.jpeg import Decoder
from alexnet.kernels.winograd_numba import ENOUGH_CHANNELS
from alexnet.spec import DataSpec, NetSpec

LOOPS = {  # as a training meets them
    "cut_jpegs": cut_jpegs.cut_loop_of_jpegs,
    "cut": augment.cut_loop,
    "in_blocks": blocks_numba.in_blocks,
    "to_points": winograd_numba.to_points,
    "products": gemm_numba.products,  # on AMD's processors
    "from_points": winograd_numba.from_points,
    "to_panels": at_points.to_panels,  # in bfloat16, as all of winograd_bf16
    "convolve": winograd_bf16.convolve,
    "fives_forward": lrn_numba.fives_forward,  # in float32, or with AVX-512
    "channels_forward": lrn_numba.channels_forward,  # in bfloat16 without
    "max_pool": pool_numba.max_pool,  # in bfloat16
    "map_forward": lrn_map_numba.map_forward,
    "gradient_at_places": pool_numba.gradient_at_places,
    "draw": mask_numba.draw,
    "map_backward": lrn_map_numba.map_backward,
    "channels_backward": lrn_numba.channels_backward,
    "fives_backward": lrn_numba.fives_backward,
    "to_pairs": winograd_bf16.to_pairs,
    "kernel_sums": winograd_bf16.kernel_sums,
    "from_sums": at_points.from_sums,
    "update": update_numba.update,
}
OF_WINOGRAD_BF16 = ("to_panels", "convolve", "to_pairs", "kernel_sums", "from_sums")
CAN_WAIT = ("cut_jpegs",)  # first in LOOPS, so that a helper comes to it last
MOST_HELPERS = 3
_of_helpers: set[str] = set()  # of CAN_WAIT, what they are compiling or will


def start(net: NetSpec, precision: str) -> None:
    """Starts helpers where loops that a training on the CPU needs are not in the cache; `precision` as in RunSpec."""
    number_type = "bfloat16" if _bf16(precision) else "float32"
    missing = [name for name in needed(net, number_type) if not _is_cached(LOOPS[name])]
    helpers = min(MOST_HELPERS, cores.usable() - 1, len(missing) // 2)  # one loop is no work for another
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    for i in range(helpers):
        command = [sys.executable, "-m", "alexnet.kernels.compile_ahead", number_type, *missing[i::helpers][::-1]]
        with contextlib.suppress(OSError):  # no memory for another process: then it compiles alone
            subprocess.Popen(command, **quiet)
            _of_helpers.update(name for name in command[4:] if name in CAN_WAIT)


def ready(name: str) -> bool:
    """False as long as a helper has one of CAN_WAIT to compile."""
    if name in _of_helpers and _is_cached(LOOPS[name]):
        _of_helpers.discard(name)
    return name not in _of_helpers


def needed(net: NetSpec, number_type: str) -> list[str]:
    """The names in LOOPS of what a training of the net meets."""
    convs = [conv for conv in (net.conv1, net.conv2, net.conv3, net.conv4, net.conv5) if conv]
    words = {word for conv in convs for word in conv.then}
    wide = [conv.channels // net.towers >= ENOUGH_CHANNELS for conv in convs]
    wanted = {"cut", "update"} | ({"in_blocks"} if convs and convs[0].stride > 1 else set())
    if net.crop_px > 32:  # packs of smaller pictures are raw
        wanted |= {"cut_jpegs"}
    if any(before and after for before, after in pairwise(wide)):
        wanted |= _of_winograd(number_type)
    if net.dropout:
        wanted |= {"draw"}
    if "pool" in words:
        wanted |= {"gradient_at_places"} | ({"max_pool"} if number_type == "bfloat16" else set())
    if "rnorm" in words and net.rnorm:
        wanted |= {"map_forward", "map_backward"}
    if "lrn" in words and net.lrn:
        fives = (net.lrn.size, net.lrn.beta) == (5, 0.75) and (number_type == "float32" or wide_vectors())
        over = "fives" if fives else "channels"
        wanted |= {f"{over}_forward", f"{over}_backward"}
    return [name for name in LOOPS if name in wanted]


def _of_winograd(number_type: str) -> set[str]:
    if number_type == "bfloat16":
        return set(OF_WINOGRAD_BF16) if winograd_bf16.pay() else set()
    return {"to_points", "from_points"} | ({"products"} if gemm_numba.pay() else set())


def _bf16(precision: str) -> bool:
    """What `machine.precision` says of a CPU, without PyTorch."""
    if precision != "auto":
        return precision == "bf16"
    return has("amx-tile") or has("avx512bf16")


def _is_cached(loop) -> bool:
    """Whether numba has kept it, or has no place to keep it, which makes a helper's work worth nothing."""
    function, folder = loop.py_func, loop.stats.cache_path
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}-{function.__code__.co_firstlineno}.*.nbc"
    return folder is None or any(Path(folder).glob(name))


def compile_loop(name: str, number_type: str) -> None:
    """Compiles a loop for arrays of float32 or bfloat16 by giving it nothing to do."""
    if name.startswith("cut"):
        return _cut_a_dot(np.uint16 if number_type == "bfloat16" else np.float32, name == "cut_jpegs")
    wide, one = np.zeros(8, np.float32), np.float32(1)
    x = np.zeros(8, np.uint16) if number_type == "bfloat16" else wide
    copy, places = x if number_type == "bfloat16" else update_numba.NOTHING, np.zeros(8, np.int16)
    tiling, matrix = winograd_numba.Tiling(*[1] * 10), wide.reshape(2, 4)
    maps, kernels = winograd_bf16.Maps(*[2] * 10), at_points.Kernels(*[16] * 10)
    pairs, counts = np.zeros(8, np.uint32), np.zeros(17, np.int64)
    arguments = {
        "in_blocks": (x, x, 0, 0, *[1] * 7),
        "products": (wide, wide, wide, gemm_numba.Sizes(*[1] * 11), 0, 0, False),
        "to_points": (wide, wide, 0, 0, tiling, matrix),
        "from_points": (wide, wide, 0, 0, tiling, matrix, wide),
        "to_panels": (x, pairs, 0, 0, kernels, 1),
        "from_sums": (wide, x, 0, 0, 1, kernels, 1),
        "convolve": (x, x, False, x, counts, wide, x, False, 0, 0, maps, maps, 4),
        "to_pairs": (x, x, False, pairs, wide, 0, 0, 0, maps, 4, 1),
        "kernel_sums": (pairs, pairs, counts, wide, 0, 0, *[1] * 4, 4, False),
        "fives_forward": (x, x, 0, 0, 1, one, one),
        "channels_forward": (x, x, 0, 0, 1, 0, 1, one, one, one),
        "map_forward": (x, x, 0, 0, 1, 1, 1, 0, 1, one, one, one),
        "map_backward": (x, x, x, 0, 0, 1, 1, 1, 0, 1, one, one, one),
        "channels_backward": (x, x, x, 0, 0, 1, 0, 1, one, one, one),
        "fives_backward": (x, x, x, 0, 0, 1, one, one),
        "draw": (x, 0, 0, np.uint64(0), np.uint64(0), one),
        "max_pool": (x, x, places, 0, 0, *[1] * 7, False),
        "gradient_at_places": (places, x, x, 0, 0, *[1] * 7),
        "update": (wide, wide, x, copy, 0, 0, one, one, one),
    }
    LOOPS[name](*arguments[name])
    return None


def _cut_a_dot(number: type, of_jpeg: bool) -> None:
    """A batch of one picture, drawn and cut as in training."""
    size = 32  # the least of a JPEG that is decoded here
    prep = augment.Preprocessing(size, 1, np.zeros((size, size, 3), np.float32), *[np.ones(3)] * 2, np.eye(3))
    draws = augment.training_draws(DataSpec(), prep, 0, 0, np.arange(1), relit=True)
    black, out = np.zeros((1, size, size, 3), np.uint8), np.empty((1, 1, 1, 3), number)
    if of_jpeg:
        from alexnet.data import image  # Pillow, which the start of a training need not wait for

        stored = [image.encode_jpeg(black[0])]
        cut_jpegs.cut_jpegs(Decoder(size), stored, draws, augment.mean_and_scales(draws, prep), out, 0)
    else:
        augment.cut(black, draws, prep, out)


if __name__ == "__main__":
    for loop_name in sys.argv[2:]:
        if loop_name in CAN_WAIT and hasattr(os, "nice"):
            os.nice(19)  # the first steps run meanwhile
        compile_loop(loop_name, sys.argv[1])
