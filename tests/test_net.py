"""The net is the one the paper and the 2012 source describe, and every switch does what it says."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet import layers, presets, spec
from alexnet.errors import UsageError
from alexnet.net import AlexNet, compute_in, layer_table
from alexnet.spec import NetSpec, Spec, change

SMALL = ("net.fc6.outputs=32", "net.fc7.outputs=24", "net.classes=10")
TINY = (*SMALL, "net.crop_px=67")
BIG = ("as_run", "as_published", "one_tower", "caffe", "owt2014", "torchvision", "modern")


def table_of(net: NetSpec) -> dict:
    with torch.device("meta"):  # sizes without memory
        return {row.name: row for row in layer_table(AlexNet(net))}


def parameters_of(net: NetSpec) -> int:
    return sum(row.parameters for row in table_of(net).values())


def pixels(net: NetSpec, n: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 60 * torch.randn(n, 3, net.crop_px, net.crop_px, generator=generator)


def tiny(*settings: str, preset: str = "as_run") -> AlexNet:
    return AlexNet(change(spec.preset(preset), [*TINY, *settings]).net).eval()


@pytest.fixture(scope="module")
def as_run() -> AlexNet:
    return AlexNet(change(spec.as_run(), SMALL).net).eval()


def test_as_run_layer_by_layer():
    """Parameters, shapes and multiply-adds of run 145 (2012 source, layers-145; paper, section 3.5)."""
    table = table_of(spec.as_run().net)
    weighted = [(row.name, row.parameters) for row in table.values() if row.parameters]
    assert weighted == [
        *(("conv1", 34_944), ("conv2", 307_456), ("conv3", 885_120), ("conv4", 663_936), ("conv5", 442_624)),
        *(("fc6", 37_752_832), ("fc7", 16_781_312), ("fc8", 4_097_000)),
    ]
    assert sum(count for _, count in weighted) == 60_965_224
    shapes = {name: table[name].shape for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "pool5")}
    assert shapes == {
        **{"conv1": (96, 55, 55), "pool1": (96, 27, 27), "conv2": (256, 27, 27), "pool2": (256, 13, 13)},
        **{"conv3": (384, 13, 13), "conv4": (384, 13, 13), "pool5": (256, 6, 6)},
    }
    macs = {name: row.macs for name, row in table.items()}
    millions = {f"conv{i}": round(macs[f"conv{i}"] / 1e6, 1) for i in range(1, 6)}
    assert millions == {"conv1": 105.4, "conv2": 223.9, "conv3": 149.5, "conv4": 112.1, "conv5": 74.8}
    assert round((macs["fc6"] + macs["fc7"] + macs["fc8"]) / 1e6, 1) == 58.6
    assert round(sum(macs.values()) / 1e6, 1) == 724.4


def test_layers_of_as_run_in_order():
    """2012 source, layers-145: norm on the linear output of conv1, ReLU after pooling in layers 1 and 5."""
    assert list(table_of(spec.as_run().net)) == [
        *("conv1", "rnorm1", "pool1", "relu1", "conv2", "relu2", "rnorm2", "cnorm2", "pool2"),
        *("conv3", "relu3", "conv4", "relu4", "conv5", "pool5", "relu5", "flat"),
        *("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"),
    ]


def test_layers_of_as_published_in_order():
    """Paper, section 3.5."""
    assert list(table_of(spec.as_published().net))[:9] == [
        *("conv1", "relu1", "rnorm1", "pool1", "conv2", "relu2", "rnorm2", "pool2", "conv3"),
    ]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("as_run", 60_965_224),
        ("as_published", 60_965_224),
        ("caffe", 60_965_224),
        ("one_tower", 59_798_312),  # 2012 source, layers-145-half
        ("owt2014", 61_100_840),  # 2014 source, layers-imagenet-1gpu
        ("torchvision", 61_100_840),
        ("cifar_quick", 145_578),  # 2012 source, example layers-80sec
    ],
)
def test_parameters(name, count):
    assert parameters_of(spec.preset(name).net) == count


def test_parameters_of_cifar_11pct():
    """2014 source, layers-cifar10-11pct, whose count is for the uncropped 32 pixels."""
    assert parameters_of(replace(spec.cifar_11pct().net, crop_px=32)) == 3_672_906


def test_modern_adds_two_numbers_a_map():
    normed = 96 + 256 + 384 + 384 + 256 + 4096 + 4096
    assert parameters_of(spec.modern().net) == 60_965_224 + 2 * normed


def test_shapes_of_owt2014():
    """2014 source, layers-imagenet-1gpu: 64-192-384-256-256, one column."""
    table = table_of(spec.owt2014().net)
    assert [table[name].shape for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")] == [
        *((64, 55, 55), (64, 27, 27), (192, 27, 27), (192, 13, 13)),
        *((384, 13, 13), (256, 13, 13), (256, 13, 13), (256, 6, 6)),
    ]


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_runs(name):
    """Forward and backward at the preset's own picture size, with narrow dense layers."""
    whole = change(spec.preset(name, classes=10), SMALL if name in BIG else [])
    net = AlexNet(whole.net).train()
    logits = net(pixels(whole.net))
    assert logits.shape == (2, 10)
    logits.logsumexp(1).sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in [net.conv1.weight, net.fc8.weight])


