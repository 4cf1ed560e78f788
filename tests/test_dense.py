"""Dense layers by oneDNN: the float64 product at odd shapes; and when PyTorch's own are taken."""

import pytest
import torch

from alexnet import cores
from alexnet.kernels import dense
from alexnet.layers import Linear

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


def case(rows, inputs, outputs, bias=True):
    draw = torch.Generator().manual_seed(rows)
    x, weight, b = (torch.randn(s, generator=draw) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
    return x, weight, b if bias else None


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1), (10, 97, 33), (3, 5, 1000), (129, 64, 7), (0, 4, 3)], ids=str)
def test_it_is_the_product(shape, bias):
    x, weight, b = case(*shape, bias)
    wanted = x.double() @ weight.double().T + (0 if b is None else b.double())
    with torch.inference_mode():
        assert dense.chosen(x, weight)[0] == "onednn"
        torch.testing.assert_close(dense.linear(x, weight, b).double(), wanted, rtol=1e-4, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 7), (10, 97, 33), (2, 3, 11, 13)], ids=str)
def test_gradients_are_those_of_the_product(monkeypatch, shape, slow):
    monkeypatch.setattr(cores, "slow_library", lambda: slow)
    *rows, inputs, outputs = shape
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(s, generator=draw) for s in ((*rows, inputs), (outputs, inputs), (outputs,))]
    g = torch.randn(*rows, outputs, generator=draw)
    narrow, wide = ([t.to(kind).requires_grad_() for t in given] for kind in (torch.float32, torch.float64))
    got = torch.autograd.grad(dense.linear(*narrow), narrow, g)
    wanted = torch.autograd.grad(torch.nn.functional.linear(*wide), wide, g.double())
    assert dense.chosen(*narrow[:2])[0] == "onednn"
    for ours, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-4)


def test_what_is_exported_or_of_another_type_is_pytorchs():
    x, weight, _ = case(4, 6, 5)
    assert dense.chosen(x.double(), weight.double())[0] == "torch"
    layer = Linear(6, 5)
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(program.graph)


@needs_onednn
def test_a_layer_answers_alike_either_way():
    layer, x = Linear(300, 20), case(10, 300, 1)[0]
    with torch.inference_mode():
        fast = layer(x)
    stock = torch.nn.functional.linear(x, layer.weight, layer.bias).detach()
    torch.testing.assert_close(fast, stock, rtol=1e-5, atol=1e-5)
