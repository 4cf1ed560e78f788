"""`alexnet fidelity`: every detail in which the paper, run 145 and popular copies differ, and what the net at hand
does.

The rows are those of docs/paper.md. Each row reads the net's own spec or modules, never a preset's name. In the columns
of the paper and of the run, a remark in brackets is not compared, and " or " separates what is equally right: run 145's
schedule was made by hand, run 170's is written down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from alexnet.errors import UsageError
from alexnet.net import layer_sizes
from alexnet.spec import DenseSpec, FileNetSpec, NetSpec, ScheduleSpec, Spec

NOT_STATED = "not stated"
CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")
DENSE = ("fc6", "fc7")
WITHOUT_HEAD = 60_965_224 - 4097 * 1000  # parameters of conv1 ... fc7; each class adds 4096 weights and a bias


@dataclass(frozen=True)
class Row:
    """One detail: as the paper has it, as it was run in 2012, and `here`, what this net does."""

    detail: str
    paper: str
    as_run: str
    here: str

    @property
    def matches(self) -> str:
        """Which of the two it agrees with: paper, as run, paper and as run, or neither."""
        agrees = [name for name, text in (("paper", self.paper), ("as run", self.as_run)) if _agrees(self.here, text)]
        return " and ".join(agrees) or "neither"


def _agrees(here: str, text: str) -> bool:
    return here in re.sub(r" \([^)]*\)", "", text).split(" or ")


def fidelity(spec: Spec) -> list[Row]:
    """Detail by detail: sizes, order of layers, norms, initialisation, data, updates; sources in docs/paper.md. Raises
    UsageError for a net of layer files, which say what they are.
    """
    net = spec.net
    if isinstance(net, FileNetSpec):
        raise UsageError(
            f"this run's net stands in {net.layers}; fidelity compares presets and what --set makes of them"
        )
    parts = (
        _shape_rows(net),
        _order_rows(net),
        _norm_rows(net),
        _start_rows(net),
        _data_rows(spec),
        _update_rows(spec),
    )
    return [row for rows in parts for row in rows]


def _layers(net: NetSpec, names: tuple[str, ...]) -> dict:
    return {name: getattr(net, name) for name in names if getattr(net, name) is not None}


def _shape_rows(net: NetSpec) -> list[Row]:
    table = layer_sizes(net)
    count = sum(row.parameters for row in table)
    usual = f"{WITHOUT_HEAD + 4097 * net.classes:,}"
    maps = ", ".join(str(conv.channels) for conv in _layers(net, CONVS).values())
    units = ", ".join(str(dense.outputs) for dense in _layers(net, DENSE).values()) or "none"
    sizes = "96, 256, 384, 384, 256; 4096, 4096"
    talk = "conv3 and the dense layers"
    here = f"{' and '.join(net.talk) or 'no convolution'} and the dense layers" if net.towers > 1 else "one tower"
    return [
        Row("picture", "224 px", "224 px", f"{net.crop_px} px"),
        Row("conv1's padding", NOT_STATED, "0 left and top, 3 right and bottom", _padding(net)),
        Row("conv1's positions", "55 (its neuron count gives no whole number)", "55", str(table[0].shape[-1])),
        Row(
            "maps; dense units", sizes, sizes, f"{maps}; {units}" + ("; a sixth convolution" if net.sixth_conv else "")
        ),
        Row(f"parameters, {net.classes} classes", f"{usual} (60 million)", usual, f"{count:,}"),
        Row("towers", "2", "2", str(net.towers)),
        Row("towers talk in", talk, talk, here),
    ]


def _padding(net: NetSpec) -> str:
    conv = net.conv1
    if conv is None:
        return "left out"
    return f"{conv.padding_px} left and top, {conv.padding_px + conv.overhang_px} right and bottom"


def _order_rows(net: NetSpec) -> list[Row]:
    pool = f"{net.pool.size_px}/{net.pool.stride}"
    return [
        Row("layer 1", "conv, ReLU, LRN, pool", "conv, LRN, pool, ReLU", _order(net, "conv1")),
        Row("layer 2", "conv, ReLU, LRN, pool", "conv, ReLU, LRN, same-map norm, pool", _order(net, "conv2")),
        Row("layer 5", "conv, ReLU, pool", "conv, pool, ReLU (equivalent)", _order(net, "conv5")),
        Row("activation", "ReLU", "ReLU", _activation(net)),
        Row("pooling, size/stride", "3/2", "3/2", pool),
    ]


def _activation(net: NetSpec) -> str:
    return {"relu": "ReLU"}.get(net.activation, net.activation)


def _order(net: NetSpec, name: str) -> str:
    """conv, then what follows it, in words; words that are switched off left out."""
    layer = getattr(net, name)
    if layer is None:
        return "left out"
    off = {"lrn": net.lrn is None, "rnorm": net.rnorm is None}
    words = {"act": _activation(net), "lrn": "LRN", "rnorm": "same-map norm", "bn": "batch norm"}
    return ", ".join(["conv", *(words.get(word, word) for word in layer.then if not off.get(word, False))])


def _norm_rows(net: NetSpec) -> list[Row]:
    lrn, rnorm = net.lrn, net.rnorm
    size = alpha = k = span = same_map = "none"
    if lrn is not None:
        size, k = f"{lrn.size}, {lrn.beta:g}", f"{lrn.k:g}"
        alpha = f"{lrn.alpha:g}" + (f" / {lrn.size}" if lrn.alpha_divided else "")
        span = {"tower": "each tower", "all": "all maps"}[lrn.span if net.towers > 1 else "all"]
    if rnorm is not None:
        same_map = f"{rnorm.size}x{rnorm.size}, alpha {rnorm.alpha:g}, beta {rnorm.beta:g}, k {rnorm.k:g}"
    return [
        Row("LRN size, beta", "5, 0.75", "5, 0.75", size),
        Row("LRN alpha", "0.0001", "0.0001 / 5", alpha),
        Row("LRN k", "2", "2", k),
        Row("LRN spans", "all maps", "each tower", span),
        Row("second norm, same map", "none", "5x5, alpha 0.001, beta 0.75, k 1", same_map),
    ]


def _start_rows(net: NetSpec) -> list[Row]:
    layers = _layers(net, CONVS + DENSE)
    sigma = _apart({name: layer.sigma for name, layer in layers.items()} | {"fc8": net.fc8_sigma}, usual=0.01)
    bias = _apart({name: layer.bias for name, layer in layers.items()} | {"fc8": net.fc8_bias}, usual=0.0)
    if net.init == "torch":
        sigma = bias = "uniform within 1/sqrt(fan in)"
    elif net.init == "he":
        sigma = "sqrt(2 / fan in)"
    ones = "0; 1 in conv2, conv4, conv5, fc6, fc7"
    return [
        Row("weights' sigma", "0.01", "0.01; 0.03 in conv3, conv4, conv5", sigma),
        Row("biases start at", ones, ones, bias),
        Row("dropout", "0.5 after fc6, fc7, halved at test", "0.5 after fc6, fc7, halved at test", _dropout(net)),
    ]


def _apart(values: dict[str, float], usual: float) -> str:
    """The usual value, then those that differ from it and where."""
    others = sorted(set(values.values()) - {usual})
    parts = [f"{value:g} in {', '.join(name for name, v in values.items() if v == value)}" for value in others]
    return "; ".join([f"{usual:g}"] * (usual in values.values()) + parts)


def _dropout(net: NetSpec) -> str:
    def where(part: str) -> str:
        return ", ".join(name for name, dense in _layers(net, DENSE).items() if "drop" in _words(dense, part))

    places = " and ".join(f"{part} {where(part)}" for part in ("before", "after") if where(part))
    if not net.dropout or not places:
        return "none"
    test = "halved at test" if net.dropout == 0.5 else f"times {1 - net.dropout:g} at test"
    return f"{net.dropout:g} {places}, {'inverted' if net.dropout_inverted else test}"


def _words(dense: DenseSpec, part: str) -> tuple[str, ...]:
    return dense.before if part == "before" else dense.then


def _data_rows(spec: Spec) -> list[Row]:
    data = spec.data
    group = "per picture" if data.draw_group == 1 else f"per {data.draw_group} consecutive pictures"
    crops = "anywhere in the square" if data.crop else "the centre"
    if data.crop and data.resized_crop:
        crops += f", {100 * data.resized_crop:g} to 100 % of it, resized"
    everywhere = "anywhere in the square"
    mean = {"image": "mean image", "channel": "channel means", "none": "nothing"}[data.mean]
    order = "reshuffled every epoch" if data.reshuffle else "as packed, in every epoch"
    light = {
        "none": "none",
        "as_run": f"{data.relight_strength:g} x standard deviation, then / {1 + data.relight_strength:g}",
        "as_published": f"{data.relight_strength:g} x eigenvalue",
    }[data.relight]
    until = "to the end" if str(data.relight_until) == "100%" else f"until {data.relight_until}"
    return [
        Row("crops", f"{everywhere} (counted as 32x32 places)", f"{everywhere} (33x33 places)", crops),
        Row("mirror images", "half", "half", "half" if data.mirror else "none"),
        Row("crop and mirror drawn", "per picture", "per 32 consecutive pictures", group),
        Row("relighting", "0.1 x eigenvalue", "0.1 x standard deviation, then / 1.1", light),
        Row("relighting lasts", "to the end", "until 75%", "none" if data.relight == "none" else until),
        Row("order of pictures", NOT_STATED, "as packed, in every epoch", order),
        Row("subtracted", "mean image", "mean image (its central part)", mean),
        Row("divided by a std", "no", "no", "yes" if data.divide_by_std else "no"),
    ]


def _update_rows(spec: Spec) -> list[Row]:
    sgd = spec.sgd
    by_hand = "25ep:0.001, 51ep:0.0001, 67ep:conv1:0.00001, 72ep:conv1:0, 79ep:0.00001"
    decay = f"{sgd.weight_decay:g}" + "".join(f", {text}" for text in sgd.decays)
    bias_rate = "as the weights'" if sgd.bias_rate == sgd.rate else f"{sgd.bias_rate / (sgd.rate or 1):g}x the weights'"
    same = "as the weights'"
    bias_schedule = same if sgd.bias_schedule == sgd.schedule else _schedule(sgd.bias_schedule)
    plateau = "/ 10 when the validation error stops improving, 3 times"
    dexp = "dexp, / 250 in 4 levels (run 170)"
    return [
        Row("batch", "128", "128", str(spec.run.batch)),
        Row("rate", "0.01", "0.01", f"{sgd.rate:g}"),
        Row("schedule", plateau, f"{by_hand} (run 145) or {dexp}", _schedule(sgd.schedule)),
        Row("momentum", "0.9", "0.9", f"{sgd.momentum:g}"),
        Row("rate inside the velocity", "yes", "yes", "yes"),
        Row("weight decay", "0.0005", "0.0005", decay),
        Row("biases' rate", same, "2x the weights'", bias_rate),
        Row("biases' schedule", same, "constant (run 145) or dexp, / 10 in 2 levels (run 170)", bias_schedule),
        Row("biases' decay", same, "0", same if sgd.bias_decay == sgd.weight_decay else f"{sgd.bias_decay:g}"),
        Row("label smoothing", "none", "none", f"{sgd.label_smoothing:g}" if sgd.label_smoothing else "none"),
    ]


def _schedule(schedule: ScheduleSpec) -> str:
    if schedule.kind == "plateau":
        return f"/ {schedule.factor:g} when the validation error stops improving, {schedule.count} times"
    if schedule.kind == "dexp":
        return f"dexp, / {schedule.factor:g} in {schedule.count} levels"
    if schedule.kind == "steps":
        return ", ".join(schedule.steps)
    return schedule.kind if schedule.kind in ("constant", "onecycle") else f"{schedule.kind}, / {schedule.factor:g}"
