"""The learning rate as a pure function of the step (and, for the plateau rule, of the validation errors seen so far).

progress p = step / total_steps in [0, 1); r the base rate, T = factor, n = count. The formulas are those of the 2012
and 2014 layer files; plateau is the paper's section 5; cosine and one-cycle serve `modern`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from alexnet.errors import UsageError
from alexnet.spec import Duration, ScheduleSpec, SgdSpec


@dataclass(frozen=True)
class Clock:
    """Where a run is: what every duration is measured against."""

    step: int
    steps_per_epoch: int
    total_steps: int

    def reached(self, when: Duration) -> bool:
        """Whether `when` lies behind."""
        return self.step >= when.steps(self.steps_per_epoch, self.total_steps)

    def progress(self, start: Duration) -> float:
        """0 at `start`, 1 at the end of the run."""
        first = start.steps(self.steps_per_epoch, self.total_steps)
        return min(1.0, max(0.0, (self.step - first) / max(1, self.total_steps - first)))


def parse_step(text: str) -> tuple[Duration, str | None, float]:
    """`25ep:0.001` or `72ep:conv1:0` as (when, layer or None, rate). Raises UsageError for anything else."""
    when, *layer, rate = text.split(":") if ":" in text else (text, "")
    try:
        value = float(rate)
    except ValueError:
        value = -1.0
    if len(layer) > 1 or not 0 <= value < math.inf:
        raise UsageError(f"schedule step {text!r}: write WHEN:RATE or WHEN:LAYER:RATE, e.g. 25ep:0.001 or 72ep:conv1:0")
    return Duration.parse(when), (layer[0] if layer else None), value


def rate_at(base: float, schedule: ScheduleSpec, clock: Clock, layer: str, drops: int = 0) -> float:
    """The rate of `layer` at this step, `base` times what the schedule makes of it. `drops` counts the plateau rule's
    divisions so far (paper, section 5). Raises UsageError for a step that cannot be read.
    """
    kind, factor = schedule.kind, schedule.factor
    p = clock.progress(schedule.hold)
    if kind == "plateau":
        rate = base / factor**drops
    elif kind == "dexp":
        level = min(int(p * schedule.count), schedule.count - 1)
        rate = base * factor ** (-level / max(1, schedule.count - 1))
    elif kind == "exp":
        rate = base * factor**-p
    elif kind == "linear":
        rate = base * (1 - p) + base / factor * p
    elif kind == "cosine":
        rate = base / factor + (base - base / factor) * (1 + math.cos(math.pi * p)) / 2
    elif kind == "onecycle":
        rate = base * (p / 0.3 if p < 0.3 else (1 + math.cos(math.pi * (p - 0.3) / 0.7)) / 2)
    else:
        rate = _last_step(base, schedule, clock, layer) if kind == "steps" else base
    return rate * _warmup(schedule, clock)


def _last_step(base: float, schedule: ScheduleSpec, clock: Clock, layer: str) -> float:
    """The rate after the latest step that has been reached; one for a single layer holds until a later one for all."""
    rate = base
    for text in schedule.steps:
        when, only, value = parse_step(text)
        if clock.reached(when) and only in (None, layer) and not (rate == 0 and only is None):
            rate = value
    return rate


def _warmup(schedule: ScheduleSpec, clock: Clock) -> float:
    steps = schedule.warmup.steps(clock.steps_per_epoch, clock.total_steps)
    return min(1.0, (clock.step + 1) / steps) if steps else 1.0


@dataclass(frozen=True)
class Plateau:
    """The paper's rule (section 5): divide when the validation error stops improving, at most `count` times. Errors are
    fractions; `waited` evaluations have passed without a better one.
    """

    best_error: float = math.inf
    waited: int = 0
    drops: int = 0

    def after(self, error: float, schedule: ScheduleSpec) -> Plateau:
        """The state after one more evaluation."""
        if error < self.best_error:
            return Plateau(error, 0, self.drops)
        if self.waited + 1 < schedule.patience or self.drops >= schedule.count:
            return Plateau(self.best_error, self.waited + 1, self.drops)
        return Plateau(self.best_error, 0, self.drops + 1)


def by_layer(texts: tuple[str, ...], where: str, example: str) -> dict[str, float]:
    """{layer: number} of LAYER:NUMBER texts. Raises UsageError naming the field `where` for anything else."""
    try:
        numbers = {layer: float(number) for layer, number in (text.split(":") for text in texts)}
    except ValueError:
        numbers = {"": math.nan}
    if not all(0 <= number < math.inf for number in numbers.values()):
        raise UsageError(f"{where}={','.join(texts)}: write LAYER:{example}")
    return numbers


def layer_rates(sgd: SgdSpec, layers: list[str], clock: Clock, drops: int = 0) -> dict[str, tuple[float, float]]:
    """{layer: (weight rate, bias rate)}; 0 freezes. A layer whose weights are frozen has its biases frozen too."""
    rates, factors = {}, by_layer(sgd.rate_factors, "sgd.rate_factors", "FACTOR, e.g. fc8:10")
    for layer in layers:
        factor = 0.0 if layer in sgd.frozen else factors.get(layer, 1.0)
        weight = factor * rate_at(sgd.rate, sgd.schedule, clock, layer, drops)
        bias = 0.0 if weight == 0 else factor * rate_at(sgd.bias_rate, sgd.bias_schedule, clock, layer, drops)
        rates[layer] = (weight, bias)
    return rates


def check(sgd: SgdSpec, layers: list[str]) -> None:
    """Refuses schedule steps that cannot be read and names of layers that the net does not have."""
    named = [*sgd.frozen, *by_layer(sgd.rate_factors, "sgd.rate_factors", "FACTOR, e.g. fc8:10")]
    named += [text.split(":")[0] for text in sgd.decays]
    for schedule in (sgd.schedule, sgd.bias_schedule):
        named += [only for _, only, _ in map(parse_step, schedule.steps) if only]
    for name in named:
        if name not in layers:
            raise UsageError(f"the net has no layer {name!r} to give a rate to; its layers: {', '.join(layers)}")
