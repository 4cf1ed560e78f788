"""What a preset's net and one of layer files do differently, in one place: build, rules, rates, loss.

Everything else (the loop, checkpoints, evaluation, prediction) takes either and asks here.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from alexnet import schedule
from alexnet import sgd as updates
from alexnet.layerfile import LayerNet, rates, start
from alexnet.layerfile.build import build as build_files
from alexnet.net import AlexNet
from alexnet.schedule import Clock
from alexnet.sgd import Rates, Rule
from alexnet.spec import Duration, FileNetSpec, NetSpec, Spec

Net = AlexNet | LayerNet
START = Duration(0, "%")


def build(spec: NetSpec | FileNetSpec, seed: int = 0) -> Net:
    """The net of a spec with the initial weights of `seed`. Raises UsageError where its layers do not fit."""
    if isinstance(spec, NetSpec):
        return AlexNet(spec, seed)
    return build_files(spec.layers, spec.params, classes=spec.classes, size_px=spec.crop_px, seed=seed)


def begin(spec: Spec, net: Net) -> None:
    """Puts the weights of another net into the layers that ask for them, where the spec names one."""
    if isinstance(spec.net, FileNetSpec) and spec.net.init_from:
        start.copy_weights(net, spec.net)


def rules(spec: Spec, net: Net) -> dict[str, Rule]:
    """{tensor: how it is trained}. Raises UsageError for rates of layers that the net does not have."""
    if isinstance(net, LayerNet):
        return rates.rules(net, spec.net.dialect)
    names = [name for name, _ in net.named_parameters()]
    schedule.check(spec.sgd, updates.layers_of(names))
    return updates.rules_of(names, spec.sgd)


def rates_at(spec: Spec, net: Net, clock: Clock, drops: int = 0) -> Rates:
    """{tensor: its rates} of the step to come; `drops` counts the plateau rule's divisions so far."""
    if isinstance(net, LayerNet):
        return rates.rates(net.sgd_groups(), clock.progress(START), (spec.run.seed, clock.step))
    names = [name for name, _ in net.named_parameters()]
    return updates.rates_of(names, schedule.layer_rates(spec.sgd, updates.layers_of(names), clock, drops))


def loss_and_logits(spec: Spec, net: Net, images_nchw: Tensor, labels_n: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss of a batch, in float32, and the logits (N, classes) it was taken from."""
    if isinstance(net, LayerNet):
        return net.loss_and_logits(images_nchw, net.targets(labels_n))
    logits = net(images_nchw)
    return F.cross_entropy(logits.float(), labels_n, label_smoothing=spec.sgd.label_smoothing), logits


def gradient_share(spec: Spec, images: int) -> float:
    """What the gradient of a batch's mean loss counts: less for a short batch under the rule of 2014, which divides
    the sum over its pictures by the size of a full one.
    """
    whole = isinstance(spec.net, NetSpec) or spec.net.dialect == "2012"
    return 1.0 if whole else images / spec.run.batch


def layer_names(net: Net) -> list[str]:
    """The layers whose outputs can be taken from pictures alone, in order."""
    if isinstance(net, LayerNet):
        return [name for name in net.shapes if name not in net.on_labels]
    return [name for name, _ in net.named_children()]


def chance_loss(net: Net) -> float:
    """The loss of guessing, ln(classes); nan where costs of layer files add up to something else."""
    if isinstance(net, AlexNet):
        return math.log(net.spec.classes)
    costs = [layer for layer in net.records if layer.type.startswith("cost.") and layer.params["coeff"]]
    usual = len(costs) == 1 and costs[0].type == "cost.logreg" and costs[0].params["coeff"] == 1
    return math.log(math.prod(net.shapes[net.tops[0]])) if usual else math.nan


def slower(spec: Spec) -> str:
    """What to type for a rate ten times lower."""
    if isinstance(spec.net, FileNetSpec):
        return f"divide epsW by 10 in {spec.net.params}"
    return f"--set sgd.rate={spec.sgd.rate / 10:g}"
