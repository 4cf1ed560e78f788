"""The small modules AlexNet is made of, beyond what torch.nn has. Activations are (N, C, H, W), channels_last in
memory.

The response norms call the door `kernels/lrn.py`; everything else is a few lines of PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.kernels import dense, lrn, pool
from alexnet.spec import LrnSpec, RnormSpec


class LocalResponseNorm(nn.Module):
    """Response norm of (N, C, H, W) over `size` maps (paper, section 3.3), never across `groups` towers."""

    def __init__(self, spec: LrnSpec, groups: int = 1):
        super().__init__()
        self.spec, self.groups = spec, groups
        self.alpha = spec.alpha if spec.alpha_divided else spec.alpha * spec.size  # the kernel divides by size

    def forward(self, x_nchw: Tensor) -> Tensor:
        s = self.spec
        return lrn.local_response_norm(x_nchw, s.size, self.alpha, s.beta, s.k, groups=self.groups)

    def extra_repr(self) -> str:
        return f"{self.spec}, groups={self.groups}"


class SpatialResponseNorm(nn.Module):
    """Response norm of (N, C, H, W) over size x size pixels of the same map: run 145's second norm after conv2, not in
    the paper.
    """

    def __init__(self, spec: RnormSpec):
        super().__init__()
        self.spec = spec

    def forward(self, x_nchw: Tensor) -> Tensor:
        s = self.spec
        return lrn.spatial_response_norm(x_nchw, s.size, s.alpha, s.beta, s.k)

    def extra_repr(self) -> str:
        return str(self.spec)


class MaxPool2d(nn.MaxPool2d):
    """Max pooling, overlapping where the stride is smaller than the window (paper, section 3.4)."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        return pool.max_pool(x_nchw, self.kernel_size, self.stride, self.ceil_mode)


class Linear(nn.Linear):
    """A dense layer, (N, inputs) to (N, outputs)."""

    def forward(self, x: Tensor) -> Tensor:
        return dense.linear(x, self.weight, self.bias)


class Dropout(nn.Module):
    """Dropout as in 2012 (paper, section 4.2): masked in training, times the keep rate at test; or inverted, as since.

    The mask comes from torch's global generator, which the training step reseeds from (seed, step).
    """

    def __init__(self, rate: float, inverted: bool = False):
        super().__init__()
        self.rate, self.inverted = rate, inverted

    def forward(self, x: Tensor) -> Tensor:
        if self.inverted:
            return F.dropout(x, self.rate, self.training)
        keep = 1 - self.rate
        return x * torch.empty_like(x).bernoulli_(keep) if self.training else x * keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}, inverted={self.inverted}"


class StridedConv2d(nn.Conv2d):
    """A convolution with a stride, whose last windows may hang over the right and bottom edge by `overhang_px` zeros.

    This is how 224 pixels gave 55 positions in 2012: 1 + ceil((224 - 11) / 4), zeros at two sides only. On a GPU it is
    computed as `conv_of_blocks`.
    """

    def __init__(self, *args, overhang_px: int = 0, **options):
        super().__init__(*args, **options)
        self.overhang_px = overhang_px

    def forward(self, x_nchw: Tensor) -> Tensor:
        before, after = self.padding[0], self.padding[0] + self.overhang_px
        padded = F.pad(x_nchw, (before, after, before, after)) if after else x_nchw
        if x_nchw.device.type == "cuda" and self.stride[0] > 1 and self.groups == 1:
            return conv_of_blocks(padded, self.weight, self.bias, self.stride[0])
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


def conv_of_blocks(x_nchw: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """F.conv2d(x, weight, bias, stride) without the stride: each block of stride x stride pixels becomes one pixel with
    all their colours, and kernels likewise. conv1's 11 x 11 x 3 become 3 x 3 x 48, which suits matrix units; cuDNN
    would fill 3 colours up to 8.
    """
    kernel_px, sides = weight.shape[2], x_nchw.shape[2:]
    blocks = -(-kernel_px // stride)  # of a kernel's side
    wanted = [((side - kernel_px) // stride + blocks) * stride for side in sides]
    lacking = [want - side for want, side in zip(wanted, sides, strict=True)]  # below 0: pixels that no window reaches
    x = _in_blocks(F.pad(x_nchw, (0, lacking[1], 0, lacking[0])), stride)
    fill = blocks * stride - kernel_px
    return F.conv2d(x, _in_blocks(F.pad(weight, (0, fill, 0, fill)), stride), bias)


def _in_blocks(x_nchw: Tensor, side: int) -> Tensor:
    """(N, C, H, W) to (N, side * side * C, H / side, W / side), channels_last."""
    n, c, h, w = x_nchw.shape
    rows = x_nchw.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side, c)
    return rows.permute(0, 1, 3, 2, 4, 5).reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)


class LocalConv2d(nn.Module):
    """A locally connected layer: a convolution's windows, but own filters and bias at every position. (N, C_in, S, S)
    to (N, C_out, H_out, W_out).

    weight (positions, C_in * kernel * kernel, C_out), bias (C_out, H_out, W_out); stride 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_px: int, padding_px: int, size_px: int):
        super().__init__()
        self.kernel_px, self.padding_px = kernel_px, padding_px
        self.out_px = size_px + 2 * padding_px - kernel_px + 1
        self.weight = nn.Parameter(torch.empty(self.out_px**2, in_channels * kernel_px**2, out_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels, self.out_px, self.out_px))

    def forward(self, x_nchw: Tensor) -> Tensor:
        windows_nkp = F.unfold(x_nchw.contiguous(), self.kernel_px, padding=self.padding_px)
        out_pnf = torch.bmm(windows_nkp.permute(2, 0, 1), self.weight.to(windows_nkp.dtype))
        return out_pnf.permute(1, 2, 0).unflatten(2, (self.out_px, self.out_px)) + self.bias


class Flatten(nn.Module):
    """(N, C, H, W) to (N, C*H*W), channel-major whatever the memory format, so weights keep the 2012 order."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        return x_nchw.contiguous().flatten(1)
