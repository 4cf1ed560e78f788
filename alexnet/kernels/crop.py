"""The door to cutting a batch out of squares that lie on the device: crop, mirror, mean, light, scale (augment.cut).

    squares uint8 (M, S, S, 3)  ->  one gather and cut  ->  (N, 3, crop, crop), channels_last, float32 or bfloat16

On a GPU this is one kernel; on the CPU the compiled loop that the loader uses. Both round as `augment.cut` does.
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
        if self.backend == "reference":
            return reference(self.squares_mhwc, drawn, self.mean_hwc, scales).to(dtype).permute(0, 3, 1, 2)
        from alexnet.kernels import crop_triton

        out = torch.empty((pictures.size, *self.mean_hwc.shape), dtype=dtype, device=self.squares_mhwc.device)
        crop_triton.cut(self.squares_mhwc, drawn, self.mean_hwc, scales, out)
        return out.permute(0, 3, 1, 2)

    def _uploaded(self, pictures: np.ndarray, draws: Draws) -> tuple[Tensor, Tensor]:
        """int32 (N, 7): square, top, left, mirror, the bits of three shifts; and float32 (3,): what to multiply by."""
        _, scales = augment.mean_and_scales(draws, self.prep)
        shifts = np.ascontiguousarray(draws.shifts, np.float32).view(np.int32)
        columns = [np.asarray(each, np.int32)[:, None] for each in (pictures, draws.tops, draws.lefts, draws.mirrors)]
        return self._to_device(np.hstack([*columns, shifts])), self._to_device(scales)

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor, device = torch.from_numpy(array), self.squares_mhwc.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def reference(squares_mhwc: Tensor, drawn_n7: Tensor, mean_hwc: Tensor, scales: Tensor) -> Tensor:
    """The same in plain PyTorch, (N, crop, crop, 3) float32, any device."""
    places = torch.arange(mean_hwc.shape[0], device=squares_mhwc.device)
    square, top, left, mirror = (column.long()[:, None] for column in drawn_n7[:, :4].unbind(1))
    columns = left + torch.where(mirror != 0, places.flip(0), places)
    pixels = squares_mhwc[square[:, :, None], (top + places)[:, :, None], columns[:, None, :]]
    shifts = drawn_n7[:, 4:].contiguous().view(torch.float32)
    return (pixels.float() - mean_hwc + shifts[:, None, None]) * scales
