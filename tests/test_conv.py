"""Winograd's convolution against the definition in float64: outputs and gradients, odd shapes, and when it is taken."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet import spec
from alexnet.kernels import conv, winograd, winograd_bf16_numba, winograd_matrices
from alexnet.layers import Conv2d
from alexnet.net import AlexNet, layer_table

# (pictures, channels of a group, maps of a group, groups, height, width, kernel, padding)
SHAPES = [
    *(
        (3, 48, 128, 2, 27, 27, 5, 2),
        (2, 256, 384, 1, 13, 13, 3, 1),
        (4, 192, 128, 2, 6, 6, 3, 1),
        (5, 7, 9, 3, 11, 6, 3, 1),
    ),
    *((1, 1, 1, 1, 5, 5, 5, 0), (2, 3, 2, 1, 3, 20, 3, 0), (4, 2, 5, 1, 9, 8, 5, 4), (1, 3, 2, 2, 4, 4, 3, 3)),
]


def case(pictures, channels, maps, groups, height, width, kernel, padding, kind=torch.float32):
    draw = torch.Generator().manual_seed(height)
    sizes = ((pictures, groups * channels, height, width), (groups * maps, channels, kernel, kernel), (groups * maps,))
    return [torch.randn(size, generator=draw).to(kind).requires_grad_() for size in sizes]


@pytest.mark.parametrize(("tile", "kernel"), list(winograd_matrices.POINTS))
def test_matrices_give_the_correlation_exactly(tile, kernel):
    """A^T [(G w) * (B^T x)] is the sum of w[k] x[i + k], by the definition of the algorithm (Winograd 1980)."""
    outputs, kernels, inputs = winograd_matrices.matrices(tile, kernel)
    rng = np.random.default_rng(kernel)
    x, w = rng.normal(size=tile + kernel - 1), rng.normal(size=kernel)
    wanted = [sum(w[k] * x[i + k] for k in range(kernel)) for i in range(tile)]
    np.testing.assert_allclose(outputs @ ((kernels @ w) * (inputs @ x)), wanted, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_convolution(shape, threads):
    groups, padding = shape[3], shape[7]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        narrow, wide = case(*shape), case(*shape, kind=torch.float64)
        got = winograd.conv2d(*narrow, padding, groups)
        wanted = F.conv2d(*wide, padding=padding, groups=groups)
        g = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
        ours, reference = torch.autograd.grad(got, narrow, g), torch.autograd.grad(wanted, wide, g.double())
    finally:
        torch.set_num_threads(before)
    assert got.shape == wanted.shape
    assert got.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip((got, *ours), (wanted.detach(), *reference), strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=3e-5 * scale)


def test_tiles_suit_the_maps():
    """Fewest points: 6 x 6 maps are one tile, 13 x 13 nine of 5 x 5, 27 x 27 under kernels of 5 pixels 49 of 4 x 4."""
    chosen = [winograd._tiles(3, 6, 6), winograd._tiles(3, 13, 13), winograd._tiles(5, 27, 27)]
    assert chosen == [(6, 8, 1, 1), (5, 7, 3, 3), (4, 8, 7, 7)]


def test_chunks_of_pictures_change_nothing(monkeypatch):
    shape = (9, 6, 10, 2, 12, 13, 5, 2)
    whole = case(*shape)
    y = winograd.conv2d(*whole, 2, 2)
    dx, dw = torch.autograd.grad(y.square().sum(), whole[:2])
    monkeypatch.setattr(winograd, "CHUNK_BYTES", 1)
    parts = case(*shape)
    again = winograd.conv2d(*parts, 2, 2)
    dx2, dw2 = torch.autograd.grad(again.square().sum(), parts[:2])
    for part, one in zip((again, dx2, dw2), (y, dx, dw), strict=True):  # few rows are multiplied by other loops
        torch.testing.assert_close(part, one, rtol=0, atol=1e-5 * one.abs().max().item())


def test_the_same_bits_every_time():
    def once():
        given = case(16, 48, 64, 2, 13, 13, 3, 1)
        y = winograd.conv2d(*given, 1, 2)
        return (y, *torch.autograd.grad(y.square().sum(), given))

    assert all(map(torch.equal, once(), once()))


def test_a_group_sees_nothing_of_another():
    x, weight, bias = case(4, 48, 64, 2, 13, 13, 3, 1)
    y = winograd.conv2d(x, weight, bias, 1, 2)
    other = x.detach().clone()
    other[:, :48] += 1
    changed = winograd.conv2d(other, weight, bias, 1, 2)
    assert torch.equal(changed[:, 64:], y[:, 64:])
    assert not torch.equal(changed[:, :64], y[:, :64])


def test_only_what_is_wanted_is_computed():
    x, weight, bias = case(2, 4, 4, 1, 9, 9, 3, 1)
    y = winograd.conv2d(x.detach(), weight, bias.detach(), 1)
    y.sum().backward()
    assert x.grad is None
    assert bias.grad is None
    assert weight.grad is not None


def test_strides_go_by_blocks_where_a_gradient_is_wanted():
    layer = Conv2d(3, 96, 11, stride=4, overhang_px=3)
    x = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert conv.chosen(x, layer.weight, 4)[0] == "blocks"
    wide = F.pad(x, (0, 3, 0, 3)).double(), layer.weight.detach().double().requires_grad_(), layer.bias.double()
    y, wanted = layer(x), F.conv2d(*wide, stride=4)
    torch.testing.assert_close(y.double(), wanted, rtol=0, atol=1e-4)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (got,), (reference,) = torch.autograd.grad(y, layer.weight, g), torch.autograd.grad(wanted, wide[1], g.double())
    torch.testing.assert_close(got.double(), reference, rtol=0, atol=1e-5 * float(reference.abs().max()))
    with torch.no_grad():
        assert conv.chosen(x, layer.weight, 4)[0] == "torch"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "side", "before", "counts"),
    [
        ((2, 3, 8, 12), 4, 0, (2, 3)),
        ((3, 3, 9, 7), 4, 2, (4, 2)),
        ((1, 1, 5, 6), 3, 1, (2, 4)),
        ((0, 3, 8, 8), 2, 0, (4, 4)),
    ],
)
def test_a_picture_in_blocks_is_its_pixels_beside_each_other(shape, side, before, counts, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    after = [count * side - extent - before for count, extent in zip(counts, shape[2:], strict=True)]
    wanted = conv.in_blocks(F.pad(x, (before, after[1], before, after[0])), side)
    assert wanted.shape[2:] == counts
    for layout in (torch.channels_last, torch.contiguous_format):
        given = x.contiguous(memory_format=layout)
        got = conv.picture_in_blocks(given, side, before, *counts)
        assert torch.equal(got, wanted)
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(conv.picture_in_blocks(given.requires_grad_(), side, before, *counts), wanted)


@pytest.mark.parametrize(("padding", "overhang"), [(0, 3), (2, 0)])
def test_bfloat16_begins_from_blocks(padding, overhang):
    layer = Conv2d(3, 32, 11, stride=4, padding=padding, overhang_px=overhang).bfloat16()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert conv.chosen(x, layer.weight, 4, padding)[0] == "blocks"
    padded = F.pad(x, (padding, padding + overhang) * 2).double()
    weight = layer.weight.detach().double().requires_grad_()
    y, wanted = layer(x), F.conv2d(padded, weight, layer.bias.double(), stride=4)
    torch.testing.assert_close(y.double(), wanted, rtol=2**-7, atol=2**-7)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (got,), (reference,) = torch.autograd.grad(y, layer.weight, g), torch.autograd.grad(wanted, weight, g.double())
    torch.testing.assert_close(got.double(), reference, rtol=2**-7, atol=2**-7 * float(reference.abs().max()))


def test_what_it_does_not_serve_is_pytorchs(monkeypatch):
    monkeypatch.setattr(winograd_bf16_numba, "pay", lambda: False)
    x, weight, _ = case(16, 48, 64, 1, 13, 13, 3, 1)
    assert conv.chosen(x, weight, padding=1) == ("winograd", "fewer products")
    refused = {
        "float64": (x.double(), weight.double()),
        "oneDNN": (x.bfloat16(), weight.bfloat16()),
        "1 pixels": (x, weight[:, :, :1, :1]),
        "too few": (x[:1], weight),
    }
    for word, tensors in refused.items():
        way, reason = conv.chosen(*tensors, padding=1)
        assert way == "torch"
        assert word in reason


def test_exports_know_nothing_of_it():
    layer, x = Conv2d(48, 64, 3, padding=1), case(16, 48, 64, 1, 13, 13, 3, 1)[0].detach()
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
    assert "conv2d" in str(program.graph)


def test_kernels_at_points_are_kept_until_the_kernels_change():
    layer = Conv2d(48, 64, 3, padding=1).eval()
    x = case(16, 48, 64, 1, 13, 13, 3, 1)[0].detach()

    def right() -> bool:
        with torch.inference_mode():
            y = layer(x)
        wanted = F.conv2d(x, layer.weight, layer.bias, padding=1).detach()
        return float((y - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())

    assert right()
    (first,) = layer._kept.values()
    assert right()
    assert next(iter(layer._kept.values())) is first
    copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(2)  # counted by torch
    assert right()
    layer.weight.data = layer.weight.data + 1  # another place
    assert right()
    layer.train()
    layer.weight.detach().numpy()[:] *= 3  # as the compiled update does: neither
    layer.eval()
    assert right()
    assert len(layer._kept) == 1


def test_training_goes_by_winograd_in_all_layers_of_the_net():
    net = AlexNet(spec.as_run(classes=10).net)
    ways = {}
    for row in layer_table(net):
        layer = getattr(net, row.name)
        if isinstance(layer, Conv2d):
            x = torch.empty(1).expand(
                128, layer.in_channels, *(4 * side for side in row.shape[1:])
            )  # near enough, without its memory
            ways[row.name] = conv.chosen(x, layer.weight, layer.stride[0], layer.padding[0], layer.groups)[0]
    assert ways == {
        "conv1": "blocks",
        "conv2": "winograd",
        "conv3": "winograd",
        "conv4": "winograd",
        "conv5": "winograd",
    }


def test_threads_are_told_not_to_spin_before_torch_is_loaded():
    code = "import sys, os, alexnet; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10000", "False"]


def test_its_loops_are_compiled_once():
    from alexnet.kernels import winograd_numba

    x, weight = torch.randn(2, 48, 13, 13, requires_grad=True), torch.randn(48, 48, 3, 3, requires_grad=True)
    winograd.conv2d(x, weight, torch.zeros(48), 1).sum().backward()
    assert [len(loop.signatures) for loop in (winograd_numba.to_points, winograd_numba.from_points)] == [1, 1]
