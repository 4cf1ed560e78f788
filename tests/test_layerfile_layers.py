"""Every layer type against a reference of a few lines in float64: windows over the edge, ties, masks, functions."""

import math

import numpy as np
import pytest
import torch

from alexnet.layerfile import build
from alexnet.layerfile.costs import cost, topk_errors
from alexnet.layerfile.layers import MaxPool
from alexnet.layerfile.neurons import activation
from alexnet.layerfile.records import Neuron

FRAME = "[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1\n{}\n"
END = "[end]\ntype=fc\ninputs=x\noutputs=2\n[cost]\ntype=cost.logreg\ninputs=labels,end\n"


def net_of(tmp_path, section: str, size_px: int):
    """A float64 net with a layer [x] on the pictures, given as "type=... key=value ..."."""
    path = tmp_path / "layers.cfg"
    lines = section.replace(" ", "\n")
    path.write_text(FRAME.format(f"[x]\n{lines}{'' if 'inputs' in lines else chr(10) + 'inputs=data'}") + END)
    return build(path, size_px=size_px).double().eval()


def pictures(size_px: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, size_px, size_px, dtype=torch.float64, generator=torch.Generator().manual_seed(size_px))


def run(tmp_path, section: str, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """(pictures, output of the layer)."""
    x = pictures(size_px)
    with torch.no_grad():
        return x.numpy(), net_of(tmp_path, section, size_px)(x, until="x").numpy()


def reach(first: int, size: int, limit: int) -> slice:
    return slice(max(0, first), min(limit, first + size))


def windows(x: np.ndarray, size: int, stride: int, start: int, out: int):
    """(row, column, the pixels inside the map) of every window of (N, C, S, S)."""
    for i in range(out):
        for j in range(out):
            rows, columns = (reach(start + k * stride, size, x.shape[2]) for k in (i, j))
            yield i, j, x[:, :, rows, columns]


def conv_by_loops(x, filters, size, stride, pad, out) -> np.ndarray:
    """`filters` (position or one) -> (F, C, size, size); the picture lies in zeros that reach far enough."""
    far = np.zeros((*x.shape[:2], 4 * x.shape[2], 4 * x.shape[2]))
    far[:, :, pad : pad + x.shape[2], pad : pad + x.shape[2]] = x
    columns = [
        np.einsum(
            "nchw,fchw->nf", far[:, :, i * stride : i * stride + size, j * stride : j * stride + size], filters(i, j)
        )
        for i in range(out)
        for j in range(out)
    ]
    return np.stack(columns, -1).reshape(len(x), -1, out, out)


@pytest.mark.parametrize(
    ("size_px", "size", "stride", "pad", "out"), [(7, 3, 1, 0, 5), (8, 3, 2, 0, 4), (10, 5, 4, 1, 3), (6, 3, 2, 1, 4)]
)
def test_conv(tmp_path, size_px, size, stride, pad, out):
    text = f"type=conv channels=3 filters=5 filterSize={size} stride={stride} padding={pad} initW=1 initB=0.5"
    net, x = net_of(tmp_path, text, size_px), pictures(size_px)
    w = net.module("x").weights[0].detach().numpy()
    expected = conv_by_loops(x.numpy(), lambda i, j: w, size, stride, pad, out) + 0.5
    np.testing.assert_allclose(net(x, until="x").detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_conv1_of_2012_hangs_over_by_three(tmp_path):
    net = net_of(tmp_path, "type=conv channels=3 filters=1 filterSize=11 stride=4 initW=1", 224)
    assert net.shapes["x"] == (1, 55, 55)
    zeros = torch.zeros(1, 3, 224, 224, dtype=torch.float64)
    zeros[..., 216:, :] = 1  # rows 216 to 223: all that the last of the windows sees
    assert torch.nonzero(net(zeros, until="x")[0, 0, :, 30]).flatten().tolist() == [52, 53, 54]


@pytest.mark.parametrize("pad", [0, 1])
def test_local(tmp_path, pad):
    out = 1 + math.ceil((2 * pad + 6 - 3) / 2)
    net = net_of(tmp_path, f"type=local channels=3 filters=4 filterSize=3 stride=2 padding={pad} initW=1", 6)
    x, w = pictures(6), net.module("x").weights[0].detach().numpy()
    torch.nn.init.normal_(net.module("x").bias)

    def filters(i: int, j: int) -> np.ndarray:
        return w[i * out + j, 0].T.reshape(4, 3, 3, 3)

    expected = conv_by_loops(x.numpy(), filters, 3, 2, pad, out) + net.module("x").bias.detach().numpy()
    np.testing.assert_allclose(net(x, until="x").detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", ["conv", "local"])
def test_groups_of_random_channels_and_several_inputs(tmp_path, kind):
    text = (
        f"type={kind} inputs=data,data channels=3 filters=6,2 filterSize=3,1 padding=1,0 groups=1,3 "
        "randSparse=0,1 filterChannels=0,3 initW=1 sharedBiases=0"
    )
    net, x = net_of(tmp_path, text, 5), pictures(5)
    module = net.module("x")
    order = module.connections1.tolist()
    assert sorted(order) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    w0, w1 = (w.detach().numpy() for w in module.weights)

    def first(i: int, j: int) -> np.ndarray:
        return w0 if kind == "conv" else w0[i * 5 + j, 0].T.reshape(6, 3, 3, 3)

    expected = conv_by_loops(x.numpy(), first, 3, 1, 1, 5)
    for g in range(3):
        seen = x.numpy()[:, order[3 * g : 3 * g + 3]]
        for i in range(5):
            for j in range(5):
                matrix = w1[2 * g : 2 * g + 2, :, 0, 0].T if kind == "conv" else w1[i * 5 + j, g]
                expected[:, 2 * g : 2 * g + 2, i, j] += seen[:, :, i, j] @ matrix
    np.testing.assert_allclose(net(x, until="x").detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    assert module.bias.shape == (6, 5, 5)


def test_fc_sums_its_inputs(tmp_path):
    net, x = net_of(tmp_path, "type=fc inputs=data,data outputs=4 initW=1,1 initB=2", 3), pictures(3)
    w0, w1 = (w.detach().numpy() for w in net.module("x").weights)
    expected = x.numpy().reshape(2, 27) @ (w0 + w1).T + 2
    np.testing.assert_allclose(net(x, until="x").detach().numpy(), expected, rtol=1e-10)


GEOMETRY = [
    (7, 3, 2, 0, 0, 3),
    (8, 3, 2, 0, 0, 4),
    (7, 3, 2, -1, 0, 4),
    (6, 2, 2, 1, 0, 3),
    (6, 3, 3, -2, 2, 2),
    (5, 5, 1, 0, 0, 1),
]


@pytest.mark.parametrize("kind", ["max", "avg", "maxabs", "sum"])
@pytest.mark.parametrize(("size_px", "size", "stride", "start", "outputs_x", "out"), GEOMETRY)
def test_pools(tmp_path, kind, size_px, size, stride, start, outputs_x, out):
    function = {
        "max": lambda part: part.max((2, 3)),
        "avg": lambda part: part.mean((2, 3)),
        "sum": lambda part: part.sum((2, 3)),
        "maxabs": lambda part: np.where(part.max((2, 3)) > -part.min((2, 3)), part.max((2, 3)), part.min((2, 3))),
    }[kind]
    name = "avg sum=1" if kind == "sum" else kind
    text = f"type=pool pool={name} channels=3 sizeX={size} stride={stride} start={start} outputsX={outputs_x}"
    x, y = run(tmp_path, text, size_px)
    assert y.shape == (2, 3, out, out)
    for i, j, part in windows(x, size, stride, start, out):
        np.testing.assert_allclose(y[:, :, i, j], function(part), rtol=1e-12, atol=1e-12)


def test_random_pool_takes_a_pixel_of_the_window(tmp_path):
    text = "type=pool pool=rand channels=3 sizeX=3 stride=2"
    x, y = run(tmp_path, text, 8)
    for i, j, part in windows(x, 3, 2, 0, 4):
        assert (part == y[:, :, i, j, None, None]).sum() == y.shape[0] * y.shape[1]
    net = net_of(tmp_path, text, 8)
    assert not torch.equal(net(torch.from_numpy(x), until="x"), torch.from_numpy(y))


def test_all_tied_maxima_get_the_gradient():
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    MaxPool.apply(x, 3, 2).sum().backward()
    line = torch.tensor([1.0, 1, 2, 1, 1], dtype=torch.float64)
    assert torch.equal(x.grad[0, 0], line[:, None] * line)
    y = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: MaxPool.apply(t, 3, 2), y)


NORM = "channels=3 scale=2 pow=0.75"


@pytest.mark.parametrize("size", [1, 2, 5])
def test_norm_over_maps(tmp_path, size):
    x, y = run(tmp_path, f"type=cmrnorm size={size} minDiv=2 {NORM}", 4)
    for c in range(3):
        sums = (x[:, reach(c - size // 2, size, 3)] ** 2).sum(1)
        np.testing.assert_allclose(y[:, c], x[:, c] * (2 + 2 / size * sums) ** -0.75, rtol=1e-10)


def test_norm_over_blocks_of_maps(tmp_path):
    x, y = run(tmp_path, f"type=cmrnorm size=2 blocked=1 minDiv=2 {NORM}", 4)
    for c in range(3):
        sums = (x[:, c // 2 * 2 : c // 2 * 2 + 2] ** 2).sum(1)
        np.testing.assert_allclose(y[:, c], x[:, c] * (2 + sums) ** -0.75, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_norm_within_maps(tmp_path, size):
    x, y = run(tmp_path, f"type=rnorm size={size} {NORM}", 5)
    for i, j, part in windows(x, size, 1, -(size // 2), 5):
        expected = x[:, :, i, j] * (1 + 2 / size**2 * (part**2).sum((2, 3))) ** -0.75
        np.testing.assert_allclose(y[:, :, i, j], expected, rtol=1e-10)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_contrast_norm_and_its_gradient(tmp_path, size):
    x = pictures(5).requires_grad_()
    y = net_of(tmp_path, f"type=cnorm size={size} {NORM}", 5)(x, until="x")
    g = torch.randn_like(y)
    y.backward(g)
    x_, g_, scale = x.detach().numpy(), g.numpy(), 2 / size**2
    means, sums, back = np.zeros_like(x_), np.zeros_like(x_), np.zeros_like(x_)
    for i, j, part in windows(x_, size, 1, -(size // 2), 5):
        means[:, :, i, j] = part.mean((2, 3))
    for i, j, part in windows((x_ - means) ** 2, size, 1, -(size // 2), 5):
        sums[:, :, i, j] = part.sum((2, 3))
    bottom = 1 + scale * sums
    np.testing.assert_allclose(y.detach().numpy(), x_ * bottom**-0.75, rtol=1e-10)
    cross = -2 * 0.75 * scale * g_ * x_ * bottom**-1.75  # goes to every pixel of the window
    for i in range(5):
        for j in range(5):
            rows, columns = (reach(k - size // 2, size, 5) for k in (i, j))
            back[:, :, rows, columns] += cross[:, :, i, j, None, None]
    np.testing.assert_allclose(x.grad.numpy(), g_ * bottom**-0.75 + (x_ - means) * back, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("taps", [3, 9])
def test_blur(tmp_path, taps):
    x, y = run(tmp_path, f"type=blur channels=3 filterSize={taps} stdev=4", 6)
    weights = np.exp(-((np.arange(taps) - taps // 2) ** 2) / 32)
    padded = np.pad(x, ((0, 0), (0, 0), (taps // 2,) * 2, (taps // 2,) * 2))
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    for i in range(6):
        for j in range(6):
            np.testing.assert_allclose(
                y[:, :, i, j], (padded[:, :, i : i + taps, j : j + taps] * kernel).sum((2, 3)), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize(("size_px", "stride", "start", "out"), [(224, 4, 2, 56), (7, 3, 0, 3), (8, 3, 1, 3)])
def test_nailbed(tmp_path, size_px, stride, start, out):
    x, y = run(tmp_path, f"type=nailbed channels=3 stride={stride}", size_px)
    assert y.shape[2] == out
    np.testing.assert_array_equal(y, x[:, :, start::stride, start::stride])


def test_mirror_and_sums_and_joins(tmp_path):
    x, y = run(tmp_path, "type=href channels=3", 4)
    np.testing.assert_array_equal(y, x[..., ::-1])
    x, y = run(tmp_path, "type=eltsum inputs=data,data coeffs=2,-0.5", 4)
    np.testing.assert_allclose(y, 1.5 * x)
    for kind in ("concat", "pass"):
        x, y = run(tmp_path, f"type={kind} inputs=data,data", 4)
        np.testing.assert_array_equal(y, np.concatenate([x, x], 1))
    x, y = run(tmp_path, "type=eltmax inputs=data,data", 4)
    np.testing.assert_array_equal(y, x)
    x, y = run(tmp_path, "type=softmax", 4)
    e = np.exp(x.reshape(2, -1))
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("kind", "enable", "trained", "tested"),
    [
        ("hs", 1, 1, 0.25),
        ("dropout2", 1, 1, 0.25),
        ("dropout", 1, 4, 1),
        ("hs", 0, None, 0.25),
        ("dropout", 0, None, 1),
    ],
)
def test_dropout_of_each_age(tmp_path, kind, enable, trained, tested):
    path, params = tmp_path / "layers.cfg", tmp_path / "params.cfg"
    path.write_text(FRAME.format(f"[x]\ntype={kind}\ninputs=data\nkeep=0.25") + END)
    fc = "[end]\nepsW=0\nepsB=0\nmomW=0\nmomB=0\n[cost]\ncoeff=1\n"
    params.write_text(f"[x]\nenable={enable}\nkeep=0.25\n{fc}")
    net, ones = build(path, params, size_px=40), torch.ones(4, 3, 40, 40)
    y = net.train()(ones, until="x")
    if trained is None:
        assert y.unique().tolist() == [tested]
    else:
        assert y.unique().tolist() == [0, trained]
        assert (y > 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert net.eval()(ones, until="x").unique().tolist() == [tested]


@pytest.mark.parametrize(
    ("neuron", "function"),
    [
        (Neuron("relu"), lambda x: np.maximum(0, x)),
        (Neuron("nrelu"), lambda x: np.maximum(0, x)),
        (Neuron("brelu", (1.5,)), lambda x: np.minimum(1.5, np.maximum(0, x))),
        (Neuron("logistic"), lambda x: 1 / (1 + np.exp(-x))),
        (Neuron("tanh", (1.7, 0.66)), lambda x: 1.7 * np.tanh(0.66 * x)),
        (Neuron("abs"), np.abs),
        (Neuron("square"), np.square),
        (Neuron("linear", (2, -1)), lambda x: 2 * x - 1),
        (Neuron("softrelu"), lambda x: np.where(x > 4, x, np.log1p(np.exp(x)))),
        (Neuron("drelu", (0.7,)), lambda x: x - 0.7 * np.tanh(x / 0.7)),
        (Neuron("ident"), lambda x: x),
        (Neuron("log", (9,)), lambda x: np.log(9 + x)),
    ],
)
def test_neurons(neuron, function):
    x = np.linspace(-6, 6, 49)
    np.testing.assert_allclose(activation(torch.from_numpy(x), neuron).numpy(), function(x), rtol=1e-12, atol=1e-12)


def test_neurons_at_their_corners():
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    activation(x, Neuron("abs")).backward()
    assert x.grad.item() == -1
    assert activation(torch.tensor([4.0]), Neuron("sqrt")).item() == 2
    noisy = activation(torch.full((20_000,), 9.0), Neuron("nrelu"), training=True)
    assert noisy.std().item() == pytest.approx(3, rel=0.05)


def errors_by_hand(labels, rows, k: int) -> float:
    credit = 0.0
    for label, row in zip(labels, rows, strict=True):
        larger, equal = sum(p > row[label] for p in row), sum(p == row[label] for p in row)
        credit += 0 if k <= larger else 1 if equal <= k - larger else (k - larger) / equal
    return len(rows) - credit


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_ties_share_the_credit(k):
    rows = torch.randint(0, 3, (40, 5), generator=torch.Generator().manual_seed(k)).double()
    labels = torch.arange(40) % 5
    assert topk_errors(labels, rows, k).item() == pytest.approx(errors_by_hand(labels.tolist(), rows.tolist(), k))


def test_all_outputs_equal_is_chance():
    sums = cost("cost.logreg", [torch.tensor([1, 3]), torch.full((2, 10), 0.1)], topk=5)
    assert [s.item() for s in sums] == pytest.approx([2 * math.log(10), 2 * 0.9, 2 * 0.5])


def test_costs_of_targets():
    t, p = torch.tensor([[0.0, 1, 0.5]]), torch.tensor([[0.25, 0.5, 0.25]])
    assert cost("cost.crossent", [t, p])[0].item() == pytest.approx(math.log(2) + 0.5 * math.log(4))
    assert cost("cost.sum2", [p])[0].item() == pytest.approx(0.375)
    logits = torch.tensor([[-200.0, 200, 3]], requires_grad=True)
    targets = torch.tensor([[1.0, 0, 1]])
    (value,) = cost("cost.crossent2", [targets, logits.sigmoid()], logits)
    value.backward()
    assert value.item() == pytest.approx(100 + math.log1p(math.exp(-3)), rel=1e-5)  # log(0) counts as -50
    torch.testing.assert_close(logits.grad, logits.sigmoid().detach() - targets)
