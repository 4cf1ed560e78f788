"""A start that stalls is told from one that learns, with its cause and its cure, within the first steps."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from alexnet import spec, startup
from alexnet.net import AlexNet
from alexnet.schedule import Clock, layer_rates
from alexnet.sgd import Sgd, layers_of, rates_of, rules_of
from alexnet.spec import change
from alexnet.startup import Look

SMALL = ("net.fc6.outputs=32", "net.fc7.outputs=24", "net.crop_px=67")
HEALTHY = Look(20, 1.8, math.log(10), {"relu1": 0.1, "relu7": 0.3}, {"conv1": 1e-3, "fc8": 3e-3})


def start(*settings: str, steps: int = 3) -> tuple[AlexNet, Sgd, torch.Tensor, list[float]]:
    """A small net after a few steps on ten pictures of ten classes."""
    run = change(spec.as_run(classes=10), [*SMALL, *settings])
    net = AlexNet(run.net)
    names = [name for name, _ in net.named_parameters()]
    sgd = Sgd.of(net, rules_of(names, run.sgd))
    images = 60 * torch.randn(10, 3, 67, 67, generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        net.zero_grad()
        loss = F.cross_entropy(net(images), torch.arange(10))
        losses.append(loss.item())
        loss.backward()
        sgd.step(rates_of(names, layer_rates(run.sgd, layers_of(names), Clock(step, 100, 1000))))
    return net, sgd, images, losses


def test_a_healthy_net_is_silent():
    net, sgd, images, losses = start()
    seen = startup.look(net, sgd, images, losses[-1], step=3)
    assert startup.advice(seen) == []
    assert startup.message(replace(seen, loss=1.8)) is None
    assert max(seen.dead_share.values()) < startup.DEAD
    assert list(seen.dead_share) == ["relu1", "relu2", "relu3", "relu4", "relu5", "relu6", "relu7"]
    assert list(seen.update_ratio) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert all(1e-6 < ratio < 0.1 for ratio in seen.update_ratio.values())
    assert net.training


def test_dead_units_are_found():
    net, sgd, images, losses = start("net.conv3.bias=-100")
    seen = startup.look(net, sgd, images, losses[-1], step=20)
    assert seen.dead_share["relu3"] == 1
    assert seen.dead_share["relu2"] < 1
    text = startup.message(seen)
    assert text.startswith("warning: after 20 steps the loss is 2.")
    assert "that of guessing (ln 10 = 2.303)" in text
    assert "relu3 (100 %)" in text
    assert "Lower sgd.rate, or give the layer before a bias of 1" in text
    assert "vanishing" not in text  # a consequence, not the cause


def test_vanishing_updates_are_found_though_weights_decay():
    """Weight decay alone moves a weight by 5e-6 of itself a step; that is no learning."""
    net, sgd, images, losses = start("net.conv3.sigma=1e-6", "net.conv4.sigma=1e-6", "net.conv5.sigma=1e-6")
    seen = startup.look(net, sgd, images, losses[-1], step=20)
    assert seen.update_ratio["conv1"] < startup.VANISHING < seen.update_ratio["fc8"]
    text = startup.message(seen)
    assert "updates of conv1" in text
    assert "are vanishing" in text
    for name in ("conv3", "conv4", "conv5"):
        assert f"--set net.{name}.sigma=0.03" in text


def test_frozen_layers_are_not_called_vanishing():
    net, sgd, images, _ = start("sgd.frozen=conv1")
    seen = startup.look(net, sgd, images, math.log(10), step=20)
    assert seen.update_ratio["conv1"] == 0
    assert not any("conv1" in line for line in startup.advice(seen))


def test_a_rate_that_is_too_high_is_found():
    for steps in range(4, 9):
        net, sgd, images, losses = start("sgd.rate=1", steps=steps)
        assert math.isfinite(losses[-1])
        if lines := startup.advice(startup.look(net, sgd, images, losses[-1], step=steps)):
            break
    assert any("the rate is too high" in line and "sgd.rate" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"loss": 8.0}, "rate is too high. Try --set sgd.rate=0.001"),
        ({"loss": 3.0, "update_ratio": {"conv2": 0.2}}, "conv2 change by over a tenth a step"),
        ({"loss": 2.3, "dead_share": {"relu2": 0.95}}, "relu2 (95 %)"),
        ({"loss": 2.3, "update_ratio": {"fc6": 1e-9, "fc8": 1e-3}}, "--rescue"),
        ({"loss": 2.3, "update_ratio": {"conv4": 1e-9, "conv5": 1e-3, "fc8": 1e-3}}, "--set net.conv5.sigma=0.03"),
        ({"loss": 2.3, "step": 200}, "this start has stalled"),
        ({"loss": 2.3, "step": 200}, "check the labels"),
        ({"loss": 2.3}, "the first hundred steps often look so"),
    ],
)
def test_messages_name_what_to_change(change, wanted):
    assert wanted in startup.message(replace(HEALTHY, **change))


def test_a_rate_at_which_the_loss_only_jumps_around_chance_is_told():
    jumping = replace(HEALTHY, loss=HEALTHY.chance_loss, update_ratio={"conv1": 0.2})
    assert "Divide sgd.rate" in startup.message(replace(jumping, step=50))
    assert "Divide sgd.rate" not in startup.message(replace(jumping, step=5))  # tiny first weights do so at first


@pytest.mark.parametrize(
    "seen",
    [
        HEALTHY,
        replace(HEALTHY, dead_share={"relu2": 0.95}),  # it learns all the same
        replace(HEALTHY, update_ratio={"conv1": 0.2}),  # great strides, but in the right direction
        replace(HEALTHY, loss=0.0, chance_loss=0.0),  # a single class
    ],
)
def test_silence(seen):
    assert startup.message(seen) is None


def test_looks_are_early_and_few():
    assert [step for step in range(1, 1001) if startup.due(step)] == [5, 20, 50, 100, 200, 400, 800]
