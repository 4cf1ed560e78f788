"""The first training on a machine compiles its loops in two processes at once.

numba compiles one function after the other and keeps what it has made on disk, so it is waited for once; half of that a
second core can take. A helper compiles what a step meets late, in that order; the training finds it in the cache, or
compiles it too where it comes first.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from alexnet.kernels import lrn_numba, update_numba, winograd_numba
from alexnet.kernels.compiled import flat
from alexnet.kernels.conv import ENOUGH_CHANNELS
from alexnet.spec import NetSpec

LOOPS = {  # as a step meets them
    "from_points": winograd_numba.from_points,
    "map_forward": lrn_numba.map_forward,
    "map_backward": lrn_numba.map_backward,
    "channels_backward": lrn_numba.channels_backward,
    "update": update_numba.update,
}


def start(net: NetSpec, dtype: torch.dtype) -> None:
    """Starts the helper where loops that a training in `dtype` on the CPU needs are not in the cache."""
    missing = [name for name in needed(net, dtype) if not _is_cached(LOOPS[name])]
    if missing:
        command = [sys.executable, "-m", "alexnet.kernels.compile_ahead", str(dtype).removeprefix("torch."), *missing]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        threading.Thread(target=subprocess.run, args=(command,), kwargs=quiet, daemon=True).start()


def needed(net: NetSpec, dtype: torch.dtype) -> list[str]:
    """The names in LOOPS of what is worth a helper; `update` alone is not."""
    convs = [conv for conv in (net.conv1, net.conv2, net.conv3, net.conv4, net.conv5) if conv]
    words = {word for conv in convs for word in conv.then}
    wide = [conv.channels // net.towers >= ENOUGH_CHANNELS for conv in convs]
    winograd = dtype == torch.float32 and any(before and after for before, after in pairwise(wide))
    wanted = {"from_points"} if winograd else set()
    wanted |= {"map_forward", "map_backward"} if "rnorm" in words else set()
    wanted |= {"channels_backward"} if "lrn" in words else set()
    return [name for name in LOOPS if name in wanted or (wanted and name == "update")]


def _is_cached(loop) -> bool:
    """Whether numba has kept it, or has no place to keep it, which makes a helper's work worth nothing."""
    function, folder = loop.py_func, loop.stats.cache_path
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}-{function.__code__.co_firstlineno}.*.nbc"
    return folder is None or any(Path(folder).glob(name))


def compile_loop(name: str, dtype: torch.dtype) -> None:
    """Compiles a loop for arrays of `dtype` by giving it nothing to do."""
    x, wide, one = flat(torch.zeros(8, dtype=dtype)), np.zeros(8, np.float32), np.float32(1)
    copy = update_numba.NOTHING if dtype == torch.float32 else x
    tiling = winograd_numba.Tiling(*[1] * 10)
    arguments = {
        "from_points": (wide, wide, 0, 0, tiling, wide.reshape(2, 4), wide),
        "map_forward": (x, x, 0, 0, 1, 1, 1, 0, 1, one, one, one),
        "map_backward": (x, x, x, 0, 0, 1, 1, 1, 0, 1, one, one, one),
        "channels_backward": (x, x, x, 0, 0, 1, 0, 1, one, one, one),
        "update": (wide, wide, x, copy, 0, 0, one, one, one),
    }
    LOOPS[name](*arguments[name])


if __name__ == "__main__":
    for loop_name in sys.argv[2:]:
        compile_loop(loop_name, getattr(torch, sys.argv[1]))
