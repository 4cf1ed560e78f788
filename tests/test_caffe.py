"""Caffe's files, written here byte by byte: the logits of Caffe's own arithmetic, and refusals for all the rest."""

import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import photographs
import pytest
import torch
import torch.nn.functional as F

import alexnet
from alexnet.convert import convert, read
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.weights import caffe, wire
from alexnet.weights.wire import Message

CLASSES, CROP, WIDTH = 7, 67, 40  # the smallest crop that leaves a pixel at pool5
SHAPES = {
    **{"conv1": (96, 3, 11, 11), "conv2": (256, 48, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 192, 3, 3)},
    **{"conv5": (256, 192, 3, 3), "fc6": (WIDTH, 256), "fc7": (WIDTH, WIDTH), "fc8": (CLASSES, WIDTH)},
}
CONVS = {"conv1": (4, 0, 1), "conv2": (1, 2, 2), "conv3": (1, 1, 1), "conv4": (1, 1, 2), "conv5": (1, 1, 2)}
OLD_KINDS = {"Data": 5, "Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18, "Dropout": 6}
OWN = {"Data": 100, "Convolution": 106, "InnerProduct": 117, "LRN": 118, "Pooling": 121, "Dropout": 108}
OLD_OWN = {"Data": 36, "Convolution": 10, "InnerProduct": 17, "LRN": 18, "Pooling": 19, "Dropout": 12}
ALEXNET = ("ReLU", "LRN", "Pooling")
CAFFENET = ("ReLU", "Pooling", "LRN")


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value) -> bytes:
    """A whole number, a float, text, bytes of a message, or an array of packed numbers."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value.tobytes() if isinstance(value, np.ndarray) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def blob(array: np.ndarray, old: bool) -> bytes:
    if old:
        shape = b"".join(field(i, n) for i, n in enumerate((1,) * (4 - array.ndim) + array.shape, 1))
    else:
        shape = field(7, field(1, b"".join(varint(n) for n in array.shape)))
    return shape + field(8 if array.dtype == np.float64 else 5, array)


def layer(name: str, kind: str, old: bool, blobs=(), own: bytes = b"") -> bytes:
    head = field(4, name) + field(5, OLD_KINDS[kind]) if old else field(1, name) + field(2, kind)
    parameters = field((OLD_OWN if old else OWN)[kind], own) if own else b""
    return field(2 if old else 100, head + b"".join(field(6 if old else 7, blob(b, old)) for b in blobs) + parameters)


def weights() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        name: (
            (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32),
            rng.uniform(-1, 1, shape[0]).astype(np.float32),
        )
        for name, shape in SHAPES.items()
    }


LRN = field(1, 5) + field(2, 1e-4) + field(3, 0.75)
TRANSFORM = field(3, CROP) + field(4, "data/ilsvrc12/imagenet_mean.binaryproto")


def caffemodel(
    trained, old: bool = False, order=ALEXNET, transform: bytes = TRANSFORM, lrn: bytes = LRN, **own: bytes
) -> bytes:
    """The layers of bvlc_alexnet or CaffeNet; `own` replaces a layer's own parameters."""
    file = field(1, "AlexNet") + layer("data", "Data", old, own=transform)
    for name, arrays in trained.items():
        if name.startswith("fc"):
            parameters = field(1, len(arrays[-1]))
            file += layer(name, "InnerProduct", old, arrays, own.get(name, parameters))
            file += b"" if name == "fc8" else layer(f"relu{name[2:]}", "ReLU", old) + layer("drop", "Dropout", old)
            continue
        stride, pad, group = CONVS[name]
        parameters = field(1, len(arrays[-1])) + field(3, pad) + field(5, group) + field(6, stride)
        file += layer(name, "Convolution", old, arrays, own.get(name, parameters))
        followers = {"1": order, "2": order, "5": ("ReLU", "Pooling")}.get(name[4:], ("ReLU",))
        settings = {"LRN": lrn, "Pooling": own.get("pool", field(1, 0) + field(2, 3) + field(3, 2))}
        file += b"".join(layer(f"{kind}{name[4:]}", kind, old, own=settings.get(kind, b"")) for kind in followers)
    return file


