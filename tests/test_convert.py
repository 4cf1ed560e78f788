"""Conversion: to the bit there and back, and foreign files that are damaged, huge or programs do nothing but be
refused.
"""

import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import photographs
import pytest
import torch
from safetensors.torch import save_file
from test_weights import Theirs
from tiny import spec

import alexnet
from alexnet import checkpoint, runs
from alexnet import spec as specs
from alexnet.convert import convert, read
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.net import AlexNet
from alexnet.spec import FileNetSpec, LayerFile
from alexnet.weights.torchfile import tensors_of
from alexnet.weights.torchvision import CHANNEL_MEANS, CHANNEL_STDS, NAMES, SHAPES


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    torch.manual_seed(0)
    return Theirs().eval()


@pytest.fixture(scope="module")
def converted(theirs, tmp_path_factory):
    """(folder of there.pth, model.safetensors and back.pth, the record of each conversion); removed at the end."""
    folder = tmp_path_factory.mktemp("convert")
    torch.save(theirs.state_dict(), folder / "there.pth")
    (folder / "names.txt").write_text("".join(f"class {i}\n" for i in range(7)))
    there = convert(folder / "there.pth", folder / "model.safetensors", folder / "names.txt")
    back = convert(folder / "model.safetensors", folder / "back.pth")
    yield folder, there, back
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def predictor(converted):
    return alexnet.load(converted[0] / "model.safetensors", "cpu", "fp32")


