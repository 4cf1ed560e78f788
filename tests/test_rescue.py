"""--rescue: every layer's outputs tell pictures apart, a net starts where it did not, and resuming changes nothing."""

import json
import math
import re

import pytest
import tiny
import torch
from torch import nn

from alexnet import rescue, runs, spec, startup, train
from alexnet.cli.train import train as verb
from alexnet.errors import UsageError
from alexnet.net import AlexNet
from alexnet.train import Stopped

FAINT = ("net.conv1.sigma=1e-5", "net.conv2.sigma=1e-5", "net.fc6.sigma=1e-5")


def spreads(net: AlexNet, x: torch.Tensor) -> dict[str, float]:
    found = {}
    net.eval()
    with torch.no_grad():
        for name, layer in net.named_children():
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                found[name] = float((x - x.mean(0)).std())
    return found


@pytest.mark.parametrize("preset", ["as_run", "as_published", "torchvision", "modern"])
def test_weights_are_raised_until_outputs_tell_pictures_apart_and_never_lowered(preset):
    small = ["net.crop_px=67", "net.fc6.outputs=144", "net.fc7.outputs=24", "net.init=gaussian", "net.conv4.sigma=1e-6"]
    net = AlexNet(spec.change(spec.preset(preset, classes=10), small).net)
    x = 60 * torch.randn(6, 3, 67, 67, generator=torch.Generator().manual_seed(0))
    last, biases = net.fc8.weight.clone(), {n: p.clone() for n, p in net.named_parameters() if n.endswith("bias")}
    factors = rescue.scale(net, x)
    found = spreads(net, x)
    found.pop("fc8")
    assert list(factors) == list(found)
    wanted = {name: 8 / 12 if name == "fc6" else 1 for name in found}
    for name, factor in factors.items():
        assert factor >= 1
        assert found[name] == pytest.approx(wanted[name], rel=0.01) if factor > 1 else found[name] >= wanted[name]
    assert factors["conv4"] > 100
    assert torch.equal(net.fc8.weight, last)
    assert all(torch.equal(dict(net.named_parameters())[name], bias) for name, bias in biases.items())


def test_a_net_of_the_right_size_is_left_as_it_is(capsys, tiny_pack):
    run = tiny.spec("net.conv1.sigma=1", "net.conv2.sigma=1", "net.fc6.sigma=1")
    net, prep = AlexNet(run.net), runs.preprocessing(run, tiny_pack)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rescue.begin(run, net, tiny_pack, prep)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert "no layer's weights are too small" in capsys.readouterr().err


def test_a_net_that_is_blind_to_its_pictures_is_left_alone():
    net = AlexNet(spec.change(tiny.spec(), ["net.conv2.bias=-1000"]).net)
    x = torch.randn(4, 3, 12, 12)
    assert "fc6" not in rescue.scale(net, x)
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_a_start_that_stalls_begins_to_learn(tiny_pack, tmp_path):
    losses = {}
    for name, settings in {"alone": (), "rescued": ("run.rescue=true",)}.items():
        run = tiny.spec(*FAINT, *settings, "run.length=20ep", "net.dropout=0")
        train.train(run, tiny_pack, tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = min(row["loss"] for row in map(json.loads, lines) if "loss" in row)
    guessing = math.log(3)
    assert losses["alone"] > (1 - startup.GLUED) * guessing
    assert losses["rescued"] < 0.9 * guessing


def test_it_resumes_bit_for_bit(tiny_pack, tmp_path):
    run = tiny.spec("run.rescue=true")
    train.train(run, tiny_pack, tmp_path / "straight")
    with pytest.raises(Stopped):
        train.train(run, tiny_pack, tmp_path / "halted", stop_at=5)
    train.train(run, tiny_pack, tmp_path / "halted")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "halted")]
    assert files[0] == files[1]


def test_the_verb_says_what_it_did(pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"steps": 1, "batch": 8, "device": "cpu", "precision": "fp32", "settings": ("net.crop_px=12",)}
    verb(str(pictures), run=tmp_path / "run", preset="cifar_quick", rescue=True, json=True, **options)
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 1
    assert re.search(r"rescue: initial weights are multiplied by conv1 [0-9.e+-]+, conv2 ", err)


def test_layer_files_and_fine_tuning_keep_their_weights(tiny_pack):
    with pytest.raises(UsageError, match="initW"):
        rescue.begin(tiny.spec("run.rescue=true"), nn.Linear(1, 1), tiny_pack, None)
