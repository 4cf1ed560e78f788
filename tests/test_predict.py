"""Prediction: the same pixels and answers as evaluation, for paths, bytes and arrays alike."""

import numpy as np
import pytest
import torch
from tiny import spec

import alexnet
from alexnet import checkpoint, machine, train, verify
from alexnet.errors import CheckpointError, DataError
from alexnet.evaluate import errors, predictions


@pytest.fixture(scope="module")
def predictor(tiny_pack, tmp_path_factory):
    run = tmp_path_factory.mktemp("predict") / "run"
    train.train(spec(), tiny_pack, run)
    return alexnet.load(run, "cpu", "fp32")


@pytest.mark.parametrize("views", [1, 10])
def test_predict_and_evaluate_agree_about_every_picture(predictor, tiny_pack, views):
    split = tiny_pack.splits["val"]
    evaluated = torch.cat(list(predictions(predictor.member, split, views, predictor.place)))
    predicted = torch.stack([predictor.probabilities(split.pixels(i), views) for i in range(len(split))])
    assert torch.allclose(evaluated, predicted, atol=1e-5)


def test_the_measured_accuracy_is_that_of_the_passport(predictor, tiny_pack):
    split = tiny_pack.splits["val"]
    probabilities = torch.cat(list(predictions(predictor.member, split, 1, predictor.place)))
    top1 = errors(probabilities, torch.from_numpy(split.labels.astype(np.int64)), 1).mean()
    assert float(top1) == pytest.approx(predictor.passport["accuracy"]["top1_error"])


@pytest.mark.parametrize("elsewhere", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_is_verified_in_the_precision_it_was_measured_in(
    precision, elsewhere, tiny_pack, tmp_path, monkeypatch
):
    """Whatever this machine would choose by itself."""
    train.train(spec(f"run.precision={precision}", "run.length=1ep"), tiny_pack, tmp_path)
    chosen = machine.precision
    monkeypatch.setattr(machine, "precision", lambda name, on: chosen(elsewhere if name == "auto" else name, on))
    record = verify.verify(tmp_path, None, lambda word: lambda done, total: None)
    said = alexnet.load(tmp_path, "cpu").passport["accuracy"]
    assert (record["top1_error"], said["precision"]) == (said["top1_error"], precision)


def test_path_bytes_and_pixels_give_the_same_answer(predictor, pictures):
    path = next(pictures.rglob("*.png"))
    answers = [predictor.top5(p) for p in (path, str(path), path.read_bytes(), alexnet.predict.pixels(path))]
    assert all(answer == answers[0] for answer in answers)
    assert [a["probability"] for a in answers[0]] == sorted((a["probability"] for a in answers[0]), reverse=True)
    assert {a["class"] for a in answers[0]} == set(predictor.classes)  # three classes: fewer than five


def test_the_ten_views_are_five_places_and_their_mirror_images(predictor):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    views = predictor.views(picture, 10)
    mean = predictor.prep.mean[2:14, 2:14]
    for i, (top, left) in enumerate([(0, 0), (0, 4), (2, 2), (4, 0), (4, 4)]):
        crop = picture[top : top + 12, left : left + 12].astype(np.float32)
        assert np.allclose(views[i].permute(1, 2, 0).numpy(), crop - mean, atol=1e-4)
        assert np.allclose(views[i + 5].permute(1, 2, 0).numpy(), crop[:, ::-1] - mean, atol=1e-4)


def test_features_are_the_named_layers_outputs(predictor, pictures):
    picture = next(pictures.rglob("*.png"))
    assert predictor.features(picture, "fc6").shape == (16,)
    assert predictor.features(picture, "conv1").shape == (8, 6, 6)
    logits = predictor.features(picture, "fc8")
    assert torch.allclose(torch.softmax(logits, 0), predictor.probabilities(picture, views=1), atol=1e-6)
    with pytest.raises(ValueError, match="no layer 'fc9'"):
        predictor.features(picture, "fc9")


def test_pixels_of_another_kind_are_refused(predictor):
    with pytest.raises(DataError, match="float32"):
        predictor.top5(np.zeros((8, 8, 3), np.float32))


def test_weights_that_are_not_finite_or_not_the_nets_are_refused(predictor, tmp_path):
    tensors, passport = checkpoint.load_model(predictor.path)
    broken = {**tensors, "fc8.bias": torch.full((3,), torch.nan)}
    checkpoint.save_model(tmp_path / "nan.safetensors", broken, passport)
    with pytest.raises(CheckpointError, match="not finite"):
        alexnet.load(tmp_path / "nan.safetensors")
    checkpoint.save_model(tmp_path / "other.safetensors", {**tensors, "fc8.bias": torch.zeros(4)}, passport)
    with pytest.raises(CheckpointError, match="does not fit"):
        alexnet.load(tmp_path / "other.safetensors")


def test_a_model_file_is_the_same_bytes_every_time(predictor, tmp_path):
    tensors, passport = checkpoint.load_model(predictor.path)
    for i in range(5):
        checkpoint.save_model(tmp_path / f"{i}.safetensors", tensors, passport)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(5)}) == 1
