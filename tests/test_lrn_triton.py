"""The response norms' Triton kernels, run by Triton's interpreter: the float64 formula at odd shapes, forward and
backward, towers, layouts, NaN and silence. On a machine with a GPU the kernels themselves are run.
"""

import pytest
import test_lrn as formula
import torch
from triton_kernels import DEVICE, needs_triton

from alexnet.errors import UsageError
from alexnet.kernels import lrn

pytestmark = needs_triton
SLACK = 1 if DEVICE == "cpu" else 4  # a GPU's powers are approximations
PAPER = (0.5, 0.75, 1.0)


@pytest.fixture(autouse=True)
def triton():
    with lrn.use("triton"):
        yield


def gradients(norm, x, *numbers, **towers):
    y, dx = formula.gradients(norm, x.to(DEVICE), *numbers, **towers)
    return y.cpu(), dx.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 7), (1, 97, 2, 3), (0, 6, 3, 3)], ids=str)
def test_channels_are_the_formula(shape, dtype):
    x = formula.random(shape, dtype)
    for size, numbers in ((1, PAPER), (2, (1.0, 1.0, 0.1)), (4, (0.3, 0.6, 2.0)), (5, PAPER), (3 * shape[1], PAPER)):
        got = lrn.local_response_norm(x.to(DEVICE), size, *numbers)
        assert got.dtype == dtype
        formula.close(got.cpu(), formula.channels_by_loops(x.double().numpy(), size, *numbers), dtype, SLACK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 7), (1, 33, 6, 5), (0, 6, 3, 3)], ids=str)
def test_same_map_is_the_formula(shape, dtype):
    x = formula.random(shape, dtype)
    for size in (1, 2, 3, 5, 9):
        got = lrn.spatial_response_norm(x.to(DEVICE), size, *PAPER)
        formula.close(got.cpu(), formula.spatial_by_loops(x.double().numpy(), size, *PAPER), dtype, SLACK)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_no_window_leaves_its_tower(groups):
    x = formula.random((2, 12, 3, 2))
    for size in (2, 5, 9):
        got = lrn.local_response_norm(x.to(DEVICE), size, *PAPER, groups=groups)
        wanted = formula.channels_by_loops(x.double().numpy(), size, *PAPER, groups)
        formula.close(got.cpu(), wanted, torch.float32, SLACK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_gradient_is_the_float64_one(size, dtype):
    x = formula.random((2, 12, 5, 7), dtype)
    tolerance = 3 * SLACK * formula.TOLERANCE[dtype]
    for groups, numbers in ((1, PAPER), (2, (1.0, 1.0, 0.1)), (2, (0.3, 0.6, 2.0))):
        _, got = gradients(lrn.local_response_norm, x, size, *numbers, groups=groups)
        wanted = reference_gradient(lrn.local_response_norm, x, size, *numbers, groups=groups)
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)
    _, got = gradients(lrn.spatial_response_norm, x, size, *PAPER)
    wanted = reference_gradient(lrn.spatial_response_norm, x, size, *PAPER)
    torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def reference_gradient(norm, x, *numbers, **towers):
    with lrn.use("reference"):
        return formula.gradients(norm, x.double(), *numbers, **towers)[1]


@pytest.mark.parametrize("norm", [lrn.local_response_norm, lrn.spatial_response_norm])
def test_gradient_by_differences(norm):
    x, direction = formula.random((1, 7, 3, 3)).to(DEVICE), formula.random((1, 7, 3, 3), seed=3).to(DEVICE)
    _, dx = gradients(norm, x, 4, *PAPER)
    g = formula.random(x.shape, seed=1).to(torch.bfloat16).double()
    moved = norm(x + 1e-2 * direction, 4, *PAPER).double() - norm(x - 1e-2 * direction, 4, *PAPER).double()
    wanted = (dx * direction.cpu()).sum().item()
    assert (moved.cpu() * g).sum().item() / 2e-2 == pytest.approx(wanted, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("norm", [lrn.local_response_norm, lrn.spatial_response_norm])
def test_memory_layout_changes_nothing(norm):
    plain = formula.random((2, 10, 4, 5))
    y, dx = gradients(norm, plain, 5, *PAPER)
    assert norm(plain.to(DEVICE), 5, *PAPER).is_contiguous(memory_format=torch.channels_last)
    y_other, dx_other = gradients(norm, plain.contiguous(memory_format=torch.channels_last), 5, *PAPER)
    assert torch.equal(y, y_other)
    assert torch.equal(dx, dx_other)


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's numpy, at inf * 0
@pytest.mark.parametrize("beta", [0.75, 1.0, 0.6])
def test_nan_and_inf_are_not_swallowed(beta):
    x = formula.random((1, 20, 9, 9))
    x[0, 10, 4, 4], x[0, 0, 0, 0] = torch.nan, torch.inf
    for norm, place in (
        (lrn.local_response_norm, (0, slice(8, 13), 4, 4)),
        (lrn.spatial_response_norm, (0, 10, slice(2, 7), slice(2, 7))),
    ):
        reached = torch.zeros(x.shape, dtype=torch.bool)
        reached[place] = True
        y, dx = gradients(norm, x, 5, 0.5, beta, 1.0)
        assert (y.isnan() & reached).equal(reached)
        assert (dx.isnan() & reached).equal(reached)
        assert not y[0, 0, 0, 0].isfinite()
        reached[0, :5, :5, :5] = True
        assert y[~reached].isfinite().all()


@pytest.mark.parametrize("beta", [0.75, 1.0, 0.6])
def test_silence_without_k_is_zero(beta):
    x = formula.random((2, 8, 6, 6))
    x[:, :, 2:, :3] = 0
    for norm, size in ((lrn.local_response_norm, 8), (lrn.spatial_response_norm, 3)):
        y, dx = gradients(norm, x, size, 1.0, beta, 0.0)
        assert y.isfinite().all()
        assert dx.isfinite().all()
        assert (y[:, :, 3:, :2] == 0).all()
        assert (dx[:, :, 3:, :2] == 0).all()


def test_bfloat16_is_rounded_to_nearest_even():
    x = formula.random((1, 16, 9, 9), torch.bfloat16).to(DEVICE)
    exact = lrn.local_response_norm(x.float(), 5, *PAPER)
    assert torch.equal(lrn.local_response_norm(x, 5, *PAPER), exact.to(torch.bfloat16))


def test_only_x_is_kept():
    x, saved = formula.random((2, 8, 4, 4)).to(DEVICE).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        lrn.local_response_norm(x, 5)
        lrn.spatial_response_norm(x, 3, *PAPER)
    assert [t.numel() for t in saved] == [x.numel()] * 2


def test_float64_is_refused():
    with pytest.raises(UsageError, match="float64"):
        lrn.local_response_norm(formula.random((1, 4, 2, 2), torch.float64), 5)


def test_a_compiled_net_holds_it_in_one_graph(monkeypatch):
    def two_norms(x):
        y = lrn.spatial_response_norm(lrn.local_response_norm(x.relu(), 5, *PAPER, groups=2), 3, *PAPER)
        return y * (2 if really_chosen("cuda", x.dtype)[0] == "triton" else 0)

    really_chosen = lrn.chosen
    monkeypatch.setattr(lrn, "chosen", lambda device, dtype: ("triton", "on the CPU it would be numba"))
    x = formula.random((2, 8, 4, 5))
    compiled = torch.compile(two_norms, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(gradients(compiled, x), gradients(two_norms, x), strict=True):
        assert wanted.any()
        assert torch.equal(got, wanted)
