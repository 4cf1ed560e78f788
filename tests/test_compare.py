"""RSA and CKA against the formulas as they are printed, in float64; neighbours against sorting all of them."""

import json
import sys

import numpy as np
import pytest
import torch
from test_features import model
from tiny import spec

from alexnet import compare as comparison
from alexnet import featurefiles, features, neighbours
from alexnet.__main__ import main
from alexnet.compare import compare, inner_products, ranks
from alexnet.errors import DataError, UsageError
from alexnet.featurefiles import Saved, Table
from alexnet.net import AlexNet


def saved_of(x: np.ndarray, name: str = "x") -> Saved:
    keys = [str(i) for i in range(len(x))]
    return Saved(
        name, keys, np.zeros(len(x), np.int32), x.shape[1:], lambda first, last: x[first:last], {"layer": name}
    )


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, word for word."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    rest = one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    return (np.trace(k @ m) + rest) / (n * (n - 3))


def cka(x: np.ndarray, y: np.ndarray) -> float:
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def rsa(x: np.ndarray, y: np.ndarray, distance: str) -> float:
    """Pair by pair; ranks by counting."""
    apart = []
    for z in (x, y):
        pairs = [(z[i], z[j]) for i in range(len(z)) for j in range(i)]
        if distance == "correlation":
            values = np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in pairs])
        else:
            values = np.array([np.linalg.norm(a - b) for a, b in pairs])
        apart.append([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])
    return np.corrcoef(*apart)[0, 1]


@pytest.fixture
def three(tmp_path):
    """Three files of features of the same 13 pictures: unrelated, and one made of another; offsets far from zero."""
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((13, 7)) + 5, rng.standard_normal((13, 3, 2, 2)) - 2
    arrays = {"x": x, "y": x @ rng.standard_normal((7, 9)) + 0.5 * rng.standard_normal((13, 9)), "z": z}
    for name, array in arrays.items():
        write(tmp_path / f"{name}.parquet", array.astype(np.float32), name)
    return {tmp_path / f"{name}.parquet": array.reshape(13, -1) for name, array in arrays.items()}


def write(path, array: np.ndarray, layer: str = "fc7", keys=str) -> None:
    facts = {"layer": layer, "tower": "", "views": 1}
    labels = np.arange(len(array), dtype=np.int32) % 3
    featurefiles.write(path, Table(labels, ["a", "b", "c"], keys, array.shape[1:], "float32", iter([array]), facts))


@pytest.mark.parametrize("distance", ["correlation", "euclidean"])
@pytest.mark.parametrize("block_nbytes", [1, 200, 1 << 26])
def test_every_pair_is_what_the_formulas_give(three, monkeypatch, distance, block_nbytes):
    monkeypatch.setattr(comparison, "BLOCK_NBYTES", block_nbytes)
    record = compare(list(three), distance=distance)
    arrays = list(three.values())
    wanted = {
        "rsa": [[rsa(a, b, distance) for b in arrays] for a in arrays],
        "cka": [[cka(a, b) for b in arrays] for a in arrays],
    }
    for word in ("rsa", "cka"):
        np.testing.assert_allclose(record[word], wanted[word], atol=1e-5)
        np.testing.assert_allclose(np.diag(record[word]), 1, atol=1e-9)
    assert [item["layer"] for item in record["items"]] == ["x", "y", "z"]
    assert record["items"][2]["shape"] == [3, 2, 2]
    assert record["cka"][0][1] > 0.5 > abs(record["cka"][0][2])


def test_unbiased_where_the_plain_estimate_is_far_off():
    """Few pictures, many unrelated features: the plain CKA is near 1, this one near 0 (Murphy et al. 2024)."""
    rng = np.random.default_rng(1)
    values = []
    for _ in range(30):
        a, b = (saved_of(rng.standard_normal((20, 400)).astype(np.float32)) for _ in range(2))
        pairs = [comparison._pairs(comparison.Item("", "", "", one), 20, "correlation")[1] for one in (a, b)]
        values.append(float(pairs[0] @ pairs[1]))
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(30) < 0.1