def test_as_run_in_plain_pytorch(as_run):
    """Run 145 written out in torch's own functions."""
    w, x = dict(as_run.named_parameters()), pixels(as_run.spec)

    def conv(x: Tensor, name: str, **options) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)

    def norm(x: Tensor) -> Tensor:
        return torch.cat([F.local_response_norm(half, 5, 1e-4, 0.75, 2.0) for half in x.chunk(2, 1)], 1)

    with torch.no_grad():
        y = F.max_pool2d(norm(conv(F.pad(x, (0, 3, 0, 3)), "conv1", stride=4)), 3, 2).relu()
        y = norm(conv(y, "conv2", padding=2, groups=2).relu())
        sums = F.avg_pool2d(y.square(), 5, 1, 2, count_include_pad=True) * 25
        y = F.max_pool2d(y * (1 + 1e-3 / 25 * sums) ** -0.75, 3, 2)
        y = conv(y, "conv3", padding=1).relu()
        y = conv(y, "conv4", padding=1, groups=2).relu()
        y = F.max_pool2d(conv(y, "conv5", padding=1, groups=2), 3, 2).relu().flatten(1)
        y = F.linear(y, w["fc6.weight"], w["fc6.bias"]).relu() * 0.5
        y = F.linear(y, w["fc7.weight"], w["fc7.bias"]).relu() * 0.5
        torch.testing.assert_close(as_run(x), F.linear(y, w["fc8.weight"], w["fc8.bias"]), rtol=1e-4, atol=1e-5)
        channels_last = as_run(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(channels_last, as_run(x), rtol=1e-4, atol=1e-5)


def test_55_positions_come_from_the_right_and_bottom_only(as_run):
    """2012 source: 1 + ceil((224 - 11) / 4) = 55; position 0 starts at pixel 0, the last one hangs over by 3."""
    x = pixels(as_run.spec, 1)
    conv1 = as_run.conv1
    with torch.no_grad():
        before = conv1(x)
        padded = F.conv2d(F.pad(x, (0, 3, 0, 3)), conv1.weight, conv1.bias, stride=4)
        torch.testing.assert_close(before, padded, rtol=1e-5, atol=1e-4)
        for pixel, position, tap in ((0, 0, 0), (223, 54, 7)):
            changed = x.clone()
            changed[:, 0, pixel, pixel] += 100.0
            moved = (conv1(changed) - before)[0]
            at = moved[:, position, position]
            torch.testing.assert_close(at, 100 * conv1.weight[:, 0, tap, tap], rtol=1e-3, atol=1e-3)
            moved[:, position, position] = 0
            assert moved.abs().max() < 1e-3


@pytest.mark.parametrize(("name", "padding_px"), [("torchvision", 2), ("caffe", 0)])
def test_no_overhang_in_the_copies(name, padding_px):
    conv1 = tiny(preset=name).conv1
    assert conv1.overhang_px == 0
    assert (conv1.padding, conv1.stride) == ((padding_px, padding_px), (4, 4))


@pytest.mark.parametrize(("name", "alone"), [("conv2", True), ("conv3", False), ("conv4", True), ("conv5", True)])
@pytest.mark.parametrize("tower", [0, 1])
def test_towers_see_each_other_in_conv3_only(as_run, name, alone, tower):
    """Paper, section 3.2: kernels of layer 3 take all maps, those of layers 2, 4 and 5 only their own GPU's."""
    layer = getattr(as_run, name)
    channels = layer.in_channels
    x = torch.randn(1, channels, 7, 7, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed.chunk(2, 1)[1 - tower].mul_(2)
    with torch.no_grad():
        before, after = layer(x), layer(changed)
    assert torch.equal(before.chunk(2, 1)[tower], after.chunk(2, 1)[tower]) is alone
    assert not torch.equal(before.chunk(2, 1)[1 - tower], after.chunk(2, 1)[1 - tower])


def test_norms_stay_in_their_tower(as_run):
    x = 100 * torch.randn(1, 96, 3, 3, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 48:] *= 3
    assert torch.equal(as_run.rnorm1(x)[:, :48], as_run.rnorm1(changed)[:, :48])
    over_all = tiny("net.lrn.span=all").rnorm1
    assert not torch.equal(over_all(x)[:, :48], over_all(changed)[:, :48])


def test_towers_that_never_talk():
    """2012 source, layers-150: not even in conv3."""
    net = tiny("net.talk=")
    assert [getattr(net, f"conv{i}").groups for i in range(1, 6)] == [1, 2, 2, 2, 2]
    assert [getattr(tiny(), f"conv{i}").groups for i in range(1, 6)] == [1, 2, 1, 2, 2]
    assert [getattr(tiny("net.talk=conv2,conv5"), f"conv{i}").groups for i in range(1, 6)] == [1, 1, 2, 2, 1]
    assert [getattr(tiny("net.towers=1"), f"conv{i}").groups for i in range(1, 6)] == [1] * 5


@pytest.mark.parametrize(("name", "function"), [("relu", F.relu), ("tanh", torch.tanh), ("logistic", torch.sigmoid)])
def test_activations(name, function):
    net = tiny(f"net.activation={name}")
    x = pixels(net.spec)
    with torch.no_grad():
        for layer, before in (("1", "pool1"), ("3", "conv3"), ("6", "fc6"), ("7", "fc7")):
            assert torch.equal(net(x, until=f"{name}{layer}"), function(net(x, until=before)))


@pytest.mark.parametrize(
    ("settings", "there", "gone"),
    [
        (["net.lrn=none"], ["cnorm2"], ["rnorm1", "rnorm2"]),
        (["net.rnorm=none"], ["rnorm2"], ["cnorm2"]),
        (["net.dropout=0"], ["relu6"], ["drop6", "drop7"]),
        (["net.conv4=none"], ["conv3", "conv5"], ["conv4", "relu4"]),
        (["net.fc7=none"], ["fc6", "fc8"], ["fc7", "relu7", "drop7"]),
        (["net.sixth_conv=true"], ["conv6", "relu_conv6", "fc6", "relu6", "drop6"], []),
        (["net.conv1=none", "net.conv2.stride=4"], ["conv2"], ["conv1", "rnorm1"]),
    ],
)
def test_parts_come_and_go(settings, there, gone):
    net = tiny(*settings)
    names = list(net._modules)
    assert set(there) <= set(names)
    assert not set(gone) & set(names)
    assert net(pixels(net.spec)).shape == (2, 10)


def test_sixth_convolution_sees_both_towers_and_every_layer_keeps_its_relu():
    """Paper, sections 6 and 7: a sixth convolution over the last pooling layer."""
    net = tiny("net.sixth_conv=true")
    assert (net.conv6.groups, net.conv6.in_channels, net.conv6.out_channels) == (1, 256, 256)
    names = list(net._modules)
    assert names[names.index("relu5") :] == [
        *("relu5", "conv6", "relu_conv6", "flat", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"),
    ]


def test_the_sixth_convolution_of_a_narrow_net_starts_with_the_gain_of_the_wide_one():
    narrow = tiny("net.sixth_conv=true", "net.conv5.channels=64")
    assert (narrow.conv6.in_channels, narrow.conv6.out_channels) == (64, 64)
    gain = 0.03 * 256**0.5  # sigma and maps of run 146's
    assert float(narrow.conv6.weight.detach().std()) * 64**0.5 == pytest.approx(gain, rel=0.02)


def test_pooling_without_overlap():
    """Paper, section 3.4: z = 2, s = 2 gives outputs of equal size; 55-27-13-6."""
    net = change(spec.as_run(), ["net.pool.size_px=2", "net.pool.stride=2"]).net
    table = table_of(net)
    assert [table[name].shape[1] for name in ("pool1", "pool2", "pool5")] == [27, 13, 6]
    assert (tiny("net.pool.size_px=2").pool1.kernel_size, tiny().pool1.kernel_size) == (2, 3)


def test_norm_switches_reach_the_layers():
    """Paper, section 3.3: (k, alpha, beta, n) = (0, 1, 1, N)."""
    settings = [f"net.lrn.{text}" for text in ("k=0", "alpha=1", "beta=1", "size=96", "alpha_divided=no", "span=all")]
    net = tiny(*settings)
    x = torch.rand(1, 96, 2, 2, dtype=torch.float64) + 0.1
    sums = torch.stack([x[:, max(0, c - 48) : c + 48].square().sum(1) for c in range(96)], 1)
    torch.testing.assert_close(net.rnorm1(x), x / sums)
    assert torch.isfinite(net(pixels(net.spec))).all()


def test_dropout_switches_reach_the_layers():
    net = tiny("net.dropout=0.25", "net.dropout_inverted=true")
    assert (net.drop6.rate, net.drop6.inverted) == (0.25, True)
    before_fc6 = list(tiny(preset="torchvision")._modules)
    assert before_fc6[before_fc6.index("flat") :] == ["flat", "drop6", "fc6", "relu6", "drop7", "fc7", "relu7", "fc8"]


def test_initialisation_as_run(as_run):
    """2012 source, layers-145: sigma 0.01, 0.03 in conv3-5; biases 1 in conv2, 4, 5, fc6, fc7."""
    for name, layer in as_run.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            sigma = 0.03 if name in ("conv3", "conv4", "conv5") else 0.01
            few = layer.weight.numel() < 1000
            assert layer.weight.std().item() == pytest.approx(sigma, rel=0.15 if few else 0.02)
            assert abs(layer.weight.mean().item()) < 0.15 * sigma
            bias = 1.0 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0
            assert (layer.bias == bias).all()


@pytest.mark.parametrize(("init", "scale"), [("he", 2**0.5), ("torch", 3**-0.5)])
def test_other_initialisations(init, scale):
    net = tiny(f"net.init={init}")
    for layer in (net.conv1, net.conv2, net.conv5, net.fc6):
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(scale * fan_in**-0.5, rel=0.03)
    if init == "torch":
        assert net.fc6.weight.abs().max() <= net.fc6.in_features**-0.5
        assert net.fc6.bias.any()


def test_equal_seeds_equal_nets():
    whole = change(spec.as_run(), TINY)
    a, b, other = (AlexNet(whole.net, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], other["conv1.weight"])


def test_local_layers_of_cifar_11pct():
    net = AlexNet(spec.cifar_11pct().net)
    assert isinstance(net.conv3, layers.LocalConv2d)
    assert list(net._modules)[:8] == ["conv1", "relu1", "pool1", "rnorm1", "conv2", "relu2", "rnorm2", "pool2"]


def test_activations_by_name():
    net = tiny()
    x = pixels(net.spec)
    with torch.no_grad():
        assert net(x, until="fc7").shape == (2, 24)
        assert torch.equal(net(x, until="fc8"), net(x))
    with pytest.raises(UsageError, match=r"no layer 'fc9'; its layers: conv1, rnorm1"):
        net(x, until="fc9")


def test_the_table_leaves_the_net_as_it_was():
    net = tiny().train()
    rows = layer_table(net)
    assert net.training
    assert [row.name for row in rows] == list(net._modules)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["net.towers=5"], "do not divide into 5 towers"),
        (["net.crop_px=4"], "conv1: a 11-pixel kernel does not fit into 4 pixels"),
        (["net.crop_px=20"], "use a larger net.crop_px"),
        (["net.conv1.then=act,polo"], "'polo' is no layer; known: act, lrn"),
        (["net.conv1.then=act,act"], "relu1 comes twice"),
    ],
)
def test_impossible_nets_say_why(settings, message):
    whole: Spec = change(spec.as_run(), [*SMALL, *settings])
    with pytest.raises(UsageError, match=re.escape(message)):
        AlexNet(whole.net)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu_is_computed_with_the_layer_before_unless_somebody_looks_in_between(dtype):
    net = compute_in(AlexNet(spec.preset("as_run", classes=10).net).to(memory_format=torch.channels_last), dtype).eval()
    x = 50 * torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(dtype)
    seen = {}
    whole = net(x)
    for name in ("conv2", "conv3", "pool1"):
        getattr(net, name).register_forward_hook(lambda _, __, y, name=name: seen.setdefault(name, y))
    assert torch.equal(net(x), whole)
    for name, y in seen.items():
        assert (y < 0).any()
        assert torch.equal(net(x, until=name), y)
        assert torch.equal(net(x, until=f"relu{name[-1]}"), F.relu(y))
