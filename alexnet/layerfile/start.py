"""From a pair of layer files to a run: its spec, what to tell a person about it, and weights of an earlier net.

The files say nothing of pictures. A run gets what the tool they were written for did with them: 2012, one crop and
mirror for 32 pictures that follow each other, colour noise in three quarters of the run; 2014, and CIFAR in either,
a crop for each picture. Both kept the packed order and subtracted the mean image.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

from alexnet import checkpoint
from alexnet.errors import AlexnetError, CheckpointError, UsageError
from alexnet.layerfile.build import LayerNet, build
from alexnet.layerfile.geometry import picture_px, shapes_of
from alexnet.layerfile.lex import read_sections
from alexnet.layerfile.parse import fail, read
from alexnet.layerfile.records import Network
from alexnet.layerfile.tops import with_classes
from alexnet.spec import DataSpec, Duration, FileNetSpec, LayerFile, Spec, from_dict

LARGE_PX = 128  # squares from here on are photographs cut as for ImageNet; smaller ones as for CIFAR
END_OF_RUN = 1e-5  # the rate that most of 2012's parameter files ended with, and still hold
FUNCTIONS = ("initwfunc", "initbfunc", "initcfunc")


def dialect(layers: LayerFile, params: LayerFile) -> str:
    """ "2014" for files of cuda-convnet2, known by keys, types and rates that the tool of 2012 did not have."""
    sections = list(read_sections(layers).values())
    new_keys = any("sumwidth" in section for section in sections)
    new_types = any(section.get("type") in ("dropout", "dropout2", "pass") for section in sections)
    return "2014" if new_keys or new_types or "base=" in params.text.lower() else "2012"


def spec_of(
    layers: LayerFile,
    params: LayerFile,
    size_px: int | None = None,
    classes: int | None = None,
    *,
    colour_noise: float | None = None,
    border_px: int | None = None,
    init_from: Path | None = None,
) -> Spec:
    """The run of two files on squares of `size_px` with that many classes (None: as the files look made for).

    `colour_noise`: the strength of the change of light, 0.1 on photographs of 2012 and 2014, else 0. `border_px`: the
    squares' border that crops leave out, 16 on photographs, else 4. Raises UsageError.
    """
    network, tool = read(layers, params), dialect(layers, params)
    if size_px is None:
        size_px = 256 if picture_px(network) == 224 else 32
    large = size_px >= LARGE_PX
    border_px = (16 if large else 4) if border_px is None else border_px
    if border_px < 0 or size_px - 2 * border_px < 1:
        raise UsageError(
            f"--crop-border {border_px}: from 0 to {(size_px - 1) // 2}, squares here have {size_px} pixels"
        )
    noise = (0.1 if large else 0.0) if colour_noise is None else colour_noise
    if not 0 <= noise < 10:
        raise UsageError(f"--color-noise {noise}: give a number from 0 to 10; the authors used 0.1")
    data = DataSpec(
        draw_group=32 if large and tool == "2012" else 1,
        mirror=border_px > 0 or large,
        relight_strength=noise,
        relight_until=Duration(75 if tool == "2012" else 100, "%"),
    )
    crop_px = size_px - 2 * border_px
    classes = _classes(network, crop_px) if classes is None else classes
    digest = _digest(init_from) if init_from else ""
    net = FileNetSpec(layers, params, tool, classes, crop_px, str(init_from.resolve()) if init_from else "", digest)
    return Spec(Path(layers.name).stem, net, data, sgd=None)


def _classes(network: Network, size_px: int) -> int:
    """How many classes the definition file is made for."""
    with torch.device("meta"):
        net = LayerNet(network, size_px)
    return sum(net.shapes[net.tops[0]][:1])


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"--init-from {path}: {error.strerror}") from None


def notes(spec: Spec) -> list[str]:
    """What a person should know before the run starts, a line each. Raises UsageError where layers do not fit."""
    net = spec.net
    network = read(net.layers, net.params)
    resized = with_classes(network, net.classes, net.crop_px)
    shapes_of(resized, net.crop_px)
    return [
        _pictures(spec),
        *_widths(network, resized, net.classes),
        *_rates(network),
        *_ignored(network),
        *_sources(network, net),
    ]


def _pictures(spec: Spec) -> str:
    net, data = spec.net, spec.data
    each = f"{data.draw_group} pictures that follow each other" if data.draw_group > 1 else "each picture"
    light = f"colour noise {data.relight_strength:g} until {data.relight_until} of the run"
    return (
        f"layer files of {net.dialect}: crops of {net.crop_px} pixels, drawn for {each}, "
        f"{light if data.relight_strength else 'no colour noise'}"
    )


def _widths(before: Network, after: Network, classes: int) -> list[str]:
    pairs = zip(before.layers, after.layers, strict=True)
    changed = [(a.name, a.options["outputs"], b.options["outputs"]) for a, b in pairs if a.options != b.options]
    return [f"{name}: {old} -> {new} outputs, as the data has {classes} classes" for name, old, new in changed]


def _rates(network: Network) -> list[str]:
    slow = [layer.name for layer in network.layers if any(u.schedule.base <= END_OF_RUN for u in layer.weight_updates)]
    if not slow:
        return []
    return [
        f"warning: {network.params_path} gives {', '.join(slow[:4])}{' ...' if slow[4:] else ''} rates of "
        f"{END_OF_RUN:g} or less; most files of 2012 hold the rates that a run ended with, not those it began with"
    ]


def _ignored(network: Network) -> list[str]:
    found = []
    for key, name, harmless in (
        ("supereps", "superEps", 0),
        ("supermom", "superMom", 0),
        ("updateperiod", "updatePeriod", 1),
    ):
        layers = [layer.name for layer in network.layers if layer.params.get(key, 0) > harmless]
        found += [f"{name} of {', '.join(layers)} is ignored"] if layers else []
    return found


def _sources(network: Network, net: FileNetSpec) -> list[str]:
    asking = [layer.name for layer in network.layers if any(layer.options.get(key) for key in FUNCTIONS)]
    if asking and not net.init_from:
        who = f"{len(asking)} layers ask" if len(asking) > 1 else "1 layer asks"
        return [f"{who} for another net's weights (initWFunc) and, without --init-from, get initW and initB"]
    if net.init_from and not asking:
        raise UsageError(f"--init-from: no layer of {net.layers} has an initWFunc; leave it out")
    return []


@torch.no_grad()
def copy_weights(net: LayerNet, spec: FileNetSpec) -> None:
    """Fills the layers that have initWFunc, initBFunc or initCFunc from the model file of another run.

    Raises CheckpointError for a file that is no model of a net of layer files, UsageError for layers it does not have.
    """
    source = _model(Path(spec.init_from), spec.init_sha256)
    for layer in net.records:
        names = {
            key: _source_name(spec, layer.name, key, layer.options[key]) for key in FUNCTIONS if layer.options.get(key)
        }
        for key, name in names.items():
            _copy(net, source, layer.name, key, name, spec)


def _copy(net: LayerNet, source: LayerNet, layer: str, key: str, name: str, spec: FileNetSpec) -> None:
    kept = (("weights.", "nodes."), "bias", "connections")[FUNCTIONS.index(key)]
    theirs = source.module(name).state_dict() if name in source.keys else {}
    for part, tensor in net.module(layer).state_dict().items():
        if part.startswith(kept) and (part not in theirs or theirs[part].shape != tensor.shape):
            had = tuple(theirs[part].shape) if part in theirs else "none"
            fail(spec.layers, layer, key, name, f"{spec.init_from} has {had} where {tuple(tensor.shape)} is wanted")
        if part.startswith(kept):
            tensor.copy_(theirs[part])


def _source_name(spec: FileNetSpec, layer: str, key: str, text: str) -> str:
    match = re.fullmatch(r"[\w.]+\(\s*([^(),]+?)\s*(?:,[^()]*)?\)", text)
    if not match:
        fail(spec.layers, layer, key, text, "write initw.makew(LAYER)")
    return match[1].strip("'\"")


def _model(path: Path, sha256: str) -> LayerNet:
    tensors, passport = checkpoint.load_model(path)
    if _digest(path) != sha256:
        raise CheckpointError(f"{path} is no longer the file that this run was begun from")
    del tensors["preprocessing.mean"]
    try:
        spec = from_dict(passport["spec"]["net"], FileNetSpec)
        with torch.device("meta"):
            net = build(spec.layers, spec.params, classes=spec.classes, size_px=spec.crop_px)
        net.load_state_dict(tensors, assign=True)
    except (AlexnetError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no model of a net of layer files ({str(error).splitlines()[0]})") from None
    return net
