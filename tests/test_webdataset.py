"""WebDataset shards: what belongs together, where labels come from, what is refused."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from alexnet.data.pack import open_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import DataError

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def picture(label: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 90), COLOURS[label]).save(file, kind)
    return file.getvalue()


def sample(key: str, label: int, ext: str = "png", by: str = "cls") -> dict[str, bytes]:
    kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(ext, ext.upper())
    text = str(label) if by == "cls" else json.dumps({"label": label, "caption": "x"})
    return {f"{key}.{ext}": picture(label, kind), f"{key}.{by}": text.encode()}


def put(path: Path, files: dict[str, bytes | tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = 0 if member is data else len(data)
            tar.addfile(member, None if member is data else io.BytesIO(data))
    return path


def make_set(folder: Path) -> Path:
    put(folder / "pets-train-000000.tar", sample("a/1", 0, "jpg") | sample("a/2", 2, "jpeg") | sample("b/1", 1))
    put(folder / "pets-train-000001.tar", sample("a/1", 1, "webp", "json") | sample("2", 2) | {"alone.cls": b"1"})
    put(folder / "pets-val-000000.tar", sample("v1", 2) | sample("v2", 0, by="json") | {"v2.seg.pth": b"x"})
    return folder


@pytest.mark.parametrize("names", [None, ["zebra", "ant", "cow"]])
def test_the_whole_way(tmp_path, names):
    make_set(tmp_path / "pets")
    if names:
        (tmp_path / "pets/classes.txt").write_text("\n".join(names) + "\n")
    source = open_source(tmp_path / "pets")
    assert (source.name, source.classes) == ("pets", names or ["0", "1", "2"])
    assert [(item.key, item.label) for item in source.splits["train"]] == [
        ("pets-train-000000.tar/a/1.jpg", 0),
        ("pets-train-000000.tar/a/2.jpeg", 2),
        ("pets-train-000000.tar/b/1.png", 1),
        ("pets-train-000001.tar/2.png", 2),
        ("pets-train-000001.tar/a/1.webp", 1),
    ]
    assert any("1 keys without a picture" in note for note in source.notes)
    pack(source, tmp_path / "pack", size_px=32, encoding="raw", workers=2)
    opened = open_pack(tmp_path / "pack")
    assert opened.meta["class_counts"] == {"train": [1, 2, 2], "val": [1, 0, 1]}
    for part in opened.splits.values():
        assert [int(part.pixels(i).mean((0, 1)).argmax()) for i in range(len(part.labels))] == list(part.labels)


def test_shards_without_split_names_and_words_for_labels(tmp_path):
    files = {}
    for i in range(9):
        files |= {f"{i}.png": picture(i % 3), f"{i}.cls": b"red\n green blue".split()[i % 3]}
    put(tmp_path / "00000.tar", files)
    source = open_source(tmp_path)
    assert source.classes == ["blue", "green", "red"]
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 6, "val": 3}
    for item in source.splits["val"]:
        assert item.read() == picture(["red", "green", "blue"].index(source.classes[item.label]))


def link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
    return member


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../1.png": b"x", "../1.cls": b"0"}, "unsafe names"),
        ({"/1.png": b"x"}, "unsafe names"),
        ({"1.png": link("1.png")}, "links"),
        ({"1.png": b"x"}, r"1 has a picture but neither 1.cls nor 1.json"),
        ({"1.png": b"x", "1.cls": b""}, "no label that is a number"),
        ({"1.png": b"x", "1.json": b"[1]"}, "no label that is a number"),
        ({"1.png": b"x", "1.json": b"[" * 5000}, "no label that is a number"),
        ({"1.png": b"x", "1.json": b'{"label": true}'}, "no label that is a number"),
        ({"1.png": b"x", "1.cls": b"3"}, r"has the label 3; labels lie in 0 ... 2"),
        ({"1.png": b"x", "1.cls": b"-1"}, r"has the label -1"),
        ({"1.png": b"x", "1.cls": b"zebra"}, "both numbers and words"),
        ({"1.png": b"x", "1.cls": b"0" * (1 << 21)}, "the label of 1 has 2,097,152 bytes"),
    ],
)
def test_what_is_refused(tmp_path, files, message):
    put(tmp_path / "train-0.tar", sample("a", 0) | sample("b", 1) | sample("c", 2))
    put(tmp_path / "train-1.tar", files)
    (tmp_path / "classes.txt").write_text("zebra\nant\ncow\n")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)


def test_val_without_train_and_tars_of_something_else(tmp_path):
    path = put(tmp_path / "val-0.tar", sample("a", 0))
    with pytest.raises(DataError, match="none for training"):
        open_source(tmp_path)
    path.unlink()
    put(tmp_path / "backup.tar", {"x.txt": b"x"})
    with pytest.raises(DataError, match=r"expected key.jpg with key.cls"):
        open_source(tmp_path)


@pytest.mark.parametrize("nbytes", [700, 1024, 2000, 3584])
def test_truncated_shard(tmp_path, nbytes):
    path = put(tmp_path / "train-0.tar", {f"{i}.cls": b"1" for i in range(5)})
    path.write_bytes(path.read_bytes()[:nbytes])
    with pytest.raises(DataError, match=r"train-0.tar is not a sound tar archive"):
        open_source(tmp_path)


def test_header_that_promises_a_giant_name(tmp_path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "train-0.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError, match="a header of"):
        open_source(tmp_path)


@pytest.mark.parametrize("size", [-512, -(1 << 40), 1 << 50])
def test_sizes_that_lead_outside(tmp_path, size):
    member = tarfile.TarInfo("1.png")
    member.size = size
    (tmp_path / "train-0.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(DataError):
        open_source(tmp_path)
