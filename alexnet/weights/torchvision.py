"""torchvision's AlexNet weights: the `torchvision` preset is the same net, so only the names change.

features.0, 3, 6, 8, 10 are conv1 ... conv5; classifier.1, 4, 6 are fc6, fc7, fc8. torchvision itself is not needed.
Its weights expect RGB on [0, 1], less (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225); in the grey levels used
here these are 255 times as large.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet import presets
from alexnet import spec as spec_module
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError
from alexnet.spec import ConvSpec, DenseSpec, NetSpec
from alexnet.weights import Foreign, torchfile

NAMES = {
    **{"conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8"},
    **{"conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"},
}
SHAPES = {  # of the weights; the number of classes is free
    **{"conv1": (64, 3, 11, 11), "conv2": (192, 64, 5, 5), "conv3": (384, 192, 3, 3), "conv4": (256, 384, 3, 3)},
    **{"conv5": (256, 256, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (None, 4096)},
}
TOLD = 6  # keys named in a message
SIZE_PX = 256  # torchvision's crops are cut from these
CHANNEL_MEANS = tuple(255 * x for x in (0.485, 0.456, 0.406))  # ImageNet's, in grey levels
CHANNEL_STDS = tuple(255 * x for x in (0.229, 0.224, 0.225))
DTYPES = {torch.float32, torch.float16, torch.bfloat16, torch.float64}


def read(path: Path) -> Foreign:
    """torchvision's AlexNet of a .pth, .pt or .safetensors file. Raises CheckpointError."""
    notes: list[str] = []
    weights = from_torchvision(_as_float32(_unwrapped(torchfile.tensors_of(path), path, notes), path, notes))
    origin = dict(zip(weights, to_torchvision(weights), strict=True))
    count = len(weights["fc8.bias"])
    if count < 1:
        raise CheckpointError("classifier.6 has no outputs")
    spec = presets.torchvision(classes=count)
    mean = np.ascontiguousarray(np.broadcast_to(np.float32(CHANNEL_MEANS), (SIZE_PX, SIZE_PX, 3)))
    prep = Preprocessing(SIZE_PX, spec.net.crop_px, mean, np.array(CHANNEL_STDS), np.zeros(3), np.eye(3))
    notes.append("preprocessing is ImageNet's, as torchvision's own weights expect; the file itself carries none")
    return Foreign(weights, origin, spec, prep, notes)


def state_of(net: NetSpec, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict of a net of ours. Raises CheckpointError where the net is not the same one."""
    if differing := _differences(net):
        raise CheckpointError(
            f"only nets of the torchvision preset fit torchvision's AlexNet; this one differs in {', '.join(differing)}"
        )
    return to_torchvision(weights)


def how_to_feed(mean_hwc: np.ndarray, stds: np.ndarray) -> str:
    """torchvision's files carry no preprocessing, so say it, for pictures on [0, 1] as torchvision has them."""
    mean = mean_hwc.astype(np.float64) / 255
    means = ", ".join(f"{x:.4g}" for x in mean.mean((0, 1)))
    flat = bool((mean == mean[0, 0]).all())
    rest = "" if flat else "; it was trained with a mean image, of which these are the averages"
    return f"for pictures on [0, 1]: Normalize(mean=({means}), std=({', '.join(f'{x / 255:.4g}' for x in stds)})){rest}"


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `torchvision.models.alexnet` under our names, tensors untouched.

    Raises CheckpointError that names missing or unexpected keys, or a tensor of another shape.
    """
    return _renamed(state, {f"{NAMES[layer]}.{kind}": f"{layer}.{kind}" for layer, kind in _tensors()}, "torchvision's")


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: the state dict of a net of the `torchvision` preset as torchvision's `load_state_dict` takes it."""
    theirs = {f"{layer}.{kind}": f"{NAMES[layer]}.{kind}" for layer, kind in _tensors()}
    return _renamed(state, theirs, "the torchvision preset's")


def _tensors() -> list[tuple[str, str]]:
    return [(layer, kind) for layer in NAMES for kind in ("weight", "bias")]


def _renamed(state: dict[str, Tensor], names: dict[str, str], whose: str) -> dict[str, Tensor]:
    wrong = [
        f"{what}: {', '.join(keys[:TOLD])}{f' and {len(keys) - TOLD} more' if len(keys) > TOLD else ''}"
        for what, keys in (
            ("missing", [name for name in names if name not in state]),
            ("unexpected", [str(name) for name in state if name not in names]),
        )
        if keys
    ]
    if wrong:
        raise CheckpointError(f"these are not {whose} AlexNet weights; {'; '.join(wrong)}")
    classes = tuple(getattr(state[list(names)[-2]], "shape", ()))[:1] or (1,)
    for (layer, kind), name in zip(_tensors(), names, strict=True):
        wanted = SHAPES[layer] if kind == "weight" else SHAPES[layer][:1]
        wanted = tuple(classes[0] if size is None else size for size in wanted)
        found = tuple(getattr(state[name], "shape", ()))
        if found != wanted:
            raise CheckpointError(
                f"{name} has the shape {_product(found)}, not {_product(wanted)}: this is another net"
            )
    return {ours: state[theirs] for theirs, ours in names.items()}


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "of a single value"


def _unwrapped(content: object, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """The state dict, out of a training checkpoint's "state_dict" and without DataParallel's "module."."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        notes.append(f"took 'state_dict' and left the rest: {', '.join(str(k) for k in content if k != 'state_dict')}")
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict()")
    state = {str(name).replace("module.", ""): value for name, value in content.items()}
    if len(state) < len(content):
        raise CheckpointError(f"{path} holds the same tensor with and without 'module.'; keep one of them")
    if list(state) != list(content):
        notes.append("removed 'module.' from the names (a net saved inside DataParallel)")
    return state


def _as_float32(state: dict, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Checked before they are touched: a tensor can claim a shape far larger than its bytes."""
    foreign = [name for name, t in state.items() if not isinstance(t, Tensor) or t.dtype not in DTYPES]
    tensors = {name: t for name, t in state.items() if name not in foreign}
    if sum(t.numel() * t.element_size() for t in tensors.values()) > torchfile.MAX_NBYTES:
        raise CheckpointError(f"{path} holds tensors larger than AlexNet's")
    from_torchvision(state)  # names and shapes, before the first copy
    if foreign:
        value = state[foreign[0]]
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(f"{path}: {foreign[0]} is {kind}; weights are floating-point numbers")
    cast = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()} - {"float32"})
    if cast:
        notes.append(f"cast {' and '.join(cast)} to float32")
    tensors = {name: t.detach().to(torch.float32).contiguous() for name, t in tensors.items()}
    broken = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if broken:
        raise CheckpointError(f"{path}: {broken[0]} holds values that are not finite, or beyond float32")
    return tensors


def _differences(net: NetSpec) -> list[str]:
    """Fields in which a net computes something else than torchvision's; how it began and its dropout rate are free."""
    like = presets.torchvision(classes=net.classes).net
    free = {name: getattr(like, name) for name in ("init", "fc8_sigma", "fc8_bias", "dropout")}
    alike = replace(net, **free, **({"talk": like.talk} if net.towers == 1 else {}))
    fields = {name: (getattr(alike, name), getattr(like, name)) for name in spec_module.to_dict(like)}
    return [name for name, (ours, theirs) in fields.items() if _without_start(ours) != _without_start(theirs)]


def _without_start(value):
    return replace(value, sigma=0.0, bias=0.0) if isinstance(value, ConvSpec | DenseSpec) else value
