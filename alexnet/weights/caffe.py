"""Caffe's AlexNets: a .caffemodel (old or new layer format) and its mean file, to the `caffe` preset.

    read(Path("bvlc_alexnet.caffemodel"), Path("imagenet_mean.binaryproto"))

Field numbers are those of Caffe's caffe.proto; Caffe itself is not needed. What differs from here: channels are blue,
green, red, so conv1's and the mean's are turned round; a group's kernels lie as in PyTorch; fc6 reads channels, rows,
columns, as here; grey levels 0-255; response norm with k = 1 and alpha divided, over all maps; old files pad every
shape to four sizes. CaffeNet (bvlc_reference_caffenet) has the same names and shapes but pools before it norms: the
order is taken from the file. Caffe subtracts the mean image where the crop lies, we its centre: the centre view is the
same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet import presets
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError, DataError
from alexnet.net import CONVS, AlexNet
from alexnet.spec import LrnSpec, PoolSpec, Spec
from alexnet.weights import Foreign
from alexnet.weights.wire import Message

MAX_NBYTES = 1 << 30  # 61 million weights and, in some snapshots, as many gradients, are 0.5 GB
MAX_MEAN_NBYTES = 64 << 20
MAX_PX = 2048
SIZE_PX, CROP_PX = 256, 227
MEAN_BGR = (104.00699, 116.66877, 122.67891)  # of ILSVRC-2012's training pictures, as Caffe's own mean file has them
DENSE = ("fc6", "fc7", "fc8")
GROUPS = {"conv1": 1, "conv2": 2, "conv3": 1, "conv4": 2, "conv5": 2}

# enum V1LayerParameter.LayerType; the new format writes these words
OLD_KINDS = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU"}
WORDS = {"ReLU": "act", "LRN": "lrn", "Pooling": "pool"}
# field of a layer's own parameters: (V1LayerParameter, LayerParameter)
OWN = {"Convolution": (10, 106), "InnerProduct": (17, 117), "LRN": (18, 118), "Pooling": (19, 121)}
TRANSFORM = (36, 100)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as the file tells it: its blobs, its own parameters, and those of the transformation of the data."""

    name: str
    kind: str
    blobs: list[np.ndarray]
    own: Message
    transform: Message


def read(path: Path, mean: Path | None = None) -> Foreign:
    """The net of a .caffemodel, and with it the mean of a .binaryproto or .npy file (ImageNet's channel means if none).

    Raises CheckpointError for a file that is damaged or holds another net, DataError for such a mean.
    """
    notes: list[str] = []
    try:
        layers = _layers(Message(_bytes(path, MAX_NBYTES)))
        trained = _trained(layers)
        spec = _spec(layers, trained, notes)
        weights, origin = _weights(trained, spec)
        mean_image = _told_mean(layers, spec.net.crop_px, notes) if mean is None else None
        stds = np.full(3, 1 / _scale(layers))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # of the bytes, or, as UsageError, of a net that cannot be
        raise CheckpointError(f"{path} is no AlexNet of Caffe, or damaged: {error}") from None
    mean_image = read_mean(mean, spec.net.crop_px) if mean is not None else mean_image
    notes.append("Caffe's recipe squashed pictures to a square; here the shorter side is scaled and the centre cut")
    prep = Preprocessing(len(mean_image), spec.net.crop_px, mean_image, stds, np.zeros(3), np.eye(3))
    return Foreign(weights, origin, spec, prep, notes)


def _bytes(path: Path, most: int) -> bytes:
    if path.stat().st_size > most:
        raise ValueError(f"it has {path.stat().st_size:,} bytes, far more than it needs")
    return path.read_bytes()


def _layers(net: Message) -> list[Layer]:
    """In the order of the file, new format (LayerParameter) or old (V1LayerParameter)."""
    new, old = net.messages(100), net.messages(2)
    if any(1 in layer.fields for layer in old):
        raise ValueError("its layers are of Caffe's first format; run Caffe's upgrade_net_proto_binary on it")
    if not new and not old:
        raise ValueError("it holds no layers")
    return [_layer(one, is_new=False) for one in old] + [_layer(one, is_new=True) for one in new]


def _layer(layer: Message, is_new: bool) -> Layer:
    name, kind = (layer.text(1), layer.text(2)) if is_new else (layer.text(4), OLD_KINDS.get(layer.whole(5), "other"))
    own = layer.message(OWN[kind][is_new]) if kind in OWN else Message(b"")
    blobs = [_blob(blob) for blob in layer.messages(7 if is_new else 6)]
    return Layer(name, kind, blobs, own, layer.message(TRANSFORM[is_new]))


