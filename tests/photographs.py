"""Real pictures without a download: squares cut out of the photograph that matplotlib brings along."""

import numpy as np
from matplotlib import cbook
from PIL import Image


def squares(count: int, size_px: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, size_px, size_px, 3): parts of the photograph, from a third of its width to all of it."""
    photograph = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    rng, whole = np.random.default_rng(seed), min(photograph.size)
    cut = []
    for side in np.linspace(whole, whole // 3, count).astype(int).tolist():
        left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
        part = photograph.crop((left, top, left + side, top + side))
        cut.append(np.asarray(part.resize((size_px, size_px), Image.Resampling.BICUBIC)))
    return np.stack(cut)
