"""A run is a value: frozen dataclasses that say everything about a net, its data, its updates and its run.

A preset is a function that returns a full `Spec`; `change(spec, ["net.lrn.k=1"])` alters single fields by name, typed
by the dataclass. The resolved spec is written into every run folder, checkpoint and model file (`to_dict`,
`from_dict`). The presets themselves live in `presets.py`; they are re-exported here, so
`alexnet.spec.as_run(classes=10)` works.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from typing import Literal

from alexnet.errors import UsageError

UNITS = {"ep": "epochs", "st": "steps", "%": "per cent of the run"}


@dataclass(frozen=True)
class Duration:
    """A length of training, written `90ep`, `2000st` or `5%`; converted to steps once, by `steps`."""

    value: float
    unit: Literal["ep", "st", "%"]

    @staticmethod
    def parse(text: str) -> Duration:
        for unit in UNITS:
            if text.endswith(unit):
                try:
                    value = float(text[: -len(unit)])
                except ValueError:
                    break
                if 0 <= value < float("inf"):
                    return Duration(value, unit)
        raise UsageError(f"{text!r} is not a duration: write 90ep (epochs), 2000st (steps) or 5% (of the run)")

    def steps(self, steps_per_epoch: int, total_steps: int) -> int:
        scale = {"ep": steps_per_epoch, "st": 1, "%": total_steps / 100}[self.unit]
        return round(self.value * scale)

    def __str__(self) -> str:
        return f"{self.value!r}".removesuffix(".0") + self.unit  # every digit: 1234567st stays what it is


def _require(spec, **ranges: bool) -> None:
    """UsageError naming the first field of `spec` that is out of its range."""
    for name, fine in ranges.items():
        if not fine:
            raise UsageError(f"{type(spec).__name__}.{name}={getattr(spec, name)} is out of its range")


@dataclass(frozen=True)
class LrnSpec:
    """Local response norm: x * (k + alpha' * sum of squares over `size` maps) ** -beta, alpha' = alpha / size if
    divided.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0
    alpha_divided: bool = True
    span: Literal["tower", "all"] = "tower"

    def __post_init__(self):
        _require(self, size=self.size >= 1, alpha=self.alpha >= 0, k=self.k >= 0)


@dataclass(frozen=True)
class RnormSpec:
    """Same-map norm: x * (k + alpha / size**2 * sum of squares over size x size pixels) ** -beta."""

    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self):
        _require(self, size=self.size >= 1, alpha=self.alpha >= 0, k=self.k >= 0)


@dataclass(frozen=True)
class PoolSpec:
    size_px: int = 3
    stride: int = 2
    ceil: bool = False

    def __post_init__(self):
        _require(self, size_px=self.size_px >= 1, stride=self.stride >= 1)


@dataclass(frozen=True)
class ConvSpec:
    """One convolution and, in order, what follows it: act, lrn, rnorm, bn, pool (max), avgpool."""

    channels: int
    kernel_px: int
    stride: int = 1
    padding_px: int = 0
    overhang_px: int = 0  # extra zeros at the right and bottom only
    then: tuple[str, ...] = ("act",)
    sigma: float = 0.01
    bias: float = 0.0
    local: bool = False  # own filters at every position

    def __post_init__(self):
        _require(self, channels=self.channels >= 1, kernel_px=self.kernel_px >= 1, stride=self.stride >= 1)
        _require(self, padding_px=self.padding_px >= 0, overhang_px=self.overhang_px >= 0, sigma=self.sigma >= 0)


@dataclass(frozen=True)
class DenseSpec:
    """One hidden dense layer, with what comes before and after it: act, drop, bn."""

    outputs: int
    sigma: float = 0.01
    bias: float = 0.0
    before: tuple[str, ...] = ()
    then: tuple[str, ...] = ("act", "drop")

    def __post_init__(self):
        _require(self, outputs=self.outputs >= 1, sigma=self.sigma >= 0)


