"""A net in somebody's own PyTorch code: weights changed by hand, hooks, autocast, graphs and function transforms."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

import alexnet
from alexnet import spec
from alexnet.errors import UsageError
from alexnet.layerfile import build, lex
from alexnet.layers import BatchNorm1d, Conv2d, MaxPool2d

SMALL = ["net.fc6.outputs=24", "net.fc7.outputs=16"]


def net_of(preset: str = "as_run") -> alexnet.AlexNet:
    return alexnet.AlexNet(spec.change(spec.preset(preset, classes=10), SMALL).net).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 50


def answered(net, pictures) -> torch.Tensor:
    with torch.inference_mode():
        return net(pictures)


def by_data(net):
    net.conv3.weight.data.mul_(0.5)


def by_numpy(net):
    np.multiply(net.conv3.weight.detach().numpy(), 0.5, out=net.conv3.weight.detach().numpy())


@pytest.mark.parametrize("change", [by_data, by_numpy])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_were_changed_by_hand_are_seen(pictures, change, dtype):
    net, x = net_of().to(dtype), pictures.to(dtype)
    if change is by_numpy and dtype == torch.bfloat16:
        pytest.skip("NumPy has no bfloat16")
    before = answered(net, x)
    change(net)
    with torch.no_grad():
        wanted = net(x)
    error, step = ((other - wanted).abs().max() for other in (answered(net, x), before))
    assert error < (0.3 if dtype == torch.bfloat16 else 0.001) * step


def called(net, weight, pictures) -> torch.Tensor:
    with torch.inference_mode():
        return torch.func.functional_call(net, {"conv5.weight": weight}, (pictures,))


def test_functional_calls_with_several_lesions(pictures):
    net, answers, places = net_of(), [], set()
    for part in range(6):
        lesioned = net.conv5.weight.detach().clone()
        lesioned[part * 40 : (part + 1) * 40] = 0
        places.add(lesioned.data_ptr())
        answers.append(called(net, lesioned, pictures))
        del lesioned  # the next one may lie in its place
    assert len(places) < 6
    assert all(not torch.equal(one, other) for one, other in pairwise(answers))


def test_weights_that_are_not_dense(pictures):
    net = net_of()
    wide = torch.randn(512, 192, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.03
    first, even = called(net, wide[::2], pictures), wide[::2].contiguous()
    torch.testing.assert_close(first, called(net, even, pictures))
    wide[300:] *= 0
    assert not torch.equal(called(net, wide[::2], pictures), first)
    mean = even.mean(1, keepdim=True)
    torch.testing.assert_close(
        called(net, mean.expand(-1, 192, -1, -1), pictures), called(net, mean.repeat(1, 192, 1, 1), pictures)
    )


@pytest.mark.parametrize("name", ["conv1", "conv3", "pool5"])
def test_a_backward_hook_sees_the_layers_own_gradient(pictures, name):
    net, seen = net_of(), {}
    net.get_submodule(name).register_full_backward_hook(lambda m, into, out: seen.update(hook=out[0]))
    with torch.no_grad():
        own = net(pictures, until=name)
    rest = own.clone().requires_grad_()
    x, after = rest, False
    for layer, module in net.named_children():
        x = module(x) if after else x
        after = after or layer == name
    x.square().mean().backward()
    net(pictures).square().mean().backward()
    difference = (seen["hook"] - rest.grad).norm() / rest.grad.norm()  # rounding may choose another of two maxima
    assert difference < 0.01


def test_hooks_for_all_modules_see_every_relu(pictures):
    net, seen = net_of(), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, x, y: seen.append(type(m)))
    try:
        answered(net, pictures)
    finally:
        handle.remove()
    assert seen.count(torch.nn.ReLU) == 7
    fired = []
    net.relu3.register_full_backward_pre_hook(lambda m, g: fired.append(g[0].shape))
    net(pictures).sum().backward()
    assert fired == [(8, 384, 13, 13)]


LAYERS = """[data]\ntype=data\ndataIdx=0\n\n[labels]\ntype=data\ndataIdx=1\n
[a]\ntype=conv\ninputs=data\nchannels=3\nfilters=16\npadding=1\nstride=1\nfilterSize=3\ninitW=0.1\n
[b]\ntype=conv\ninputs=data\nchannels=3\nfilters=16\npadding=1\nstride=1\nfilterSize=3\ninitW=0.1\n
[fc]\ntype=fc\noutputs=10\ninputs=a,b\ninitW=0.01,0.01\n
[probs]\ntype=softmax\ninputs=fc\n\n[logprob]\ntype=cost.logreg\ninputs=labels,probs\n"""


def test_hooks_on_towers_of_a_layer_file(tmp_path):
    rates = {"a": 1, "b": 1, "fc": 2}
    params = "\n".join(
        f"[{name}]\n" + "\n".join(f"{key}={','.join(['0.1'] * n)}" for key in ("epsW", "momW", "wc"))
        + "\nepsB=0.1\nmomB=0.9\n" for name, n in rates.items()
    )  # fmt: skip
    (tmp_path / "l.cfg").write_text(LAYERS)
    (tmp_path / "p.cfg").write_text(params + "\n[logprob]\ncoeff=1\n")
    net = build(lex.load(tmp_path / "l.cfg"), lex.load(tmp_path / "p.cfg"), size_px=8).eval()
    x = torch.randn(2, 3, 8, 8)
    plain, seen = net(x), []
    handle = net.module("b").register_forward_hook(lambda m, i, o: seen.append(o.shape))
    torch.testing.assert_close(net(x), plain)
    assert seen == [(2, 16, 8, 8)]
    handle.remove()
    net.module("b").register_forward_hook(lambda m, i, o: o * 0)
    assert not torch.allclose(net(x), plain)


@pytest.mark.parametrize("preset", ["as_run", "torchvision", "modern"])
def test_autocast(pictures, preset):
    net = net_of(preset)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(pictures)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), net(pictures), rtol=0.05, atol=0.05 * float(y.abs().max()))
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("preset", ["as_run", "torchvision"])
def test_graphs_of_a_net(pictures, preset):
    net = net_of(preset)
    wanted = answered(net, pictures)
    near = {"rtol": 1e-3, "atol": 1e-4 * float(wanted.abs().max())}
    compiled = torch.compile(copy.deepcopy(net), backend="aot_eager", dynamic=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(pictures), wanted, **near)
        torch.testing.assert_close(torch.jit.trace(net, pictures)(pictures), wanted, **near)
        torch.testing.assert_close(torch.export.export(net, (pictures,)).module()(pictures), wanted, **near)


def test_gradients_by_a_transform_of_functions(pictures):
    net = net_of()
    weights = dict(net.named_parameters())

    def loss(weights):
        return torch.func.functional_call(net, weights, (pictures,)).square().mean()

    found = torch.func.grad(loss)(weights)
    loss(weights).backward()
    for name in ("fc8.weight", "fc6.weight", "conv5.weight"):
        wanted = weights[name].grad
        torch.testing.assert_close(found[name], wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))


def test_layers_refuse_what_they_do_not_do():
    for make in (
        lambda: Conv2d(3, 8, 3, padding_mode="reflect"),
        lambda: Conv2d(3, 8, 3, dilation=2),
        lambda: MaxPool2d(3, 2, padding=1),
    ):
        with pytest.raises(TypeError):
            make()
    with pytest.raises(UsageError):
        Conv2d(3, 8, 3, stride=(2, 1))
    with pytest.raises(UsageError):
        MaxPool2d((3, 2))


def test_a_batch_of_one_is_normed_as_in_a_test():
    norm = BatchNorm1d(4)
    norm(torch.randn(8, 4))
    x, before = torch.randn(1, 4), norm.running_mean.clone()
    y = norm.train()(x)
    torch.testing.assert_close(y, copy.deepcopy(norm).eval()(x))
    assert torch.equal(norm.running_mean, before)
