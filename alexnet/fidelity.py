"""`alexnet fidelity`: every detail in which the paper, run 145 and popular copies differ, and what the net at hand
does.

The rows are those of docs/paper.md. Each row reads the net's own spec or modules, never a preset's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from alexnet.net import AlexNet, layer_table
from alexnet.schedule import parse_step
from alexnet.spec import NetSpec, Spec


@dataclass(frozen=True)
class Row:
    """`here`: what this net does; `matches`: which of the two it agrees with."""

    detail: str
    paper: str
    as_run: str
    here: str

    @property
    def matches(self) -> str:
        agrees = [name for name, text in (("paper", self.paper), ("as run", self.as_run)) if _same(self.here, text)]
        return " and ".join(agrees) or "neither"


def _same(here: str, text: str) -> bool:
    return here == text or text == "same" or (text == "-" and here == "none")


def fidelity(spec: Spec) -> list[Row]:
    """PAPER section by section: sizes, order of layers, norms, initialisation, data, updates."""
    return [
        *_shape_rows(spec.net),
        *_norm_rows(spec.net),
        *_start_rows(spec.net),
        *_data_rows(spec),
        *_update_rows(spec),
    ]


def _order(net: NetSpec, name: str) -> str:
    """conv, then what follows it, in words; words that are switched off left out."""
    layer = getattr(net, name)
    if layer is None:
        return "left out"
    off = {"lrn": net.lrn is None, "rnorm": net.rnorm is None}
    words = {"act": {"relu": "ReLU"}.get(net.activation, net.activation), "lrn": "LRN", "rnorm": "same-map norm"}
    return ", ".join(["conv", *(words.get(word, word) for word in layer.then if not off.get(word, False))])


    def _padding(net: NetSpec) -> str: conv = net.conv1 if conv is None: return "left out" size = f"{net.crop_px} px,
    padding {conv.padding_px} left/top, {conv.padding_px + conv.overhang_px} right/bottom" return f"{size},
    {(net.crop_px + 2 * conv.padding_px + conv.overhang_px - conv.kernel_px) // conv.stride + 1} positions"


def _shape_rows(net: NetSpec) -> list[Row]:
    run = "224 px, padding 0 left/top, 3 right/bottom, 55 positions"
    count = f"{sum(row.parameters for row in layer_table(AlexNet(net))):,}"
    talk = "conv3 and the dense layers"
    here = f"{' and '.join(net.talk) or 'no convolution'} and the dense layers" if net.towers > 1 else "one tower"
    return [
        Row("input to conv1's output", "224 px (padding not stated)", run, _padding(net)),
        Row("parameters (1000 classes: 60,965,224)", "60 million", "60,965,224", count),
        Row("towers", "2", "2", str(net.towers)),
        Row("towers talk in", talk, talk, here),
        Row("layer 1", "conv, ReLU, LRN, pool", "conv, LRN, pool, ReLU", _order(net, "conv1")),
        Row("layer 2", "conv, ReLU, LRN, pool", "conv, ReLU, LRN, same-map norm, pool", _order(net, "conv2")),
        Row("layer 5", "conv, ReLU, pool", "conv, pool, ReLU", _order(net, "conv5")),
        Row("pooling", "3/2", "3/2", f"{net.pool.size_px}/{net.pool.stride}"),
        Row("activation", "relu", "relu", net.activation),
    ]


def _norm_rows(net: NetSpec) -> list[Row]:
    lrn, rnorm = net.lrn, net.rnorm
    alpha = "none" if lrn is None else f"{lrn.alpha:g}{f'/{lrn.size}' if lrn.alpha_divided else ' on the sum'}"
    same_map = (
        "none"
        if rnorm is None
        else f"{rnorm.size}x{rnorm.size}, alpha {rnorm.alpha:g}, beta {rnorm.beta:g}, k {rnorm.k:g}"
    )
    return [
        Row("LRN size, beta", "5, 0.75", "5, 0.75", "none" if lrn is None else f"{lrn.size}, {lrn.beta:g}"),
        Row("LRN alpha", "0.0001 on the sum", "0.0001/5", alpha),
        Row("LRN k", "2", "2", "none" if lrn is None else f"{lrn.k:g}"),
        Row(
            "LRN spans",
            "all maps",
            "each tower",
            "none" if lrn is None else {"tower": "each tower", "all": "all maps"}[lrn.span],
        ),
        Row("second norm, same map", "-", "5x5, alpha 0.001, beta 0.75, k 1", same_map),
    ]


def _start_rows(net: NetSpec) -> list[Row]:
    layers = [(name, getattr(net, name)) for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")]
    there = [(name, layer) for name, layer in layers if layer is not None]
    wide = [name for name, layer in there if layer.sigma != 0.01]
    sigma = "0.01" + (f"; {', '.join(f'{getattr(net, n).sigma:g} in {n}' for n in wide)}" if wide else "")
    biased = [f"{layer.bias:g} in {name}" for name, layer in there if layer.bias]
    ones = "1 in conv2, 1 in conv4, 1 in conv5, 1 in fc6, 1 in fc7"
    if net.init != "gaussian":
        sigma = {"torch": "uniform within 1/sqrt(fan in)", "he": "sqrt(2 / fan in)"}[net.init]
        biased = ["uniform"] if net.init == "torch" else biased
    drop = "none" if not net.dropout else f"{net.dropout:g}, {'inverted' if net.dropout_inverted else 'scaled at test'}"
    return [
        Row("weights' sigma", "0.01", "0.01; 0.03 in conv3, 0.03 in conv4, 0.03 in conv5", sigma),
        Row("biases start at", ones, ones, ", ".join(biased) or "0"),
        Row("dropout", "0.5, scaled at test", "0.5, scaled at test", drop),
    ]


def _data_rows(spec: Spec) -> list[Row]:
    data = spec.data
    crops = (
        "none"
        if not data.crop
        else f"one draw per {data.draw_group} pictures"
        if data.draw_group > 1
        else "per picture"
    )
    light = {
        "none": "none",
        "as_run": f"{data.relight_strength:g} x standard deviation, divided by {1 + data.relight_strength:g}",
        "as_published": f"{data.relight_strength:g} x eigenvalue",
    }[data.relight]
    until = (
        "none"
        if data.relight == "none"
        else "to the end"
        if str(data.relight_until) == "100%"
        else f"until {data.relight_until}"
    )
    mean = {"image": "mean image", "channel": "channel means", "none": "none"}[data.mean]
    return [
        Row(
            "crop and mirror", "per picture", "one draw per 32 pictures", crops + ("" if data.mirror else ", no mirror")
        ),
        Row("relighting", "0.1 x eigenvalue", "0.1 x standard deviation, divided by 1.1", light),
        Row("relighting lasts", "to the end", "until 75%", until),
        Row(
            "order of pictures",
            "-",
            "as packed, every epoch",
            "reshuffled every epoch" if data.reshuffle else "as packed, every epoch",
        ),
        Row("subtracted", "mean image", "mean image", mean + (", divided by std" if data.divide_by_std else "")),
    ]


def _update_rows(spec: Spec) -> list[Row]:
    sgd = spec.sgd
    schedule = sgd.schedule.kind
    if schedule == "steps":
        schedule = f"steps at {', '.join(str(parse_step(text)[0]) for text in sgd.schedule.steps)}"
    bias = "same as weights" if sgd.bias_rate == sgd.rate else f"{sgd.bias_rate / sgd.rate:g}x the weights'"
    bias += ", decayed" if sgd.bias_decay else ", not decayed"
    return [
        Row("batch", "128", "128", str(spec.run.batch)),
        Row("rate", "0.01", "0.01", f"{sgd.rate:g}"),
        Row("rate inside the velocity", "yes", "yes", "yes"),
        Row("momentum, decay", "0.9, 0.0005", "0.9, 0.0005", f"{sgd.momentum:g}, {sgd.weight_decay:g}"),
        Row("bias rate", "same as weights, decayed", "2x the weights', not decayed", bias),
        Row("schedule", "plateau", "by hand: 10x down at epochs 25, 51, 79 (run 145); dexp (run 170)", schedule),
    ]
