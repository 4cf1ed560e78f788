"""The 2012 update rule (paper, section 5), with the rate inside the velocity:

    v <- momentum * v - decay * rate * w - rate * gradient        w <- w + v

torch.optim.SGD keeps the rate outside; the two agree only until the rate changes. Biases have their own rate and no
decay; a rate of 0 freezes a tensor altogether: no momentum, no decay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.kernels.update import update
from alexnet.net import AlexNet, compute_in
from alexnet.spec import SgdSpec


@dataclass
class Sgd:
    """Weights (float32, the ones that are trained and saved) and velocities of a net, by their state-dict names.

    `parameters` are the net's own: the memory of `weights` where it computes in float32, bfloat16 copies that every
    step rewrites where it does not.
    """

    spec: SgdSpec
    parameters: dict[str, nn.Parameter]
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]
    decays: dict[str, float]

    @staticmethod
    def of(net: AlexNet, spec: SgdSpec, dtype: torch.dtype = torch.float32) -> Sgd:
        """For a float32 net, which from here on computes in `dtype`."""
        weights = {name: p.detach() for name, p in net.named_parameters()}
        velocities = {name: torch.zeros_like(w) for name, w in weights.items()}
        if dtype != torch.float32:
            compute_in(net, dtype)
        return Sgd(spec, dict(net.named_parameters()), weights, velocities, layer_decays(spec))

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(name.rsplit(".", 1)[0] for name in self.parameters))

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], velocities: dict[str, Tensor]) -> None:
        """Takes over saved weights and velocities, and rounds the net's copies from them."""
        for name, parameter in self.parameters.items():
            self.weights[name].copy_(weights[name])
            self.velocities[name].copy_(velocities[name])
            parameter.copy_(self.weights[name])

    def step(self, rates: dict[str, tuple[float, float]]) -> None:
        """One update of every tensor from its `.grad`, at {layer: (weight rate, bias rate)}."""
        for name, parameter in self.parameters.items():
            layer, kind = name.rsplit(".", 1)
            rate = rates[layer][kind == "bias"]
            decay = self.spec.bias_decay if kind == "bias" else self.decays.get(layer, self.spec.weight_decay)
            if rate > 0 and parameter.grad is not None:
                weight = self.weights[name]
                copy = None if weight.dtype == parameter.dtype else parameter.detach()
                update(weight, self.velocities[name], parameter.grad, self.spec.momentum, rate, decay, copy)


def layer_decays(spec: SgdSpec) -> dict[str, float]:
    """{layer: decay} of `SgdSpec.decays`. Raises UsageError for an entry that is not LAYER:DECAY."""
    try:
        return {layer: float(decay) for layer, decay in (text.split(":") for text in spec.decays)}
    except ValueError:
        raise UsageError(f"sgd.decays={','.join(spec.decays)}: write LAYER:DECAY, e.g. fc6:0.03") from None
