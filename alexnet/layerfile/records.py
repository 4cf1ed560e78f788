"""What a pair of layer files says, as plain frozen records: a Network of Layers, each with its Updates.

`options` are the values of the definition file, `params` those of the parameter file, both typed, complete with
defaults, and keyed by the files' own key names in lower case; a key with one value per input is a tuple.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A learning rate over a run: `base` at its start; how it falls by `factor` until the end is `kind`'s business.

    const, linear, exp, dexp (`steps` plateaus) and jdexp (dexp with half steps in the middle of a run).
    """

    base: float
    kind: str = "const"
    factor: float = 1.0
    steps: int = 1
    noise: float = 0.0

    def rate(self, progress: float, draw: float = 0.0) -> float:
        """The rate at `progress` in [0, 1]; `draw` is a standard normal number where the file asks for noise."""
        p = min(1.0, max(0.0, progress))
        rate = self.base * (1 + abs(draw) * self.noise)
        if self.kind == "linear":
            return rate * (1 - p + p / self.factor)
        if self.kind == "exp":
            return rate * self.factor**-p
        if self.kind in ("dexp", "jdexp"):
            return rate * self.factor ** (-self._plateau(p) / max(1, self.steps - 1))
        return rate

    def _plateau(self, p: float) -> float:
        plateau = max(0, math.ceil(p * self.steps) - 1)
        jumps = self.kind == "jdexp" and plateau > 0 and 0.2 < p < 0.9 and p > (plateau + 0.5) / self.steps
        return plateau - 0.5 if jumps else plateau  # half a plateau back: the geometric mean of the two


@dataclass(frozen=True)
class Neuron:
    """An element-wise function, e.g. tanh[1.7,0.66]: kind "tanh", numbers (1.7, 0.66)."""

    kind: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Update:
    """How one weight matrix or one layer's biases are trained; wball and the norm limits are off at 0."""

    schedule: Schedule
    momentum: float
    decay: float = 0.0
    wball: float = 0.0
    wc_norm_min: float = 0.0
    wc_norm_max: float = 0.0

    @property
    def frozen(self) -> bool:
        """A rate of 0 leaves a matrix as it is: no momentum, no decay."""
        return self.schedule.base <= 0


@dataclass(frozen=True)
class SgdGroup:
    """One tensor to train: `parameter` is its name in the net; `input` is None for the layer's biases."""

    layer: str
    input: int | None
    parameter: str
    update: Update

    @property
    def rate(self) -> float:
        """The rate at the start of the run; `update.schedule` knows the others."""
        return self.update.schedule.base


@dataclass(frozen=True)
class Layer:
    """One section, or the `NAME_neuron` that a section's `neuron=` inserts behind it (type "neuron").

    Both carry the neuron; it is the inserted layer that applies it.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    options: dict[str, object]
    params: dict[str, object]
    neuron: Neuron | None = None
    weight_updates: tuple[Update, ...] = ()
    bias_update: Update | None = None


@dataclass(frozen=True)
class Network:
    """Layers in the file's order, which is an order they can be computed in."""

    layers_path: str
    params_path: str | None
    layers: tuple[Layer, ...]
