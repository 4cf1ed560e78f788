"""The update rule against the paper's formula in float64, and against torch.optim.SGD, which differs."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.errors import UsageError
from alexnet.sgd import Rule, Sgd, layer_decays, layers_of, rates_of, rules_of
from alexnet.spec import SgdSpec


def make_net() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("fc6", nn.Linear(3, 4))
    net.add_module("fc8", nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data.normal_(generator=generator)
    return net.double()


def gradients_of(net: nn.Module, step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(p.shape, generator=generator).double() for name, p in net.named_parameters()}


def sgd_of(net: nn.Module, spec: SgdSpec) -> Sgd:
    return Sgd.of(net, rules_of([name for name, _ in net.named_parameters()], spec))


def rates_for(sgd: Sgd, layer_rates: dict[str, tuple[float, float]]):
    return rates_of(list(sgd.parameters), layer_rates)


def run(net: nn.Module, spec: SgdSpec, rates: list[tuple[float, float]]) -> Sgd:
    sgd = sgd_of(net, spec)
    for step, pair in enumerate(rates):
        for name, gradient in gradients_of(net, step).items():
            net.get_parameter(name).grad = gradient
        sgd.step(rates_for(sgd, dict.fromkeys(("fc6", "fc8"), pair)))
    return sgd


def test_one_number_by_hand():
    """Paper, section 5: v <- 0.9 v - 0.0005 rate w - rate g; w <- w + v, the rate halved after the first step."""
    net = nn.Sequential()
    net.add_module("fc8", nn.Linear(1, 1))
    net.double()
    with torch.no_grad():
        net.fc8.weight.fill_(2.0)
        net.fc8.bias.fill_(2.0)
    sgd = sgd_of(net, SgdSpec(momentum=0.9, weight_decay=0.5))
    seen = []
    for rates in ((0.1, 0.2), (0.05, 0.2), (0.05, 0.2)):
        net.fc8.weight.grad, net.fc8.bias.grad = torch.ones(1, 1).double(), torch.ones(1).double()
        sgd.step(rates_for(sgd, {"fc8": rates}))
        seen.append((net.fc8.weight.item(), net.fc8.bias.item()))
    # weight: v = -0.2, w = 1.8;  v = -0.18 - 0.045 - 0.05 = -0.275, w = 1.525;  v = -0.2475 - 0.038125 - 0.05, ...
    assert [w for w, _ in seen] == pytest.approx([1.8, 1.525, 1.189375])
    assert [b for _, b in seen] == pytest.approx([1.8, 1.42, 0.878])  # v = -0.2, -0.38, -0.542: no decay


def test_three_steps_are_the_formula():
    net, rates = make_net(), [(0.01, 0.02), (0.01, 0.02), (0.001, 0.02)]
    w = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    decays = {"fc6.weight": 5e-4, "fc8.weight": 0.03, "fc6.bias": 0.0, "fc8.bias": 0.0}
    run(net, SgdSpec(decays=("fc8:0.03",)), rates)
    for step, pair in enumerate(rates):
        for name, gradient in gradients_of(net, step).items():
            rate = pair[name.endswith("bias")]
            v[name] = 0.9 * v[name] - decays[name] * rate * w[name] - rate * gradient.numpy()
            w[name] = w[name] + v[name]
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), w[name], rtol=1e-13)


@pytest.mark.parametrize("zero", ["", "weight", "gradient"])
def test_lars_is_the_formula_of_its_paper(zero):
    """You, Gitman, Ginsburg 2017: rate of each weight matrix times trust |w| / (|g| + decay |w|); biases as ever. A
    norm of 0 leaves the rate alone, so that weights that begin at 0 begin to learn.
    """
    net, trust, decay, rate = make_net(), 0.02, 0.1, 0.3
    sgd = sgd_of(net, SgdSpec(lars=trust, weight_decay=decay))
    if zero == "weight":
        sgd.weights["fc6.weight"].zero_()
    w = {name: p.detach().numpy().copy() for name, p in net.named_parameters()}
    v = {name: np.zeros_like(value) for name, value in w.items()}
    for step in range(3):
        for name, gradient in gradients_of(net, step).items():
            gradient = gradient * (zero != "gradient" or step > 0)
            net.get_parameter(name).grad = gradient
            g, of, matrix = gradient.numpy(), np.linalg.norm, name.endswith("weight")
            own = decay if matrix else 0.0
            known = matrix and of(w[name]) > 0 and of(g) > 0
            local = trust * of(w[name]) / (of(g) + own * of(w[name])) if known else 1.0
            v[name] = 0.9 * v[name] - rate * local * (g + own * w[name])
            w[name] = w[name] + v[name]
        sgd.step(rates_for(sgd, dict.fromkeys(("fc6", "fc8"), (rate, rate))))
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), w[name], rtol=1e-5, atol=1e-7)


def test_lars_is_off_unless_asked_for():
    plain, off = make_net(), make_net()
    run(plain, SgdSpec(), [(0.01, 0.02)] * 2)
    run(off, SgdSpec(lars=0.0), [(0.01, 0.02)] * 2)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), off.parameters(), strict=True))


def by_torch(rates: list[float]) -> nn.Module:
    net = make_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=rates[0], momentum=0.9, weight_decay=5e-4)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        for name, gradient in gradients_of(net, step).items():
            net.get_parameter(name).grad = gradient
        optimizer.step()
    return net


def test_equals_torch_until_the_rate_changes():
    ours = make_net()
    run(ours, SgdSpec(bias_decay=5e-4), [(0.01, 0.01)] * 4)
    for a, b in zip(ours.parameters(), by_torch([0.01] * 4).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_differs_from_torch_after_the_rate_changes():
    """The momentum of the old rate lives on here; torch.optim.SGD applies the new rate to it at once."""
    rates = [0.01, 0.01, 0.001]
    ours = make_net()
    run(ours, SgdSpec(bias_decay=5e-4), [(rate, rate) for rate in rates])
    for a, b in zip(ours.parameters(), by_torch(rates).parameters(), strict=True):
        assert (a - b).abs().max() > 1e-3


def test_biases_do_not_decay():
    net = make_net()
    before = [layer.bias.detach().clone() for layer in net]
    sgd = sgd_of(net, SgdSpec())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    weights = net.fc6.weight.detach().clone()
    sgd.step(rates_for(sgd, dict.fromkeys(("fc6", "fc8"), (0.01, 0.02))))
    assert all(torch.equal(layer.bias, bias) for layer, bias in zip(net, before, strict=True))
    torch.testing.assert_close(net.fc6.weight.detach(), weights * (1 - 0.01 * 5e-4), rtol=1e-13, atol=0)


def test_rate_zero_freezes_every_bit():
    """2012 source: at rate 0 there is no momentum and no decay either."""
    net = make_net()
    sgd = run(net, SgdSpec(), [(0.01, 0.02)] * 2)
    kept = {name: (p.detach().clone(), sgd.velocities[name].clone()) for name, p in net.named_parameters()}
    assert all(velocity.any() for _, velocity in kept.values())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    sgd.step(rates_for(sgd, {"fc6": (0.0, 0.0), "fc8": (0.01, 0.02)}))
    for name, (weight, velocity) in kept.items():
        same = torch.equal(net.get_parameter(name), weight), torch.equal(sgd.velocities[name], velocity)
        assert same == ((True, True) if name.startswith("fc6") else (False, False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [SgdSpec(), SgdSpec(lars=0.02)], ids=["plain", "lars"])
def test_updates_on_arrival_are_those_of_a_step(spec, dtype):
    """fc6 is frozen after the first step, and nobody's gradient is kept."""
    pairs = [{"fc6": (0.1, 0.2), "fc8": (0.1, 0.2)}, {"fc6": (0.0, 0.0), "fc8": (0.1, 0.0)}]
    found, x = [], torch.randn(5, 3, dtype=dtype)
    for at_once in (False, True):
        net = make_net().float()
        sgd = Sgd.of(net, rules_of([name for name, _ in net.named_parameters()], spec), dtype)
        for pair in pairs:
            rates = rates_for(sgd, pair)
            with sgd.on_arrival(rates) if at_once else nullcontext():
                net(x).square().sum().backward()
            assert all((p.grad is None) == at_once for p in net.parameters())
            sgd.step(rates)
            net.zero_grad()
        found.append([*sgd.weights.values(), *sgd.velocities.values(), *net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    net(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())  # outside, gradients stay


def test_layers_in_order():
    assert layers_of([name for name, _ in make_net().named_parameters()]) == ["fc6", "fc8"]


def test_a_decay_may_have_a_rate_of_its_own_and_a_weight_is_constrained_in_every_copy():
    net = make_net().float()
    before, seen = net.fc6.weight.detach().clone(), []
    rules = rules_of([name for name, _ in net.named_parameters()], SgdSpec())
    rules["fc6.weight"] = Rule("fc6", 0.9, 0.5, lambda weight: seen.append(weight.clone()) or weight.clamp_(-0.5, 0.5))
    sgd = Sgd.of(net, rules, torch.bfloat16)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    sgd.step(rates_for(sgd, dict.fromkeys(("fc6", "fc8"), (0.01, 0.01))) | {"fc6.weight": (0.01, 0.1)})
    torch.testing.assert_close(seen[0], before - 0.01 - 0.1 * 0.5 * before)
    assert torch.equal(sgd.weights["fc6.weight"], seen[0].clamp(-0.5, 0.5))
    assert torch.equal(net.fc6.weight, sgd.weights["fc6.weight"].bfloat16())


@pytest.mark.parametrize("entry", ["fc6", "fc6:much", "fc6:1:2"])
def test_unreadable_decays(entry):
    with pytest.raises(UsageError, match="write LAYER:DECAY"):
        layer_decays(SgdSpec(decays=("fc8:0.1", entry)))
