"""What is recognised as a set of pictures, and what is said about the rest."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data.sources import open_source
from alexnet.errors import DataError, UsageError


def put_picture(path: Path, colour: int = 0, size: tuple[int, int] = (90, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 10, 20)).save(path)


def make_folder(root: Path, splits=("train", "val"), classes=("cat", "dog"), n: int = 3, size=(90, 80)) -> Path:
    for split in splits:
        for name in classes:
            for i in range(n):
                put_picture(root / split / name / f"{i}.png", 40 * i, size)
    return root


def make_tar(path: Path, folder: Path, mode: str = "w", prefix: str = ".") -> Path:
    with tarfile.open(path, mode) as tar:
        tar.add(folder, prefix)
    return path


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_folder_with_splits(tmp_path, val):
    source = open_source(make_folder(tmp_path / "pets", ("train", val)))
    assert (source.name, source.classes, source.size_px, source.encoding) == ("pets", ["cat", "dog"], None, "jpeg")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 6, "val": 6}
    item = source.splits["train"][3]
    assert (item.key, item.label) == ("train/dog/0.png", 1)
    assert item.read() == (tmp_path / "pets/train/dog/0.png").read_bytes()


def test_val_goes_before_test(tmp_path):
    source = open_source(make_folder(tmp_path, ("train", "val", "test")))
    assert all(item.key.startswith("val/") for item in source.splits["val"])
    assert any("test" in note for note in source.notes)


def test_one_level_holds_out_the_same_share_of_each_class(tmp_path):
    make_folder(tmp_path, ("",), n=10)
    source = open_source(tmp_path, val_fraction=0.2)
    assert [sum(item.label == label for item in source.splits["val"]) for label in (0, 1)] == [2, 2]
    keys = {split: {item.key for item in items} for split, items in source.splits.items()}
    assert not keys["train"] & keys["val"]
    again = open_source(tmp_path, val_fraction=0.2)
    assert [item.key for item in again.splits["val"]] == [item.key for item in source.splits["val"]]
    other = open_source(tmp_path, val_fraction=0.2, seed=1)
    assert {item.key for item in other.splits["val"]} != keys["val"]
    assert any("10%" in note for note in open_source(tmp_path).notes)


def test_hidden_files_do_not_count(tmp_path):
    make_folder(tmp_path)
    for name in (".DS_Store", "train/.DS_Store", "train/cat/._0.png", "train/cat/Thumbs.db", "train/.cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.classes == ["cat", "dog"]
    assert len(source.splits["train"]) == 6
    assert any("hidden" in note for note in source.notes)


def test_linked_class_folder(tmp_path):
    make_folder(tmp_path / "a", classes=("cat", "dog"))
    for split in ("train", "val"):
        put_picture(tmp_path / "elsewhere" / "1.png")
        (tmp_path / "a" / split / "cow").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/train/cat/loop").symlink_to(tmp_path / "a/train/cat")
    source = open_source(tmp_path / "a")
    assert source.classes == ["cat", "cow", "dog"]
    assert len(source.splits["train"]) == 7


def empty_class(root):
    make_folder(root)
    (root / "train" / "bird").mkdir()


def strange_val_class(root):
    make_folder(root)
    put_picture(root / "val" / "horse" / "1.png")


def loose_pictures(root):
    put_picture(root / "1.png")


def only_val(root):
    make_folder(root, ("val",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no pictures"),
        (loose_pictures, "no pictures in class folders"),
        (empty_class, "'bird'.* has no pictures"),
        (lambda root: make_folder(root, classes=("cat",)), "only one class \\('cat'\\)"),
        (strange_val_class, "'horse'"),
        (only_val, "no train/"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_source(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_and_wrong_fraction(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="between 0 and 1"):
        open_source(tmp_path, val_fraction=1.5)


def test_class_missing_from_validation_is_a_note(tmp_path):
    make_folder(tmp_path, ("train",), ("cat", "dog", "cow"))
    make_folder(tmp_path, ("val",), ("cat", "dog"))
    assert any("'cow'" in note for note in open_source(tmp_path).notes)


@pytest.mark.parametrize(("size", "expected"), [((32, 32), 32), ((64, 64), 64), ((65, 65), None), ((32, 30), None)])
def test_small_squares_keep_their_size(tmp_path, size, expected):
    assert open_source(make_folder(tmp_path, size=size)).size_px == expected


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("prefix", [".", "pets", "download/pets"])
def test_archive_gives_what_the_folder_gives(tmp_path, mode, prefix):
    folder = make_folder(tmp_path / "pets")
    from_folder = open_source(folder)
    from_tar = open_source(make_tar(tmp_path / "pets.tar.x", folder, mode, prefix))
    for split, items in from_folder.splits.items():
        assert [(i.key, i.label, i.read()) for i in from_tar.splits[split]] == [
            (i.key, i.label, i.read()) for i in items
        ]
    assert from_tar.name == "pets"


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archive_that_ends_early(tmp_path, keep, mode):
    path = make_tar(tmp_path / "a.tar", make_folder(tmp_path / "pets", n=30), mode)
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[: int(len(data) * keep) // 512 * 512])
    with pytest.raises(DataError, match="fetch it again"):
        open_source(path)


def test_archive_with_a_damaged_header_in_the_middle(tmp_path):
    path = make_tar(tmp_path / "a.tar", make_folder(tmp_path / "pets"))
    data = bytearray(path.read_bytes())
    data[data.index(b"./train/dog/1.png")] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"damaged at byte|sound tar"):
        open_source(path)


def test_archive_with_unsafe_names_reads_nothing_outside(tmp_path):
    folder = make_folder(tmp_path / "pets")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, ".")
        for name in ("../escape/cat/1.png", "/train/cat/absolute.png", "train/cat/../../x.png"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("train/cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    source = open_source(path)
    assert len(source.splits["train"]) == 6
    assert any("4 entries" in note for note in source.notes)


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04" + bytes(5000))
    with pytest.raises(DataError, match="neither a folder nor"):
        open_source(tmp_path / "x.zip")


# CIFAR, made by hand: row i holds the value i everywhere in red, 100 + i in green, 200 in blue.
N_ROWS = 4


def cifar_rows() -> np.ndarray:
    rows = np.zeros((N_ROWS, 3, 1024), np.uint8)
    rows[:, 0], rows[:, 1], rows[:, 2] = np.arange(N_ROWS)[:, None], 100 + np.arange(N_ROWS)[:, None], 200
    rows[:, 0, 1] = 77  # first row, second column of the picture
    return rows.reshape(N_ROWS, 3072)


def cifar_files(classes: int, kind: str, protocol: int) -> dict[str, bytes]:
    names = ["zebra", "ant", *(f"c{i}" for i in range(classes - 2))]  # official order is not alphabetical
    labels = [1, 0, 3, 2]
    rows = cifar_rows()
    if kind == "binary":
        coarse = [] if classes == 10 else [np.full(N_ROWS, 9, np.uint8)]
        data = np.column_stack([*coarse, np.array(labels, np.uint8), rows]).tobytes()
        meta = "".join(f"{name}\n" for name in names).encode()
        if classes == 10:
            return {
                "batches.meta.txt": meta,
                "data_batch_1.bin": data,
                "data_batch_2.bin": data,
                "test_batch.bin": data,
            }
        return {"fine_label_names.txt": meta, "train.bin": data, "test.bin": data}
    prefix = "" if classes == 10 else "fine_"
    dump = lambda value: pickle.dumps(value, protocol=protocol)  # noqa: E731
    data = dump({b"data": rows, f"{prefix}labels".encode(): labels})
    meta = dump({f"{prefix}label_names".encode(): [name.encode() for name in names]})
    if classes == 10:
        return {"batches.meta": meta, "data_batch_1": data, "data_batch_2": data, "test_batch": data}
    return {"meta": meta, "train": data, "test": data}


def write_all(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("how", ["folder", "tar.gz", "tar"])
@pytest.mark.parametrize(("kind", "protocol"), [("binary", 0), ("python", 2), ("python", 5)])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_as_published(tmp_path, classes, kind, protocol, how):
    path = write_all(tmp_path / "cifar-folder", cifar_files(classes, kind, protocol))
    if how != "folder":
        path = make_tar(tmp_path / f"c.{how}", path, "w:gz" if how == "tar.gz" else "w", "cifar-folder")
    source = open_source(path)
    assert (source.name, source.size_px, source.encoding) == (f"cifar{classes}", 32, "raw")
    assert source.classes[:3] == ["zebra", "ant", "c0"]
    assert len(source.splits["train"]) == (8 if classes == 10 else 4)
    item = source.splits["val"][2]
    pixels = item.read()
    assert (item.label, pixels.shape) == (3, (32, 32, 3))
    assert pixels[5, 5].tolist() == [2, 102, 200]
    assert pixels[0, 1].tolist() == [77, 102, 200]


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_1"])
def test_nothing_in_a_cifar_file_is_run(tmp_path, name):
    files = cifar_files(10, "python", 2)
    files[name] = pickle.dumps({b"data": Attack(tmp_path / "canary")}, protocol=2)
    with pytest.raises(DataError, match=f"{name} asks for .*refused"):
        open_source(write_all(tmp_path / "c", files))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data_batch_1", b"\x80\x02}.garbage"[:3], "damaged"),
        ("data_batch_1", pickle.dumps({b"labels": [1]}), "no 'data'"),
        ("data_batch_1", pickle.dumps({b"data": np.zeros((2, 5), np.uint8), b"labels": [0, 1]}), "rows of 3072"),
        ("data_batch_1", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), "label outside"),
    ],
)
def test_damaged_cifar(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        open_source(write_all(tmp_path / "c", cifar_files(10, "python", 2) | {name: data}))


def test_binary_cifar_cut_short(tmp_path):
    files = cifar_files(10, "binary", 0)
    files["test_batch.bin"] = files["test_batch.bin"][:-1]
    with pytest.raises(DataError, match=r"test_batch.bin .*whole number"):
        open_source(write_all(tmp_path / "c", files))


def test_shapes():
    source = open_source("shapes")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 3000, "val": 1000}
    train, val = source.splits["train"][7], source.splits["val"][7]
    assert train.label == val.label == 7
    assert train.read().shape == (256, 256, 3)
    assert not np.array_equal(train.read(), val.read())
