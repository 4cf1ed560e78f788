"""Does it learn? Looks at the first steps of a run and says, within the first minute, what is wrong and what to change.

"Loss stays at 6.9" is the commonest complaint about AlexNet from scratch: dead units, vanishing updates or a rate
that is too high all look alike from the loss alone, ln(classes). Here each has its own measurement, as the 2012 tool
printed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet import recipe
from alexnet.layerfile import LayerNet
from alexnet.net import CONVS
from alexnet.recipe import Net
from alexnet.sgd import Sgd

LOOKS = (5, 20, 50, 100, 200, 400, 800)  # steps after which a look is taken
GLUED = 0.01  # a loss within 1 % of ln(classes) has learnt nothing
LATE = 200  # steps after which a glued loss is a stall rather than a slow start
PICTURES = 32  # a few are enough to see units that are dead for all of them
SETTLED = 20  # steps after which weights that began tiny no longer change by their own size
DEAD, VANISHING, EXPLODING = 0.9, 1e-6, 0.1


@dataclass(frozen=True)
class Look:
    """loss and ln(classes); share of dead units per ReLU; |update| / |weight| per layer, 0 where it is frozen.

    `from_files`: the net is one of layer files, which are changed instead of `--set`.
    """

    step: int
    loss: float
    chance_loss: float
    dead_share: dict[str, float]
    update_ratio: dict[str, float]
    from_files: bool = False

    @property
    def glued(self) -> bool:
        return abs(self.loss - self.chance_loss) < GLUED * self.chance_loss


def due(step: int) -> bool:
    return step in LOOKS


@torch.no_grad()
def look(net: Net, sgd: Sgd, images_nchw: Tensor, loss: float, step: int) -> Look:
    """One look at a net in training."""
    was_training = net.training
    net.eval()
    dead = {name: _dead_share(x) for name, x in _rectified(net, images_nchw[:PICTURES])}
    net.train(was_training)
    ratios = {
        rule.matrix: _ratio(sgd.velocities[name], sgd.weights[name]) for name, rule in sgd.rules.items() if rule.matrix
    }
    return Look(step, loss, recipe.chance_loss(net), dead, ratios, isinstance(net, LayerNet))


def _rectified(net: Net, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, output) of every ReLU."""
    if isinstance(net, LayerNet):
        names = [layer.name for layer in net.records if layer.type == "neuron" and layer.neuron.kind == "relu"]
        yield from net.outputs(names, x).items()
        return
    for name, layer in net.named_children():
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            yield name, x


def _dead_share(x: Tensor) -> float:
    """The share of units (maps, or dense units) that are zero for every picture and place."""
    return float((x.flatten(2).amax((0, 2)) if x.ndim == 4 else x.amax(0)).le(0).float().mean())


def _ratio(velocity: Tensor, weight: Tensor) -> float:
    """|update| / |weight| without the update's part along the weights: that one is the decay's and never vanishes."""
    along = float((velocity * weight).sum() / weight.square().sum().clamp(min=1e-30))
    return float(torch.sub(velocity, weight, alpha=along).abs_().mean() / weight.abs().mean().clamp(min=1e-30))


def advice(seen: Look) -> list[str]:
    """What is wrong and what to change, most likely cause first; empty while all is well."""
    rate, start = ("epsW", "a larger initW") if seen.from_files else ("sgd.rate", "--rescue")
    lines = []
    if seen.loss > 3 * seen.chance_loss:
        lower = "Divide epsW by 10" if seen.from_files else "Try --set sgd.rate=0.001"
        lines.append(f"the loss is far above chance ({seen.chance_loss:.2f}): the rate is too high. {lower}")
    fast = [name for name, ratio in seen.update_ratio.items() if ratio > EXPLODING]
    if fast and (seen.loss > 1.1 * seen.chance_loss or (seen.glued and seen.step >= SETTLED)):
        lines.append(f"{', '.join(fast)} change by over a tenth a step: the rate is too high. Divide {rate} by 10")
    if not seen.glued:
        return lines
    dead = [f"{name} ({100 * share:.0f} %)" for name, share in seen.dead_share.items() if share > DEAD]
    if dead:
        lines.append(
            f"units dead for every picture: {', '.join(dead)}. Lower {rate}, or give the layer before a bias of 1"
        )
    slow = [name for name, ratio in seen.update_ratio.items() if 0 < ratio < VANISHING]
    if slow and not dead:  # behind dead units nothing moves either
        names = list(seen.update_ratio)  # what dies here was made small by this layer or one between it and the loss
        small = [f"--set net.{name}.sigma=0.03" for name in names[names.index(slow[0]) :] if name in CONVS]
        hint = f", or {' '.join(small)}" if small and not seen.from_files else ""
        lines.append(f"updates of {', '.join(slow)} are vanishing. Start with larger weights: {start}{hint}")
    if not lines and seen.step >= LATE:
        lines.append(
            f"no layer is dead or frozen, but nothing is learnt so far: wait, check the labels, or try {start}"
        )
    return lines


def message(seen: Look) -> str | None:
    """What to print after a look: nothing while learning, the state and its cure while the loss sits at chance."""
    lines = advice(seen)
    if not lines and not seen.glued:
        return None
    state = f"after {seen.step} steps the loss is {seen.loss:.3f}"
    if seen.glued:
        state += f", still that of guessing (ln {math.exp(seen.chance_loss):.0f} = {seen.chance_loss:.3f})"
        state += "; this start has stalled so far" if seen.step >= LATE else "; the first hundred steps often look so"
    return "\n".join([f"{'warning: ' if lines else ''}{state}", *(f"  - {line}" for line in lines)])