def _blob(blob: Message) -> np.ndarray:
    """BlobProto: float or double data, with a shape, or with the four sizes of old. No copy of floats."""
    data = blob.reals(5, "<f4")
    data = data if data.size else blob.reals(8, "<f8")
    shape = blob.message(7).wholes(1) if 7 in blob.fields else [blob.whole(number) for number in (1, 2, 3, 4)]
    if math.prod(shape) != data.size:
        raise ValueError(f"a blob of {' x '.join(map(str, shape))} holds {data.size:,} numbers")
    return data.reshape(shape)


def _trained(layers: list[Layer]) -> dict[str, Layer]:
    """conv1 ... conv5, fc6, fc7, fc8 in their order, whatever the file calls them (fine-tuned nets rename the last)."""
    convs = [layer for layer in layers if layer.kind == "Convolution" and layer.blobs]
    dense = [layer for layer in layers if layer.kind == "InnerProduct" and layer.blobs]
    if (len(convs), len(dense)) != (5, 3):
        raise ValueError(f"it has {len(convs)} convolutions and {len(dense)} dense layers with weights, not 5 and 3")
    return dict(zip((*CONVS, *DENSE), convs + dense, strict=True))


def _spec(layers: list[Layer], trained: dict[str, Layer], notes: list[str]) -> Spec:
    """The `caffe` preset with what the file says of classes, order, norms and crop."""
    fc6, fc7, classes = (_outputs(trained[name]) for name in DENSE)
    spec = presets.caffe(classes=classes)
    for name in CONVS:
        _check_convolution(name, trained[name], getattr(spec.net, name))
    _check_pools(layers)
    crop_px = max((layer.transform.whole(3) for layer in layers), default=0) or CROP_PX
    if crop_px > MAX_PX:
        raise ValueError(f"it takes crops of {crop_px:,} pixels")
    changes = {"crop_px": crop_px, "pool": PoolSpec(ceil=crop_px != CROP_PX), **_norms(layers)}
    changes |= {"fc6": replace(spec.net.fc6, outputs=fc6), "fc7": replace(spec.net.fc7, outputs=fc7)}
    if any(layer.kind in WORDS for layer in layers):
        changes |= _orders(layers, trained, spec)
    else:
        notes.append("the file tells weights alone; the order of its layers is taken to be bvlc_alexnet's")
    net = replace(spec.net, **changes)
    if net.conv1.then == ("act", "pool", "lrn"):
        notes.append("this is CaffeNet: pooling comes before the response norm")
    return replace(spec, net=net)


def _outputs(dense: Layer) -> int:
    if dense.blobs[0].ndim < 2:
        raise ValueError(f"{dense.name} has no matrix of weights")
    return dense.blobs[0].shape[-2]


def _check_convolution(name: str, layer: Layer, wanted) -> None:
    """Stride, padding and groups change what a net computes and may leave every shape as it is."""
    if not layer.own.fields:
        return
    found = [layer.own.wholes(field) or [default] for field, default in ((6, 1), (3, 0))]
    told = {"stride": found[0], "pad": found[1], "group": [layer.own.whole(5, 1)]}
    told["dilation"] = layer.own.wholes(18) or [1]
    for word, value in (
        ("stride", wanted.stride),
        ("pad", wanted.padding_px),
        ("group", GROUPS[name]),
        ("dilation", 1),
    ):
        if set(told[word]) != {value}:
            raise ValueError(f"{layer.name} has {word} {told[word][0]}, and AlexNet's {name} {value}")


def _check_pools(layers: list[Layer]) -> None:
    for layer in (layer for layer in layers if layer.kind == "Pooling" and layer.own.fields):
        if (layer.own.whole(1), layer.own.whole(2), layer.own.whole(3, 1)) != (0, 3, 2):
            raise ValueError(f"{layer.name} does not take the largest of 3 x 3 at every second place")


def _norms(layers: list[Layer]) -> dict:
    """LRNParameter: local_size, alpha, beta, norm_region, k. One setting for all of them."""
    norms = [layer.own for layer in layers if layer.kind == "LRN" and layer.own.fields]
    told = {(n.whole(1, 5), n.real(2, 1.0), n.real(3, 0.75), n.real(5, 1.0), n.whole(4)) for n in norms}
    if not told:
        return {}
    if any(size > MAX_PX or not np.isfinite(numbers).all() for size, *numbers in told):
        raise ValueError("its response norms have settings that cannot be")
    if len(told) > 1 or any(region for *_, region in told):
        raise ValueError("its response norms differ from each other or stay within their maps")
    size, alpha, beta, k, _ = told.pop()
    decimals = {name: float(f"{number:.7g}") for name, number in (("alpha", alpha), ("beta", beta), ("k", k))}
    return {"lrn": LrnSpec(size=size, **decimals, span="all")}


