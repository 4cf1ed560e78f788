"""Dropout's masks: as many are kept as asked, no pattern, the same whatever the threads."""

import numpy as np
import pytest
import torch

from alexnet.kernels import mask

MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def splitmix64(seed: int, place: int) -> int:
    """Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014), figure 17's constants."""
    z = (seed + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    for shift, factor in zip((30, 27), MIX, strict=True):
        z = (z ^ (z >> shift)) * factor % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep", [0.5, 0.7, 1.0])
def test_every_place_is_decided_by_its_own_number(dtype, keep):
    torch.manual_seed(3)
    drawn = mask.draw(torch.empty(7, 11, dtype=dtype), keep, 1.5)
    torch.manual_seed(3)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    wanted = [1.5 if splitmix64(seed, i) >> 32 < round(keep * 2**32) else 0 for i in range(77)]
    assert drawn.flatten().tolist() == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_as_many_are_kept_as_asked_in_every_row_and_column(dtype):
    """Within 5 standard deviations of a binomial distribution; and neighbours know nothing of each other."""
    torch.manual_seed(0)
    kept = mask.draw(torch.empty(512, 1024, dtype=dtype), 0.3).double().numpy()
    assert set(np.unique(kept)) == {0, 1}
    for axis in (0, 1):
        count = kept.shape[axis]
        assert abs(kept.mean(axis) - 0.3).max() < 5 * (0.3 * 0.7 / count) ** 0.5
    centred = kept - 0.3
    for shift in ((0, 1), (1, 0), (1, 1)):
        together = (centred * np.roll(centred, shift, (0, 1))).mean() / (0.3 * 0.7)
        assert abs(together) < 5 / kept.size**0.5


def test_the_same_whatever_the_threads_and_another_each_time():
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        found.append([mask.draw(torch.empty(300, 700), 0.5) for _ in range(2)])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    assert not torch.equal(*found[0])


def test_another_shape():
    assert mask.draw(torch.empty(2, 3), 0.5, shape=[5, 4]).shape == (5, 4)
    assert mask.draw(torch.empty(0, 3), 0.5).shape == (0, 3)