@dataclass(frozen=True)
class NetSpec:
    """The net, layer by layer under the author's names. A layer set to None is left out."""

    conv1: ConvSpec | None
    conv2: ConvSpec | None
    conv3: ConvSpec | None
    conv4: ConvSpec | None
    conv5: ConvSpec | None
    fc6: DenseSpec | None
    fc7: DenseSpec | None
    classes: int = 1000
    crop_px: int = 224
    towers: int = 1
    talk: tuple[str, ...] = ("conv3",)  # convolutions that see all towers; dense layers always do
    sixth_conv: bool = False  # 3x3, 256 maps, over the last pooling layer, seeing both towers (paper, sections 6 and 7)
    activation: Literal["relu", "tanh", "logistic"] = "relu"
    lrn: LrnSpec | None = None
    rnorm: RnormSpec | None = None
    pool: PoolSpec = PoolSpec()
    dropout: float = 0.5
    dropout_inverted: bool = False  # False: mask in training, times (1 - dropout) at test, as in 2012
    init: Literal["gaussian", "torch", "he"] = "gaussian"
    fc8_sigma: float = 0.01
    fc8_bias: float = 0.0

    def __post_init__(self):
        _require(self, classes=self.classes >= 1, crop_px=self.crop_px >= 1, towers=self.towers >= 1)
        _require(self, dropout=0 <= self.dropout < 1)


@dataclass(frozen=True)
class DataSpec:
    """How a packed square becomes a training picture (paper, section 4.1)."""

    draw_group: int = 32  # consecutive pictures that share one crop offset and mirror: 32 in 2012, 1 since
    crop: bool = True
    mirror: bool = True
    mean: Literal["image", "channel", "none"] = "image"
    divide_by_std: bool = False
    relight: Literal["none", "as_run", "as_published"] = "as_run"
    relight_strength: float = 0.1
    relight_until: Duration = Duration(75, "%")
    reshuffle: bool = False  # False: the packed order in every epoch, as in 2012

    def __post_init__(self):
        _require(self, draw_group=self.draw_group >= 1)


@dataclass(frozen=True)
class ScheduleSpec:
    """The rate over the run; see schedule.py for the formulas."""

    kind: Literal["constant", "plateau", "dexp", "exp", "linear", "steps", "cosine", "onecycle"] = "constant"
    factor: float = 250.0  # base rate over last rate (dexp, exp, linear, cosine); divisor of a plateau drop
    count: int = 4  # number of levels (dexp); most drops (plateau)
    hold: Duration = Duration(0, "%")  # linear, cosine, exp: at the base rate until here
    warmup: Duration = Duration(0, "%")  # linear from zero
    steps: tuple[str, ...] = ()  # WHEN:RATE or WHEN:LAYER:RATE, e.g. 25ep:0.001, 72ep:conv1:0
    patience: int = 3  # evaluations without a better validation error before a plateau drop

    def __post_init__(self):
        _require(self, factor=self.factor > 0, count=self.count >= 1, patience=self.patience >= 1)


@dataclass(frozen=True)
class SgdSpec:
    """The 2012 update: v <- momentum v - decay rate w - rate g; w <- w + v (paper, section 5)."""

    rate: float = 0.01
    bias_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decays: tuple[str, ...] = ()  # LAYER:DECAY where a layer's differs, e.g. fc6:0.03
    bias_decay: float = 0.0
    schedule: ScheduleSpec = ScheduleSpec()
    bias_schedule: ScheduleSpec = ScheduleSpec()
    frozen: tuple[str, ...] = ()
    label_smoothing: float = 0.0

    def __post_init__(self):
        _require(self, rate=self.rate >= 0, bias_rate=self.bias_rate >= 0, momentum=0 <= self.momentum < 1)
        _require(self, label_smoothing=0 <= self.label_smoothing < 1)


@dataclass(frozen=True)
class RunSpec:
    length: Duration = Duration(90, "ep")
    batch: int = 128
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int = 2  # threads that decode and cut pictures; 0: in the training thread
    evaluate_every: Duration = Duration(1, "ep")
    checkpoint_every: Duration = Duration(1, "ep")
    checkpoint_minutes: float = 5.0
    keep: int = 2  # checkpoints kept
    log_every: Duration = Duration(10, "st")

    def __post_init__(self):
        _require(self, batch=self.batch >= 1, workers=self.workers >= 0, keep=self.keep >= 1, seed=self.seed >= 0)


