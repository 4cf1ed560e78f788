"""The door to cutting a batch out of squares that lie on the device: crop, mirror, mean, light, scale (augment.cut).

    squares uint8 (M, S, S, 3)  ->  one gather and cut  ->  (N, 3, crop, crop), channels_last, float32 or bfloat16

On a GPU this is one kernel; on the CPU the compiled loops that the loader uses. Both round as `augment.cut` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.data import augment
from alexnet.data.augment import Draws, Preprocessing
from alexnet.kernels import gpu


def chosen(device: torch.device | str) -> tuple[str, str]:
    """(backend, reason) for squares on this device."""
    device = torch.device(device)
    if device.type == "cpu":
        return "numba", "the compiled loop of the loader"
    obstacle = gpu.obstacle(device)
    return ("reference", obstacle) if obstacle else ("triton", "one kernel")


@dataclass(frozen=True)
class Cutter:
    """What all batches of a run share: the squares and, on their device, the central mean (crop, crop, 3) float32."""

    squares_mhwc: Tensor
    prep: Preprocessing
    mean_hwc: Tensor
    backend: str

    @staticmethod
    def of(squares_mhwc: Tensor, prep: Preprocessing, backend: str | None = None) -> Cutter:
        """`backend`: None for the chosen one; "numba", "reference" or "triton" to force it."""
        mean = torch.from_numpy(prep.central_mean()).to(squares_mhwc.device)
        return Cutter(squares_mhwc, prep, mean, backend or chosen(squares_mhwc.device)[0])

    def cut(self, pictures: np.ndarray, draws: Draws, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, 3, crop, crop) channels_last of the squares `pictures` (N,), as `draws` say. Never waits for the GPU."""
        if self.backend == "numba":
            out = np.empty((pictures.size, *self.mean_hwc.shape), np.float32)
            cut = augment.cut(self.squares_mhwc.numpy()[pictures], draws, self.prep, out)
            return torch.from_numpy(cut).to(dtype).permute(0, 3, 1, 2)
        drawn, scales = self._uploaded(pictures, draws)
        resized = draws.heights is not None
        if self.backend == "reference":
            return reference(self.squares_mhwc, drawn, self.mean_hwc, scales, resized).to(dtype).permute(0, 3, 1, 2)
        from alexnet.kernels import crop_triton

        out = torch.empty((pictures.size, *self.mean_hwc.shape), dtype=dtype, device=self.squares_mhwc.device)
        crop_triton.cut(self.squares_mhwc, drawn, self.mean_hwc, scales, out, resized)
        return out.permute(0, 3, 1, 2)

    def _uploaded(self, pictures: np.ndarray, draws: Draws) -> tuple[Tensor, Tensor]:
        """int32 (N, 9): square, top, left, mirror, height, width, the bits of three shifts; and float32 (3,): what to
        multiply by.
        """
        _, scales = augment.mean_and_scales(draws, self.prep)
        shifts = np.ascontiguousarray(draws.shifts, np.float32).view(np.int32)
        crop = np.full(pictures.size, self.prep.crop_px)
        sides = (crop, crop) if draws.heights is None else (draws.heights, draws.widths)
        each = (pictures, draws.tops, draws.lefts, draws.mirrors, *sides)
        columns = [np.asarray(numbers, np.int32)[:, None] for numbers in each]
        return self.to_device(np.hstack([*columns, shifts])), self.to_device(scales)

    def to_device(self, array: np.ndarray) -> Tensor:
        """The array where the squares are, without waiting for the GPU."""
        tensor, device = torch.from_numpy(array), self.squares_mhwc.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def reference(
    squares_mhwc: Tensor, drawn_n9: Tensor, mean_hwc: Tensor, scales: Tensor, resized: bool = False
) -> Tensor:
    """The same in plain PyTorch, (N, crop, crop, 3) float32, any device."""
    crop = mean_hwc.shape[0]
    places = torch.arange(crop, device=squares_mhwc.device)
    square, top, left, mirror, height, width = (column.long()[:, None] for column in drawn_n9[:, :6].unbind(1))
    columns = torch.where(mirror != 0, places.flip(0), places)
    if resized:
        rows, columns = neighbours(places[None], height, crop), neighbours(columns, width, crop)
        wide = [(y, x) for y in rows for x in columns]
        parts = [_pixels(squares_mhwc, square, top + y, left + x).int() * _weights(wy, wx) for (y, wy), (x, wx) in wide]
        pixels = (sum(parts) + 32768) >> 16
    else:
        pixels = _pixels(squares_mhwc, square, top + places, left + columns)
    shifts = drawn_n9[:, 6:].contiguous().view(torch.float32)
    return (pixels.float() - mean_hwc + shifts[:, None, None]) * scales


def neighbours(i: Tensor, side: Tensor, crop: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """resized_crop.neighbour, both of them: (source pixel, weight in 256ths) of the first and of the second."""
    place = ((2 * i + 1) * side - crop).clamp(min=0)
    first, weight = place // (2 * crop), (place % (2 * crop) * 256 + crop) // (2 * crop)
    return (first, 256 - weight), (torch.minimum(first + 1, side - 1), weight)


def _pixels(squares_mhwc: Tensor, square: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return squares_mhwc[square[:, :, None], rows[:, :, None], columns[:, None, :]]


def _weights(of_rows: Tensor, of_columns: Tensor) -> Tensor:
    return (of_rows[:, :, None] * of_columns[:, None, :]).int()[..., None]
