"""What the doors to the Triton kernels share: whether they can serve a tensor, and launching on the right device.

They run on CUDA devices; on the CPU only under Triton's interpreter (TRITON_INTERPRET=1 before the start of Python),
which is how they are tested on machines without a GPU, and nothing to compute with.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch

INSTALLED = find_spec("triton") is not None
BLOCK = 1024  # numbers that one program of an elementwise kernel handles


def obstacle(device: torch.device) -> str:
    """Why Triton's kernels can not serve tensors of this device; empty if they can."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreting()):
        return f"Triton's kernels run on CUDA devices, not on {device.type}"
    return "" if INSTALLED else "triton is not installed"


def interpreting() -> bool:
    """Whether kernels are run by Triton's interpreter, in Python, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def on(device: torch.device) -> AbstractContextManager:
    """Kernels are launched on the current device: this makes it the one where the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def wide(*tensors: torch.Tensor) -> bool:
    """Whether the places of their numbers need more than 32 bits."""
    return max(t.numel() for t in tensors) > 2**31 - BLOCK
