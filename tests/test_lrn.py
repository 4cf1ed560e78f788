"""The response norms against their formula in float64 loops: values, gradients, borders, towers, layouts, threads."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.errors import UsageError
from alexnet.kernels import compiled, lrn

BACKENDS = ("reference", "numba")  # "triton": tests/test_lrn_triton.py
SHAPES = [(1, 1, 1, 1), (2, 5, 3, 7), (3, 48, 5, 4), (1, 97, 2, 3), (0, 6, 3, 3)]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-8}  # relative; bfloat16: half a step of its 8 bits


def channels_by_loops(x: np.ndarray, size: int, alpha: float, beta: float, k: float, groups: int = 1) -> np.ndarray:
    y, tower = np.zeros_like(x), x.shape[1] // groups
    for c in range(x.shape[1]):
        first = c // tower * tower
        low, high = max(first, c - size // 2), min(first + tower, c - size // 2 + size)
        scale = k + alpha / size * (x[:, low:high] ** 2).sum(1)
        y[:, c] = np.where(scale > 0, x[:, c] * np.where(scale > 0, scale, 1) ** -beta, 0)
    return y


def spatial_by_loops(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    y = np.zeros_like(x)
    for h in range(x.shape[2]):
        for w in range(x.shape[3]):
            rows = slice(max(0, h - size // 2), h - size // 2 + size)
            columns = slice(max(0, w - size // 2), w - size // 2 + size)
            scale = k + alpha / size**2 * (x[:, :, rows, columns] ** 2).sum((2, 3))
            y[:, :, h, w] = np.where(scale > 0, x[:, :, h, w] * np.where(scale > 0, scale, 1) ** -beta, 0)
    return y


def random(shape, dtype=torch.float32, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).to(dtype)


def close(got: torch.Tensor, wanted, dtype: torch.dtype, slack: float = 1.0) -> None:
    wanted = torch.as_tensor(wanted)
    tolerance = slack * TOLERANCE.get(dtype, 1e-12)
    torch.testing.assert_close(got.double(), wanted.double(), rtol=tolerance, atol=tolerance * 1e-2)


def gradients(norm, x: torch.Tensor, *numbers, **towers) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().clone().requires_grad_()
    y = norm(x, *numbers, **towers)
    y.backward(random(y.shape, seed=1).to(torch.bfloat16).to(y.device, y.dtype))
    return y.detach(), x.grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channels_are_the_formula(shape, dtype, backend):
    x = random(shape, dtype)
    with lrn.use(backend):
        for size in (1, 2, 3, 4, 5, 9, shape[1], 3 * shape[1]):
            for alpha, beta, k in ((0.5, 0.75, 1.0), (1.0, 1.0, 0.1), (0.3, 0.6, 2.0), (0.3, 0.5, 1.0)):
                wanted = channels_by_loops(x.double().numpy(), size, alpha, beta, k)
                got = lrn.local_response_norm(x, size, alpha, beta, k)
                assert got.dtype == dtype
                close(got, wanted, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_map_is_the_formula(shape, dtype, backend):
    x = random(shape, dtype)
    with lrn.use(backend):
        for size in (1, 2, 3, 4, 5, 9):
            wanted = spatial_by_loops(x.double().numpy(), size, 0.5, 0.75, 1.0)
            close(lrn.spatial_response_norm(x, size, 0.5, 0.75, 1.0), wanted, dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_no_window_leaves_its_tower(groups, backend):
    x = random((2, 12, 3, 2))
    with lrn.use(backend):
        for size in (2, 5, 9):
            close(
                lrn.local_response_norm(x, size, 0.5, 0.75, 1.0, groups=groups),
                channels_by_loops(x.double().numpy(), size, 0.5, 0.75, 1.0, groups),
                torch.float32,
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_compiled_gradient_is_the_float64_one(size, dtype):
    x = random((2, 36, 5, 6), dtype)
    for groups in (1, 2):
        for alpha, beta, k in ((0.5, 0.75, 1.0), (1.0, 1.0, 0.1), (0.3, 0.6, 2.0)):
            _, got = gradients(lrn.local_response_norm, x, size, alpha, beta, k, groups=groups)
            _, wanted = gradients(lrn.local_response_norm, x.double(), size, alpha, beta, k, groups=groups)
            torch.testing.assert_close(got.double(), wanted, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    _, got = gradients(lrn.spatial_response_norm, x, size, 0.5, 0.75, 1.0)
    _, wanted = gradients(lrn.spatial_response_norm, x.double(), size, 0.5, 0.75, 1.0)
    torch.testing.assert_close(got.double(), wanted, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])


def test_reference_gradient_by_differences_in_float64():
    x = random((2, 6, 3, 4), torch.float64).requires_grad_()
    for size in (2, 5):
        assert torch.autograd.gradcheck(lambda x, n=size: lrn.local_response_norm(x, n, 0.5, 0.75, 1.0, groups=2), x)
        assert torch.autograd.gradcheck(lambda x, n=size: lrn.spatial_response_norm(x, n, 0.5, 0.75, 1.0), x)


@pytest.mark.parametrize("norm", [lrn.local_response_norm, lrn.spatial_response_norm])
def test_compiled_gradient_by_differences_in_float32(norm):
    x, direction = random((1, 7, 3, 3)), random((1, 7, 3, 3), seed=3)
    y, dx = gradients(norm, x, 4, 0.5, 0.75, 1.0)
    g = random(y.shape, seed=1).to(torch.bfloat16).double()
    moved = norm(x + 1e-2 * direction, 4, 0.5, 0.75, 1.0).double() - norm(x - 1e-2 * direction, 4, 0.5, 0.75, 1.0)
    assert (moved * g).sum().item() / 2e-2 == pytest.approx((dx * direction).sum().item(), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 7, 5), (2, 7, 3, 5), (2, 7, 2, 3, 2)])
@pytest.mark.parametrize("size", [1, 4, 5, 11])
def test_equals_torch(shape, size):
    x = random(shape)
    close(lrn.local_response_norm(x, size), F.local_response_norm(x, size), torch.float32)
    close(lrn.local_response_norm(x, size, 0.5, 0.6, 2.0), F.local_response_norm(x, size, 0.5, 0.6, 2.0), torch.float32)


@pytest.mark.parametrize("norm", [lrn.local_response_norm, lrn.spatial_response_norm])
def test_memory_layout_changes_nothing(norm):
    plain = random((3, 10, 6, 5))
    nhwc = plain.contiguous(memory_format=torch.channels_last)
    strided = random((3, 20, 6, 10))
    strided[:, ::2, :, ::2] = plain
    y, dx = gradients(norm, plain, 5, 0.5, 0.75, 1.0)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for other in (nhwc, strided[:, ::2, :, ::2]):
        y_other, dx_other = gradients(norm, other, 5, 0.5, 0.75, 1.0)
        assert torch.equal(y, y_other)
        assert torch.equal(dx, dx_other)


@pytest.mark.parametrize("norm", [lrn.local_response_norm, lrn.spatial_response_norm])
def test_threads_change_nothing(norm):
    x, before = random((5, 70, 17, 13)), torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers.append(gradients(norm, x, 5, 0.5, 0.75, 1.0))
    finally:
        torch.set_num_threads(before)
    for y, dx in answers[1:]:
        assert torch.equal(y, answers[0][0])
        assert torch.equal(dx, answers[0][1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.75, 1.0, 0.6])
def test_nan_and_inf_are_not_swallowed(beta, dtype, backend):
    x = random((1, 20, 9, 9), dtype)
    x[0, 10, 4, 4] = torch.nan
    x[0, 0, 0, 0] = torch.inf
    with lrn.use(backend):
        for norm in (lrn.local_response_norm, lrn.spatial_response_norm):
            reached = torch.zeros(x.shape, dtype=torch.bool)
            if norm is lrn.local_response_norm:
                reached[0, 8:13, 4, 4] = True
            else:
                reached[0, 10, 2:7, 2:7] = True
            y, dx = gradients(norm, x, 5, 0.5, beta, 1.0)
            assert torch.equal(y.isnan() & reached, reached)
            assert torch.equal(dx.isnan() & reached, reached)
            assert not y[0, 0, 0, 0].isfinite()
            calm = ~reached
            calm[0, :5, :5, :5] = False
            assert y[calm].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("beta", [0.75, 1.0, 0.6])
def test_silence_without_k_is_zero(beta, backend):
    """(k, alpha, beta, n) = (0, 1, 1, N) of the paper where a pixel is silent in all maps."""
    x = random((2, 8, 6, 6))
    x[:, :, 2:, :3] = 0
    with lrn.use(backend):
        for norm, size in ((lrn.local_response_norm, 8), (lrn.spatial_response_norm, 3)):
            y, dx = gradients(norm, x, size, 1.0, beta, 0.0)
            assert y.isfinite().all()
            assert (y[:, :, 3:, :2] == 0).all()
            assert (dx[:, :, 3:, :2] == 0).all()
            assert dx.isfinite().all()


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_papers_norm_in_bfloat16_is_the_formula_with_and_without_wide_vectors(monkeypatch, groups, wide):
    monkeypatch.setattr(compiled, "wide_vectors", lambda: wide)
    x, numbers = random((3, 50, 5, 4), torch.bfloat16), (5, 0.5, 0.75, 1.0)
    with lrn.use("numba"):
        y, dx = gradients(lrn.local_response_norm, x, *numbers, groups=groups)
    close(y, channels_by_loops(x.double().numpy(), *numbers, groups=groups), torch.bfloat16)
    wanted = gradients(lrn.channels_reference, x.double(), *numbers, groups=groups)[1]
    torch.testing.assert_close(dx.double(), wanted, rtol=2**-8, atol=2**-8)


def test_bfloat16_is_rounded_to_nearest_even():
    """With k = 1 and alpha = 0 the norm is the identity: every number below 1e18 comes back as it was, bit for bit."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).reshape(1, 64, 32, 32)
    x = torch.where(bits.abs() < 1e18, bits, 1.5)
    unchanged = lrn.local_response_norm(x, 5, 0.0, 0.75, 1.0)
    assert torch.equal(unchanged.view(torch.int16), x.view(torch.int16))
    exact = lrn.local_response_norm(x.float(), 5, 0.5, 0.75, 1.0)
    assert torch.equal(lrn.local_response_norm(x, 5, 0.5, 0.75, 1.0), exact.to(torch.bfloat16))


