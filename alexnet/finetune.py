"""Fine-tuning: a run that begins with another model's weights and sees pictures as that model did.

    parent = read(Path("runs/big"))       a run folder, a model file, torchvision's or Caffe's weights; read as data
    spec = spec_of(parent, pack)          its net with an output layer for the pack's classes, rates for few pictures
    prep = begin(spec, net, pack)         copies every other weight into `net`; its mean, deviations and sizes
    hold(net, spec.sgd.frozen)            layers that keep every bit

The spec names the parent by its sha256, so a run is resumed with the very same model or not at all.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet import convert, predict
from alexnet import spec as spec_module
from alexnet.data.augment import Preprocessing
from alexnet.data.packfile import Pack
from alexnet.errors import AlexnetError, CheckpointError, DataError, UsageError
from alexnet.net import AlexNet
from alexnet.schedule import by_layer
from alexnet.spec import UNITS, DataSpec, Duration, ParentSpec, RunSpec, ScheduleSpec, SgdSpec, Spec

HEAD = "fc8"
HEAD_FACTOR = 10  # the new layer learns at the rate the parent began with, copied ones at a tenth of it
SCHEDULE = ScheduleSpec("cosine", factor=100)
FEW_STEPS = 200  # small sets are gone through until there were so many updates, or MOST_EPOCHS
MOST_EPOCHS = 100
SMALL_SET, SMALL_BATCH = 4000, 32  # up to so many training pictures, batches are smaller
EPOCHS = ((2000, 20), (20_000, 15))  # up to so many pictures; 10 for more
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class Parent:
    """A model to begin with: how it was trained, its weights by our names, how it sees, and what reading it told."""

    named: ParentSpec
    spec: Spec
    weights: dict[str, Tensor]
    prep: Preprocessing
    classes: int
    notes: list[str]

    @property
    def layers(self) -> list[str]:
        """The layers with weights: bn1 ..., then conv1 ... fc8; their names sort as pictures pass them."""
        return sorted({name.rsplit(".", 1)[0] for name in self.weights})


def read(source: Path) -> Parent:
    """The model of a run folder, a model file or another tool's weights. Nothing in the file runs.

    Raises CheckpointError for anything that is not a whole model, UsageError for nets of layer files.
    """
    source = Path(source)
    if not source.exists():
        raise CheckpointError(
            f"there is no {source}; --from takes a run, a model file, torchvision's weights (.pth, .safetensors) "
            "or a .caffemodel"
        )
    path = predict.model_path(source)
    model = convert.read(source)
    said = model.passport["spec"]
    if isinstance(said, dict) and said.get("sgd", "") is None:
        raise UsageError(
            f"{source} is a net of layer files, which say themselves how they are trained;\n"
            f"give --layers and --params with initWFunc in the layers to copy, and --init-from {source}"
        )
    net, prep = convert.understood(model)
    try:
        spec = replace(spec_module.from_dict(said), net=net)
        predict.check(prep, model.passport["classes"], net, model.weights)
    except (AlexnetError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} does not fit this version or itself: {str(error).splitlines()[0]}") from None
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    named = ParentSpec(source.resolve().name, sha256, str(source.resolve()))
    return Parent(named, spec, model.weights, prep, len(model.passport["classes"]), model.notes)


def spec_of(parent: Parent, pack: Pack | None = None, *, freeze: str = "", batch: int | None = None) -> Spec:
    """The run that fine-tunes `parent` on a pack (None: as if for its own classes), with `freeze` as in `frozen`.

    Its net and what it does with pictures are the parent's, but each picture gets a crop of its own and the order is
    reshuffled; length and batch follow the number of pictures.
    """
    was, pictures = parent.spec, len(pack.splits["train"]) if pack else SMALL_SET
    batch = batch or (SMALL_BATCH if pictures <= SMALL_SET else RunSpec().batch)
    began = head_factor(was.sgd)
    sgd = replace(
        was.sgd,
        rate=was.sgd.rate * began / HEAD_FACTOR,
        bias_rate=was.sgd.bias_rate * began / HEAD_FACTOR,
        schedule=SCHEDULE,
        bias_schedule=SCHEDULE,
        frozen=frozen(freeze, parent.layers),
        rate_factors=(f"{HEAD}:{HEAD_FACTOR}",),
    )
    run = RunSpec(length=Duration(epochs(pictures, batch), "ep"), batch=batch, checkpoint_every=Duration(25, "%"))
    net = replace(was.net, classes=len(pack.classes) if pack else parent.classes)
    data = replace(was.data, draw_group=1, reshuffle=True)
    return Spec(was.preset, net, data, sgd, run, parent.named)


def epochs(pictures: int, batch: int) -> int:
    """20 epochs, fewer of many pictures, more of a few hundred."""
    usual = next((count for most, count in EPOCHS if pictures <= most), 10)
    return min(MOST_EPOCHS, max(usual, math.ceil(FEW_STEPS / math.ceil(max(1, pictures) / batch))))


def head_factor(sgd: SgdSpec) -> float:
    """How many times the usual rate the output layer has."""
    return by_layer(sgd.rate_factors, "sgd.rate_factors", "FACTOR, e.g. fc8:10").get(HEAD, 1.0)


def frozen(text: str, with_weights: list[str]) -> tuple[str, ...]:
    """The layers of `conv1-conv5`, `conv1,conv2` or `conv1-conv3,fc6`, in order, each with its batch norm.

    Raises UsageError for a layer that is not there, and for the one that is new.
    """
    layers, chosen = [name for name in with_weights if not name.startswith("bn")], set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not {first, last} <= set(layers) or layers.index(first) > layers.index(last):
            raise UsageError(f"--freeze {text}: write conv1-conv5 or conv1,fc6; the layers are {', '.join(layers)}")
        chosen.update(layers[layers.index(first) : layers.index(last) + 1])
    _check_head(chosen)
    pairs = ((name, f"bn{name[-1]}") for name in layers if name in chosen)
    return tuple(name for pair in pairs for name in pair if name in with_weights)


def _check_head(names: Collection[str]) -> None:
    if HEAD in names:
        raise UsageError(f"{HEAD} tells the new classes and begins with random weights; it cannot be frozen")


def check(spec: Spec, parent: Parent) -> None:
    """Raises UsageError where settings made another net of it, or let it see pictures in another way."""
    _check_head(spec.sgd.frozen)
    with torch.device("meta"):
        wanted = {name: t.shape for name, t in AlexNet(spec.net).state_dict().items() if not _new(name)}
    given = {name: t.shape for name, t in parent.weights.items() if not _new(name)}
    other = [name for name in wanted | given if wanted.get(name) != given.get(name)]
    if other:
        raise UsageError(
            f"with these settings {other[0].rsplit('.', 1)[0]} is not that of {parent.named.name}, whose weights are "
            "copied; leave out what changes it"
        )
    sees = {f"data.{f}": (getattr(spec.data, f), getattr(parent.spec.data, f)) for f in ("mean", "divide_by_std")}
    for name, (now, before) in sees.items():
        if now != before:
            raise UsageError(
                f"{name}={now}: pictures are seen as {parent.named.name} saw them ({before}); leave it out"
            )
    if spec.data.relight != "none" and not parent.prep.colour_stds.any():
        raise UsageError(f"data.relight={spec.data.relight}: {parent.named.name} knows no axes of colour; leave it out")


def same_net(preset: str, parent: Parent) -> None:
    """Raises UsageError unless the preset's net is the parent's, classes aside."""
    net = spec_module.preset(preset, classes=parent.classes).net
    if net != parent.spec.net:
        raise UsageError(
            f"--preset {preset} is another net than that of {parent.named.name} ({parent.spec.preset}); "
            "with --from leave --preset out"
        )


def _new(name: str) -> bool:
    return name.startswith(f"{HEAD}.")


def fits(parent: Parent, pack: Pack) -> None:
    """Raises DataError where the pack's squares are not of the size that the parent sees."""
    if pack.size_px != parent.prep.size_px:
        size_px = parent.prep.size_px
        raise DataError(
            f"{parent.named.name} sees squares of {size_px} px and {pack.path} holds {pack.size_px} px;\n"
            f"pack the pictures again: alexnet pack PICTURES OUT --size {size_px}"
        )


