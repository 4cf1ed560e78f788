"""The update as one compiled pass: equal to the rule in float64, in float32 and bfloat16, on any memory layout."""

import pytest
import torch

from alexnet.kernels import update as door


def tensors(shape, gradient_type, channels_last=False):
    generator = torch.Generator().manual_seed(len(shape))
    w, v, g = (torch.randn(shape, generator=generator) for _ in range(3))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return tuple(t.contiguous(memory_format=layout) for t in (w, v, g.to(gradient_type)))


@pytest.mark.parametrize("gradient_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (4099,), (70, 1001), (0,)])
def test_it_is_the_rule(shape, gradient_type):
    w, v, g = tensors(shape, gradient_type)
    copy = torch.empty_like(w, dtype=torch.bfloat16)
    new_v = 0.9 * v.double() - 0.01 * g.double() - 0.01 * 5e-4 * w.double()
    new_w = w.double() + new_v
    assert door.chosen(w, v, g, copy)[0] == "numba"
    door.update(w, v, g, 0.9, 0.01, 5e-4, copy)
    assert torch.allclose(v.double(), new_v, rtol=1e-5, atol=1e-6)
    assert torch.allclose(w.double(), new_w, rtol=1e-5, atol=1e-6)
    assert torch.equal(copy, w.bfloat16())


def test_channels_last_weights_are_updated_where_they_lie():
    w, v, g = tensors((6, 4, 3, 3), torch.float32, channels_last=True)
    plain = [t.clone() for t in (w, v, g)]
    assert door.chosen(w, v, g)[0] == "numba"
    door.update(w, v, g, 0.9, 0.1, 0.01)
    door.reference(*plain, 0.9, 0.1, 0.01)
    assert torch.allclose(w, plain[0], atol=1e-6)


def test_tensors_that_lie_differently_take_the_plain_way():
    w, v, g = tensors((6, 4, 3, 3), torch.float32)
    g = g.contiguous(memory_format=torch.channels_last)
    assert "differently" in door.chosen(w, v, g)[1]
    before = w.clone()
    door.update(w, v, g, 0.0, 1.0, 0.0)
    assert torch.allclose(w, before - g, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    kept = torch.get_num_threads()
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        w, v, g = tensors((300_001,), torch.float32)
        door.update(w, v, g, 0.9, 0.01, 5e-4)
        results.append(w)
    torch.set_num_threads(kept)
    assert torch.equal(*results)


def test_nan_is_kept_in_the_copy():
    w, v, g = tensors((5,), torch.float32)
    g[2] = torch.nan
    copy = torch.zeros(5, dtype=torch.bfloat16)
    door.update(w, v, g, 0.9, 0.01, 0.0, copy)
    assert torch.isnan(copy).tolist() == [False, False, True, False, False]


def test_numbers_on_the_device_stand_in_for_the_three():
    (w, v, g), plain = tensors((70, 11), torch.float32), tensors((70, 11), torch.float32)
    (numbers,) = door.on_device([(0.9, 0.01, 0.01 * 5e-4)], w.device)
    door.update(w, v, g, 0.0, 1e9, 1e9, numbers=numbers)
    door.update(*plain, 0.9, 0.01, 5e-4)
    assert torch.allclose(w, plain[0], rtol=1e-6, atol=1e-7)
    assert torch.allclose(v, plain[1], rtol=1e-5, atol=1e-7)
