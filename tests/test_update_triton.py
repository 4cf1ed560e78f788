"""The update as one Triton kernel, under Triton's interpreter or on the GPU: the rule in float64, copies, layouts."""

import pytest
import torch
from test_update import tensors
from triton_kernels import DEVICE, needs_triton

from alexnet.kernels import update as door

pytestmark = needs_triton


def update(w, v, g, momentum, rate, decay, copy=None, go=None):
    """The kernel itself: on a CPU the door would take the compiled loop."""
    from alexnet.kernels import update_triton

    there = [None if t is None else t.to(DEVICE) for t in (w, v, g, copy)]
    (numbers,) = door.on_device([(momentum, rate, rate * decay)], torch.device(DEVICE))
    update_triton.update(*there, numbers, go=None if go is None else go.to(DEVICE))
    for t, changed in zip((w, v, g, copy), there, strict=True):
        if t is not None:
            t.copy_(changed)


@pytest.mark.parametrize("gradient_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2051,), (0,)])
def test_it_is_the_rule(shape, gradient_type):
    w, v, g = tensors(shape, gradient_type)
    copy = torch.empty_like(w, dtype=torch.bfloat16)
    new_v = 0.9 * v.double() - 0.01 * g.double() - 0.01 * 5e-4 * w.double()
    new_w = w.double() + new_v
    update(w, v, g, 0.9, 0.01, 5e-4, copy=copy)
    assert torch.allclose(v.double(), new_v, rtol=1e-5, atol=1e-6)
    assert torch.allclose(w.double(), new_w, rtol=1e-5, atol=1e-6)
    assert torch.equal(copy, w.bfloat16())


def test_channels_last_without_a_copy():
    w, v, g = tensors((6, 4, 3, 3), torch.float32, channels_last=True)
    plain = [t.clone() for t in (w, v, g)]
    update(w, v, g, 0.9, 0.1, 0.01)
    door.reference(*plain, 0.9, 0.1, 0.01)
    assert torch.allclose(w, plain[0], atol=1e-6)
    assert torch.allclose(v, plain[1], atol=1e-6)


def test_nan_is_kept_in_the_copy():
    w, v, g = tensors((5,), torch.float32)
    g[2] = torch.nan
    copy = torch.zeros(5, dtype=torch.bfloat16)
    update(w, v, g, 0.9, 0.01, 0.0, copy=copy)
    assert torch.isnan(copy).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("go", [True, False])
@pytest.mark.parametrize("way", [update, door.update, door.reference])
def test_an_update_that_is_called_off_on_the_device_changes_nothing(way, go):
    plain, guarded = ([*tensors((2051,), torch.float32), torch.zeros(2051, dtype=torch.bfloat16)] for _ in range(2))
    way(*plain[:3], 0.9, 0.01, 5e-4, copy=plain[3])
    before = [t.clone() for t in guarded]
    if not go:
        guarded[2][7] = torch.nan
    way(*guarded[:3], 0.9, 0.01, 5e-4, copy=guarded[3], go=torch.tensor(go))
    for place in (0, 1, 3):
        assert torch.equal(guarded[place], (plain if go else before)[place])


@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device is there")
def test_the_door_takes_the_kernel_on_a_gpu():
    w, v, g = (t.to(DEVICE) for t in tensors((7,), torch.float32))
    assert door.chosen(w, v, g)[0] == "triton"
    assert door.chosen(w, v.cpu(), g)[0] == "reference"
