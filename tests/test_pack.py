"""A pack holds what went in, is the same for any number of workers, and no damage to it goes unseen."""

import csv
import io
import json
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from alexnet.data import image
from alexnet.data.pack import is_pack, open_pack, pack, verify_pack
from alexnet.data.packfile import checksum
from alexnet.data.sources import Item, Source
from alexnet.errors import DataError, UsageError

SIZES = [(40, 50), (90, 70), (64, 64), (33, 120)]
CLASSES = ["ant", "bee", "cow"]


def noise(i: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(i).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_source(n_train: int = 40, n_val: int = 9, bad: tuple[int, ...] = ()) -> Source:
    def fetch(i: int) -> bytes:
        return b"no picture" if i in bad else png(noise(i, *SIZES[i % 4]))

    def items(split: str, start: int, n: int) -> list[Item]:
        return [Item(f"{split}/{i}.png", i % 3, fetch, i) for i in range(start, start + n)]

    return Source("mix", CLASSES, {"train": items("train", 0, n_train), "val": items("val", 1000, n_val)})


@pytest.fixture
def packed(tmp_path) -> Path:
    pack(make_source(), tmp_path / "p", size_px=48, encoding="jpeg", shard_rows=16, workers=2)
    return tmp_path / "p"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_went_in_comes_out(packed):
    opened = open_pack(packed)
    assert (opened.size_px, opened.encoding, opened.classes) == (48, "jpeg", CLASSES)
    assert sorted(content(packed)) == [
        *("duplicates.csv", "mean.npy", "pack.json", "rejected.csv"),
        *("train-00000.arrow", "train-00001.arrow", "train-00002.arrow", "val-00000.arrow"),
    ]
    split = opened.splits["train"]
    assert (len(split), len(opened.splits["val"])) == (40, 9)
    keys = [split.key(i) for i in range(len(split))]
    assert keys != sorted(keys)
    assert sorted(keys) == sorted(item.key for item in make_source().splits["train"])
    for i, key in enumerate(keys):
        number = int(key.removeprefix("train/").removesuffix(".png"))
        expected = image.encode_jpeg(image.square(noise(number, *SIZES[number % 4]), 48))
        assert bytes(split.image_bytes(i)) == expected
        assert split.labels[i] == number % 3
        assert split.crc32[i] == zlib.crc32(expected)
    np.testing.assert_array_equal(split.pixels(17), image.decode(bytes(split.image_bytes(17))))
    with pytest.raises(IndexError):
        split.pixels(40)


def test_raw_pixels_are_exact(tmp_path):
    pack(make_source(6, 3), tmp_path / "p", size_px=32)
    split = open_pack(tmp_path / "p").splits["val"]
    number = int(split.key(1).removeprefix("val/").removesuffix(".png"))
    np.testing.assert_array_equal(split.pixels(1), image.square(noise(number, *SIZES[number % 4]), 32))


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_same_bytes_for_any_number_of_workers(tmp_path, encoding):
    for workers in (1, 2, 5):
        pack(make_source(100), tmp_path / str(workers), size_px=48, encoding=encoding, workers=workers, shard_rows=30)
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "5")
    pack(make_source(100), tmp_path / "other", size_px=48, encoding=encoding, seed=1)
    assert open_pack(tmp_path / "other").fingerprint != open_pack(tmp_path / "1").fingerprint


def test_statistics_against_numpy(packed):
    opened = open_pack(packed)
    train = np.stack([image.square(noise(i, *SIZES[i % 4]), 48) for i in range(40)]).astype(np.float64)
    rgb = train.reshape(-1, 3)
    np.testing.assert_allclose(opened.mean_image, train.mean(0), rtol=1e-6)
    assert opened.mean_image.dtype == np.float32
    np.testing.assert_allclose(opened.channel_means, rgb.mean(0), rtol=1e-12)
    covariance = np.cov(rgb.T, bias=True)
    np.testing.assert_allclose(
        (opened.colour_axes * opened.colour_stds**2) @ opened.colour_axes.T, covariance, rtol=1e-9
    )
    assert (np.diff(opened.colour_stds) <= 0).all()
    largest = np.abs(opened.colour_axes).argmax(0)
    assert (opened.colour_axes[largest, range(3)] > 0).all()


