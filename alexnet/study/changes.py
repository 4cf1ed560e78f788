"""Changes to a spec that single settings cannot say: narrower nets that start as the wide ones do, half a net, a layer
taken out.

Each is a function Spec -> Spec, or makes one; `claims.py` names them beside settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from alexnet.spec import LrnSpec, NetSpec, Spec


def fan_ins(net: NetSpec) -> dict[str, int]:
    """Inputs of a unit, layer by layer."""
    import torch

    from alexnet.net import AlexNet

    with torch.device("meta"):  # shapes only
        layers = AlexNet(net).named_children()
    weights = {name: layer.weight for name, layer in layers if name[:2] in ("co", "fc")}
    return {name: w.shape[1] if w.ndim == 3 else w[0].numel() for name, w in weights.items()}


def same_gain(before: NetSpec, after: NetSpec) -> NetSpec:
    """`after` with sigmas that keep each layer's gain, sigma * sqrt(fan-in): narrow nets start as the wide ones do."""
    old, new = fan_ins(before), fan_ins(after)
    factor = {name: (old[name] / new[name]) ** 0.5 for name in new}
    parts = {"fc8_sigma": before.fc8_sigma * factor["fc8"]}
    for name in factor.keys() - {"fc8", "conv6"}:
        layer = getattr(after, name)
        parts[name] = replace(layer, sigma=layer.sigma * factor[name])
    return replace(after, **parts)


def _narrowed(net: NetSpec, part: int, dense_part: int) -> NetSpec:
    """Every layer's maps divided by `part`, dense layers' outputs by `dense_part`."""
    convs = {name: getattr(net, name) for name in ("conv1", "conv2", "conv3", "conv4", "conv5")}
    parts = {name: replace(conv, channels=conv.channels // part) for name, conv in convs.items() if conv}
    dense = {name: getattr(net, name) for name in ("fc6", "fc7")}
    parts |= {name: replace(layer, outputs=layer.outputs // dense_part) for name, layer in dense.items() if layer}
    return replace(net, **parts)


def small(spec: Spec) -> Spec:
    """An eighth as wide, 24 px, conv1 of 5x5 and stride 1; everything else, and every layer's gain, as it was."""
    net = _narrowed(spec.net, 8, 16)
    first = replace(net.conv1, kernel_px=5, stride=1, padding_px=2, overhang_px=0)
    return replace(spec, net=same_gain(spec.net, replace(net, crop_px=24, conv1=first)))


def cropped(spec: Spec) -> Spec:
    """112 px; fc6 then sees a ninth, and its gain stays."""
    return replace(spec, net=same_gain(spec.net, replace(spec.net, crop_px=112)))


def narrow(spec: Spec) -> Spec:
    """A CIFAR net half as wide on 24 px; gains as they were."""
    return replace(spec, net=same_gain(spec.net, replace(_narrowed(spec.net, 2, 1), crop_px=24)))


def quick(spec: Spec) -> Spec:
    """`cifar_quick`, narrow, with the 2012 net's parts: two towers that talk at conv3, LRN where run 145 has it, max
    pooling that overlaps, crops and mirror images.
    """
    net = replace(_narrowed(spec.net, 2, 1), crop_px=24, towers=2, lrn=LrnSpec())
    parts = {
        "conv1": replace(net.conv1, then=("lrn", "pool", "act")),
        "conv2": replace(net.conv2, then=("act", "lrn", "pool")),
        "conv3": replace(net.conv3, then=("pool", "act")),
        "fc6": replace(net.fc6, outputs=128, then=("act", "drop")),
    }
    data = replace(spec.data, crop=True, mirror=True)
    return replace(spec, net=same_gain(spec.net, replace(net, **parts)), data=data)


def half(spec: Spec) -> Spec:
    """One tower's kernels in conv1-4, full width in conv5 and the dense layers, as preset `one_tower` (145-half)."""
    convs = {name: getattr(spec.net, name) for name in ("conv1", "conv2", "conv3", "conv4")}
    halves = {name: replace(conv, channels=conv.channels // 2) for name, conv in convs.items() if conv}
    return replace(spec, net=replace(spec.net, towers=1, **halves))


def third(name: str) -> Callable[[Spec], Spec]:
    """A third of a layer's sigma: 0.03, as run, becomes 0.01, as published."""

    def lowered(spec: Spec) -> Spec:
        layer = getattr(spec.net, name)
        return replace(spec, net=replace(spec.net, **{name: replace(layer, sigma=layer.sigma / 3)}))

    return lowered


def batch_norm(spec: Spec) -> Spec:
    """Batch norm where LRN stood, and no second norm."""
    swap = {"lrn": "bn"}
    convs = {name: getattr(spec.net, name) for name in ("conv1", "conv2")}
    parts = {name: replace(c, then=tuple(swap.get(word, word) for word in c.then)) for name, c in convs.items()}
    return replace(spec, net=replace(spec.net, rnorm=None, **parts))


def without(name: str) -> Callable[[Spec], Spec]:
    """Removes a convolution; its pooling goes to a neighbour that has none, if any, its talk to the next one."""

    def removed(spec: Spec) -> Spec:
        net, number = spec.net, int(name[-1])
        following = f"conv{number + 1}"
        talk = tuple(following if talker == name else talker for talker in net.talk)
        parts = {name: None, "talk": talk}
        neighbours = {n: getattr(net, n, None) for n in (following, f"conv{number - 1}")}
        heirs = [n for n, layer in neighbours.items() if layer and "pool" not in layer.then]
        if "pool" in getattr(net, name).then and heirs:
            parts[heirs[0]] = replace(neighbours[heirs[0]], then=(*neighbours[heirs[0]].then, "pool"))
        return replace(spec, net=replace(net, **parts))

    return removed
