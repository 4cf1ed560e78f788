"""The small modules AlexNet is made of, beyond what torch.nn has. Activations are (N, C, H, W), channels_last in
memory.

The response norms call the door `kernels/lrn.py`; everything else is a few lines of PyTorch.
"""

from __future__ import annotations

from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.kernels import conv, dense, lrn, mask, pool
from alexnet.kernels.local import local2d
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

    def __init__(self, kernel_size: int, stride: int | None = None, *, ceil_mode: bool = False):
        _square("MaxPool2d", kernel_size, stride or 1)
        super().__init__(kernel_size, stride, ceil_mode=ceil_mode)

    def forward(self, x_nchw: Tensor, rectified: bool = False) -> Tensor:
        """`rectified`: and ReLU of it, in place of a module that follows."""
        return pool.max_pool(x_nchw, self.kernel_size, self.stride, self.ceil_mode, rectified)


def _square(layer: str, *pixels: int) -> None:
    if not all(isinstance(n, Integral) for n in pixels):
        raise UsageError(f"{layer} takes one whole number for both sides, not {pixels}; torch.nn's takes two")


class BatchNorm1d(nn.BatchNorm1d):
    """Batch norm of (N, units). A picture that is a batch's only one, as the last of an epoch may be, has nothing to be
    compared with: it is normed as in a test.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


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
        keep = 1 - self.rate
        if self.training:
            return x * mask.draw(x, keep, 1 / keep if self.inverted else 1)
        return x if self.inverted else x * keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}, inverted={self.inverted}"


class Conv2d(nn.Conv2d):
    """A convolution whose last windows may hang over the right and bottom edge by `overhang_px` zeros.

    This is how 224 pixels gave 55 positions in 2012: 1 + ceil((224 - 11) / 4), zeros at two sides only.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        *,
        bias: bool = True,
        overhang_px: int = 0,
    ):
        _square("Conv2d", kernel_size, stride, padding)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
        self.overhang_px = overhang_px
        self._kept: dict = {}

    def train(self, mode: bool = True) -> Conv2d:
        """As in torch; and what was made of the kernels is made anew."""
        self._kept.clear()
        return super().train(mode)

    def forward(self, x_nchw: Tensor, rectified: bool = False) -> Tensor:
        """`rectified`: and ReLU of it, in place of a module that follows."""
        numbers = (self.stride[0], self.padding[0], self.groups, self.overhang_px)
        kept = self._kept if torch.is_inference_mode_enabled() and not self.training else None
        return conv.conv2d(x_nchw, self.weight, self.bias, *numbers, kept, rectified)


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
        x = F.pad(x_nchw, [self.padding_px] * 4)
        return local2d(x, self.weight[:, None].to(x.dtype), self.kernel_px) + self.bias


class Flatten(nn.Module):
    """(N, C, H, W) to (N, C*H*W), channel-major whatever the memory format, so weights keep the 2012 order."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        return x_nchw.contiguous().flatten(1)