def as_caffe(trained, pixels_hwc: np.ndarray, mean_bgr: np.ndarray, order=ALEXNET, scale: float = 1.0) -> np.ndarray:
    """Caffe's arithmetic in float64: blue first, towers by hand, rounded-up pooling. A crop's pixels."""
    pixels_bgr = pixels_hwc[:, :, ::-1].transpose(2, 0, 1).astype(np.float64)
    x = torch.from_numpy((pixels_bgr - mean_bgr) * scale)[None]
    steps = {"ReLU": F.relu, "LRN": across_maps, "Pooling": lambda y: F.max_pool2d(y, 3, 2, ceil_mode=True)}
    for name, arrays in trained.items():
        weight, bias = (torch.from_numpy(array).double() for array in arrays)
        if name.startswith("fc"):
            x = x.flatten(1) @ weight.T + bias
            x = x if name == "fc8" else x.clamp(min=0)
            continue
        stride, pad, group = CONVS[name]
        halves = zip(x.chunk(group, 1), weight.chunk(group), bias.chunk(group), strict=True)
        x = torch.cat([F.conv2d(a, w, b, stride, pad) for a, w, b in halves], 1)
        for kind in {"1": order, "2": order, "5": ("ReLU", "Pooling")}.get(name[4:], ("ReLU",)):
            x = steps[kind](x)
    return x[0].numpy()


def across_maps(x):
    sums = sum(F.pad(x**2, (0, 0, 0, 0, 2, 2))[:, i : i + x.shape[1]] for i in range(5))
    return x / (1 + 1e-4 / 5 * sums) ** 0.75


@pytest.fixture(scope="module")
def trained():
    return weights()


@pytest.fixture(scope="module")
def mean_bgr():
    return np.random.default_rng(1).uniform(90, 130, (3, 80, 80)).astype(np.float32)


def picture(size_px: int = 80) -> np.ndarray:
    return photographs.squares(1, size_px)[0]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("order", [ALEXNET, CAFFENET])
