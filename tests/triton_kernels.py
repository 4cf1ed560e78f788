"""Where the tests of Triton kernels run: on the GPU where there is one, under Triton's interpreter elsewhere.

The interpreter must have been chosen before triton is first imported, which conftest.py does; triton is imported only
by the kernels themselves.
"""

from importlib.util import find_spec

import pytest
import torch

from alexnet.kernels import gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
obstacle = gpu.obstacle(torch.device(DEVICE)) if find_spec("triton") else "triton is not installed (Linux only)"
needs_triton = pytest.mark.skipif(bool(obstacle), reason=obstacle or "-")