def light(classes: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """torchvision's shapes, each tensor a single number in the file."""
    one = torch.full((1,), 0.5, dtype=dtype)
    shapes = {name: (SHAPES[layer][0] or classes, *SHAPES[layer][1:]) for layer, name in NAMES.items()}
    pairs = [(f"{name}.{kind}", shape if kind == "weight" else shape[:1])
             for name, shape in shapes.items() for kind in ("weight", "bias")]  # fmt: skip
    return {name: one.expand(shape) for name, shape in pairs}


def test_there_and_back_is_equal_to_the_bit(theirs, converted):
    back, state = torch.load(converted[0] / "back.pth", weights_only=True), theirs.state_dict()
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def as_torchvision(squares: np.ndarray) -> torch.Tensor:
    """CenterCrop(224), ToTensor and Normalize of uint8 (N, 256, 256, 3)."""
    centres = torch.from_numpy(squares[:, 16:240, 16:240]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (centres - mean) / std


@torch.no_grad()
def test_photographs_have_the_same_logits_and_top_five_there_and_back(theirs, converted, predictor):
    squares = photographs.squares(4, 256)
    again = Theirs().eval()
    again.load_state_dict(torch.load(converted[0] / "back.pth", weights_only=True))
    wanted = theirs(as_torchvision(squares))
    ours = torch.stack([predictor.features(square, "fc8") for square in squares])
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert torch.equal(ours.topk(5).indices, wanted.topk(5).indices)
    assert torch.equal(again(as_torchvision(squares)), wanted)


def test_pictures_are_seen_as_torchvision_sees_them(predictor):
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    seen = predictor.views(picture, 1)
    torch.testing.assert_close(seen, as_torchvision(picture[None]), rtol=1e-4, atol=1e-4)


def test_torchvisions_own_class_takes_the_file(converted, predictor):
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    squares, own = photographs.squares(2, 256), models.AlexNet(num_classes=7).eval()
    own.load_state_dict(torch.load(converted[0] / "back.pth", weights_only=True))
    with torch.no_grad():
        ours = torch.stack([predictor.features(square, "fc8") for square in squares])
        torch.testing.assert_close(own(as_torchvision(squares)), ours, rtol=1e-4, atol=1e-4)


def test_the_passport_says_what_is_known(converted, predictor):
    passport = predictor.passport
    assert (passport["format"], passport["spec"]["preset"], passport["accuracy"]) == ("alexnet 1", "torchvision", None)
    assert predictor.classes == [f"class {i}" for i in range(7)]
    assert passport["spec"]["net"]["classes"] == 7
    assert (predictor.prep.size_px, predictor.prep.crop_px) == (256, 224)
    assert predictor.prep.stds.tolist() == list(CHANNEL_STDS)
    assert predictor.prep.mean[7, 9].tolist() == np.float32(CHANNEL_MEANS).tolist()


def test_the_records_tell_what_matched(converted):
    _, there, back = converted
    assert (there["format"], back["format"], there["classes"]) == ("alexnet", "torchvision", 7)
    assert {"name": "fc6.weight", "shape": [4096, 9216], "from": "classifier.1.weight"} in there["tensors"]
    assert {"name": "classifier.1.weight", "shape": [4096, 9216], "from": "fc6.weight"} in back["tensors"]
    assert len(there["tensors"]) == len(back["tensors"]) == 16
    assert "Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))" in back["notes"][-1]


def test_wrapped_half_precision_weights_of_data_parallel(tmp_path):
    state = {f"module.{name}": t for name, t in light(dtype=torch.float16).items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.pt")
    model = read(tmp_path / "a.pt")
    assert all(t.dtype == torch.float32 and (t == 0.5).all() for t in model.weights.values())
    assert model.passport["classes"] == ["0", "1", "2"]
    notes = " ".join(model.notes)
    assert all(word in notes for word in ("left the rest: epoch", "'module.'", "cast float16"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classifier.6.bias", torch.tensor([0, torch.nan, 0]), r"classifier\.6\.bias holds values that are not finite"),
        ("classifier.6.bias", torch.tensor([0, 1e300, 0], dtype=torch.float64), "beyond float32"),
        ("classifier.6.bias", torch.zeros(3, dtype=torch.int64), "is torch.int64"),
        ("classifier.6.bias", torch.zeros(4), "4, not 3"),
        ("classifier.6.weight", torch.zeros(1).expand(10**9, 4096), "larger than AlexNet's"),
        ("classifier.6.weight", torch.zeros(0, 4096), "3, not 0"),
        ("features.12.weight", torch.zeros(1), "unexpected: features.12.weight"),
        ("module.features.0.bias", torch.zeros(64), "with and without 'module.'"),
    ],
)
def test_other_tensors_are_refused(tmp_path, name, value, message):
    torch.save({**light(), name: value}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "a.pth", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch '{self.flag}'",)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda evil, path: torch.save({"features.0.weight": evil}, path), r"asks for '(posix|nt)\.system'"),
        (lambda evil, path: torch.save([evil], path, pickle_protocol=4), "STACK_GLOBAL"),
        (lambda evil, path: path.write_bytes(pickle.dumps(evil)), "bare pickle"),
        (lambda evil, path: torch.save(evil, path, _use_new_zipfile_serialization=False), "bare pickle"),
    ],
)
def test_a_program_is_refused_and_does_nothing(tmp_path, save, message):
    flag, path = tmp_path / "flag", tmp_path / "a.pt"
    save(Evil(flag), path)
    with pytest.raises(CheckpointError, match=message):
        convert(path, tmp_path / "model.safetensors")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]
    pickle.loads(pickle.dumps(Evil(flag)))
    assert flag.exists()  # it would have


@pytest.fixture
def small(tmp_path):
    """A small torch zip, and its tensor."""
    tensor = torch.arange(64, dtype=torch.float32)
    torch.save({"a": tensor}, tmp_path / "small.pt")
    assert torch.equal(tensors_of(tmp_path / "small.pt")["a"], tensor)
    return tmp_path / "small.pt", tensor


def test_truncated_files_are_refused(small):
    path, whole = small[0], small[0].read_bytes()
    for nbytes in range(0, len(whole), 61):
        path.write_bytes(whole[:nbytes])
        with pytest.raises(CheckpointError):
            tensors_of(path)


def test_flipped_bits_are_refused_or_without_effect(small):
    path, tensor = small
    whole, refused = path.read_bytes(), 0
    first = whole.index(tensor.numpy().tobytes())
    inside = range(first, first + tensor.nbytes)
    for place in (*np.random.default_rng(0).integers(0, len(whole), 150).tolist(), *inside[::16]):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert torch.equal(tensors_of(path)["a"], tensor)
            assert place not in inside
        except CheckpointError:
            refused += 1
    assert refused >= len(inside[::16])


def test_safetensors_of_other_tools_are_read(small, tmp_path):
    save_file({"a": small[1]}, tmp_path / "a.safetensors")
    assert torch.equal(tensors_of(tmp_path / "a.safetensors")["a"], small[1])
    with pytest.raises(CheckpointError, match=r"missing: features\.0\.weight.* unexpected: a"):
        read(tmp_path / "a.safetensors")


def test_files_larger_than_any_alexnet_are_not_read(small, tmp_path, monkeypatch):
    save_file({"a": small[1]}, tmp_path / "a.safetensors")
    monkeypatch.setattr("alexnet.weights.torchfile.MAX_NBYTES", 100)
    for name, message in (("small.pt", "not AlexNet's weights"), ("a.safetensors", "weights are fewer")):
        with pytest.raises(CheckpointError, match=message):
            tensors_of(tmp_path / name)


def zipped(path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_compressed_bomb_is_refused_before_it_takes_memory(tmp_path):
    zipped(tmp_path / "a.pt", {"a/data.pkl": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="compressed"):
        tensors_of(tmp_path / "a.pt")
    peak_nbytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_nbytes < 4 << 20


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a/data.pkl": b"N.", "a/constants.pkl": b"N.", "a/code/__torch__.py": b""}, "TorchScript"),
        ({"a/readme.txt": b"hello"}, "no data.pkl"),
        ({"a/data.pkl": b"N.", "b/data.PKL": b"N."}, "no data.pkl alone"),
        ({"a/data.pkl": bytes(2 << 20)}, "far more than"),
        ({"a/data.pkl": b"garbage"}, "damaged or holds more"),
        ({"a/data.pkl": b"cbuiltins\neval\n."}, "asks for 'builtins.eval'"),
        ({"a/data.pkl": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."}, "bytearray"),
        ({f"a/data/{i}": b"" for i in range(1001)}, "1,001 parts"),
    ],
)
def test_other_zips_are_refused(tmp_path, members, message):
    zipped(tmp_path / "a.pt", members)
    with pytest.raises(CheckpointError, match=message):
        tensors_of(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"just some text", "no file of weights"),
        (b"\x10\0\0\0\0\0\0\0{garbage garbage", "cannot be read"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "cannot be read"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_weights_is_called_by_its_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / name, tmp_path / "model.safetensors")


@pytest.fixture(scope="module")
def tiny_run(tiny_pack, tmp_path_factory):
    """A run folder with the model file of an untrained tiny net."""
    folder = tmp_path_factory.mktemp("run")
    prep = runs.preprocessing(spec(), tiny_pack)
    tensors = runs.model_tensors(AlexNet(spec().net).state_dict(), prep)
    checkpoint.save_model(folder / "model.safetensors", tensors, runs.passport(spec(), 1, tiny_pack, prep, None))
    return folder


def test_ours_to_ours_is_the_same_file(tiny_run, tmp_path):
    convert(tiny_run, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == (tiny_run / "model.safetensors").read_bytes()


def test_another_net_does_not_become_torchvisions(tiny_run, tmp_path):
    with pytest.raises(CheckpointError, match=r"differs in conv1, conv2, conv3.* crop_px, towers"):
        convert(tiny_run, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_passport_of_another_version_is_told(tiny_run, tmp_path):
    tensors, passport = checkpoint.load_model(tiny_run / "model.safetensors")
    checkpoint.save_model(tmp_path / "m.safetensors", tensors, {**passport, "spec": {"net": {"floors": 8}}})
    with pytest.raises(CheckpointError, match=r"passport is not of this version: .*floors"):
        convert(tmp_path / "m.safetensors", tmp_path / "a.pth")


@pytest.mark.parametrize("target", ["a.pth", "a.onnx"])
def test_a_net_of_layer_files_stays_ours(tiny_run, tmp_path, target):
    tensors, passport = checkpoint.load_model(tiny_run / "model.safetensors")
    net = FileNetSpec(LayerFile("layers.cfg", ""), LayerFile("params.cfg", ""), "2012", 3, 12)
    checkpoint.save_model(tmp_path / "m.safetensors", tensors, {**passport, "spec": {"net": specs.to_dict(net)}})
    with pytest.raises(CheckpointError, match="of layer files"):
        convert(tmp_path / "m.safetensors", tmp_path / target)


@pytest.mark.parametrize(
    ("target", "names", "kind", "message"),
    [
        ("a.h5", None, UsageError, r"\.safetensors, \.pth, \.pt, \.onnx"),
        ("none/a.pth", None, UsageError, "no folder"),
        ("a.safetensors", "names.txt", UsageError, "its own class names"),
    ],
)
def test_targets_and_names_that_cannot_be(tiny_run, tmp_path, target, names, kind, message):
    with pytest.raises(kind, match=message):
        convert(tiny_run, tmp_path / target, names and tmp_path / names)


def test_a_source_is_not_overwritten_and_must_exist(tiny_run, tmp_path):
    with pytest.raises(UsageError, match="the source itself"):
        convert(tiny_run / "model.safetensors", tiny_run / "model.safetensors")
    with pytest.raises(CheckpointError, match="no run folder and no model file"):
        convert(tmp_path / "none.pth", tmp_path / "a.safetensors")


@pytest.mark.parametrize("text", ["one\ntwo\n", "one\ntwo\ntwo\n", "one\n\ntwo\n"])
def test_class_names_must_be_as_many_as_the_classes(tmp_path, text):
    torch.save(light(), tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DataError, match="2 different names; these weights tell 3"):
        read(tmp_path / "a.pth", tmp_path / "names.txt")
