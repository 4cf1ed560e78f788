"""A run is a value: frozen dataclasses that say everything about a net, its data, its updates and its run.

A preset is a function that returns a full `Spec`; `change(spec, ["net.lrn.k=1"])` alters single fields by name, typed
by the dataclass. The resolved spec is written into every run folder, checkpoint and model file (`to_dict`,
`from_dict`). The presets themselves live in `presets.py`; they are re-exported here, so
`alexnet.spec.as_run(classes=10)` works. How fields become text and back is in `values.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alexnet import values
from alexnet.errors import UsageError
from alexnet.values import change, nearest, to_dict  # noqa: F401 - part of how a spec is said

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
    """Every pooling layer of a net; 3 and 2 overlap (paper, section 3.4)."""

    size_px: int = 3
    stride: int = 2
    ceil: bool = False  # windows over the border are kept

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
    sigma: float = 0.01  # of the initial weights
    bias: float = 0.0  # at the start
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
    sixth_conv: bool = False  # 3x3, as wide as the last (256), over its pooling, seeing both towers (sections 6 and 7)
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
        _require(self, classes=self.classes >= 1, crop_px=1 <= self.crop_px <= 4096, towers=self.towers >= 1)
        _require(self, dropout=0 <= self.dropout < 1)


@dataclass(frozen=True)
class LayerFile:
    """A layer file (.cfg) as it was read; messages call it by its name."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FileNetSpec:
    """A net of the 2012 or 2014 tool: its definition file and its parameter file, which also holds the rates.

    `dialect` is the tool whose rules count where the two differ. `init_from` is the model file that initWFunc copies
    from, with its sha256; empty: every layer starts from its initW and initB.
    """

    layers: LayerFile
    params: LayerFile
    dialect: Literal["2012", "2014"]
    classes: int
    crop_px: int
    init_from: str = ""
    init_sha256: str = ""

    def __post_init__(self):
        _require(self, classes=self.classes >= 1, crop_px=self.crop_px >= 1)


@dataclass(frozen=True)
class DataSpec:
    """How a packed square becomes a training picture (paper, section 4.1)."""

    draw_group: int = 32  # consecutive pictures that share one crop offset and mirror: 32 in 2012, 1 since
    crop: bool = True
    resized_crop: float = 0.0  # > 0: crops hold this share of the square or more and are resized; 0: crop_px as it is
    mirror: bool = True
    mean: Literal["image", "channel", "none"] = "image"  # what is subtracted
    divide_by_std: bool = False
    relight: Literal["none", "as_run", "as_published"] = "as_run"
    relight_strength: float = 0.1
    relight_until: Duration = Duration(75, "%")
    fade: float = 0.0  # the share of groups that are 3/4 themselves and 1/4 another group; labels stay (run 170-fade)
    reshuffle: bool = False  # False: the packed order in every epoch, as in 2012

    def __post_init__(self):
        _require(self, draw_group=self.draw_group >= 1, resized_crop=0 <= self.resized_crop <= 1)
        _require(self, fade=0 <= self.fade <= 1)


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

    rate: float = 0.01  # of weights
    bias_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decays: tuple[str, ...] = ()  # LAYER:DECAY where a layer's differs, e.g. fc6:0.03
    bias_decay: float = 0.0
    schedule: ScheduleSpec = ScheduleSpec()
    bias_schedule: ScheduleSpec = ScheduleSpec()
    frozen: tuple[str, ...] = ()  # layers that are not trained
    rate_factors: tuple[str, ...] = ()  # LAYER:FACTOR where both rates of a layer are times that, e.g. fc8:10
    label_smoothing: float = 0.0
    lars: float | None = None  # trust coefficient of layer-wise rates for large batches, e.g. 0.001; see sgd.trusted

    def __post_init__(self):
        _require(self, lars=self.lars is None or self.lars >= 0)
        _require(self, rate=self.rate >= 0, bias_rate=self.bias_rate >= 0, momentum=0 <= self.momentum < 1)
        _require(self, label_smoothing=0 <= self.label_smoothing < 1)


@dataclass(frozen=True)
class RunSpec:
    """How long, with which seed, where, and what happens how often."""

    length: Duration = Duration(90, "ep")
    until_train_error: float = 0.0  # > 0: the run ends at the first logged step that has at most so many errors
    batch: int = 128
    seed: int = 0  # of weights, order, crops, light and dropout
    rescue: bool = False  # too small initial weights are raised by what the first batch gives
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    parallel: Literal["none", "data", "towers", "hybrid"] = "none"  # what the processes of torchrun share
    deterministic: bool = False  # on a GPU: the same bits every time, more slowly
    graphs: bool = True  # on a GPU: steps are captured and replayed, with the same bits, at one more step's memory
    workers: int = 2  # threads that decode and cut pictures; 0: in the training thread
    evaluate_every: Duration = Duration(1, "ep")
    checkpoint_every: Duration = Duration(1, "ep")
    checkpoint_minutes: float = 5.0  # ... and after so many minutes
    keep: int = 2  # checkpoints kept
    log_every: Duration = Duration(10, "st")

    def __post_init__(self):
        _require(self, batch=self.batch >= 1, workers=self.workers >= 0, keep=self.keep >= 1, seed=self.seed >= 0)
        _require(self, until_train_error=0 <= self.until_train_error < 1)


@dataclass(frozen=True)
class ParentSpec:
    """The model that a run begins with, for fine-tuning: what it is called, its file, and that file's sha256.

    `path` is only where the file lay: it may move, and a finished model does not tell it.
    """

    name: str
    sha256: str
    path: str = ""


@dataclass(frozen=True)
class Spec:
    """A whole run. `sgd` is None where the net is one of layer files: their parameter file says how it is trained.
    `parent` is the model whose weights and preprocessing a run begins with; None: from scratch.
    """

    preset: str
    net: NetSpec | FileNetSpec
    data: DataSpec = DataSpec()
    sgd: SgdSpec | None = SgdSpec()
    run: RunSpec = RunSpec()
    parent: ParentSpec | None = None

    def __post_init__(self):
        if isinstance(self.net, FileNetSpec) and self.sgd is not None:
            raise UsageError(f"sgd: the rates of this run stand in its parameter file ({self.net.params}); change it")
        if isinstance(self.net, NetSpec) and self.sgd is None:
            raise UsageError("sgd=none: only nets of layer files are trained without; leave it out")


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


def from_dict(record: dict, kind=Spec):
    """The inverse of `to_dict`. Raises UsageError for unknown or missing fields."""
    return values.from_dict(record, kind)
