"""Layers without weights that change pictures: blur, nailbed, href, rgb2yuv, resize, crop. (N, C, H, W) to the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.layerfile.layers import as_maps
from alexnet.layerfile.records import Layer

YUV = ((0.2126, 0.7152, 0.0722), (-0.09991, -0.33609, 0.436), (0.615, -0.55861, -0.05639))  # of R, G, B


def module(layer: Layer, in_shape: tuple[int, int, int], out_px: int) -> nn.Module:
    """The module of one of these layers."""
    match layer.type:
        case "blur":
            return Blur(layer, in_shape)
        case "nailbed":
            return Nailbed(layer, in_shape, out_px)
        case "resize":
            return Resize(layer, in_shape, out_px)
        case "crop":
            return Crop(layer, in_shape)
    return Mirror(in_shape) if layer.type == "href" else Yuv(in_shape)


class Blur(nn.Module):
    """A separable Gaussian per channel; zeros around the map darken its border."""

    def __init__(self, layer: Layer, in_shape: tuple[int, int, int]):
        super().__init__()
        self.in_shape, taps = in_shape, layer.options["filtersize"]
        distance = torch.arange(taps, dtype=torch.float64) - taps // 2
        weights = torch.exp(-(distance**2) / (2 * layer.options["stdev"] ** 2))
        self.register_buffer("taps", (weights / weights.sum()).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x, n = as_maps(x, self.in_shape), len(self.taps)
        taps = self.taps.to(x.dtype).expand(x.shape[1], 1, 1, n)
        x = F.conv2d(x, taps, padding=(0, n // 2), groups=x.shape[1])
        return F.conv2d(x, taps.mT, padding=(n // 2, 0), groups=x.shape[1])


class Nailbed(nn.Module):
    """Every `stride`-th pixel, centred."""

    def __init__(self, layer: Layer, in_shape: tuple[int, int, int], out_px: int):
        super().__init__()
        self.in_shape, self.stride = in_shape, layer.options["stride"]
        self.start = (in_shape[1] - self.stride * (out_px - 1)) // 2

    def forward(self, x: Tensor) -> Tensor:
        return as_maps(x, self.in_shape)[:, :, self.start :: self.stride, self.start :: self.stride]


class Mirror(nn.Module):
    """href: left and right change places."""

    def __init__(self, in_shape: tuple[int, int, int]):
        super().__init__()
        self.in_shape = in_shape

    def forward(self, x: Tensor) -> Tensor:
        return as_maps(x, self.in_shape).flip(-1)


class Yuv(nn.Module):
    """rgb2yuv: brightness and two colour differences from red, green and blue."""

    def __init__(self, in_shape: tuple[int, int, int]):
        super().__init__()
        self.in_shape = in_shape
        self.register_buffer("matrix", torch.tensor(YUV), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("yc,nchw->nyhw", self.matrix.to(x.dtype), as_maps(x, self.in_shape))


class Resize(nn.Module):
    """resize: bilinear, to 1 / scale of the side; pixel i is read at i * scale, moved so that the middles agree."""

    def __init__(self, layer: Layer, in_shape: tuple[int, int, int], out_px: int):
        super().__init__()
        scale, side_px = layer.options["scale"], in_shape[1]
        places = torch.arange(out_px, dtype=torch.float64) * scale + (side_px / 2 - out_px * scale / 2)
        places = places.clamp(0, max(0.0, side_px - 1.01))
        first, rows = places.long(), torch.arange(out_px)
        weights = torch.zeros(out_px, side_px, dtype=torch.float64)  # of every pixel of a row, two of them not 0
        weights[rows, first] = 1 - (places - first)
        weights[rows, (first + 1).clamp(max=side_px - 1)] += places - first
        self.in_shape = in_shape
        self.register_buffer("weights_ts", weights.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weights_ts = self.weights_ts.to(x.dtype)
        return weights_ts @ (as_maps(x, self.in_shape) @ weights_ts.mT)


class Crop(nn.Module):
    """crop: the square of side sizeX whose corner is at (startX, startY)."""

    def __init__(self, layer: Layer, in_shape: tuple[int, int, int]):
        super().__init__()
        o = layer.options
        self.in_shape, self.x, self.y, self.size = in_shape, o["startx"], o["starty"], o["sizex"]

    def forward(self, x: Tensor) -> Tensor:
        return as_maps(x, self.in_shape)[:, :, self.y : self.y + self.size, self.x : self.x + self.size]
