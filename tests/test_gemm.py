"""Batches of matrix products: the float64 product at odd shapes and strides; when the compiled loops are taken."""

import pytest
import torch

from alexnet import cores
from alexnet.kernels import gemm, gemm_numba

ODD = [(1, 14, 1, 1), (3, 15, 7, 50), (2, 29, 300, 33), (5, 40, 257, 48), (2, 31, 16, 96), (3, 14, 5, 17)]


def case(products, rows, depth, columns):
    draw = torch.Generator().manual_seed(rows)
    return torch.randn(products, rows, depth, generator=draw), torch.randn(products, depth, columns, generator=draw)


def turned(t):
    """The same numbers, columns first in memory."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("layout", ["rows", "a turned", "b turned", "a part"])
@pytest.mark.parametrize("shape", ODD, ids=str)
def test_it_is_the_product(shape, layout, backend):
    a, b = case(*shape)
    wanted = a.double() @ b.double()
    if layout == "a part":
        a = torch.cat([a, a], 2)[:, :, : shape[2]]
    a, b = (turned(a) if layout == "a turned" else a), (turned(b) if layout == "b turned" else b)
    out = torch.full((shape[0], shape[1], shape[3]), torch.nan)
    assert gemm.batched(a, b, out, backend=backend) is out
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-4)
    gemm.batched(a, b, out, add=True, backend=backend)
    torch.testing.assert_close(out.double(), 2 * wanted, rtol=1e-5, atol=2e-4)


def test_the_answer_does_not_depend_on_threads():
    a, b = case(9, 43, 300, 80)
    before, outs = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outs.append(gemm.batched(a, b, torch.empty(9, 43, 80), backend="numba"))
    torch.set_num_threads(before)
    assert all(torch.equal(outs[0], out) for out in outs)


def test_nothing_outside_is_written():
    a, b = case(2, 17, 20, 50)
    around = torch.zeros(2, 17, 60)
    gemm.batched(a, b, around[:, :, 5:55], backend="numba")
    assert not around[:, :, :5].any()
    assert not around[:, :, 55:].any()
    torch.testing.assert_close(around[:, :, 5:55], a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "backend"), [("AMD EPYC", "numba"), ("Intel(R) Xeon(R) Processor", "torch")])
def test_only_processors_with_a_slow_library_take_the_loops(monkeypatch, name, backend):
    monkeypatch.setattr(cores, "cpu_name", lambda: name)
    monkeypatch.setattr(gemm_numba, "has", lambda feature: True)
    assert gemm.chosen(*case(2, 20, 4, 5))[0] == backend
    monkeypatch.setattr(gemm_numba, "has", lambda feature: False)  # fused multiply-adds would be calls of a library
    assert gemm.chosen(*case(2, 20, 4, 5))[0] == "torch"


def test_few_rows_other_types_and_nothing_are_pytorchs(monkeypatch):
    monkeypatch.setattr(gemm_numba, "pay", lambda: True)
    a, b = case(2, 20, 4, 5)
    assert gemm.chosen(a, b)[0] == "numba"
    assert gemm.chosen(a[:, : gemm.FEW_ROWS - 1], b)[0] == "torch"
    assert gemm.chosen(a.double(), b.double())[0] == "torch"
    assert gemm.chosen(a[:, :, :0], b[:, :0])[0] == "torch"
    assert max(gemm_numba.ROWS, gemm_numba.ROWS_OF_THREE) <= gemm.FEW_ROWS