def begin(spec: Spec, net: AlexNet, pack: Pack) -> Preprocessing:
    """Copies the parent's weights into `net`, all but the output layer's; returns how the parent sees pictures.

    Raises CheckpointError where the file is no longer the model that the spec names, UsageError as `check` does.
    """
    parent = read(Path(spec.parent.path))
    if parent.named.sha256 != spec.parent.sha256:
        raise CheckpointError(f"{spec.parent.path} is no longer the model that this run was begun from")
    check(spec, parent)
    fits(parent, pack)
    net.load_state_dict({name: t for name, t in parent.weights.items() if not _new(name)}, strict=False)
    return replace(parent.prep, crop_px=spec.net.crop_px)


def hold(net: nn.Module, layers: Collection[str]) -> None:
    """Layers of rate 0: no gradient is computed for them, and batch norm goes on with the averages it has."""
    for name in layers:
        layer = getattr(net, name)
        layer.requires_grad_(False)
        if isinstance(layer, NORMS):
            layer.register_forward_pre_hook(_as_in_tests)


def _as_in_tests(layer: nn.Module, _inputs: tuple) -> None:
    layer.training = False


def notes(spec: Spec, parent: Parent, pack: Pack) -> list[str]:
    """What was chosen, a line each, for a person to read before the run starts."""
    copied = [name for name in parent.layers if name != HEAD and not name.startswith("bn")]
    sgd, run, count = spec.sgd, spec.run, len(pack.splits["train"])
    held = f"; frozen: {', '.join(sgd.frozen)}" if sgd.frozen else ""
    lines = [
        f"fine-tuning {parent.named.name} ({parent.spec.preset}, {parent.classes:,} classes): {copied[0]} to "
        f"{copied[-1]} copied, {HEAD} new for {len(pack.classes)} classes",
        f"preprocessing stays that of {parent.named.name}: {parent.prep.size_px} px squares, crops of "
        f"{spec.net.crop_px}, {_mean(spec.data)}",
        f"rates: {sgd.rate:g} for copied layers, {head_factor(sgd) * sgd.rate:g} for {HEAD}, {_fall(sgd)}{held}",
        f"{run.length.value:g} {UNITS[run.length.unit]} of {count:,} pictures in batches of {run.batch} "
        "(--epochs, --batch and --set sgd.rate=... change it)",
    ]
    return [*(f"note: {note}" for note in parent.notes), *lines]


def _mean(data: DataSpec) -> str:
    mean = {"image": "its mean image", "channel": "its channel means", "none": "no mean"}[data.mean]
    return f"{mean}, divided by its deviations" if data.divide_by_std else mean


def _fall(sgd: SgdSpec) -> str:
    schedule = sgd.schedule
    return f"falling to 1/{schedule.factor:g} ({schedule.kind})" if schedule == SCHEDULE else schedule.kind
