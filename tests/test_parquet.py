"""Parquet files with pictures, as the Hugging Face hub has them."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexnet.data.pack import open_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import DataError

NAMES = ["zebra", "ant", "cow"]  # an order that is not the alphabet's
COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(label: int, size: tuple[int, int] = (80, 90)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[label]).save(file, "PNG")
    return file.getvalue()


def table(labels: list, *, names=NAMES, plain: bool = False, pictures=None, columns=("image", "label")) -> pa.Table:
    numbers = [NAMES.index(label) if isinstance(label, str) else label for label in labels]
    pictures = pictures or [picture(number % 3) for number in numbers]
    images = pa.array(pictures, pa.binary())
    if not plain:
        images = pa.array([{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(pictures)], STRUCT)
    made = pa.table([images, pa.array(labels)], names=list(columns))
    features = {columns[1]: {"names": names, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})} if names else {})


def put(path: Path, content: pa.Table, rows: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=rows)
    return path


def make_set(folder: Path, **how) -> Path:
    put(folder / "data/train-00000-of-00002.parquet", table([0, 1, 2, 2, 1], **how))
    put(folder / "data/train-00001-of-00002.parquet", table([1, 0, 2], **how))
    put(folder / "data/validation-00000-of-00001.parquet", table([2, 1, 0, 0], **how))
    put(folder / "data/test-00000-of-00001.parquet", table([-1, -1], **how))
    return folder


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label")])
def test_the_whole_way(tmp_path, plain, columns):
    source = open_source(make_set(tmp_path / "pets", plain=plain, columns=columns))
    assert (source.name, source.classes) == ("pets", NAMES)
    assert [item.label for item in source.splits["train"]] == [0, 1, 2, 2, 1, 1, 0, 2]
    assert [item.label for item in source.splits["val"]] == [2, 1, 0, 0]
    assert any("test-00000" in note for note in source.notes)
    pack(source, tmp_path / "pack", size_px=32, encoding="raw", workers=2)
    opened = open_pack(tmp_path / "pack")
    assert opened.meta["class_counts"] == {"train": [2, 3, 3], "val": [2, 1, 1]}
    for part in opened.splits.values():
        assert [int(part.pixels(i).mean((0, 1)).argmax()) for i in range(len(part.labels))] == list(part.labels)


def test_each_row_group_is_decoded_once(tmp_path, monkeypatch):
    source = open_source(make_set(tmp_path))
    spool = source.splits["train"][0].fetch.__self__
    taken = []
    take = spool._take
    monkeypatch.setattr(spool, "_take", lambda name, group: taken.append((name, group)) or take(name, group))
    spool.starts.clear()
    items = source.splits["train"]
    for item in (items[4], items[0], items[3], items[1], items[0], items[2]):
        assert item.read() == picture(item.label)
    assert [group for _, group in taken] == [2, 0, 1]


def test_one_file_with_words_for_labels_holds_some_out(tmp_path):
    path = put(tmp_path / "pets.parquet", table(NAMES * 5, names=None))
    source = open_source(path, val_fraction=0.2)
    assert (source.name, source.classes) == ("pets", ["ant", "cow", "zebra"])
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 12, "val": 3}
    for item in source.splits["val"]:
        assert item.read() == picture(NAMES.index(source.classes[item.label]))


def test_numbers_without_names_and_unlabelled_test_files(tmp_path):
    put(tmp_path / "train-0.parquet", table([0, 1, 2] * 3, names=None))
    put(tmp_path / "test-0.parquet", table([-1, -1], names=None))
    source = open_source(tmp_path)
    assert source.classes == ["0", "1", "2"]
    assert len(source.splits["val"]) == 3
    assert any("no labels" in note for note in source.notes)


def test_small_squares_keep_their_size(tmp_path):
    put(tmp_path / "a.parquet", table([0, 1, 2], pictures=[picture(i, (32, 32)) for i in range(3)]))
    assert open_source(tmp_path).size_px == 32


def test_a_row_without_a_picture_is_refused_alone(tmp_path):
    labels = [0, 1, 2, 0, 1, 2]
    pictures = [None, b"no picture", *(picture(label) for label in labels[2:])]
    put(tmp_path / "train-0.parquet", table(labels, pictures=pictures))
    put(tmp_path / "val-0.parquet", table(labels))
    meta = pack(open_source(tmp_path), tmp_path / "pack", size_px=32, workers=1, allow_rejects=0.2)
    assert meta["rejected"] == {"train": 2, "val": 0}
    assert "holds no picture" in (tmp_path / "pack/rejected.csv").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table([0, 1, 3]), r"has the label 3; labels lie in 0 ... 2"),
        (table([0, -1, 1]), r"has the label -1"),
        (table([0, 10**12, 1], names=None), r"has the label 1000000000000"),
        (table([0, None, 1], pictures=[b"x"] * 3), r"row 1 has the label None"),
        (table([0.5, 1.0], pictures=[b"x"] * 2), r"has the label 0.5"),
        (table([0, 1], columns=("picture", "label")), r"no column image or img; it has picture, label"),
        (table([0, 1], columns=("image", "y")), r"no column label"),
        (pa.table({"image": ["a.jpg", "b.jpg"], "label": [0, 1]}), r"column image is string"),
        (table([0, 1]).slice(0, 0), r"no rows"),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        open_source(put(tmp_path / "a.parquet", content))


@pytest.mark.parametrize("how", ["cut", "no parquet", "empty"])
def test_damaged_file(tmp_path, how):
    path = put(tmp_path / "a.parquet", table([0, 1, 2]))
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "no parquet": b"<html>" * 50, "empty": b""}[how])
    with pytest.raises(DataError, match="not a sound Parquet file"):
        open_source(path)


def test_damaged_pictures_are_refused_when_read(tmp_path):
    content = table([0, 1, 2] * 2, pictures=[bytes(range(256)) * 20 for _ in range(6)])
    path = put(tmp_path / "a.parquet", content, rows=6)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:1000])
    source.splits["train"][0].fetch.__self__.starts.clear()
    with pytest.raises(DataError, match="row group 0"):
        source.splits["train"][0].read()
