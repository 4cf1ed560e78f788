"""A thread's way from a pack to pixels, whatever they are stored as."""

from __future__ import annotations

import numpy as np

from alexnet.data import augment
from alexnet.data.augment import Draws
from alexnet.data.cut_jpegs import cut_jpegs
from alexnet.data.packfile import Split
from alexnet.kernels import compile_ahead, jpeg


class Reader:
    """A split and what decodes its pictures; `count` of those it has read. All methods raise DataError naming a picture
    that is damaged.
    """

    def __init__(self, split: Split) -> None:
        self.split, self.count = split, 0
        served = split.encoding == "jpeg" and jpeg.serves(split.size_px)
        self.decoder = jpeg.Decoder(split.size_px) if served else None

    def read(self, picture: int, out_hwc: np.ndarray) -> None:
        """The stored square of a picture into `out_hwc` (S, S, 3) uint8, C-contiguous."""
        if self.decoder is None:
            out_hwc[:] = self.split.pixels(picture)
        elif not self.decoder.decode(self.split.checked_bytes(picture), out_hwc):
            self.split.pixels(picture, out_hwc)

    def cut(
        self,
        pictures: np.ndarray,
        draws: Draws,
        mean_scales: tuple[np.ndarray, np.ndarray],
        out_nhwc: np.ndarray,
        first: int,
    ) -> None:
        """The pictures (K,), which are [first, first + K) of a batch, as `augment.cut_part` cuts them."""
        if self.decoder is None or not compile_ahead.ready("cut_jpegs"):
            for n, picture in enumerate(pictures.tolist(), first):
                self._cut(self.split.pixels(picture), draws, mean_scales, out_nhwc, n)
                self.count += 1
            return
        stored, done = [self._stored(picture) for picture in pictures.tolist()], 0
        while done < len(stored):
            done += cut_jpegs(self.decoder, stored[done:], draws, mean_scales, out_nhwc, first + done)
            if done < len(stored):
                self._cut(self.split.pixels(int(pictures[done])), draws, mean_scales, out_nhwc, first + done)
                done += 1

    def _stored(self, picture: int) -> bytes:
        stored = self.split.checked_bytes(picture)
        self.count += 1
        return stored

    @staticmethod
    def _cut(square_hwc: np.ndarray, draws: Draws, mean_scales: tuple, out_nhwc: np.ndarray, n: int) -> None:
        augment.cut_part(square_hwc[None], draws, mean_scales, out_nhwc, n, n + 1)
