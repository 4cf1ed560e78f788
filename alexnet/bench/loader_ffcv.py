"""FFCV as a peer of the loader: the same squares in its own file, as JPEG of the same quality, cropped, mirrored and
normalised by its compiled pipeline with two threads.

FFCV 1.0.2 wants NumPy below 2 and numba 0.60, so it is in few environments; where it can be imported, it takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter

from alexnet.data.packfile import Split


class Squares:
    """What its writer takes: (uint8 (S, S, 3), label) by number."""

    def __init__(self, split: Split, count: int) -> None:
        self.split, self.count = split, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.split.pixels(i), int(self.split.labels[i])


def peer(split: Split, crop_px: int, batch: int, count: int, mean_std: tuple[np.ndarray, np.ndarray]) -> Callable:
    """Mean and deviation are of grey levels on [0, 1], as torchvision writes them."""
    folder = TemporaryDirectory()
    file = str(Path(folder.name) / "squares.beton")
    image = RGBImageField(write_mode="jpg", max_resolution=split.size_px, jpeg_quality=95)
    DatasetWriter(file, {"image": image, "label": IntField()}, num_workers=2).from_indexed_dataset(
        Squares(split, count)
    )
    mean, std = (255 * np.asarray(values) for values in mean_std)
    share = (crop_px / split.size_px) ** 2  # so that a "resized" crop has the wanted size already
    decoder = RandomResizedCropRGBImageDecoder((crop_px, crop_px), scale=(share, share), ratio=(1, 1))
    steps = [decoder, RandomHorizontalFlip(), NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage()]
    order, pipelines = OrderOption.RANDOM, {"image": steps, "label": [IntDecoder(), ToTensor()]}
    loader = Loader(file, batch, num_workers=2, order=order, os_cache=True, drop_last=True, pipelines=pipelines)

    def run() -> None:
        assert folder  # which is kept as long as this is
        for images, _ in loader:
            assert images.shape[1:] == (3, crop_px, crop_px)
            assert images.dtype == torch.float32

    return run
