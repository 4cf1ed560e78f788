"""The door to dropout's masks: a compiled loop on a CPU, where PyTorch draws one number after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels import plain
from alexnet.kernels.threads import COMPILED_TYPES, over_rows

PLACES_PER_PIECE = 2**16  # about 0.1 ms of work


def draw(x: Tensor, keep: float, value: float = 1.0, shape: Sequence[int] | None = None) -> Tensor:
    """A mask of x's type, on its device and of its shape, unless there is another: `value` with probability `keep`,
    else 0. Torch's global generator moves on.
    """
    mask = x.new_empty(x.shape if shape is None else shape)
    if x.device.type != "cpu" or x.dtype not in COMPILED_TYPES or plain.reason():
        return mask.bernoulli_(keep).mul_(value)
    from alexnet.kernels import mask_numba
    from alexnet.kernels.compiled import flat

    seed = np.uint64(torch.empty((), dtype=torch.int64).random_().item())
    array, below = flat(mask), np.uint64(round(keep * 2**32))
    numbers = seed, below, np.float32(value)
    over_rows(lambda first, last: mask_numba.draw(array, first, last, *numbers), mask.numel(), PLACES_PER_PIECE)
    return mask
