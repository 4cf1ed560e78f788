"""Locally connected layers: a convolution's windows, with filters of their own at every place."""

import torch
from torch import Tensor


def local2d(x_nchw: Tensor, weight: Tensor, kernel_px: int, stride: int = 1) -> Tensor:
    """(N, C, H, W) to (N, maps, H_out, W_out), channels_last, for weight (H_out * W_out, groups, C / groups * kernel *
    kernel, maps / groups); as F.unfold and a product at every place, groups of channels apart.

    Windows are laid down place by place with channels innermost: long runs to copy, one matrix for each product.
    """
    groups = weight.shape[1]
    x_nhwgc = x_nchw.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
    height, width = ((side - kernel_px) // stride + 1 for side in x_nhwgc.shape[1:3])
    rows, columns = (
        [slice(first, first + (out - 1) * stride + 1, stride) for first in range(kernel_px)] for out in (height, width)
    )
    taps = [x_nhwgc[:, row, column].permute(1, 2, 3, 0, 4) for row in rows for column in columns]
    windows_pgnk = torch.cat(taps, dim=4).flatten(0, 2)
    weight_pgkf = weight.unflatten(2, (-1, kernel_px**2)).transpose(2, 3).flatten(2, 3).flatten(0, 1)
    out = torch.bmm(windows_pgnk, weight_pgkf).unflatten(0, (height, width, groups))
    return out.permute(3, 0, 1, 2, 4).flatten(3).contiguous().permute(0, 3, 1, 2)
