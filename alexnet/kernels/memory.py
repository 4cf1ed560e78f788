"""Where the large tensors of the loops on a CPU come from: malloc, as NumPy calls it.

PyTorch asks glibc for aligned memory, which before glibc 2.38 cannot take a hole of the very size that such a tensor
left behind: it wants room to align in as well. So the heap grows by holes, a third of the memory of a training step.
"""

import math

import numpy as np
import torch
from torch import Tensor

LARGE_NBYTES = 1 << 20  # below, holes do not matter
LINE_NBYTES = 64  # of a cache, at which PyTorch aligns


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """torch.empty on the CPU."""
    if math.prod(shape) * dtype.itemsize < LARGE_NBYTES:
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)
    strides = torch.empty(shape, dtype=dtype, device="meta", memory_format=memory_format).stride()
    return _strided(shape, strides, dtype)


def empty_like(x: Tensor) -> Tensor:
    """torch.empty_like of a dense tensor on the CPU, laid out as it is."""
    return torch.empty_like(x) if x.nbytes < LARGE_NBYTES else _strided(x.shape, x.stride(), x.dtype)


def _strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Dense. Not a view, so that autograd lets it be changed in place; its storage keeps NumPy's memory."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + LINE_NBYTES, np.uint8)
    start = -memory.ctypes.data % LINE_NBYTES
    storage = torch.from_numpy(memory[start : start + nbytes]).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape, strides)
