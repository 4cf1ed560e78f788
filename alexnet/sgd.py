"""The 2012 update rule (paper, section 5), with the rate inside the velocity:

    v <- momentum * v - decay * rate * w - rate * gradient        w <- w + v

torch.optim.SGD keeps the rate outside; the two agree only until the rate changes. Every tensor has its own rule, and
its own rate at each step; a rate of 0 freezes a tensor altogether: no momentum, no decay. Which rules and rates they
are is said by a SgdSpec (below) or by a parameter file (layerfile/rates.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from alexnet.kernels.update import update
from alexnet.net import compute_in
from alexnet.schedule import by_layer
from alexnet.spec import SgdSpec

Rates = dict[str, tuple[float, float]]  # {tensor: (rate of its gradient, rate of its decay)}


@dataclass(frozen=True)
class Rule:
    """How one tensor is trained, its rates aside: momentum and decay as in the paper's section 5.

    `matrix` is the name people know a layer's weights by, None for biases; `constrain` changes a weight in place after
    each of its updates; `trust` is LARS's coefficient, None without.
    """

    matrix: str | None
    momentum: float
    decay: float = 0.0
    constrain: Callable[[Tensor], None] | None = None
    trust: float | None = None


@dataclass
class Sgd:
    """Weights (float32, the ones that are trained and saved) and velocities of a net, by their state-dict names.

    `parameters` are the net's own: the memory of `weights` where it computes in float32, bfloat16 copies that every
    step rewrites where it does not.
    """

    rules: dict[str, Rule]
    parameters: dict[str, nn.Parameter]
    weights: dict[str, Tensor]
    velocities: dict[str, Tensor]

    @staticmethod
    def of(net: nn.Module, rules: dict[str, Rule], dtype: torch.dtype = torch.float32) -> Sgd:
        """For a float32 net, which from here on computes in `dtype`."""
        weights = {name: p.detach() for name, p in net.named_parameters()}
        velocities = {name: torch.zeros_like(w) for name, w in weights.items()}
        if dtype != torch.float32:
            compute_in(net, dtype)
        return Sgd(rules, dict(net.named_parameters()), weights, velocities)

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], velocities: dict[str, Tensor]) -> None:
        """Takes over saved weights and velocities, and rounds the net's copies from them."""
        for name, parameter in self.parameters.items():
            self.weights[name].copy_(weights[name])
            self.velocities[name].copy_(velocities[name])
            parameter.copy_(self.weights[name])

    def learning(self, rates: Rates) -> tuple[str, ...]:
        """The tensors that a step with these rates changes: those of rate 0 stay as they are."""
        return tuple(name for name in self.parameters if rates[name][0] > 0)

    def numbers(self, rates: Rates) -> list[tuple[float, float, float]]:
        """(momentum, rate, rate * decay) of each of the tensors that learn."""
        rules, names = self.rules, self.learning(rates)
        return [(rules[name].momentum, rates[name][0], rules[name].decay * rates[name][1]) for name in names]

    @torch.no_grad()
    def step(self, rates: Rates, go: Tensor | None = None, numbers: Tensor | None = None) -> None:
        """One update of every tensor from its `.grad` (paper, section 5); those of rate 0 stay as they are, and so do
        all where `go`, a bool on the device, is False. `numbers`: `self.numbers(rates)` on the device, which then count
        in place of the rates.
        """
        for i, name in enumerate(self.learning(rates)):
            if self.parameters[name].grad is not None:
                self._update(name, rates[name], go, None if numbers is None else numbers[i])

    @contextmanager
    def on_arrival(self, rates: Rates) -> Iterator[None]:
        """A backward pass in here updates every tensor as `step` would, at once when its gradient is complete, and
        keeps no gradient: those of the dense layers are gone before the convolutions want memory.
        """
        learning = set(self.learning(rates))

        def arrived(name: str, parameter: Tensor) -> None:
            if name in learning:
                self._update(name, rates[name])
            parameter.grad = None

        trained = [(name, p) for name, p in self.parameters.items() if p.requires_grad]
        hooks = [p.register_post_accumulate_grad_hook(partial(arrived, name)) for name, p in trained]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _update(
        self, name: str, rates: tuple[float, float], go: Tensor | None = None, numbers: Tensor | None = None
    ) -> None:
        """One tensor from its `.grad`."""
        parameter, weight, rule, (rate, decay_rate) = self.parameters[name], self.weights[name], self.rules[name], rates
        decay = rule.decay * (decay_rate / rate)
        copy = None if weight.dtype == parameter.dtype else parameter.detach()
        gradient = parameter.grad
        if rule.trust and weight.dim() > 1:
            gradient, decay = trusted(weight, gradient, decay, rule.trust), 0.0
        update(weight, self.velocities[name], gradient, rule.momentum, rate, decay, copy, go, numbers)
        if rule.constrain:
            _constrain(rule, weight, copy, go)


def trusted(weight: Tensor, gradient: Tensor, decay: float, trust: float) -> Tensor:
    """LARS (You, Gitman, Ginsburg 2017, algorithm 1): (g + decay w) * trust |w| / (|g| + decay |w|), float32; the rate
    is the global one. Where either norm is 0 there is nothing to compare, and the factor is 1.
    """
    gradient = gradient.float()
    w, g = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    factor = torch.where((w > 0) & (g > 0), trust * w / (g + decay * w), 1.0)
    return torch.add(gradient, weight, alpha=decay).mul_(factor)


def _constrain(rule: Rule, weight: Tensor, copy: Tensor | None, go: Tensor | None) -> None:
    before = weight if go is None else weight.clone()
    rule.constrain(weight)
    if go is not None:
        weight.copy_(torch.where(go, weight, before))
    if copy is not None:
        copy.copy_(weight)


def layers_of(names: list[str]) -> list[str]:
    """conv1, conv2 ... of conv1.weight, conv1.bias, conv2.weight ..."""
    return list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))


def rules_of(names: list[str], spec: SgdSpec) -> dict[str, Rule]:
    """{tensor: rule} for tensors called LAYER.weight and LAYER.bias."""
    decays, rules = layer_decays(spec), {}
    for name in names:
        layer, kind = name.rsplit(".", 1)
        bias = kind == "bias"
        decay = spec.bias_decay if bias else decays.get(layer, spec.weight_decay)
        rules[name] = Rule(None if bias else layer, spec.momentum, decay, trust=None if bias else spec.lars)
    return rules


def rates_of(names: list[str], layer_rates: dict[str, tuple[float, float]]) -> Rates:
    """{tensor: its rate, for gradient and decay alike} from {layer: (weight rate, bias rate)}."""
    pairs = ((name, *name.rsplit(".", 1)) for name in names)
    return {name: (layer_rates[layer][kind == "bias"],) * 2 for name, layer, kind in pairs}


def layer_decays(spec: SgdSpec) -> dict[str, float]:
    """{layer: decay} of `SgdSpec.decays`. Raises UsageError for an entry that is not LAYER:DECAY."""
    return by_layer(spec.decays, "sgd.decays", "DECAY, e.g. fc6:0.03")
