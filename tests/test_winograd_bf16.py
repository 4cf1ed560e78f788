"""Winograd's convolution in bfloat16 against the definition in float64: outputs and gradients, odd shapes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.kernels import conv, winograd_bf16, winograd_bf16_numba
from alexnet.kernels.compiled import has
from alexnet.kernels.winograd_matrices import products, simple_matrices
from alexnet.layers import Conv2d

needs_avx512_bf16 = pytest.mark.skipif(not has("avx512bf16"), reason="the loops need a processor with AVX-512 BF16")
# (pictures, channels of a group, maps of a group, groups, height, width, kernel, padding)
SHAPES = [
    *((3, 48, 128, 2, 27, 27, 5, 2), (2, 256, 384, 1, 13, 13, 3, 1), (4, 192, 128, 2, 6, 6, 3, 1)),
    *((5, 16, 32, 3, 11, 6, 3, 1), (1, 16, 16, 1, 5, 5, 5, 0), (2, 48, 16, 1, 3, 20, 3, 0), (4, 32, 80, 1, 9, 8, 5, 4)),
    *((1, 48, 32, 2, 4, 4, 3, 2), (1, 16, 48, 1, 3, 200, 3, 1), (7, 32, 112, 1, 7, 5, 3, 1)),
]


def case(pictures, channels, maps, groups, height, width, kernel, padding):
    draw = torch.Generator().manual_seed(height)
    sizes = ((pictures, groups * channels, height, width), (groups * maps, channels, kernel, kernel), (groups * maps,))
    return [torch.randn(size, generator=draw).bfloat16().requires_grad_() for size in sizes]


def run(given, padding, groups):
    """The outputs, and the gradients of everything."""
    y = winograd_bf16.conv2d(*given, padding, groups)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    return [y.detach(), *torch.autograd.grad(y, given, g)]


def distance(ours, reference) -> float:
    return float((ours.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize("kernel_px", [3, 5])
def test_matrices_give_the_correlation_exactly(kernel_px):
    """By the definition of the algorithm (Winograd 1980), whose products are added before A."""
    outputs, kernels, inputs, sum_of = simple_matrices(kernel_px)
    assert {*np.unique(outputs), *np.unique(inputs)} == {-1, 0, 1}
    rng = np.random.default_rng(kernel_px)
    x, w = rng.normal(size=kernel_px + 1), rng.normal(size=kernel_px)
    sums = np.bincount(sum_of, weights=(kernels @ w) * (inputs @ x))
    np.testing.assert_allclose(outputs @ sums, np.correlate(x, w, "valid"), atol=1e-12)


@pytest.mark.parametrize(("kernel_px", "saved"), [(3, 36 / 16), (5, 100 / 49)])
def test_products_of_a_sum_lie_together(kernel_px, saved):
    sums = [product.sum for product in products(kernel_px)]
    assert sums == sorted(sums)
    assert set(sums) == set(range(winograd_bf16_numba.SUMS))
    assert 4 * kernel_px**2 / len(sums) == saved


@needs_avx512_bf16
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_convolution(shape):
    """Rounding to bfloat16 alone is 0.0017 in norm; here maps, kernels and outputs were each rounded once."""
    groups, padding = shape[3], shape[7]
    narrow = case(*shape)
    wide = [t.detach().double().requires_grad_() for t in narrow]
    wanted = F.conv2d(*wide, padding=padding, groups=groups)
    g = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    got = run(narrow, padding, groups)
    reference = [wanted.detach(), *torch.autograd.grad(wanted, wide, g.double())]
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(got, reference, strict=True):
        assert one.shape == other.shape
        assert distance(one, other) < 0.0055
    assert distance(got[3], reference[3]) < 0.002  # summed in float32, rounded once


@needs_avx512_bf16
def test_the_same_bits_whatever_the_threads():
    shape, before, found = (9, 48, 64, 2, 27, 27, 5, 2), torch.get_num_threads(), []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        found.append(run(case(*shape), 2, 2))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@needs_avx512_bf16
@pytest.mark.parametrize("bytes_", [1, 300_000])
def test_chunks_change_only_the_order_of_sums(monkeypatch, bytes_):
    shape = (6, 32, 48, 2, 12, 13, 5, 2)
    whole = run(case(*shape), 2, 2)
    monkeypatch.setattr(winograd_bf16, "CHUNK_BYTES", bytes_)
    parts = run(case(*shape), 2, 2)
    assert torch.equal(parts[1], whole[1])
    assert distance(parts[2], whole[2].double()) < 0.0005


@needs_avx512_bf16
@pytest.mark.parametrize(("shape", "groups"), [((3, 48, 64, 2, 27, 27, 5, 2), 2), ((4, 32, 112, 1, 13, 13, 3, 1), 1)])
def test_with_relu_in_the_same_pass(shape, groups):
    """The same bits as by two, forward and backward."""
    given, padding = case(*shape), shape[7]
    g = torch.randn(shape[0], shape[2] * groups, *shape[4:6], generator=torch.Generator().manual_seed(1)).bfloat16()
    two = F.relu(winograd_bf16.conv2d(*given, padding, groups))
    one = winograd_bf16.conv2d(*given, padding, groups, rectified=True)
    assert torch.equal(one, two)
    assert 0.3 < (one == 0).float().mean() < 0.7
    for a, b in zip(torch.autograd.grad(one, given, g), torch.autograd.grad(two, given, g), strict=True):
        assert torch.equal(a, b)


@needs_avx512_bf16
def test_relu_in_the_same_pass_hides_no_nan():
    x, weight, bias = (t.detach() for t in case(2, 16, 16, 1, 13, 13, 3, 1))
    for value in (torch.nan, -torch.nan, torch.inf):
        x[0, :2, 0, 0] = torch.tensor([value, -value])
        y = winograd_bf16.conv2d(x, weight, bias, 1, rectified=True)
        assert torch.equal(y.isnan(), winograd_bf16.conv2d(x, weight, bias, 1).isnan())
        assert y.isnan().any()


@needs_avx512_bf16
def test_a_group_sees_nothing_of_another():
    x, weight, bias = (t.detach() for t in case(4, 48, 64, 2, 13, 13, 3, 1))
    y, other = winograd_bf16.conv2d(x, weight, bias, 1, 2), x.clone()
    other[:, :48] += 1
    changed = winograd_bf16.conv2d(other, weight, bias, 1, 2)
    assert torch.equal(changed[:, 64:], y[:, 64:])
    assert not torch.equal(changed[:, :64], y[:, :64])


@needs_avx512_bf16
def test_a_picture_sees_nothing_of_another():
    """Though a strip holds rows of several, and pairs are of two."""
    x, weight, bias = (t.detach() for t in case(5, 48, 64, 1, 13, 13, 3, 1))
    together = winograd_bf16.conv2d(x, weight, bias, 1)
    alone = torch.cat([winograd_bf16.conv2d(picture[None], weight, bias, 1) for picture in x])
    assert torch.equal(together, alone)


@needs_avx512_bf16
def test_infinity_stays_where_it_is_seen():
    x, weight, bias = (t.detach() for t in case(2, 16, 16, 1, 13, 13, 3, 1))
    x[0, 0, 0, 0] = torch.inf
    y = winograd_bf16.conv2d(x, weight, bias, 1)
    assert not y[0, :, :2, :2].isfinite().any()
    assert y[0, :, 3:].isfinite().all()
    assert y[1].isfinite().all()


def test_it_is_taken_where_nothing_else_multiplies_bfloat16_faster(monkeypatch):
    monkeypatch.setattr(winograd_bf16_numba, "pay", lambda: True)
    x, weight, _ = (t.detach() for t in case(16, 48, 64, 1, 13, 13, 3, 1))
    assert conv.chosen(x, weight, padding=1) == ("winograd", "fewer products")
    refused = {
        "by 16": (x[:, :40], weight[:, :40], 1),
        "less padding": (x, weight, 3),
        "too few": (x[:1], weight, 1),
        "float32 and bfloat16": (x, weight.float(), 1),
    }
    for word, (maps, kernels, padding) in refused.items():
        way, reason = conv.chosen(maps, kernels, padding=padding)
        assert way == "torch"
        assert word in reason
    monkeypatch.setattr(winograd_bf16_numba, "pay", lambda: False)
    assert conv.chosen(x, weight, padding=1)[0] == "torch"


@pytest.mark.parametrize(
    ("features", "pays"),
    [({"avx512bf16"}, True), ({"avx512bf16", "amx-bf16"}, False), ({"amx-bf16"}, False), (set(), False)],
)
def test_matrix_units_are_left_to_the_library(monkeypatch, features, pays):
    monkeypatch.setattr(winograd_bf16_numba, "has", features.__contains__)
    assert winograd_bf16_numba.pay() == pays


@needs_avx512_bf16
def test_kernels_at_points_are_kept_until_the_kernels_change(monkeypatch):
    monkeypatch.setattr(winograd_bf16_numba, "pay", lambda: True)
    layer = Conv2d(48, 64, 3, padding=1).bfloat16().eval()
    x = case(16, 48, 64, 1, 13, 13, 3, 1)[0].detach()

    def right() -> bool:
        with torch.inference_mode():
            y = layer(x)
        wide = (t.detach().double() for t in (layer.weight, layer.bias))
        return distance(y, F.conv2d(x.double(), *wide, padding=1)) < 0.0055

    assert right()
    (first,) = layer._kept.values()
    assert right()
    assert next(iter(layer._kept.values())) is first
    with torch.no_grad():
        layer.weight.mul_(2)
    assert right()
    assert len(layer._kept) == 1
