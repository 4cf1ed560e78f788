"""Features files: the same numbers as one picture at a time, whole or absent, for every layer, suffix and half."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny import spec

import alexnet
from alexnet import checkpoint, featurefiles, runs
from alexnet.errors import DataError, MachineError, UsageError
from alexnet.extract import layer_named
from alexnet.features import write
from alexnet.net import AlexNet

LAYERS = ["conv1", "rnorm1", "pool1", "relu1", "conv2", "relu2", "cnorm2", "flat", "fc6", "relu6", "drop6", "fc8"]


def model(pack, path, *settings, **replaced):
    """The predictor of an untrained tiny net."""
    its_spec = spec(*settings)
    prep = runs.preprocessing(its_spec, pack)
    weights = {**AlexNet(its_spec.net, seed=1).state_dict(), **replaced}
    passport = runs.passport(its_spec, 1, pack, prep, None)
    checkpoint.save_model(path, runs.model_tensors(weights, prep), passport)
    return alexnet.load(path, "cpu", "fp32")


@pytest.fixture(scope="module")
def predictor(tiny_pack, tmp_path_factory):
    return model(tiny_pack, tmp_path_factory.mktemp("features") / "model.safetensors")


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_is_what_one_picture_at_a_time_gives(predictor, tiny_pack, tmp_path, layer):
    record = write(predictor, tiny_pack, layer, tmp_path / "f.npy", batch=4)
    split, got = tiny_pack.splits["val"], np.load(tmp_path / "f.npy")
    wanted = np.stack([predictor.features(split.pixels(i), layer).numpy() for i in range(len(split))])
    assert record["shape"] == list(wanted.shape[1:])
    assert record["pictures"] == len(split) == 15
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_keys_and_labels_lie_beside_the_npy(predictor, tiny_pack, tmp_path):
    write(predictor, tiny_pack, "fc6", tmp_path / "f.npy", split="train", batch=20)
    split = tiny_pack.splits["train"]
    rows = list(csv.DictReader((tmp_path / "f.npy.keys.csv").open()))
    assert [row["key"] for row in rows] == [split.key(i) for i in range(66)]
    assert [int(row["label"]) for row in rows] == split.labels.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.npy.keys.csv"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_holds_the_same_in_row_groups(predictor, tiny_pack, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(featurefiles, "ROW_GROUP_NBYTES", 2 * 4 * 288 * (2 if dtype == "float16" else 4))  # two batches
    write(predictor, tiny_pack, "conv1", tmp_path / "f.npy", dtype=dtype, batch=4)
    write(predictor, tiny_pack, "conv1", tmp_path / "f.parquet", dtype=dtype, batch=4)
    file = pq.ParquetFile(tmp_path / "f.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8, 7]
    table, split = file.read(), tiny_pack.splits["val"]
    shape = json.loads(table.schema.metadata[b"shape"])
    assert shape == [8, 6, 6]
    column = table["features"].combine_chunks()
    assert column.type.list_size == 288
    got = column.flatten().to_numpy().reshape(-1, *shape)
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, np.load(tmp_path / "f.npy"))
    assert table["key"].to_pylist() == [split.key(i) for i in range(15)]
    assert table["class"].to_pylist() == [tiny_pack.classes[label] for label in table["label"].to_pylist()]


def test_a_convolution_keeps_what_its_relu_takes_away(predictor, tiny_pack, tmp_path):
    for layer in ("conv2", "relu2"):
        write(predictor, tiny_pack, layer, tmp_path / f"{layer}.npy")
    before, after = np.load(tmp_path / "conv2.npy"), np.load(tmp_path / "relu2.npy")
    assert before.min() < 0
    assert np.array_equal(np.maximum(before, 0), after)


@pytest.mark.parametrize("layer", ["conv1", "flat", "fc6"])
def test_the_towers_are_the_two_halves(predictor, tiny_pack, tmp_path, layer):
    for tower in (None, "a", "b"):
        write(predictor, tiny_pack, layer, tmp_path / f"{tower}.npy", tower=tower)
    whole, a, b = (np.load(tmp_path / f"{tower}.npy") for tower in (None, "a", "b"))
    assert a.shape == b.shape
    assert np.array_equal(np.concatenate([a, b], axis=1), whole)


def test_before_is_the_input_of_a_layer(predictor, tiny_pack, tmp_path):
    assert write(predictor, tiny_pack, None, tmp_path / "f.npy", before="fc8")["layer"] == "drop6"
    logits = np.load(tmp_path / "f.npy") @ predictor.net.fc8.weight.detach().numpy().T
    write(predictor, tiny_pack, "fc8", tmp_path / "fc8.npy")
    wanted = np.load(tmp_path / "fc8.npy") - predictor.net.fc8.bias.detach().numpy()
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "kind", "wanted"),
    [
        *(("conv1", "relu", "pool1"), ("pool1", "pool", "rnorm1"), ("conv2", "relu", "conv2")),
        *(("cnorm2", "relu", "conv2"), ("fc6", "relu", "fc6"), ("fc6", "drop", "relu6"), ("relu6", "relu", "fc6")),
    ],
)
def test_before_a_kind_is_the_input_of_that_kind_in_the_same_group(predictor, layer, kind, wanted):
    assert layer_named(predictor.net, layer, kind) == wanted


def test_the_sixth_convolution_has_a_group_of_its_own():
    net = AlexNet(spec("net.sixth_conv=true").net)
    assert layer_named(net, "conv6", "relu") == "conv6"
    assert layer_named(net, "relu_conv6", "relu") == "conv6"
    assert layer_named(net, "fc6", "relu") == "fc6"


def test_only_the_first_pictures(predictor, tiny_pack, tmp_path):
    write(predictor, tiny_pack, "fc6", tmp_path / "all.npy")
    assert write(predictor, tiny_pack, "fc6", tmp_path / "few.h5", pictures=7, batch=4)["pictures"] == 7
    few, whole = featurefiles.read(tmp_path / "few.h5"), featurefiles.read(tmp_path / "all.npy")
    assert few.keys == whole.keys[:7]
    np.testing.assert_allclose(few.rows(0, 7), whole.rows(0, 7), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_every_format_reads_back_what_was_written(predictor, tiny_pack, tmp_path, monkeypatch, suffix, dtype):
    monkeypatch.setattr(featurefiles, "ROW_GROUP_NBYTES", 2 * 4 * 16 * 2)  # several row groups
    write(predictor, tiny_pack, "conv2", tmp_path / "whole.npy", tower="b", dtype=dtype)
    out, split = tmp_path / f"f{suffix}", tiny_pack.splits["val"]
    record = write(predictor, tiny_pack, "conv2", out, tower="b", dtype=dtype, batch=4)
    saved, wanted = featurefiles.read(out), np.load(tmp_path / "whole.npy")
    assert (record["dtype"], list(saved.shape)) == (dtype, record["shape"])
    assert saved.keys == [split.key(i) for i in range(15)]
    assert saved.labels.tolist() == split.labels.tolist()
    for first, last in ((0, 15), (3, 4), (2, 11), (7, 8), (14, 15), (5, 5)):
        rows = saved.rows(first, last)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, wanted[first:last].reshape(last - first, 16), rtol=1e-3, atol=1e-5)
    if suffix != ".npy":
        assert saved.facts == {"layer": "conv2", "tower": "b", "views": 1}


def test_hdf5_is_open_to_other_programs(predictor, tiny_pack, tmp_path):
    import h5py

    write(predictor, tiny_pack, "fc6", tmp_path / "f.h5", dtype="float16")
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["features"].dtype == np.float16
        assert file["class_names"].asstr()[:].tolist() == tiny_pack.classes
        assert (file["labels"].dtype, file.attrs["layer"]) == (np.int32, "fc6")


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_other_files_are_no_features(tmp_path, suffix):
    with pytest.raises(DataError, match="no file of features"):
        featurefiles.read(tmp_path / f"f{suffix}")
    for content in (b"", b"hello" * 100):
        (tmp_path / f"f{suffix}").write_bytes(content)
        with pytest.raises(DataError, match="not written by alexnet features"):
            featurefiles.read(tmp_path / f"f{suffix}")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError):
        featurefiles.read(tmp_path / "objects.npy")


@torch.no_grad()
def test_ten_views_are_averaged(predictor, tiny_pack, tmp_path):
    write(predictor, tiny_pack, "fc6", tmp_path / "f.npy", views=10, batch=4)
    picture = tiny_pack.splits["val"].pixels(9)
    wanted = predictor.net(predictor.views(picture, 10), until="fc6").mean(0)
    np.testing.assert_allclose(np.load(tmp_path / "f.npy")[9], wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("views", [1, 10])
def test_files_give_what_the_pack_gives(predictor, tiny_pack, pictures, tmp_path, views):
    keys = [tiny_pack.splits["val"].key(i) for i in range(15)]
    files = [next(path for path in pictures.rglob("*.png") if str(path).endswith(key)) for key in keys]
    write(predictor, files, "fc6", tmp_path / "files.npy", views=views, batch=20)
    write(predictor, tiny_pack, "fc6", tmp_path / "pack.npy", views=views)
    np.testing.assert_allclose(np.load(tmp_path / "files.npy"), np.load(tmp_path / "pack.npy"), rtol=1e-4, atol=1e-5)
    rows = list(csv.reader((tmp_path / "files.npy.keys.csv").open()))
    assert rows[1] == [str(files[0]), "-1"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".h5"])
def test_a_stopped_run_leaves_nothing_that_looks_finished(predictor, tiny_pack, tmp_path, suffix):
    def stop(word):
        def show(done, total):
            assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")]
            if done == 8:
                raise KeyboardInterrupt

        return show

    with pytest.raises(KeyboardInterrupt):
        write(predictor, tiny_pack, "fc6", tmp_path / f"f{suffix}", batch=4, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "fc9"}, r"no layer 'fc9'; its layers: conv1, .*fc8$"),
        ({"layer": None}, "layer=fc7 or before=fc8"),
        ({"before": "fc8"}, "the group of fc6 has no 'fc8'"),
        ({"layer": "flat", "before": "relu"}, "the group of flat has no 'relu'"),
        ({"layer": None, "before": "fc9"}, "this net has no layer 'fc9'"),
        ({"pictures": 0}, "1 or more"),
        ({"layer": None, "before": "conv1"}, "only the pictures"),
        ({"out": "f.csv"}, r"\.npy, \.parquet, \.h5"),
        ({"out": "none/f.npy"}, "no folder .*none"),
        ({"out": "folder.npy"}, "is a folder"),
        ({"dtype": "float8"}, "float32 or float16"),
        ({"tower": "c"}, "a or b"),
        ({"layer": "fc8", "tower": "a"}, "belongs to both"),
        ({"views": 5}, r"1 \(centre\) or 10"),
        ({"split": "test"}, "no split 'test': train or val"),
        ({"batch": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(predictor, tiny_pack, tmp_path, options, message):
    (tmp_path / "folder.npy").mkdir()
    options = {"layer": "fc6", "out": "f.npy", **options}
    with pytest.raises(UsageError, match=message):
        write(predictor, tiny_pack, out=tmp_path / options.pop("out"), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npy"]


def test_a_one_tower_net_has_no_halves(tiny_pack, tmp_path):
    one = model(tiny_pack, tmp_path / "model.safetensors", "net.towers=1")
    with pytest.raises(UsageError, match="not split into two towers"):
        write(one, tiny_pack, "conv1", tmp_path / "f.npy", tower="b")


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_full_disk_is_told_and_an_older_file_stays(predictor, tiny_pack, tmp_path, suffix):
    out = tmp_path / f"f{suffix}"
    out.write_text("older")
    (tmp_path / f".tmp-f{suffix}").symlink_to("/dev/full")
    with pytest.raises(MachineError, match="No space left"):
        write(predictor, tiny_pack, "conv1", out)
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_hdf5_looks_for_room_first(predictor, tiny_pack, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(MachineError, match="No space left"):
        write(predictor, tiny_pack, "conv1", tmp_path / "f.h5")
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_do_not_fit_are_told(tiny_pack, tmp_path):
    large = model(tiny_pack, tmp_path / "model.safetensors", **{"fc8.bias": torch.full((3,), 1e5)})
    with pytest.raises(DataError, match=r"100,\d+, more than float16"):
        write(large, tiny_pack, "fc8", tmp_path / "f.npy", dtype="float16")
    assert write(large, tiny_pack, "fc8", tmp_path / "f.npy")["shape"] == [3]


def test_squares_of_another_size_are_refused(predictor, tiny_pack, tmp_path):
    from dataclasses import replace

    with pytest.raises(DataError, match="pack with --size 16"):
        write(predictor, replace(tiny_pack, size_px=32), "fc6", tmp_path / "f.npy")