def _orders(layers: list[Layer], trained: dict[str, Layer], spec: Spec) -> dict:
    """What follows each convolution up to the next layer with weights."""
    places = [layers.index(layer) for layer in trained.values()]
    changes = {}
    for name, first, last in zip(CONVS, places, places[1:], strict=False):
        then = tuple(WORDS[layer.kind] for layer in layers[first:last] if layer.kind in WORDS)
        changes[name] = replace(getattr(spec.net, name), then=then)
    return changes


def _weights(trained: dict[str, Layer], spec: Spec) -> tuple[dict[str, Tensor], dict[str, str]]:
    with torch.device("meta"):
        wanted = AlexNet(spec.net).state_dict()
    weights, origin = {}, {}
    for name, layer in trained.items():
        if len(layer.blobs) != 2:
            raise ValueError(f"{layer.name} has {len(layer.blobs)} blobs, not weights and biases")
        for kind, blob in zip(("weight", "bias"), layer.blobs, strict=True):
            array = _fitted(blob, tuple(wanted[f"{name}.{kind}"].shape), f"{layer.name}'s {kind}")
            array = array[:, ::-1] if (name, kind) == ("conv1", "weight") else array  # to red, green, blue
            weights[f"{name}.{kind}"] = torch.from_numpy(np.array(array, np.float32, order="C"))
            origin[f"{name}.{kind}"] = f"{layer.name}[{kind == 'bias':d}]"
        if name in DENSE and layer.own.whole(6):
            raise ValueError(f"{layer.name} keeps its weights transposed, which AlexNet's never did")
    return weights, origin


def _fitted(blob: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Without the ones that old files put in front. Raises ValueError for another shape or values not finite."""
    extra = blob.ndim - len(shape)
    if extra < 0 or any(size != 1 for size in blob.shape[:extra]) or blob.shape[extra:] != shape:
        raise ValueError(f"{what} has the shape {' x '.join(map(str, blob.shape))}, not {' x '.join(map(str, shape))}")
    if not np.isfinite(blob).all() or np.abs(blob).max() > np.finfo(np.float32).max:
        raise ValueError(f"{what} holds values that are not finite, or beyond float32")
    return blob.reshape(shape)


def _scale(layers: list[Layer]) -> float:
    """What the data layer multiplies by, after the mean."""
    scale = next((layer.transform.real(1, 1.0) for layer in layers if 1 in layer.transform.fields), 1.0)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"its data are multiplied by {scale}")
    return scale


def _told_mean(layers: list[Layer], crop_px: int, notes: list[str]) -> np.ndarray:
    """(S, S, 3) float32 red, green, blue: of the data layer's mean_value, or ImageNet's."""
    values = next((v for layer in layers if (v := layer.transform.reals(5, "<f4")).size), None)
    if values is None:
        named = next((name for layer in layers if (name := layer.transform.text(4))), None)
        whose = f"it was trained with {named}" if named else "the file names none"
        notes.append(f"no mean file was given ({whose}): ImageNet's channel means are subtracted; or --mean FILE")
        values = np.float32(MEAN_BGR)
    if values.size not in (1, 3) or not np.isfinite(values).all() or crop_px > SIZE_PX:
        raise ValueError(f"its data layer subtracts {values.size} means from crops of {crop_px:,} pixels")
    rgb = np.broadcast_to(values, 3)[::-1]
    return np.ascontiguousarray(np.broadcast_to(rgb, (SIZE_PX, SIZE_PX, 3)), np.float32)


def read_mean(path: Path, crop_px: int) -> np.ndarray:
    """A Caffe mean file, .binaryproto or .npy, (3, S, S) or three numbers, blue first, as (S, S, 3) red first."""
    try:
        if path.suffix == ".npy":
            _bytes(path, MAX_MEAN_NBYTES)
            mean = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses a file shorter than its shape
        else:
            mean = _blob(Message(_bytes(path, MAX_MEAN_NBYTES)))
        mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
        mean = mean if mean.shape != (3,) else np.broadcast_to(mean[:, None, None], (3, SIZE_PX, SIZE_PX))
        if mean.ndim != 3 or len(mean) != 3 or mean.shape[1] != mean.shape[2] or mean.shape[1] < crop_px:
            raise ValueError(f"it has the shape {' x '.join(map(str, mean.shape))}, not 3 x {SIZE_PX} x {SIZE_PX}")
        rgb = np.array(mean[::-1].transpose(1, 2, 0), np.float32, order="C")
        if not (np.isfinite(rgb).all() and rgb.min() >= -1 and rgb.max() <= 256):
            raise ValueError("it holds no grey levels from 0 to 255")
    except (OSError, ValueError, EOFError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is no mean image of Caffe (.binaryproto or .npy): {reason}") from None
    return rgb
