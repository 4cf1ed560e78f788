"""The extractor: what the predictor gives, as a module; gradients, export, towers, pixels left as they are."""

import numpy as np
import pytest
import torch
from test_features import model

from alexnet.errors import UsageError
from alexnet.extract import Extractor


@pytest.fixture(scope="module")
def predictor(tiny_pack, tmp_path_factory):
    return model(tiny_pack, tmp_path_factory.mktemp("extract") / "model.safetensors")


@pytest.fixture(scope="module")
def squares(tiny_pack):
    return np.stack([tiny_pack.splits["val"].pixels(i) for i in range(6)])


def nchw(squares_nhwc: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(squares_nhwc).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("layer", ["conv1", "rnorm1", "relu2", "fc6", "fc8"])
def test_it_gives_what_the_predictor_gives(predictor, squares, layer):
    pixels = nchw(squares)
    before = pixels.clone()
    got = Extractor(predictor.net, predictor.prep, layer)(pixels)
    wanted = torch.stack([predictor.features(square, layer) for square in squares])
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(pixels, before)
    crops = nchw(squares[:, 2:14, 2:14])
    torch.testing.assert_close(Extractor(predictor.net, predictor.prep, layer)(crops), got)


def test_towers_kinds_and_shape(predictor, squares):
    pixels = nchw(squares)
    whole = Extractor(predictor.net, predictor.prep, "conv2", before="relu")
    halves = [Extractor(predictor.net, predictor.prep, "conv2", tower=tower)(pixels) for tower in "ab"]
    assert torch.equal(torch.cat(halves, 1), whole(pixels))
    assert whole.shape == tuple(whole(pixels).shape[1:])


def test_it_is_a_module_in_inference_whose_pixels_have_gradients(predictor, squares):
    module = torch.nn.Sequential(Extractor(predictor.net, predictor.prep, "drop6"), torch.nn.Linear(16, 2)).train()
    pixels = nchw(squares).requires_grad_()
    assert torch.equal(module(pixels), module(pixels))  # no dropout
    module(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


@pytest.mark.parametrize("layer", ["rnorm1", "cnorm2", "fc8"])
def test_torch_export_takes_it_with_any_batch(predictor, squares, layer, tmp_path):
    module = Extractor(predictor.net, predictor.prep, layer)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (nchw(squares[:3]),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(loaded(nchw(squares)), module(nchw(squares)), rtol=1e-4, atol=1e-5)


def test_pixels_of_another_size_are_refused(predictor):
    with pytest.raises(UsageError, match=r"\(N, 3, 16, 16\) squares or \(N, 3, 12, 12\) crops"):
        Extractor(predictor.net, predictor.prep, "fc6")(torch.zeros(1, 3, 13, 13))
    with pytest.raises(UsageError, match="belongs to both"):
        Extractor(predictor.net, predictor.prep, "fc8", tower="a")
