"""Locally connected layers against F.unfold and a product at every place, in float64."""

import pytest
import torch
import torch.nn.functional as F

from alexnet.kernels.local import local2d


def reference(x_nchw, weight, kernel_px, stride):
    windows = F.unfold(x_nchw, kernel_px, stride=stride).unflatten(1, (weight.shape[1], -1))
    out = torch.einsum("ngkp,pgkf->ngfp", windows, weight).flatten(1, 2)
    return out.unflatten(2, (-1, (x_nchw.shape[3] - kernel_px) // stride + 1))


@pytest.mark.parametrize(
    ("shape", "maps", "kernel_px", "stride", "groups"),
    [
        ((3, 2, 5, 5), 3, 3, 1, 1),
        ((2, 6, 7, 7), 4, 3, 2, 2),
        ((1, 4, 6, 9), 8, 2, 3, 4),  # the last rows and columns are in no window
        ((2, 3, 4, 4), 5, 4, 1, 1),
        ((2, 3, 1, 1), 2, 1, 1, 1),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients(shape, maps, kernel_px, stride, groups, memory_format):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    height, width = ((side - kernel_px) // stride + 1 for side in shape[2:])
    weight = torch.randn(height * width, groups, shape[1] // groups * kernel_px**2, maps // groups, dtype=torch.float64)
    weight.requires_grad_()
    found, wanted = local2d(x, weight, kernel_px, stride), reference(x, weight, kernel_px, stride)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)
    g = torch.randn_like(wanted)
    torch.testing.assert_close(torch.autograd.grad(found, (x, weight), g), torch.autograd.grad(wanted, (x, weight), g))