def test_rotated_scaled_and_shifted_features_are_the_same_to_cka():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((30, 6))
    turned = 3 * x @ np.linalg.qr(rng.standard_normal((6, 6)))[0] + 100
    pairs = [comparison._pairs(comparison.Item("", "", "", saved_of(y)), 30, "euclidean") for y in (x, turned)]
    assert pairs[0][1] @ pairs[1][1] == pytest.approx(1, abs=1e-5)
    assert pairs[0][0] @ pairs[1][0] == pytest.approx(1, abs=1e-3)


def test_ranks_share_ties():
    assert ranks(np.array([3.0, 1, 3, 2, 3])).tolist() == [4, 1, 4, 2, 4]


def test_inner_products_of_fewer_rows(monkeypatch):
    monkeypatch.setattr(comparison, "BLOCK_NBYTES", 3 * 4 * 5)
    x = np.random.default_rng(3).standard_normal((11, 5))
    by_picture, by_feature = inner_products(saved_of(x), 8)
    rows, columns = x[:8] - x[:8].mean(1, keepdims=True), x[:8] - x[:8].mean(0)
    np.testing.assert_allclose(by_picture, rows @ rows.T, atol=1e-5)
    np.testing.assert_allclose(by_feature, columns @ columns.T, atol=1e-5)


@pytest.fixture(scope="module")
def nets(tiny_pack, tmp_path_factory):
    """Model files of two untrained tiny nets that differ in fc6 alone."""
    folder = tmp_path_factory.mktemp("compare")
    model(tiny_pack, folder / "one.safetensors")
    generator = torch.Generator().manual_seed(0)
    other = torch.randn(AlexNet(spec().net).fc6.weight.shape, generator=generator)
    model(tiny_pack, folder / "two.safetensors", **{"fc6.weight": other})
    return folder / "one.safetensors", folder / "two.safetensors"


def test_runs_layers_and_towers(nets, tiny_pack):
    record = compare(nets, ["conv2", "fc6"], towers=["a", "b"], data=tiny_pack.path, pictures=12, device="cpu")
    names = [(item["source"], item["layer"], item["tower"]) for item in record["items"]]
    assert names == [(str(net), layer, tower) for net in nets for layer in ("conv2", "fc6") for tower in "ab"]
    assert record["pictures"] == 12
    cka = np.array(record["cka"])
    assert cka[0, 4] == pytest.approx(1, abs=1e-6)  # the same convolutions
    assert cka[2, 6] < 0.99
    assert json.loads(json.dumps(record)) == record


def test_a_run_and_a_file_of_its_features_are_the_same(nets, tiny_pack, tmp_path):
    features.write(nets[0], tiny_pack, "fc6", tmp_path / "fc6.h5")
    record = compare([nets[0], tmp_path / "fc6.h5"], ["fc6"], data=tiny_pack.path)
    assert record["pictures"] == 15
    np.testing.assert_allclose(record["rsa"], 1, atol=1e-6)


def test_what_cannot_be_compared_is_told(nets, tiny_pack, tmp_path):
    rng = np.random.default_rng(4)
    for name, array, keys in (
        ("good", rng.standard_normal((6, 4)), str),
        ("others", rng.standard_normal((6, 4)), lambda i: f"other {i}"),
        ("few", rng.standard_normal((3, 4)), str),
        ("flat", np.where(np.arange(6)[:, None] == 2, 7.0, rng.standard_normal((6, 4))), str),
        ("same", np.tile(np.arange(4.0), (6, 1)), str),
        ("nan", np.full((6, 4), np.nan), str),
    ):
        write(tmp_path / f"{name}.npy", array.astype(np.float32), keys=keys)
    good = tmp_path / "good.npy"
    for other, kind, message in (
        ("others", DataError, "other pictures"),
        ("few", DataError, "too few"),
        ("flat", DataError, "same number all over for 2"),
        ("same", DataError, "the same for all 6"),
        ("nan", DataError, "not finite"),
    ):
        with pytest.raises(kind, match=message):
            compare([good, tmp_path / f"{other}.npy"])
    with pytest.raises(UsageError, match="nothing to be compared with"):
        compare([good])
    with pytest.raises(UsageError, match="name the layers"):
        compare([good, nets[0]], data=tiny_pack.path)
    with pytest.raises(UsageError, match="correlation or euclidean"):
        compare([good, good], distance="cosine")


