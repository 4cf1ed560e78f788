"""A spec in words: what a reader of a report wants to know about a net, its pictures and its updates, in six sentences.

`sentences(spec)` writes them; `settings(spec)` is the same run as its preset and the few --set that make it this one.
Every word comes from the spec's fields.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet import presets
from alexnet import spec as spec_module
from alexnet.net import CONVS, layer_sizes
from alexnet.report.history import differences
from alexnet.spec import FileNetSpec, NetSpec, ScheduleSpec, Spec

MEANS = {
    "image": "the mean image is subtracted",
    "channel": "channel means are subtracted",
    "none": "no mean is subtracted",
}


def sentences(spec: Spec) -> list[tuple[str, str]]:
    """(what it is about, a sentence or two); a net of layer files says itself what it is."""
    if isinstance(spec.net, FileNetSpec):
        told_by = f"{spec.net.layers}, with the rates of {spec.net.params}, by the rules of {spec.net.dialect}"
        return [("Net", f"As its layer file says: {told_by}."), ("Pictures", _pictures(spec)), ("Run", _run(spec))]
    return [
        ("Net", _net(spec.net)),
        ("Norms, dropout", _norms(spec.net)),
        ("Pictures", _pictures(spec)),
        ("Updates", _updates(spec)),
        ("Rate", _rates(spec)),
        ("Run", _run(spec)),
        *(
            [
                (
                    "Begun with",
                    f"The weights of {spec.parent.name} (sha256 {spec.parent.sha256[:12]} ...), a new last "
                    "layer, and pictures as that model saw them.",
                )
            ]
            if spec.parent
            else []
        ),
    ]


def settings(spec: Spec) -> list[str]:
    """The settings in which a spec differs from its preset, as `--set` takes them; empty where there is no preset."""
    if isinstance(spec.net, FileNetSpec) or spec.preset not in presets.NAMES:
        return []
    usual = spec_module.preset(spec.preset, classes=spec.net.classes)
    rows = differences([spec_module.to_dict(replace(usual, parent=spec.parent)), spec_module.to_dict(spec)])
    return [f"{name}={text}" for name, (_, value) in rows for name, text in _leaves(name, value)]


def _leaves(name: str, value) -> list[tuple[str, str]]:
    """A group that was switched on is set field by field."""
    if not isinstance(value, dict):
        return [(name, shown(value))]
    return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}", inner)]


def shown(value) -> str:
    """A setting as --set takes it; a group's fields in a row."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        ",".join(map(str, value))
        if isinstance(value, list | tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _net(net: NetSpec) -> str:
    table = layer_sizes(net)
    convs = [getattr(net, name) for name in CONVS if getattr(net, name) is not None]
    dense = [layer.outputs for layer in (net.fc6, net.fc7) if layer is not None]
    text = f"{count(len(convs), 'convolution')} of {_list([f'{c.channels:,}' for c in convs])} maps"
    if convs:
        text += f" (the first {convs[0].kernel_px} × {convs[0].kernel_px} px, stride {convs[0].stride})"
    text += f", dense layer{'s' if dense else ''} of {_list([f'{n:,}' for n in [*dense, net.classes]])}."
    if net.towers > 1:
        text += f" {net.towers} towers that meet in {_list([*net.talk, 'the dense layers'])}."
    parameters, macs = (sum(getattr(row, name) for row in table) for name in ("parameters", "macs"))
    activation = {"relu": "ReLU"}.get(net.activation, net.activation)
    return f"{text} {activation}. {parameters:,} parameters, {macs / 1e6:,.0f} million multiply-adds a picture."


def _norms(net: NetSpec) -> str:
    parts = []
    if net.lrn is not None:
        divided = f" / {net.lrn.size}" if net.lrn.alpha_divided else ""
        span = "within each tower" if net.towers > 1 and net.lrn.span == "tower" else "over all maps"
        parts.append(
            f"Local response norm over {net.lrn.size} maps, {span}: k {net.lrn.k:g}, alpha {net.lrn.alpha:g}{divided}, "
            f"beta {net.lrn.beta:g}."
        )
    if net.rnorm is not None:
        parts.append(f"A second norm over {net.rnorm.size} × {net.rnorm.size} px of the same map.")
    layers = [layer for name in CONVS if (layer := getattr(net, name)) is not None]
    if any("bn" in layer.then for layer in layers):
        parts.append("Batch norm.")
    parts = parts or ["No norm."]
    dropout = f"Dropout {net.dropout:g} in the dense layers" if net.dropout else "No dropout"
    return " ".join([*parts, f"{dropout}. Pooling {net.pool.size_px} px, stride {net.pool.stride}."])


def _pictures(spec: Spec) -> str:
    data = spec.data
    text = f"{spec.net.crop_px} px cut {'at random' if data.crop else 'from the centre'}"
    if data.crop and data.resized_crop:
        share = f"{100 * data.resized_crop:g}"
        text = f"Parts that hold {share} to 100 % of the square, cut at random and resized to {spec.net.crop_px} px"
    text += f"{', half of them mirrored' if data.mirror else ', never mirrored'}"
    if data.draw_group > 1:
        text += f", the same cut for {data.draw_group} consecutive pictures"
    if data.relight != "none":
        text += f"; their light is changed along its principal axes (strength {data.relight_strength:g})"
        text += "" if str(data.relight_until) == "100%" else f" until {data.relight_until} of the run"
    text += f"; {100 * data.fade:g} % of them mixed with a quarter of another" if data.fade else ""
    text += f"; {MEANS[data.mean]}{', divided by the standard deviation' if data.divide_by_std else ''}."
    return f"{text} Order: {'reshuffled every epoch' if data.reshuffle else 'as packed, in every epoch'}."


def _updates(spec: Spec) -> str:
    sgd = spec.sgd
    text = f"The 2012 rule on batches of {spec.run.batch}: momentum {sgd.momentum:g}, weight decay {sgd.weight_decay:g}"
    text += f" (apart: {_list(sgd.decays)})" if sgd.decays else ""
    text += f", biases' decay {sgd.bias_decay:g}"
    text += f", label smoothing {sgd.label_smoothing:g}" if sgd.label_smoothing else ""
    text += f". Frozen: {_list(sgd.frozen)}" if sgd.frozen else ""
    text += f". Rates times: {_list(sgd.rate_factors)}" if sgd.rate_factors else ""
    return f"{text}."


def _rates(spec: Spec) -> str:
    sgd = spec.sgd
    if (sgd.rate, sgd.schedule) == (sgd.bias_rate, sgd.bias_schedule):
        return f"{sgd.rate:g}, {_schedule(sgd.schedule)}."
    text = f"{sgd.rate:g} for weights, {_schedule(sgd.schedule)}"
    return f"{text}; {sgd.bias_rate:g} for biases, {_schedule(sgd.bias_schedule)}."


def _schedule(schedule: ScheduleSpec) -> str:
    hold = f"held for {schedule.hold}, then " if schedule.hold.value else ""
    warmup = f"after a warm-up of {schedule.warmup}, " if schedule.warmup.value else ""
    ways = {
        "constant": "constant",
        "plateau": f"divided by {schedule.factor:g} when the validation error stops improving, {schedule.count} times",
        "dexp": f"down to 1/{schedule.factor:g} in {schedule.count} levels",
        "steps": f"by hand: {_list(schedule.steps)}",
        "onecycle": "up and down once (one cycle)",
    }
    usual = f"{hold}down to 1/{schedule.factor:g} ({schedule.kind})"
    return warmup + ways.get(schedule.kind, usual)


def _run(spec: Spec) -> str:
    run = spec.run
    units = {"ep": "epoch", "st": "step"}
    length = (
        count(int(run.length.value), units[run.length.unit])
        if run.length.value == int(run.length.value)
        else str(run.length)
    )
    return f"{length}, seed {run.seed}, evaluated every {run.evaluate_every}, precision {run.precision}."


def _list(items) -> str:
    items = [str(item) for item in items]
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
