"""The door to convolutions: PyTorch's, or ways to the same numbers that are quicker somewhere.

With a stride (conv1) a block of stride x stride pixels is taken as one pixel with all their colours, and kernels
likewise; 11 x 11 x 3 become 3 x 3 x 48. That suits matrix units, of GPUs, where cuDNN would fill 3 colours up to 8, and
of CPUs in bfloat16; and what is left has stride 1. Kernels of 3 and 5 pixels with stride 1 go by Winograd's algorithm
on a CPU: in float32, and in bfloat16 where it has AVX-512 BF16 and no matrix units.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.kernels import memory, plain
from alexnet.kernels.threads import COMPILED_TYPES, over_rows

FEW_COLOURS = 8  # as channels that a convolution with a stride begins from


def conv2d(
    x_nchw: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    overhang: int = 0,
    kept: dict | None = None,
    rectified: bool = False,
) -> Tensor:
    """As torch.nn.functional.conv2d of (N, C, H, W), kernels (maps, C / groups, side, side); `overhang` more pixels of
    zeros at the right and the bottom. `kept` holds what was made of kernels that are not trained now. `rectified`: and
    ReLU of it, in the same pass where that is quicker.
    """
    way, _ = chosen(x_nchw, weight, stride, padding, groups, kept is not None)
    if way == "blocks":
        return of_blocks(x_nchw, weight, bias, stride, padding, overhang, rectified)
    if overhang:
        before, after = padding, padding + overhang
        x_nchw, padding = F.pad(x_nchw, (before, after, before, after)), 0
    if way == "winograd":
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        if x_nchw.dtype == torch.bfloat16:
            from alexnet.kernels import winograd_bf16

            return winograd_bf16.conv2d(x_nchw, weight, bias, padding, groups, kept, rectified)
        from alexnet.kernels import winograd

        y = winograd.conv2d(x_nchw, weight, bias, padding, groups, kept)
    else:
        y = F.conv2d(x_nchw, weight, bias, stride, padding, groups=groups)
    return F.relu(y, inplace=not y.is_cuda) if rectified else y


def chosen(
    x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, groups: int = 1, kept: bool = False
) -> tuple[str, str]:
    """(torch, blocks or winograd, reason) for this convolution; `blocks` is looked at again without its stride."""
    if why := plain.types(x.device.type):
        return "torch", why
    strided = stride > 1 and groups == 1
    if x.device.type == "cuda" and strided:
        return "blocks", "few colours would be filled up with zeros"
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and strided and x.shape[1] <= FEW_COLOURS:
        return "blocks", "few colours leave vectors and matrix units half empty"
    if why := _no_tiles(x, weight, stride, groups) or _no_loops(x, weight, stride, padding, groups):
        return "torch", why
    if why := _too_small(x, weight, stride, padding, groups, kept):
        return "torch", why
    if stride == 1:
        return "winograd", "fewer products"
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return "torch", "with a stride only the gradient is quicker by Winograd's algorithm"
    return "blocks", "fewer products for the gradient, by Winograd's algorithm"


def _no_tiles(x: Tensor, weight: Tensor, stride: int, groups: int) -> str:
    """Why Winograd's algorithm does not know this convolution; empty where it does."""
    if x.device.type != "cpu" or x.dtype not in COMPILED_TYPES or weight.dtype != x.dtype:
        return f"Winograd's loops take float32 and bfloat16 on the CPU, not {x.dtype} on {x.device.type}"
    height, breadth = weight.shape[2:]
    if breadth != height or -(-height // stride) not in (3, 5) or (stride > 1 and groups > 1):
        return f"there are no tiles for kernels of {height} x {breadth} pixels and stride {stride} in {groups} groups"
    return ""


def _no_loops(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> str:
    """Why the loops in bfloat16 do not serve it, or do not pay."""
    if x.dtype != torch.bfloat16:
        return ""
    from alexnet.kernels import winograd_bf16_numba as loops

    if not loops.pay():
        return "oneDNN has matrix units here, or nobody multiplies bfloat16"
    if weight.shape[1] * stride**2 % loops.CHANNELS or len(weight) // groups % loops.CHANNELS:
        return f"Winograd's loops in bfloat16 take channels by {loops.CHANNELS}"
    return "Winograd's loops in bfloat16 take less padding than kernel" if padding >= weight.shape[2] else ""


def _too_small(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int, kept: bool) -> str:
    from alexnet.kernels.winograd_numba import ENOUGH_CHANNELS, ENOUGH_TILES

    tiles = [((side + 2 * padding - weight.shape[2]) // stride + 1) // 4 for side in x.shape[2:]]
    enough = ENOUGH_TILES // 2 if kept else ENOUGH_TILES  # kernels need not be transformed again
    few = (
        len(x) * tiles[0] * tiles[1] < enough
        or min(weight.shape[1] * stride**2, len(weight) // groups) < ENOUGH_CHANNELS
    )
    return "there are too few tiles or channels to win" if few else ""


def of_blocks(
    x_nchw: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int = 0,
    overhang: int = 0,
    rectified: bool = False,
) -> Tensor:
    """The convolution without its stride: blocks of stride x stride pixels are its pixels."""
    kernel_px, blocks = weight.shape[2], -(-weight.shape[2] // stride)  # of a kernel's side
    counts = [(side + 2 * padding + overhang - kernel_px) // stride + blocks for side in x_nchw.shape[2:]]
    fill = blocks * stride - kernel_px
    weight = in_blocks(F.pad(weight, (0, fill, 0, fill)), stride)
    return conv2d(picture_in_blocks(x_nchw, stride, padding, *counts), weight, bias, rectified=rectified)


def picture_in_blocks(x_nchw: Tensor, side: int, before: int, rows: int, columns: int) -> Tensor:
    """`in_blocks` of rows x columns blocks of the picture with `before` zeros at the left and the top, and as many as
    are needed at the right and the bottom; pixels beyond are left out.
    """
    if _compiled_serves(x_nchw):
        from alexnet.kernels import blocks_numba
        from alexnet.kernels.compiled import flat

        n, c, h, w = x_nchw.shape
        sizes = n, side * side * c, rows, columns
        out = memory.empty(sizes, x_nchw.dtype, torch.channels_last)
        arrays = [flat(t) for t in (x_nchw.contiguous(memory_format=torch.channels_last), out)]
        over_rows(lambda a, b: blocks_numba.in_blocks(*arrays, a, b, h, w, c, before, side, rows, columns), n)
        return out
    bottom, right = (n * side - extent - before for n, extent in zip((rows, columns), x_nchw.shape[2:], strict=True))
    return in_blocks(F.pad(x_nchw, (before, right, before, bottom)), side)


def _compiled_serves(x: Tensor) -> bool:
    if plain.reason() or x.requires_grad:
        return False
    return x.device.type == "cpu" and x.dtype in COMPILED_TYPES


def in_blocks(x_nchw: Tensor, side: int) -> Tensor:
    """(N, C, H, W) to (N, side * side * C, H / side, W / side), channels_last."""
    n, c, h, w = x_nchw.shape
    rows = x_nchw.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side, c)
    return rows.permute(0, 1, 3, 2, 4, 5).reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)