def test_refused_pictures_are_listed(tmp_path):
    said = []
    with pytest.raises(
        DataError, match=r"2 of 49 pictures .*2 not a picture.* more than 1 %(.|\n)*--allow-rejects 0.041"
    ):
        pack(make_source(bad=(3, 1002)), tmp_path / "p", size_px=32, say=said.append)
    assert not is_pack(tmp_path / "p")
    assert (tmp_path / "p/rejected.csv").read_text().count("not a picture") == 2
    meta = pack(make_source(bad=(3, 1002)), tmp_path / "p", size_px=32, say=said.append, allow_rejects=0.041)
    assert meta["rejected"] == {"train": 1, "val": 1}
    assert meta["rejected_reasons"] == {"not a picture": 2}
    assert meta["counts"] == {"train": 39, "val": 8}
    with open(tmp_path / "p/rejected.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["key"]) for row in rows] == [("train", "train/3.png"), ("val", "val/1002.png")]
    assert all("not a picture" in row["reason"] for row in rows)
    assert said == ["2 of 49 pictures were refused (2 not a picture); rejected.csv lists them"]


def test_one_refused_picture_stops_nothing_unless_none_may_be(tmp_path):
    assert pack(make_source(bad=(3,)), tmp_path / "p", size_px=32)["rejected"]["train"] == 1
    with pytest.raises(DataError, match="1 of 49"):
        pack(make_source(bad=(3,)), tmp_path / "q", size_px=32, allow_rejects=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        pack(make_source(), tmp_path / "r", allow_rejects=5)


@pytest.mark.parametrize(
    ("split", "bad", "name"), [("train", range(1, 40, 3), "bee"), ("val", range(1001, 1009, 3), "cow")]
)
def test_class_without_pictures_left(tmp_path, split, bad, name):
    with pytest.raises(DataError, match=rf"class '{name}'.*{split}/.*not a picture"):
        pack(make_source(bad=tuple(bad)), tmp_path / "p", allow_rejects=1)
    assert not is_pack(tmp_path / "p")


def test_unreadable_file_is_refused_not_fatal(tmp_path):
    source = make_source(7)
    gone = Item("train/gone.png", 0, lambda where: Path(where).read_bytes(), str(tmp_path / "gone.png"))
    source.splits["train"].append(gone)
    assert pack(source, tmp_path / "p", size_px=32)["rejected"]["train"] == 1


def test_opens_with_arrow_alone(packed):
    table = pa.ipc.open_file(packed / "train-00000.arrow").read_all()
    assert table.num_rows == 16
    assert [(f.name, str(f.type)) for f in table.schema] == [
        *(("image", "large_binary"), ("label", "int32"), ("key", "string"), ("crc32", "uint32")),
    ]


def test_stopped_packing_is_no_pack_and_is_redone(tmp_path):
    def stop(done: int, total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(make_source(90), tmp_path / "p", size_px=48, shard_rows=8, progress=stop)
    assert (tmp_path / "p/train-00000.arrow").exists()
    assert not is_pack(tmp_path / "p")
    with pytest.raises(DataError, match="not finished"):
        open_pack(tmp_path / "p")
    pack(make_source(90), tmp_path / "p", size_px=48, shard_rows=8)
    pack(make_source(90), tmp_path / "q", size_px=48, shard_rows=8)
    assert content(tmp_path / "p") == content(tmp_path / "q")


def test_never_writes_over_anything(packed, tmp_path):
    with pytest.raises(DataError, match="holds a pack already"):
        pack(make_source(), packed)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        pack(make_source(), tmp_path / "other")
    with pytest.raises(DataError, match="is a file"):
        pack(make_source(), tmp_path / "other/thesis.tex")


@pytest.mark.parametrize("wrong", [{"size_px": -1}, {"size_px": 5000}, {"encoding": "gif"}])
def test_wrong_settings(tmp_path, wrong):
    with pytest.raises(UsageError):
        pack(make_source(), tmp_path / "p", **wrong)


def test_verify_passes(packed):
    assert verify_pack(packed)["images"] == 49


@pytest.mark.parametrize("seed", range(12))
def test_verify_finds_one_flipped_bit(packed, seed):
    rng = np.random.default_rng(seed)
    path = packed / ["train-00001.arrow", "val-00000.arrow"][seed % 2]
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    with pytest.raises(DataError, match=path.name):
        verify_pack(packed)


def test_verify_names_the_damaged_picture(packed):
    split = open_pack(packed).splits["train"]
    key, stored = split.key(20), bytes(split.image_bytes(20))
    path = packed / "train-00001.arrow"
    path.write_bytes(path.read_bytes().replace(stored, stored[:50] + b"\0" + stored[51:]))
    with pytest.raises(DataError, match=f"damaged pictures: {key};|damaged pictures: {key}\\)"):
        verify_pack(packed)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: cut(p / "train-00001.arrow"), r"train-00001\.arrow has"),
        (lambda p: (p / "train-00001.arrow").unlink(), r"train-00001\.arrow is missing"),
        (lambda p: (p / "mean.npy").unlink(), r"mean\.npy"),
        (lambda p: cut(p / "mean.npy"), r"mean\.npy"),
        (lambda p: (p / "pack.json").unlink(), "not finished"),
        (lambda p: (p / "train-00000.arrow").write_bytes(bytes((p / "train-00000.arrow").stat().st_size)), "damaged"),
    ],
)
def test_damage_seen_when_opened(packed, damage, message):
    damage(packed)
    with pytest.raises(DataError, match=message):
        open_pack(packed)


