"""How a parameter file trains a net: rule and rate of every tensor, and what holds its weights after each update.

Progress is the share of the run's minibatches that are done. (The old tool counted data files of 1024 to 3072
pictures, and a rate stayed as it was within one.) A column is one filter, or one unit, for one input; weights lie as
layers.py says: (filters, seen, size, size), (positions, groups, rows, filters), (outputs, inputs).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from alexnet.layerfile.build import LayerNet
from alexnet.layerfile.records import SgdGroup
from alexnet.sgd import Rates, Rule

TINY = 1e-30


def rules(net: LayerNet, dialect: str) -> dict[str, Rule]:
    """{tensor: rule}; the weights of a layer with several inputs are called LAYER[0], LAYER[1] ..."""
    return {group.parameter: _rule(net, group, dialect) for group in net.sgd_groups()}


def _rule(net: LayerNet, group: SgdGroup, dialect: str) -> Rule:
    several = len(net.by_name[group.layer].inputs) > 1
    matrix = None if group.input is None else f"{group.layer}[{group.input}]" if several else group.layer
    return Rule(matrix, group.update.momentum, group.update.decay, _constraint(net, group, dialect))


def _constraint(net: LayerNet, group: SgdGroup, dialect: str) -> Callable[[Tensor], None] | None:
    """wball and wcNormMin/Max of one matrix, in this order; None where the file asks for neither."""
    update, kind = group.update, net.by_name[group.layer].type
    shape = net.get_parameter(group.parameter).shape
    dims = (2,) if kind == "local" else tuple(range(1, len(shape)))
    fan_in, steps = prod(shape[d] for d in dims), []
    if group.input is not None and update.wball > 0:
        exact = dialect == "2014" and kind != "local"
        radius = update.wball * (fan_in if dialect == "2012" else 1)
        steps.append(partial(ball, dims=dims, radius=radius, exact=exact))
    if group.input is not None and kind == "conv" and update.wc_norm_max > 0:
        steps.append(partial(contrast, dims=dims, low=update.wc_norm_min, high=update.wc_norm_max))

    def constrain(weight: Tensor) -> None:
        for step in steps:
            step(weight)

    return constrain if steps else None


@torch.no_grad()
def ball(weight: Tensor, dims: tuple[int, ...], radius: float, exact: bool) -> None:
    """Columns whose norm exceeds the radius are scaled down to it; `exact` scales short ones up as well."""
    factor = radius / torch.linalg.vector_norm(weight, dim=dims, keepdim=True).clamp_min(TINY)
    weight.mul_(factor if exact else factor.clamp(max=1))


@torch.no_grad()
def contrast(weight: Tensor, dims: tuple[int, ...], low: float, high: float) -> None:
    """Scales columns so that s = sqrt(sum (w - mean)^2) / fan in lies between the limits; constant ones stay."""
    fan_in = prod(weight.shape[d] for d in dims)
    s = torch.linalg.vector_norm(weight - weight.mean(dims, keepdim=True), dim=dims, keepdim=True) / fan_in
    weight.mul_(torch.where(s > TINY, s.clamp(low, high) / s.clamp_min(TINY), 1))


def rates(groups: list[SgdGroup], progress: float, seed: tuple[int, int]) -> Rates:
    """{tensor: (rate of its gradient, rate of its decay)} at `progress` in [0, 1].

    The two differ only where the file asks for noise: there, each is drawn anew, from `seed` (that of the run, step).
    """
    draws = np.zeros((len(groups), 2))
    if any(group.update.schedule.noise for group in groups):
        draws = np.random.default_rng(seed).standard_normal(draws.shape)
    return {
        group.parameter: tuple(group.update.schedule.rate(progress, float(draw)) for draw in pair)
        for group, pair in zip(groups, draws, strict=True)
    }
