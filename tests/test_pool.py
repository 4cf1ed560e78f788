"""Max pooling and its gradients, against PyTorch's operations and against a sum over windows in float64."""

import pytest
import torch
import torch.nn.functional as F
from triton_kernels import DEVICE, needs_triton

from alexnet.kernels import pool


def by_windows(x, y, g, size, stride):
    """Window by window, in float64."""
    dx = torch.zeros_like(x)
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            rows, columns = slice(i * stride, i * stride + size), slice(j * stride, j * stride + size)
            window = x[..., rows, columns]
            dx[..., rows, columns] += (window == y[..., i : i + 1, j : j + 1]) * g[..., i : i + 1, j : j + 1]
    return dx


def case(shape, size, stride, dtype=torch.float64):
    draw = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=draw).mul(2).round().to(dtype)  # many ties, -0 and 0 among them
    y = F.max_pool2d(x.double(), size, stride).to(dtype)
    return x, y, torch.randn(y.shape, generator=draw).to(dtype)


SHAPES = [
    ((2, 5, 11, 11), 3, 2),
    ((1, 1, 7, 9), 2, 2),
    ((3, 17, 6, 6), 3, 1),
    ((2, 4, 8, 8), 3, 2),  # the last row and column lie in no window
    ((1, 3, 5, 5), 5, 5),
    ((2, 3, 9, 7), 4, 3),
]


@pytest.mark.parametrize(("shape", "size", "stride"), SHAPES)
def test_every_maximum_gets_the_gradient(shape, size, stride):
    x, y, g = case(shape, size, stride)
    wanted = by_windows(x, y, g, size, stride)
    torch.testing.assert_close(pool.reference(x, y, g, size, stride), wanted)
    small = pool.gradient(x.float(), y.float(), g.float(), size, stride)
    torch.testing.assert_close(small.double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "size", "stride"), SHAPES)
def test_bfloat16_is_rounded_once(shape, size, stride):
    x, y, g = case(shape, size, stride, torch.bfloat16)
    wanted = by_windows(x.double(), y.double(), g.double(), size, stride).float().bfloat16()
    assert torch.equal(pool.gradient(x, y, g, size, stride), wanted)


def test_memory_formats_do_not_matter():
    x, y, g = (t.float() for t in case((2, 6, 11, 11), 3, 2))
    last = [t.contiguous(memory_format=torch.channels_last) for t in (x, y, g)]
    assert torch.equal(pool.gradient(*last, 3, 2), pool.gradient(x, y, g, 3, 2))
    assert pool.gradient(*last, 3, 2).is_contiguous(memory_format=torch.channels_last)


def test_what_is_chosen():
    assert pool.chosen(torch.zeros(1))[0] == "numba"
    assert pool.chosen(torch.zeros(1).double()) == (
        "reference",
        "the compiled loop takes float32 and bfloat16, not torch.float64",
    )
    assert "meta" in pool.chosen(torch.zeros(1, device="meta"))[1]


def test_an_empty_batch():
    assert pool.gradient(torch.zeros(0, 3, 5, 5), torch.zeros(0, 3, 2, 2), torch.zeros(0, 3, 2, 2), 3, 2).shape == (
        0,
        3,
        5,
        5,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("shape", "size", "stride"), [*SHAPES, ((2, 3, 8, 10), 3, 2), ((0, 3, 5, 5), 3, 2)])
def test_pooling_on_a_cpu_is_pytorchs_and_keeps_little(shape, size, stride, layout, ceil, dtype):
    x = case(shape, size, stride, dtype)[0].contiguous(memory_format=layout)
    x[:1, :1, 1, 2] = torch.nan
    in_float32 = dtype == torch.bfloat16 and layout == torch.channels_last  # PyTorch rounds after every window
    found, kept = [], []
    for way in (F.max_pool2d, pool.max_pool):
        leaf = x.clone().to(torch.float32 if in_float32 and way is F.max_pool2d else dtype).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            y = way(leaf, size, stride, 0, 1, ceil) if way is F.max_pool2d else way(leaf, size, stride, ceil)
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
        y.backward(g.to(leaf.dtype))
        found.append((y.to(dtype), leaf.grad.to(dtype)))
    for theirs, ours in zip(*found, strict=True):
        assert torch.equal(theirs.nan_to_num(99), ours.nan_to_num(99))
        assert ours.is_contiguous(memory_format=layout) or not ours.numel()
    assert [t.dtype for t in kept[2:]] == [torch.int16]


def test_a_map_too_large_for_two_bytes_is_pooled_by_pytorch():
    x = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pool.max_pool(x, 3, 2).square().sum().backward()
    leaf = x.detach().clone().requires_grad_()
    F.max_pool2d(leaf, 3, 2).square().sum().backward()
    assert torch.equal(x.grad, leaf.grad)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("shape", "size", "stride"), [*SHAPES, ((2, 3, 8, 10), 3, 2), ((1, 2, 6, 6), 2, 3)])
def test_the_gpu_kernels_pool_as_pytorch_does(shape, size, stride, ceil, dtype):
    x = case(shape, size, stride, dtype)[0].to(DEVICE)
    found = []
    for leaf, way in ((x.double(), F.max_pool2d), (x.clone(), pool.on_gpu)):
        y = way(leaf.requires_grad_(), size, stride, **({"ceil_mode": ceil} if way is F.max_pool2d else {"ceil": ceil}))
        g = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
        y.backward(g.to(y.device, y.dtype))
        found.append((y.detach().to(dtype), leaf.grad.double()))
    (y, dx), (our_y, our_dx) = found
    assert torch.equal(our_y, y)
    torch.testing.assert_close(our_dx, dx, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


@needs_triton
def test_nan_is_a_maximum_on_a_gpu():
    x = torch.zeros(1, 1, 5, 5, device=DEVICE)
    x[0, 0, 2, 2] = torch.nan
    assert pool.on_gpu(x, 3, 2).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ceil", [False, True])
def test_with_relu_in_the_same_pass(dtype, ceil):
    """Also where all of a window is negative, zero or not a number."""
    x = torch.randn(3, 8, 12, 13, generator=torch.Generator().manual_seed(0)).sub(1).to(dtype)
    x[0, :, :3, :3], x[1, :, :5, :5] = 0, -1
    x[2, 0, 0, 0] = torch.nan
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    one, two = pool.max_pool(x, 3, 2, ceil, rectified=True), F.relu(pool.max_pool(x, 3, 2, ceil))
    g = torch.randn(two.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
    (mine,), (theirs,) = torch.autograd.grad(one, x, g), torch.autograd.grad(two, x, g)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
