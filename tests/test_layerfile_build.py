"""Nets from layer files: counts of the real ones, run 145 against our own net, towers, classes, groups, costs."""

import contextlib
import copy
import random
from pathlib import Path

import pytest
import torch

from alexnet.errors import UsageError
from alexnet.layerfile import build
from alexnet.layerfile.tops import shares_of
from alexnet.net import AlexNet
from alexnet.report import answers
from alexnet.spec import as_run

OWN = Path(__file__).parent / "layerfiles"
REAL = Path(__file__).parents[2] / "shared" / "layerfiles"
EVERY = (OWN / "layers-every.cfg", OWN / "layer-params-every.cfg")

COUNTS = {  # weights and biases, at 224 pixels for ImageNet and 32 for CIFAR
    **{"2012/layers-120-4gpu.cfg": 99_749_352, "2012/layers-120.cfg": 60_870_376, "2012/layers-126.cfg": 60_870_376},
    **{"2012/layers-145-half.cfg": 59_798_312, "2012/layers-145.cfg": 60_965_224, "2012/layers-147.cfg": 60_965_224},
    **{"2012/layers-146-2011.cfg": 110_605_267, "2012/layers-146-2012-2011.cfg": 61_555_304},
    **{"2012/layers-148.cfg": 60_965_224, "2012/layers-150.cfg": 60_714_408, "2012/layers-153.cfg": 60_965_224},
    **{"2012/layers-167.cfg": 60_965_224, "2012/layers-178.cfg": 60_965_224, "2012/layers-96-16k.cfg": 124_661_001},
    **{"2012/layers-99.cfg": 60_870_376, "2012/layers-flickr-105.cfg": 97_755_667, "2012/layers-18pct.cfg": 89_578},
    **{"2012/layers-conv-local-13pct.cfg": 1_901_386, "2012/layers-80sec.cfg": 145_578},
    **{"2012/layers-example.cfg": 88_473_482, "2014/layers-cifar10-11pct.cfg": 3_672_906},
    **{"2014/layers-imagenet-1gpu.cfg": 61_100_840, "2014/layers-imagenet-2gpu-data.cfg": 61_100_840},
    **{"2014/layers-imagenet-2gpu-model.cfg": 60_965_224, "2014/layers-imagenet-4gpu-data.cfg": 61_100_840},
    "2014/layers-imagenet-4gpu-data-model.cfg": 61_100_840,
    "2012/layers-137-tree.cfg": 56_773_376 + 4096 * 1000 + 1000,  # a dense layer stands for the tree
}
COUNTS_AT_24_PX = {
    **{
        "2012/layers-18pct.cfg": 85_098,
        "2012/layers-80sec.cfg": 116_906,
        "2012/layers-conv-local-13pct.cfg": 1_116_490,
    },
    **{"2014/layers-cifar10-11pct.cfg": 2_112_970, "2012/layers-example.cfg": 49_874_826},
}


def real(name: str) -> Path:
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    return REAL / name


def count(path: Path, **options) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(path, **options).parameters())


def test_top_outputs_of_real_nets():
    names = ("2012/layers-flickr-105.cfg", "2012/layers-146-2011.cfg", "2012/layers-80sec.cfg")
    with torch.device("meta"):
        assert [build(real(name)).tops for name in names] == [("fc10003",), ("concat",), ("fc10_neuron",)]
        halves = build(real(names[1]), classes=10).shapes
    assert (halves["fc1000a"], halves["fc1000b"], halves["probs"]) == ((5,), (5,), (10,))


@pytest.fixture
def net():
    return build(*EVERY).eval()