def verb(monkeypatch, capsys, *args) -> str:
    """What `alexnet ARGS` prints."""
    monkeypatch.setattr(sys, "argv", ["alexnet", *map(str, args)])
    main()
    return capsys.readouterr().out


def test_the_verbs(nets, tiny_pack, tmp_path, monkeypatch, capsys):
    def say(*args):
        return verb(monkeypatch, capsys, *args)

    machine, out = ["--device", "cpu", "--precision", "fp32"], tmp_path / "f.h5"
    take = ["--layer", "conv2", "--before", "relu", "--tower", "a", "--pictures", 9]
    record = json.loads(say("features", nets[0], tiny_pack.path, "--out", out, *take, *machine, "--json"))
    assert (record["layer"], record["tower"], record["pictures"]) == ("conv2", "a", 9)
    layers = ["--layer", "fc6", "relu6", "--data", tiny_pack.path]
    record = json.loads(say("compare", out, *nets, *layers, *machine, "--json"))
    assert [item["layer"] for item in record["items"]] == ["conv2", "fc6", "relu6", "fc6", "relu6"]
    table = say("compare", *nets, *layers, *machine)
    assert "15 pictures" in table
    assert "RSA (correlation)" in table
    answers = json.loads(say("neighbours", out, "--query", tiny_pack.splits["val"].key(2), "--count", 3, "--json"))
    assert len(answers[0]["neighbours"]) == 3
    record = json.loads(say("convert", nets[0], tmp_path / "n.onnx", "--with-preprocessing", "square", "--json"))
    assert record["format"] == "onnx"


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_neighbours_are_the_first_of_all_sorted(tmp_path, monkeypatch, distance):
    monkeypatch.setattr(neighbours, "BLOCK_NBYTES", 8 * 5 * 4)
    x = np.random.default_rng(5).standard_normal((23, 5)).astype(np.float32)
    write(tmp_path / "x.npy", x)
    for answer in neighbours.search(tmp_path / "x.npy", ["7", "22"], count=4, distance=distance):
        query = x[int(answer["query"])].astype(np.float64)
        if distance == "euclidean":
            apart = np.linalg.norm(x - query, axis=1)
        else:
            apart = 1 - x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        order = [i for i in np.argsort(apart) if i != int(answer["query"])][:4]
        assert [one["key"] for one in answer["neighbours"]] == [str(i) for i in order]
        assert [one["label"] for one in answer["neighbours"]] == [i % 3 for i in order]
        np.testing.assert_allclose([one["distance"] for one in answer["neighbours"]], apart[order], atol=1e-6)


def test_neighbours_of_a_picture_file(nets, tiny_pack, pictures, tmp_path):
    features.write(nets[0], tiny_pack, "fc6", tmp_path / "fc6.h5", tower="b")
    features.write(nets[0], tiny_pack, "fc6", tmp_path / "fc6.npy", tower="b")
    key = tiny_pack.splits["val"].key(3)
    file = next(str(path) for path in pictures.rglob("*.png") if str(path).endswith(key))
    first = neighbours.search(tmp_path / "fc6.h5", [file], run=nets[0], count=2)[0]["neighbours"][0]
    assert (first["key"], first["distance"]) == (key, pytest.approx(0, abs=1e-3))
    with pytest.raises(UsageError, match="--run"):
        neighbours.search(tmp_path / "fc6.h5", [file])
    with pytest.raises(UsageError, match="--layer"):
        neighbours.search(tmp_path / "fc6.npy", [file], run=nets[0])
    with pytest.raises(UsageError, match="holds fc6, not conv1"):
        neighbours.search(tmp_path / "fc6.h5", [file], run=nets[0], layer="conv1")
    with pytest.raises(UsageError, match="name a picture"):
        neighbours.search(tmp_path / "fc6.h5", [])
    with pytest.raises(DataError, match="another net"):
        neighbours.search(tmp_path / "fc6.npy", [file], run=nets[0], layer="fc8")
