"""Large tensors from malloc: laid out as PyTorch would, aligned, and in the holes that others of their size left."""

import platform
import subprocess
import sys

import pytest
import torch

from alexnet.kernels import memory
from alexnet.kernels.memory import LARGE_NBYTES, LINE_NBYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (16, 64, 55, 57)])
def test_laid_out_as_pytorch_would(shape, dtype):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        wanted = torch.empty(shape, dtype=dtype, memory_format=memory_format)
        for found in (memory.empty(shape, dtype, memory_format), memory.empty_like(wanted)):
            assert (found.shape, found.stride(), found.dtype) == (wanted.shape, wanted.stride(), dtype)
            assert found.data_ptr() % LINE_NBYTES == 0
            assert found.zero_().eq(0).all()
            assert found.is_contiguous(memory_format=memory_format)


def test_it_lives_as_long_as_a_view_of_it():
    part = memory.empty((LARGE_NBYTES,), torch.float32).fill_(3)[10:20]
    others = [memory.empty((LARGE_NBYTES,), torch.float32).fill_(5) for _ in range(3)]
    assert part.tolist() == [3] * 10
    assert all(other.mean() == 5 for other in others)


def test_it_may_be_changed_in_place_behind_a_function_of_our_own():
    """As ReLU is behind a convolution; a view that a function returned could not be."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch.mul(x, 2, out=memory.empty_like(x))

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    x = torch.randn(LARGE_NBYTES, requires_grad=True)
    Twice.apply(x).relu_().sum().backward()
    torch.testing.assert_close(x.grad, 2 * (x > 0).float())


HOLES = """
import torch
from alexnet import machine
from alexnet.kernels import memory

machine.keep_freed_memory()
kept = []
for _ in range(20):
    hole = memory.empty((1 << 22,), torch.float32)
    kept.append(memory.empty((1 << 18,), torch.float32))  # what lies behind it stays
    place = hole.data_ptr()
    del hole
    again = memory.empty((1 << 22,), torch.float32)
    assert again.data_ptr() == place
print("filled")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="holes of glibc's heap")
def test_a_hole_of_its_size_is_filled():
    answer = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True)
    assert answer.stdout == "filled\n", answer.stderr
