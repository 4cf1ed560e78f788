"""Small packs that many tests share: pictures of the built-in set, stored raw at 16 px."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from alexnet.data import pack as packs
from alexnet.data import shapes
from alexnet.data.sources import open_source

SIZE_PX = 16
if not torch.cuda.is_available():  # Triton's kernels are tested under its interpreter; read when triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")


def write_pictures(folder: Path, per_class: int, val_per_class: int, classes: int = 3, size_px: int = SIZE_PX) -> Path:
    """An image folder train/<class>/, val/<class>/ of the first classes of the built-in set."""
    for split, count in (("train", per_class), ("val", val_per_class)):
        for label, name in enumerate(shapes.CLASSES[:classes]):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = shapes.render(10 * i + label, seed=split == "val", size_px=size_px)
                Image.fromarray(pixels).save(folder / split / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 3 classes, 22 training and 5 validation pictures each, 16 x 16 px."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "shapes3", 22, 5)


@pytest.fixture(scope="session")
def tiny_pack(pictures, tmp_path_factory) -> packs.Pack:
    """`pictures` as a raw pack: 66 training and 15 validation pictures of 16 px, 3 classes."""
    out = tmp_path_factory.mktemp("packs") / "shapes3.pack"
    packs.pack(open_source(pictures), out)
    return packs.open_pack(out)
