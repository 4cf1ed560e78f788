"""torchvision's AlexNet weights: the `torchvision` preset is the same net, so only the names change.

features.0, 3, 6, 8, 10 are conv1 ... conv5; classifier.1, 4, 6 are fc6, fc7, fc8. torchvision itself is not needed.
Its weights expect RGB on [0, 1], less (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225); in the grey levels used
here these are 255 times as large.
"""

from __future__ import annotations

from torch import Tensor

from alexnet.errors import CheckpointError

NAMES = {
    **{"conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8"},
    **{"conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"},
}
SHAPES = {  # of the weights; the number of classes is free
    **{"conv1": (64, 3, 11, 11), "conv2": (192, 64, 5, 5), "conv3": (384, 192, 3, 3), "conv4": (256, 384, 3, 3)},
    **{"conv5": (256, 256, 3, 3), "fc6": (4096, 9216), "fc7": (4096, 4096), "fc8": (None, 4096)},
}
TOLD = 6  # keys named in a message


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