def test_without_gradient_nothing_is_kept():
    x = random((2, 8, 4, 4)).requires_grad_()
    with torch.no_grad():
        assert lrn.local_response_norm(x, 5).grad_fn is None
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        lrn.local_response_norm(x.detach(), 5)
        assert saved == []
        lrn.local_response_norm(x, 5)
    assert [t.numel() for t in saved] == [x.numel()]


def test_choice_has_a_reason_and_can_be_forced():
    assert lrn.chosen("cpu", torch.float32)[0] == "numba"
    backend, reason = lrn.chosen("cpu", torch.float64)
    assert backend == "reference"
    assert "float64" in reason
    assert lrn.chosen("cuda", torch.float64)[0] == lrn.chosen("mps", torch.float32)[0] == "reference"
    with lrn.use("reference"):
        assert lrn.chosen("cpu", torch.float32) == ("reference", "asked for")
    with lrn.use("numba"), pytest.raises(UsageError, match="float64"):
        lrn.local_response_norm(random((1, 4, 2, 2), torch.float64), 5)
    with pytest.raises(UsageError, match="reference, numba, triton"), lrn.use("cudnn"):
        pass
    assert lrn.chosen("cpu", torch.float32)[0] == "numba"


@pytest.mark.parametrize(
    "call",
    [
        lambda x: lrn.local_response_norm(x, 0),
        lambda x: lrn.local_response_norm(x, 5, groups=3),
        lambda x: lrn.local_response_norm(x[0, 0], 5),
        lambda x: lrn.local_response_norm(x.long(), 5),
        lambda x: lrn.local_response_norm(x, 5, k=-1.0),
        lambda x: lrn.spatial_response_norm(x[0], 5, 1e-3, 0.75),
    ],
)
def test_senseless_calls_are_refused(call):
    with pytest.raises(UsageError):
        call(random((2, 4, 3, 3)))


def test_numba_waits_for_the_first_call():
    code = "import sys, alexnet.kernels.lrn; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