@dataclass(frozen=True)
class Spec:
    preset: str
    net: NetSpec
    data: DataSpec = DataSpec()
    sgd: SgdSpec = SgdSpec()
    run: RunSpec = RunSpec()


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """' Did you mean X?' for a misspelt name, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."


def preset(name: str, **changes) -> Spec:
    """The spec of a preset by name; `changes` are passed to it (classes=10). Raises UsageError for an unknown name."""
    from alexnet import presets

    if name not in presets.NAMES:
        raise UsageError(f"no preset is called {name!r}.{nearest(name, presets.NAMES)}")
    return getattr(presets, name)(**changes)


def __getattr__(name: str):
    """`spec.as_run` and the other presets."""
    from alexnet import presets

    if name in presets.NAMES:
        return getattr(presets, name)
    raise AttributeError(f"module 'alexnet.spec' has no attribute {name!r}")


def _parse(text: str, kind, where: str):
    """`text` as a value of the annotated type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text.lower() in ("none", "off"):
            return None
        return _parse(text, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if text in arguments:
            return text
        raise UsageError(f"{where}={text} is not possible.{nearest(text, arguments)}")
    if origin is tuple:
        return tuple(_parse(item, arguments[0], where) for item in text.split(",") if item)
    if kind is Duration:
        return Duration.parse(text)
    if dataclasses.is_dataclass(kind):
        fields = ", ".join(f.name for f in dataclasses.fields(kind))
        raise UsageError(f"{where} is a group: set one of its fields ({fields}) or 'none' where it may be left out")
    return _parse_scalar(text, kind, where)


def _parse_scalar(text: str, kind, where: str):
    if kind is bool:
        if text.lower() not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            raise UsageError(f"{where}={text}: true or false is wanted")
        return text.lower() in ("true", "yes", "on", "1")
    try:
        value = kind(text)
        if kind is float and not math.isfinite(value):
            raise ValueError
        return value
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise UsageError(f"{where}={text}: {wanted} is wanted") from None


def _set(node, path: list[str], text: str, where: str):
    kinds = typing.get_type_hints(type(node))
    if path[0] not in kinds:
        raise UsageError(f"--set {where}: {type(node).__name__} has no field {path[0]!r}.{nearest(path[0], kinds)}")
    kind, current = kinds[path[0]], getattr(node, path[0])
    if len(path) == 1:
        value = _parse(text, kind, where)
    elif current is None:
        value = _set(_default_of(kind, where), path[1:], text, where)
    elif dataclasses.is_dataclass(current):
        value = _set(current, path[1:], text, where)
    else:
        raise UsageError(f"--set {where}: {path[0]} is a single value and has no field {path[1]!r}")
    return dataclasses.replace(node, **{path[0]: value})


def _default_of(kind, where: str):
    """A group that is switched off is switched on with its defaults when one of its fields is set."""
    group = next((a for a in typing.get_args(kind) if dataclasses.is_dataclass(a)), None)
    try:
        return group()
    except TypeError:
        raise UsageError(f"--set {where}: this layer is left out of the net and has no defaults to change") from None


def change(spec: Spec, settings: typing.Iterable[str]) -> Spec:
    """`spec` with settings such as `net.lrn.k=1` applied in order. Raises UsageError naming what is allowed."""
    for setting in settings:
        where, equals, text = setting.partition("=")
        if not equals or not where:
            raise UsageError(f"--set {setting!r}: write part.field=value, e.g. net.dropout=0.3")
        spec = _set(spec, where.strip().split("."), text.strip(), where.strip())
    return spec


def to_dict(node) -> dict:
    """The spec as plain JSON values; durations as their text."""
    if isinstance(node, Duration):
        return str(node)
    if dataclasses.is_dataclass(node):
        return {f.name: to_dict(getattr(node, f.name)) for f in dataclasses.fields(node)}
    return list(node) if isinstance(node, tuple) else node


def from_dict(record: dict, kind=Spec):
    """The inverse of `to_dict`. Raises UsageError for unknown or missing fields."""
    if record is None or not dataclasses.is_dataclass(kind):
        return tuple(record) if typing.get_origin(kind) is tuple else record
    kinds = typing.get_type_hints(kind)
    if not isinstance(record, dict):
        raise UsageError(f"not a {kind.__name__} of this version: {record!r}")
    if set(record) - set(kinds):
        raise UsageError(f"not a {kind.__name__} of this version: {sorted(set(record) - set(kinds))}")
    values = {name: _from_value(value, kinds[name]) for name, value in record.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"not a {kind.__name__} of this version: {error}") from None


def _from_value(value, kind):
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    if kind is Duration:
        return Duration.parse(str(value))
    return from_dict(value, kind)