HOSTILE = {
    "not json": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "bytes": b"\xff\xfe\x00",
    "version": {"format_version": 2},
    "no version": {"format_version": None},
    "huge square": {"size_px": 10**9},
    "boolean square": {"size_px": True},
    "encoding": {"encoding": "exe"},
    "no classes": {"classes": []},
    "fewer classes than labels": {"classes": ["ant"]},
    "not a number": {"channel_means": [1, float("nan"), 2]},
    "axes": {"colour_axes": [[1, 2], [3]]},
    "mean elsewhere": {"mean_image": "../mean.npy"},
    "shards": {"shards": {"file": "x"}},
    "path": ("file", "../../etc/passwd"),
    "absolute path": ("file", "/train-00000.arrow"),
    "other split": ("split", "val"),
    "rows": ("rows", 10**9),
    "negative rows": ("rows", -1),
    "nbytes": ("nbytes", 5),
    "no hash": ("sha256", None),
}


def what_training_sees(path: Path) -> list:
    """Everything that training takes from a pack."""
    opened = open_pack(path)
    splits = opened.splits.values()
    pictures = [split.pixels(i).tobytes() for split in splits for i in range(len(split))]
    return [pictures, [split.labels.tolist() for split in splits], opened.mean_image.tobytes(), opened.classes]


@pytest.mark.parametrize("name", ["pack.json", "mean.npy", "train-00000.arrow", "val-00000.arrow"])
def test_a_flipped_bit_is_found_by_verify_and_never_reaches_training(packed, name):
    before, file, random = what_training_sees(packed), packed / name, np.random.default_rng(0)
    whole = file.read_bytes()
    for place in random.integers(len(whole), size=25):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(DataError):
            verify_pack(packed)
        with suppress(DataError):
            assert what_training_sees(packed) == before, f"byte {place} of {name}"


def signed(meta: dict) -> str:
    """pack.json as a hostile writer would make it: the checksum is right."""
    return json.dumps(meta | {"checksum": checksum(meta)})


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pack_json(packed, name):
    file = packed / "pack.json"
    change = HOSTILE[name]
    meta = json.loads(file.read_text())
    if isinstance(change, dict):
        change = signed(meta | change)
    elif isinstance(change, tuple):
        meta["shards"][0][change[0]] = change[1]
        change = signed(meta)
    file.write_bytes(change if isinstance(change, bytes) else change.encode())
    with pytest.raises(DataError) as caught:
        open_pack(packed)
    assert "\n" not in str(caught.value)


def test_verify_sees_renamed_classes(packed):
    file = packed / "pack.json"
    file.write_text(signed(json.loads(file.read_text().replace('"ant"', '"gnu"'))))
    with pytest.raises(DataError, match="fingerprint"):
        verify_pack(packed)


def test_two_at_once_are_kept_apart(tmp_path):
    def try_again(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another process"):
            pack(make_source(), tmp_path / "p")

    pack(make_source(5, 5), tmp_path / "p", size_px=32, progress=try_again)
    assert verify_pack(tmp_path / "p")["images"] == 10
    assert "lock" not in content(tmp_path / "p")