def images(n: int = 2, size_px: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_real_nets(name):
    assert count(real(name)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS_AT_24_PX)
def test_counts_of_real_nets_for_small_crops(name):
    assert count(real(name), size_px=24) == COUNTS_AT_24_PX[name]


def test_every_real_net_was_counted():
    real("2012")
    assert {path.relative_to(REAL).as_posix() for path in REAL.glob("*/layers-*.cfg")} == COUNTS.keys()


def test_tower_counts_of_run_145():
    with torch.device("meta"):
        net = build(real("2012/layers-145.cfg"), real("2012/layer-params-145.cfg"))
    towers = {}
    for layer in net.records:
        if layer.bias_update is not None:
            key = layer.name.rstrip("ab") if layer.name.startswith("conv") else f"fc{len(layer.name.rstrip('ab'))}"
            towers[key] = towers.get(key, 0) + sum(p.numel() for p in net.module(layer.name).parameters())
    convs = {"conv1": 34_944, "conv2": 307_456, "conv3": 885_120, "conv4": 663_936, "conv5": 442_624}
    assert {key: towers[key] for key in convs} == convs
    assert net.input_shape == (3, 224, 224)
    assert net.tops == ("fc1000",)
    sides = {name: net.shapes[name] for name in ("conv1a", "pool1b", "pool2a", "pool3a_neuron")}
    assert sides == {
        "conv1a": (48, 55, 55),
        "pool1b": (48, 27, 27),
        "pool2a": (128, 13, 13),
        "pool3a_neuron": (128, 6, 6),
    }


def single_column(net) -> dict[str, torch.Tensor]:
    """The weights of run 145's two towers under the names and in the shapes of our own net."""

    def weights(name: str, order: tuple[int, ...] = (0, 1)) -> torch.Tensor:
        parts = net.module(name).weights
        return torch.cat([parts[i] for i in order], 1) if len(parts) > 1 else parts[0]

    state = {}
    towers = {**{f"conv{i}": (f"conv{i}a", f"conv{i}b") for i in range(1, 6)}, "fc6": ("fc2048a", "fc2048b")}
    for ours, names in {**towers, "fc8": ("fc1000",)}.items():
        state[f"{ours}.weight"] = torch.cat([weights(name) for name in names])
        state[f"{ours}.bias"] = torch.cat([net.module(name).bias for name in names])
    state["fc7.weight"] = torch.cat([weights("fc2048ba"), weights("fc2048bb", (1, 0))])
    state["fc7.bias"] = torch.cat([net.module("fc2048ba").bias, net.module("fc2048bb").bias])
    return state


@torch.inference_mode()
def test_run_145_computes_what_our_net_computes():
    net = build(real("2012/layers-145.cfg"), real("2012/layer-params-145.cfg"), seed=3).eval()
    for layer in net.records:
        if layer.bias_update is not None:
            net.module(layer.name).bias.normal_(0, 0.5, generator=torch.Generator().manual_seed(len(layer.name)))
    with torch.device("meta"):
        ours = AlexNet(as_run(classes=1000).net).eval()
    ours.load_state_dict(single_column(net), assign=True)
    pixels = 50 * images(1, 224)
    theirs = net(pixels)
    assert theirs.shape == (1, 1000)
    torch.testing.assert_close(theirs, ours(pixels), rtol=1e-4, atol=1e-4 * theirs.abs().max().item())
    both = torch.cat([net(pixels, until="fc2048ba_neuron"), net(pixels, until="fc2048bb_neuron")], 1)
    torch.testing.assert_close(both, ours(pixels, until="relu7"), rtol=1e-4, atol=1e-4 * both.abs().max().item())


def test_every_type_runs_and_has_gradients(net):
    net.train()
    net.loss(images(4), torch.tensor([0, 1, 2, 5])).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_every_shape_is_as_foreseen(net):
    x = images()
    for name, shape in net.shapes.items():
        if name not in net.on_labels:
            assert net(x, until=name).shape[1:] == shape, name


def test_outputs_are_logits_and_probs_on_request(net):
    x = images()
    assert net.tops == ("tree_neuron",)
    torch.testing.assert_close(net(x).softmax(1), net(x, until="probs"))


@pytest.mark.parametrize("until", ["nothing", "labels", "logprob"])
def test_layers_that_can_not_be_had(net, until):
    with pytest.raises(UsageError, match=until):
        net(images(), until=until)


def test_wrong_pictures_are_refused(net):
    with pytest.raises(UsageError, match="32, 32"):
        net(images(1, 24))


def test_same_seed_same_weights():
    first, again, other = (build(*EVERY, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(first.module("conva").weights[0], other.module("conva").weights[0])


def test_start_values():
    net = build(*EVERY)
    assert net.module("here").weights[0].std().item() == pytest.approx(0.1, rel=0.1)
    assert net.module("convb").bias.unique().tolist() == [0.5]


def test_connections_are_saved(net):
    saved = [name for name in net.state_dict() if "connections" in name]
    assert saved == ["layers.convb.connections1"]
    assert sorted(net.state_dict()[saved[0]].tolist()) == list(range(8))


def test_groups_for_training(net):
    groups = net.sgd_groups()
    assert sorted(group.parameter for group in groups) == sorted(name for name, _ in net.named_parameters())
    (convb,) = (group for group in groups if group.layer == "convb" and group.input == 1)
    assert (convb.rate, convb.update.frozen, convb.update.decay, convb.update.wc_norm_max) == (0, True, 0.001, 0.002)
    hidden = next(group for group in groups if group.layer == "hidden")
    assert (hidden.rate, hidden.update.wball, hidden.update.schedule.kind) == (0.01, 0.005, "jdexp")
    assert [group.layer for group in groups if group.input is None] == ["conva", "convb", "here", "hidden", "tree"]


@pytest.mark.parametrize(("total", "sizes", "shares"), [(10, [5, 5], [5, 5]), (7, [1, 2], [2, 5]), (3, [4], [3])])
def test_shares(total, sizes, shares):
    assert shares_of(total, sizes) == shares


def test_classes_change_the_output_layer():
    net = build(*EVERY, classes=9).eval()
    assert net(images()).shape == (2, 9)
    assert net.shapes["hidden"] == (12,)
    with pytest.raises(UsageError, match="classes=0"):
        build(*EVERY, classes=0)


def test_classes_are_shared_by_joined_output_layers():
    net = build(OWN / "layers-targets.cfg", classes=16)
    assert (net.shapes["left"], net.shapes["right"], net.tops) == ((6,), (10,), ("all",))


def test_what_figures_show_of_a_net(net):
    assert list(net.colour_kernels()) == ["conva"]
    assert net.colour_kernels()["conva"].shape == (8, 3, 5, 5)
    assert net.last_hidden == ("handed",)
    assert [(name, tiles.shape[0]) for name, tiles in answers.kernels_by_tower(net)] == [("conva", 8)]


def test_what_figures_show_of_run_145():
    with torch.device("meta"):
        net = build(real("2012/layers-145.cfg"))
    assert {name: kernels.shape[0] for name, kernels in net.colour_kernels().items()} == {"conv1a": 48, "conv1b": 48}
    assert net.last_hidden == ("hs2a", "hs2b")


def test_costs_with_a_target_per_output():
    net = build(OWN / "layers-targets.cfg").double()
    x, t = images(3).double(), torch.rand(3, 8).round().double()
    p, sums = net(x, until="all_neuron"), net.costs(x, t)
    log_loss = -(t * p.log() + (1 - t) * (1 - p).log()).sum()
    torch.testing.assert_close(sums["tagcost"][0], log_loss)
    torch.testing.assert_close(sums["robust"][0], (1 + (p - t) ** 2).log().sum())
    torch.testing.assert_close(sums["square"][0], ((p - t) ** 2).sum())
    torch.testing.assert_close(net.loss(x, t), sum(s[0] for s in sums.values()) / 3)


def test_costs_of_labels(net):
    x, labels = images(6), torch.arange(6)
    nll, top1, top2 = net.costs(x, labels)["logprob"]
    logits = net(x)
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    assert top1 == (logits.argmax(1) != labels).sum()
    assert top2 == 6 - (logits.topk(2).indices == labels[:, None]).sum()
    with pytest.raises(UsageError, match="from 0 to 5"):
        net.costs(x, labels + 1)
    with pytest.raises(UsageError, match="data number 1"):
        net.costs(x, ())


def test_a_net_can_be_copied_and_its_state_loaded(net):
    other = copy.deepcopy(net)
    other.load_state_dict(build(*EVERY, seed=5).state_dict())
    assert not torch.equal(other(images()), net(images()))


BAD = [  # (text of layers-every.cfg, its replacement, words of the message)
    ("channels=8\nsize=5", "channels=7\nsize=5", ["[norm] channels=7", "square maps"]),
    ("padding=1,1", "padding=1,2", ["[convb] stride", "[16, 18]"]),
    ("filters=8,4", "filters=8,5", ["[convb] filters", "[8, 10]"]),
    ("groups=1,2", "groups=1,3", ["[convb] groups=3", "8 channels"]),
    ("filterSize=5\npadding=1", "filterSize=50\npadding=1", ["[conva] filterSize=50", "32 pixels"]),
    ("pool=max\ninputs=norm\nchannels=8\nsizeX=3", "pool=max\ninputs=norm\nchannels=8\nsizeX=1", ["[pool] sizeX=1"]),
    ("padding=1\nstride=2\ninitW", "padding=9000000\nstride=5\ninitW", ["[conva] padding=9000000", "too many"]),
    ("outputs=12", "outputs=9000000", ["[hidden]", "weights"]),
    ("inputs=hidden\n\n[drop2]", "inputs=labels\n\n[drop2]", ["[drop1] inputs=labels", "labels can only"]),
]


@pytest.mark.parametrize(("old", "new", "words"), BAD)
def test_layers_that_do_not_fit_are_named(tmp_path, old, new, words):
    text = EVERY[0].read_text()
    assert old in text
    path = tmp_path / "layers.cfg"
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError) as error:
        build(path)
    assert [word for word in ["layers.cfg", *words] if word not in str(error.value)] == []


@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_build_or_end_in_words(tmp_path, seed):
    draw = random.Random(seed)
    values = [
        "-1",
        "0",
        "7",
        "99999",
        "1e9",
        "",
        ",",
        "1,1",
        "data",
        "labels",
        "convb",
        "pool",
        "[",
        "x[1",
        "relu",
        "True",
    ]
    for _ in range(40):
        paths = []
        for source in EVERY:
            lines = source.read_text().splitlines()
            for _ in range(draw.randint(1, 3)):
                i = draw.randrange(len(lines))
                key = lines[i].partition("=")[0]
                lines[i : i + 1] = draw.choice([[], [lines[i]] * 2, [f"{key}={draw.choice(values)}"], [lines[i][:-1]]])
            paths.append(tmp_path / source.name)
            paths[-1].write_text("\n".join(lines))
        with contextlib.suppress(UsageError), torch.device("meta"):
            net = build(*paths, classes=draw.choice([None, 7]))
            assert len(net.sgd_groups()) > 1


@pytest.mark.parametrize("size_px", [0, -3, 10_000])
def test_picture_sizes_that_make_no_sense(size_px):
    with pytest.raises(UsageError, match="size_px"):
        build(*EVERY, size_px=size_px)


def test_a_net_that_doubles_at_every_layer_is_refused(tmp_path):
    text = "[l0]\ntype=data\ndataIdx=0\n"
    text += "".join(f"[l{i}]\ntype=concat\ninputs=l{i - 1},l{i - 1}\n" for i in range(1, 200))
    (tmp_path / "layers.cfg").write_text(text + "[end]\ntype=cost.sum2\ninputs=l199\n")
    with pytest.raises(UsageError, match="too many"):
        build(tmp_path / "layers.cfg")


def test_borrowed_weights_and_awkward_names(tmp_path):
    text = """[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1
[type]\ntype=conv\ninputs=data\nchannels=3\nfilters=3\nfilterSize=3\npadding=1\ninitW=0.1
[a.b]\ntype=conv\ninputs=type,data\nchannels=3\nfilters=3\nfilterSize=3\npadding=1\ninitW=0.1\nweightSource=type[0],
[fc]\ntype=fc\ninputs=a.b\noutputs=4\n[cost]\ntype=cost.logreg\ninputs=labels,fc\n"""
    (tmp_path / "layers.cfg").write_text(text)
    net = build(tmp_path / "layers.cfg")
    assert net.module("a.b").weights[0] is net.module("type").weights[0]
    assert sorted(g.parameter for g in net.sgd_groups()) == sorted(name for name, _ in net.named_parameters())
    (tmp_path / "layers.cfg").write_text(text.replace("type[0]", "type[1]"))
    with pytest.raises(UsageError, match="weightSource"):
        build(tmp_path / "layers.cfg")
