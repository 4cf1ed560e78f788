"""The 2012 update rule (paper, section 5), with the rate inside the velocity:

    v <- momentum * v - decay * rate * w - rate * gradient        w <- w + v

torch.optim.SGD keeps the rate outside; the two agree only until the rate changes. Biases have their own rate and no
decay; a rate of 0 freezes a tensor altogether: no momentum, no decay.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.spec import SgdSpec


@dataclass
class Sgd:
    """Velocities of every trained tensor of a net, by its state-dict name."""

    spec: SgdSpec
    parameters: dict[str, Tensor]
    velocities: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(net: nn.Module, spec: SgdSpec) -> Sgd:
        parameters = dict(net.named_parameters())
        return Sgd(spec, parameters, {name: torch.zeros_like(p) for name, p in parameters.items()})

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(name.rsplit(".", 1)[0] for name in self.parameters))

    @torch.no_grad()
    def step(self, rates: dict[str, tuple[float, float]]) -> None:
        """One update of every tensor from its `.grad`, at {layer: (weight rate, bias rate)}."""
        decays = layer_decays(self.spec)
        for name, w in self.parameters.items():
            layer, kind = name.rsplit(".", 1)
            rate = rates[layer][kind == "bias"]
            decay = self.spec.bias_decay if kind == "bias" else decays.get(layer, self.spec.weight_decay)
            if rate > 0 and w.grad is not None:
                update(w, self.velocities[name], w.grad, self.spec.momentum, rate, decay)


def update(w: Tensor, v: Tensor, gradient: Tensor, momentum: float, rate: float, decay: float) -> None:
    """The rule above, in place, for one tensor."""
    v.mul_(momentum).sub_(gradient, alpha=rate)
    if decay:
        v.sub_(w, alpha=rate * decay)
    w.add_(v)


def layer_decays(spec: SgdSpec) -> dict[str, float]:
    """{layer: decay} of `SgdSpec.decays`. Raises UsageError for an entry that is not LAYER:DECAY."""
    try:
        return {layer: float(decay) for layer, decay in (text.split(":") for text in spec.decays)}
    except ValueError:
        raise UsageError(f"sgd.decays={','.join(spec.decays)}: write LAYER:DECAY, e.g. fc6:0.03") from None
