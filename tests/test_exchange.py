"""What leaves as a file answers as before, on photographs: the model file, ONNX with and without the preprocessing, and
torch.export. torchvision's weights come and go in test_convert.py, Caffe's come in test_caffe.py.
"""

import numpy as np
import photographs
import pytest
import torch
from safetensors.torch import load_file
from test_onnx import cut, prep_of, small

import alexnet
from alexnet import checkpoint
from alexnet import spec as specs
from alexnet.convert import convert
from alexnet.net import AlexNet
from alexnet.weights import onnx as graphs

COUNT = 6


@pytest.fixture(scope="module", params=["as_run", "modern"])
def predictor(request, tmp_path_factory):
    """A net with wakened weights, narrow dense layers and a border around its crop, as the model file `ours` has it."""
    net = small(request.param)
    prep, ours = prep_of(net, border_px=7, std=60), tmp_path_factory.mktemp("exchange") / "ours.safetensors"
    numbers = {"stds": prep.stds, "colour_stds": prep.colour_stds, "colour_axes": prep.colour_axes}
    passport = {
        "format": "alexnet 1",
        "spec": {"preset": request.param, "net": specs.to_dict(net.spec)},
        "classes": [f"class {i}" for i in range(net.spec.classes)],
        "preprocessing": {"size_px": prep.size_px, **{name: value.tolist() for name, value in numbers.items()}},
        "accuracy": None,
    }
    checkpoint.save_model(ours, {**net.state_dict(), "preprocessing.mean": torch.from_numpy(prep.mean)}, passport)
    return alexnet.load(ours, "cpu", "fp32")


@pytest.fixture(scope="module")
def squares(predictor) -> np.ndarray:
    return photographs.squares(COUNT, predictor.prep.size_px)


def answered(path, predictor, squares: np.ndarray, pixels: str | None) -> np.ndarray:
    """The logits (N, classes) that the file's own reader gives."""
    first, crop = predictor.prep.border_px // 2, predictor.prep.crop_px
    match path.suffix, pixels:
        case ".onnx", None:
            return graphs.run(path, cut(squares, predictor.prep))
        case ".onnx", "square":
            return graphs.run(path, squares)
        case ".onnx", "crop":
            part = slice(first, first + crop)
            return graphs.run(path, np.ascontiguousarray(squares[:, part, part]))
        case ".pt2", _:
            with torch.no_grad():
                return torch.export.load(path).module()(torch.from_numpy(squares).permute(0, 3, 1, 2).float()).numpy()
        case _:
            net = AlexNet(predictor.net.spec).eval()
            net.load_state_dict({k: v for k, v in load_file(path).items() if k != "preprocessing.mean"})
            with torch.inference_mode():
                return net(torch.from_numpy(cut(squares, predictor.prep))).numpy()


WAYS = [("net.safetensors", None), ("net.onnx", None), ("net.onnx", "square"), ("net.onnx", "crop"), ("net.pt2", None)]


@pytest.mark.parametrize(("target", "pixels"), WAYS)
def test_the_same_logits_and_top_five_before_and_after(predictor, squares, tmp_path, target, pixels):
    if target.endswith(".onnx"):
        pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    record = convert(predictor.path, tmp_path / target, pixels=pixels)
    theirs = answered(tmp_path / target, predictor, squares, pixels)
    ours = torch.stack([predictor.features(square, "fc8") for square in squares]).numpy()
    assert np.abs(theirs - ours).max() <= 1e-4 * np.abs(ours).max()
    assert np.array_equal(np.argsort(-theirs, axis=1)[:, :5], np.argsort(-ours, axis=1)[:, :5])
    assert len({tuple(row) for row in np.argsort(-ours, axis=1)[:, :5]}) > 1  # the pictures are not all one to it
    assert {row["name"] for row in record["tensors"]} == set(predictor.net.state_dict())