@pytest.mark.parametrize("mean_suffix", [".npy", ".binaryproto"])
def test_the_logits_are_caffes(trained, mean_bgr, tmp_path, old, order, mean_suffix):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(trained, old, order))
    mean = tmp_path / f"mean{mean_suffix}"
    mean.write_bytes(blob(mean_bgr[None], old=True)) if mean_suffix == ".binaryproto" else np.save(mean, mean_bgr)
    record = convert(tmp_path / "net.caffemodel", tmp_path / "model.safetensors", mean=mean)
    predictor = alexnet.load(tmp_path / "model.safetensors", "cpu", "fp32")
    ours = predictor.features(picture(), "fc8").numpy()
    central = slice(6, 6 + CROP)
    wanted = as_caffe(trained, picture()[central, central], mean_bgr[:, central, central], order)
    assert np.abs(ours - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert wanted.std() > 0.1
    assert {"name": "conv1.weight", "shape": [96, 3, 11, 11], "from": "conv1[0]"} in record["tensors"]
    assert any("CaffeNet" in note for note in record["notes"]) == (order == CAFFENET)
    assert predictor.passport["spec"]["preset"] == "caffe"
    assert predictor.prep.size_px == 80


def test_means_and_scale_of_the_data_layer(trained, tmp_path):
    transform = field(3, CROP) + field(1, 0.5) + b"".join(field(5, value) for value in (100.0, 110.0, 120.0))
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(trained, transform=transform))
    convert(tmp_path / "net.caffemodel", tmp_path / "model.safetensors")
    predictor, first = alexnet.load(tmp_path / "model.safetensors", "cpu", "fp32"), (256 - CROP) // 2
    crop = picture(256)[first : first + CROP, first : first + CROP]
    wanted = as_caffe(trained, crop, np.array([100.0, 110, 120])[:, None, None], scale=0.5)
    assert np.abs(predictor.features(picture(256), "fc8").numpy() - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_without_a_mean_imagenets_is_taken_and_the_file_it_was_trained_with_is_named(trained, tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(trained))
    model = read(tmp_path / "net.caffemodel")
    assert model.mean[5, 6].tolist() == pytest.approx(caffe.MEAN_BGR[::-1])
    assert any("imagenet_mean.binaryproto" in note and "--mean" in note for note in model.notes)
    assert torch.equal(model.weights["conv1.weight"], torch.from_numpy(trained["conv1"][0][:, ::-1].copy()))


def test_other_settings_of_the_norm_doubles_and_a_renamed_last_layer(trained, tmp_path):
    arrays = {**trained, "fc8": tuple(array.astype(np.float64) for array in trained["fc8"])}
    file = caffemodel(arrays, lrn=field(1, 3) + field(2, 2e-4) + field(3, 0.5) + field(5, 2.0))
    (tmp_path / "net.caffemodel").write_bytes(file.replace(field(1, "fc8"), field(1, "fc8_flickr")))  # too short now
    with pytest.raises(CheckpointError):
        read(tmp_path / "net.caffemodel")
    (tmp_path / "net.caffemodel").write_bytes(file.replace(field(1, "fc8"), field(1, "top")))
    model = read(tmp_path / "net.caffemodel")
    assert model.origin["fc8.weight"] == "top[0]"
    assert model.passport["spec"]["net"]["lrn"] == {
        **{"size": 3, "alpha": 2e-4, "beta": 0.5, "k": 2.0, "alpha_divided": True, "span": "all"}
    }
    assert torch.equal(model.weights["fc8.bias"], torch.from_numpy(trained["fc8"][1]))


def test_a_crop_of_227_is_bvlc_alexnets(trained, tmp_path):
    path = tmp_path / "net.caffemodel"
    wide = (np.zeros((WIDTH, 9216), np.float32), trained["fc6"][1])
    path.write_bytes(caffemodel({**trained, "fc6": wide}, transform=b""))
    net = alexnet.spec.caffe(classes=CLASSES).net
    narrow = {name: replace(getattr(net, name), outputs=WIDTH) for name in ("fc6", "fc7")}
    assert caffe.read(path).spec.net == replace(net, **narrow)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv2": field(1, 256) + field(3, 2)}, "conv2 has group 1, and AlexNet's conv2 2"),
        ({"conv1": field(6, 2)}, "conv1 has stride 2, and AlexNet's conv1 4"),
        ({"conv3": field(3, 1) + field(18, 2)}, "dilation 2"),
        ({"pool": field(1, 1) + field(2, 3) + field(3, 2)}, "does not take the largest"),
        ({"lrn": field(4, 1)}, "stay within their maps"),
        ({"lrn": field(3, float("nan"))}, "settings that cannot be"),
        ({"lrn": field(1, 1 << 40)}, "settings that cannot be"),
        ({"fc6": field(6, 1)}, "transposed"),
        ({"transform": field(3, 1 << 40)}, "crops of"),
        ({"transform": field(3, CROP) + field(1, 0.0)}, "multiplied by 0"),
        ({"transform": field(3, CROP) + field(5, 1.0) + field(5, 2.0)}, "subtracts 2 means"),
        ({"transform": field(3, 227)}, r"fc6's weight has the shape 40 x 256, not 40 x 9216"),
        ({"order": ("ReLU", "ReLU", "Pooling")}, "comes twice"),
    ],
)
def test_other_nets_are_refused(trained, tmp_path, change, message):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(trained, **change))
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "net.caffemodel", tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["net.caffemodel"]


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("conv5", None, "4 convolutions and 3 dense layers"),
        ("fc7", (np.zeros((WIDTH, WIDTH), np.float32),), "1 blobs, not weights and biases"),
        ("fc7", (np.zeros(WIDTH, np.float32),) * 2, "no matrix"),
        ("conv4", (np.zeros((384, 192, 3, 2), np.float32), np.zeros(384, np.float32)), "384 x 192 x 3 x 2, not"),
        ("fc8", (np.zeros((CLASSES, WIDTH), np.float32), np.full(CLASSES, np.nan, np.float32)), "not finite"),
        ("fc8", (np.zeros((CLASSES, WIDTH)), np.full(CLASSES, 1e300)), "beyond float32"),
        ("fc8", (np.zeros((0, WIDTH), np.float32), np.zeros(0, np.float32)), "classes=0"),
    ],
)
def test_other_weights_are_refused(trained, tmp_path, name, arrays, message):
    changed = {**trained, name: arrays}
    (tmp_path / "net.caffemodel").write_bytes(caffemodel({n: a for n, a in changed.items() if a is not None}))
    with pytest.raises(CheckpointError, match=message):
        caffe.read(tmp_path / "net.caffemodel")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no layers"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins no field|ends early"),
        (field(2, field(1, field(1, "conv1"))), "upgrade_net_proto_binary"),
        (field(100, b"")[:1] + b"\xff" * 12, "more than 64 bits"),
        (varint(100 << 3 | 2) + varint(1 << 60), r"says 1,152,921,504,606,846,976 bytes and 0 are left"),
        (varint(100 << 3 | 3), "begins no field"),
        (field(100, 7), "another kind"),
        (field(100, field(7, field(5, b"12345"))), "broken number"),
        (field(100, field(7, field(7, field(1, b"\x7f" * 9)))), r"holds 0 numbers"),
        (field(100, field(7, field(7, field(1, b"\x01" * 90)))), "bytes of sizes"),
        (field(3, 1) * (wire.MAX_FIELDS + 1), "more than 100,000 fields"),
        (field(100, field(3, "x") * 60_000) * 2, "more than 100,000 fields"),
    ],
)
def test_bytes_that_are_no_caffemodel_are_refused(tmp_path, content, message):
    (tmp_path / "net.caffemodel").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        caffe.read(tmp_path / "net.caffemodel")


