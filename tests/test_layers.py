"""The small modules against a few lines of float64, and their gradients against finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from alexnet.kernels.conv import of_blocks
from alexnet.kernels.mask import draw
from alexnet.layers import (
    Conv2d,
    Dropout,
    Flatten,
    LocalConv2d,
    LocalResponseNorm,
    SpatialResponseNorm,
)
from alexnet.spec import LrnSpec, RnormSpec


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lrn_as_run_is_torchs_on_each_tower():
    """2012 source, layers-145: alpha divided by n, k = 2, inside each tower."""
    x = 100 * random(2, 12, 3, 3)
    halves = [F.local_response_norm(half, 5, alpha=1e-4, beta=0.75, k=2) for half in x.chunk(2, 1)]
    torch.testing.assert_close(LocalResponseNorm(LrnSpec(), groups=2)(x), torch.cat(halves, 1))


def test_lrn_as_published_does_not_divide_alpha():
    """Paper, section 3.3: b = a / (k + alpha * sum of squares) ** beta."""
    x = 100 * random(1, 7, 2, 2)
    wanted = torch.empty_like(x)
    for c in range(7):
        squares = x[:, max(0, c - 2) : c + 3].square().sum(1)
        wanted[:, c] = x[:, c] / (2 + 1e-4 * squares) ** 0.75
    torch.testing.assert_close(LocalResponseNorm(LrnSpec(alpha_divided=False))(x), wanted)


def test_lrn_over_all_maps():
    """Paper, section 3.3: (k, alpha, beta, n) = (0, 1, 1, N); a window of 2 N reaches all maps from every map."""
    x = random(2, 6, 3, 3)
    norm = LocalResponseNorm(LrnSpec(size=12, alpha=1, beta=1, k=0, alpha_divided=False))
    torch.testing.assert_close(norm(x), x / x.square().sum(1, keepdim=True))


@pytest.mark.parametrize("spec", [LrnSpec(), LrnSpec(alpha=1, k=1), LrnSpec(4, 1, 1, 0.5, False)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_lrn_gradient(spec, groups):
    assert gradcheck(LocalResponseNorm(spec, groups), (random(2, 6, 2, 3).requires_grad_(),))


@pytest.mark.parametrize("spec", [RnormSpec(), RnormSpec(size=3, alpha=2.0)], ids=str)
def test_same_map_norm_gradient(spec):
    assert gradcheck(SpatialResponseNorm(spec), (random(1, 2, 4, 5).requires_grad_(),))


def test_same_map_norm():
    """2012 source, layers-145, cnorm2: x (1 + 1e-3/25 sum over 5x5) ** -0.75, within a map."""
    x = 100 * random(1, 3, 7, 6)
    sums = F.conv2d(x.square().transpose(0, 1), torch.ones(1, 1, 5, 5).double(), padding=2).transpose(0, 1)
    torch.testing.assert_close(SpatialResponseNorm(RnormSpec())(x), x * (1 + 1e-3 / 25 * sums) ** -0.75)


def test_dropout_masks_in_training_and_halves_at_test():
    """Paper, section 4.2: kept units pass as they are; at test all are multiplied by the keep rate."""
    x = random(200, 300).requires_grad_()
    layer = Dropout(0.3)
    torch.manual_seed(5)
    y = layer(x)
    torch.manual_seed(5)
    mask = draw(x, 0.7)
    assert torch.equal(y, x * mask)
    assert 0.69 < mask.mean() < 0.71
    y.sum().backward()
    assert torch.equal(x.grad, mask)
    assert torch.equal(layer.eval()(x), x * 0.7)
    assert gradcheck(layer, (random(3, 4).requires_grad_(),))


def test_inverted_dropout_scales_in_training():
    x = random(200, 300)
    layer = Dropout(0.3, inverted=True)
    y = layer(x)
    kept = y != 0
    assert 0.69 < kept.double().mean() < 0.71
    torch.testing.assert_close(y[kept], x[kept] / 0.7)
    assert torch.equal(layer.eval()(x), x)


def test_masks_follow_the_global_seed():
    layer, x = Dropout(0.5), torch.ones(64)
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(layer(x))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_overhang_is_zeros_at_the_right_and_bottom_only():
    layer = Conv2d(3, 2, 11, stride=4, overhang_px=3).double()
    x = random(2, 3, 24, 24)
    wanted = F.conv2d(F.pad(x, (0, 3, 0, 3)), layer.weight, layer.bias, stride=4)
    assert torch.equal(layer(x), wanted)
    assert layer(x).shape == (2, 2, 5, 5)


@pytest.mark.parametrize(("kernel_px", "padding_px"), [(3, 1), (3, 0), (2, 1), (1, 0)])
def test_local_layer_has_own_filters_at_every_place(kernel_px, padding_px):
    layer = LocalConv2d(2, 3, kernel_px, padding_px, size_px=4).double()
    with torch.no_grad():
        layer.weight.copy_(random(*layer.weight.shape, seed=1))
        layer.bias.copy_(random(*layer.bias.shape, seed=2))
    x, out_px = random(2, 2, 4, 4), layer.out_px
    padded = F.pad(x, (padding_px,) * 4)
    wanted = torch.empty(2, 3, out_px, out_px, dtype=torch.float64)
    for i in range(out_px):
        for j in range(out_px):
            window = padded[:, :, i : i + kernel_px, j : j + kernel_px].flatten(1)  # c, then y, then x
            wanted[:, :, i, j] = window @ layer.weight[i * out_px + j] + layer.bias[:, i, j]
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), wanted)
    assert gradcheck(layer, (x.requires_grad_(),))


def test_local_layer_with_equal_filters_is_a_convolution():
    layer = LocalConv2d(2, 3, 3, 1, size_px=5).double()
    filters = random(3, 2, 3, 3, seed=1)
    with torch.no_grad():
        layer.weight.copy_(filters.flatten(1).T.expand_as(layer.weight))
    x = random(2, 2, 5, 5)
    torch.testing.assert_close(layer(x), F.conv2d(x, filters, padding=1))


def test_flatten_is_channel_major_in_any_memory_format():
    """2012 source: activations are channel, y, x; so are the columns of fc6's weights."""
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    wanted = x.numpy().reshape(2, 60)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        assert (Flatten()(x.contiguous(memory_format=memory_format)).numpy() == wanted).all()


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [((227, 227), 11, 4), ((30, 23), 5, 2), ((12, 13), 4, 4), ((9, 9), 3, 5)]
)
def test_a_convolution_of_blocks_is_the_strided_one(side, kernel, stride):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *side, dtype=torch.float64, generator=draw)
    weight = torch.randn(7, 3, kernel, kernel, dtype=torch.float64, generator=draw, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, generator=draw)
    wanted, got = F.conv2d(x, weight, bias, stride), of_blocks(x, weight, bias, stride)
    torch.testing.assert_close(got, wanted)
    g = torch.randn(wanted.shape, dtype=torch.float64, generator=draw)
    torch.testing.assert_close(*(torch.autograd.grad(y, weight, g)[0] for y in (got, wanted)))
