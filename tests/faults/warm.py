"""What the fork server imports once, and one step of training and one small pack, so that every child finds its loops
compiled. On one thread: nothing here may start another, or children would wait for threads they do not have.
"""

import gc
import tempfile
from pathlib import Path

import numpy as np
import torch

from alexnet import checkpoint, cli, convert, predict  # noqa: F401
from alexnet.data.pack import pack
from alexnet.data.sources import Item, Source
from faults import children, fuzz, hostile  # noqa: F401

torch.set_num_threads(1)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
ITEMS = [Item(f"{i}", i % 3, PIXELS.__getitem__, i) for i in range(6)]

with tempfile.TemporaryDirectory() as folder:
    pack(Source("warm", ["a", "b", "c"], {"train": ITEMS, "val": ITEMS}, 16), Path(folder, "pack"), workers=1)
    children.train(f"{folder}/pack", f"{folder}/run", ("run.length=1st",))
gc.freeze()