def test_damage_raises_nothing_but_a_refusal():
    ones = np.ones(2, np.float32)
    arrays = {name: (np.ones((2,) * len(shape), np.float32), ones) for name, shape in SHAPES.items()}
    whole, rng = caffemodel(arrays), np.random.default_rng(0)
    assert len(caffe._layers(Message(whole))) == 23
    refused = 0
    for i in range(1500):
        damaged = bytearray(whole[: rng.integers(len(whole))] if i % 3 == 0 else whole)
        for place in rng.integers(0, max(len(damaged), 1), 3) if damaged else ():
            damaged[place] = rng.integers(256)
        try:
            layers = caffe._layers(Message(bytes(damaged)))
            caffe._spec(layers, caffe._trained(layers), [])
        except ValueError:
            refused += 1
    assert refused > 500


def test_a_claim_takes_no_memory(tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(field(100, field(7, field(7, field(1, varint(1 << 40) * 3)))))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="holds 0 numbers"):
        caffe.read(tmp_path / "net.caffemodel")
    peak_nbytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_nbytes < 1 << 20


def npy(descr: str, shape: tuple[int, ...]) -> bytes:
    """The header of an .npy file, and nothing after it."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mean.binaryproto", b"hello", "no mean image"),
        ("mean.binaryproto", blob(np.zeros((1, 3, 80, 81), np.float32), True), "3 x 80 x 81"),
        ("mean.binaryproto", blob(np.zeros((1, 3, 60, 60), np.float32), True), "3 x 60 x 60"),
        ("mean.binaryproto", blob(np.full((1, 3, 80, 80), np.nan, np.float32), True), "no grey levels"),
        ("mean.binaryproto", blob(np.full((1, 3, 80, 80), 1e4, np.float32), True), "no grey levels"),
        ("mean.npy", b"", "no mean image"),
        ("mean.npy", npy("'<f4'", (3, 10**6, 10**6)), ""),
        ("mean.npy", npy("'|O'", (3,)), ""),
        ("none.npy", None, "No such file"),
    ],
)
def test_other_means_are_refused(trained, tmp_path, name, content, message):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(trained))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"(?s)is no mean image of Caffe.*{message.replace('no mean image', '')}"):
        read(tmp_path / "net.caffemodel", mean=tmp_path / name)


def test_a_mean_belongs_to_a_caffemodel(tmp_path):
    with pytest.raises(UsageError, match="belongs to a"):
        read(tmp_path / "net.pth", mean=tmp_path / "mean.npy")


def test_three_numbers_are_a_mean(tmp_path):
    np.save(tmp_path / "mean.npy", np.array([1.0, 2, 3]))
    assert caffe.read_mean(tmp_path / "mean.npy", 227)[3, 4].tolist() == [3, 2, 1]
