"""`--rescue`: initial weights are raised, layer after layer, until the outputs on a first batch tell pictures apart.

With standard deviations of 0.01 everywhere (paper, section 5) signals shrink from layer to layer until nothing is
learnt. Scaling by what the data do is the second half of Mishkin and Matas (2016), "All you need is a good init", with
two changes without which as_published, at 2012's rate, goes from a stall to an explosion. Weights are raised and never
lowered: conv1 sees grey levels, and what is right for its outputs is too small for its rate. And a dense layer is
raised less the wider it is: at rate 0.01 a picture moves the sums of the layer above by a hundredth of |x|^2, whatever
its width. Convolutions of as_run vary by about 1 as they are, its fc7 by a fifth. The last layer keeps its scale, so
that the loss begins near ln(classes); biases keep their values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alexnet.data import loader
from alexnet.data.augment import Preprocessing
from alexnet.data.packfile import Pack
from alexnet.errors import UsageError
from alexnet.layers import LocalConv2d
from alexnet.log import say
from alexnet.net import AlexNet
from alexnet.schedule import Clock
from alexnet.spec import Spec

LENGTH = 8  # of what tells pictures apart in the outputs of a hidden dense layer, over all its units


def begin(spec: Spec, net: nn.Module, pack: Pack, prep: Preprocessing) -> None:
    """Scales a net that has not been trained by the run's first batch, on the CPU, and says by how much. Every process
    of a run sees the same pictures. Raises UsageError for nets whose start is not ours to change.
    """
    if not isinstance(net, AlexNet) or spec.parent:
        raise UsageError(
            "--rescue scales a preset's initial weights; layer files say theirs in initW, and --from has its own"
        )
    split = pack.splits["train"]
    jobs = loader.training_jobs(spec, prep, len(split), Clock(0, math.ceil(len(split) / spec.run.batch), 1))
    batch = next(iter(loader.batches(split, prep, jobs, spec.run.batch, 0)))
    factors = scale(net, batch.images_nchw)
    told = ", ".join(f"{name} {factor:.2g}" for name, factor in factors.items() if factor > 1)
    say(f"rescue: initial weights are multiplied by {told}" if told else "rescue: no layer's weights are too small")


@torch.no_grad()
def scale(net: AlexNet, images_nchw: Tensor) -> dict[str, float]:
    """{layer: what its weights were multiplied by}, in order, each behind those that are scaled already."""
    was_training, factors, x = net.training, {}, images_nchw
    net.eval()  # without dropout
    for name, layer in list(net.named_children())[:-1]:
        out = layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear | LocalConv2d):
            spread = float((out - out.mean(0)).std())  # over pictures: what tells them apart
            if 0 < spread < math.inf:
                factors[name] = max(1.0, wanted_spread(layer) / spread)
                layer.weight.mul_(factors[name])
                out = layer(x)
        x = out
    net.train(was_training)
    return factors


def wanted_spread(layer: nn.Module) -> float:
    """The least standard deviation over pictures that a layer's outputs shall have."""
    return min(1.0, LENGTH / math.sqrt(layer.out_features)) if isinstance(layer, nn.Linear) else 1.0
