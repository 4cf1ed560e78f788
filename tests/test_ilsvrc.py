"""ILSVRC's archives, in miniature: three classes in a tar of tars, a validation archive, a devkit with meta.mat."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data.ilsvrc import _mat_variables
from alexnet.data.pack import open_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import DataError, UsageError

WNIDS = ["n01440764", "n02105855", "n09999999"]
NUMBERS = {"n01440764": 3, "n02105855": 1, "n09999999": 2, "n00001740": 1001}  # the last is no class, only above some
COLOURS = {"n01440764": (250, 0, 0), "n02105855": (0, 250, 0), "n09999999": (0, 0, 250)}
TRUTH = ["n09999999", "n01440764", "n02105855", "n02105855"]


def picture(wnid: str, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 90), COLOURS[wnid]).convert(mode).save(file, kind)
    return file.getvalue()


def tar_of(files: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:
        for name, data in files.items():
            member = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = 0 if member is data else len(data)
            tar.addfile(member, None if member is data else io.BytesIO(data))
    return packed.getvalue()


def link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
    return member


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    if 0 < len(data) <= 4:
        return struct.pack(order + "I", kind | len(data) << 16) + data.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(kind: int, shape: tuple[int, int], body: bytes, name: str = "", order: str = "<") -> bytes:
    flags = element(6, struct.pack(order + "II", kind, 0), order)
    head = flags + element(5, struct.pack(order + "ii", *shape), order) + element(1, name.encode(), order)
    return element(14, head + body, order)


def meta_mat(numbers: dict[str, int], year: int = 2012, order: str = "<", compress: bool = True) -> bytes:
    fields = [f"ILSVRC{year}_ID", "WNID", "words", "children"]
    body = element(5, struct.pack(order + "i", 32), order)
    body += element(1, b"".join(field.encode().ljust(32, b"\0") for field in fields), order)
    for wnid, number in numbers.items():
        words = f"word {number}, another".encode("utf-16-le" if order == "<" else "utf-16-be")
        small = (
            element(2, bytes([number]), order) if number < 256 else element(9, struct.pack(order + "d", number), order)
        )
        body += matrix(6, (1, 1), small, order=order)
        body += matrix(4, (1, 9), element(16, wnid.encode(), order), order=order)
        body += matrix(4, (1, len(words) // 2), element(4, words, order), order=order)
        body += element(14, b"", order)
    variable = matrix(2, (len(numbers), 1), body, "synsets", order)
    if compress:
        packed = zlib.compress(variable)
        variable = struct.pack(order + "II", 15, len(packed)) + packed
    version = b"\0\1IM" if order == "<" else b"\1\0MI"
    return b"MATLAB 5.0 MAT-file".ljust(124) + version + variable


def kit_files(year: int = 2012, truth: list | None = None) -> dict[str, bytes]:
    lines = [NUMBERS[wnid] for wnid in TRUTH] if truth is None else truth
    return {
        "kit/data/meta.mat": meta_mat(NUMBERS, year),
        f"kit/data/ILSVRC{year}_validation_ground_truth.txt": "".join(f"{line}\n" for line in lines).encode(),
    }


def train_files() -> dict[str, bytes]:
    files = {wnid: {f"{wnid}_{i}.JPEG": picture(wnid) for i in range(3)} for wnid in WNIDS}
    files["n02105855"]["n02105855_2933.JPEG"] = picture("n02105855", "PNG")
    files["n01440764"]["n01440764_7.JPEG"] = picture("n01440764", mode="CMYK")
    return {f"{wnid}.tar": tar_of(members) for wnid, members in reversed(files.items())}


def val_files(year: int = 2012) -> dict[str, bytes]:
    return {f"ILSVRC{year}_val_{i:08d}.JPEG": picture(wnid) for i, wnid in reversed(list(enumerate(TRUTH, 1)))}


def download(
    folder: Path, year: int = 2012, train: dict | None = None, val: dict | None = None, kit: dict | None = None
) -> Path:
    word, kit_name = ("img", "devkit_t12") if year == 2012 else ("images", "devkit-1.0")
    folder.mkdir(exist_ok=True)
    (folder / f"ILSVRC{year}_{word}_train.tar").write_bytes(tar_of(train_files() if train is None else train))
    (folder / f"ILSVRC{year}_{word}_val.tar").write_bytes(tar_of(val_files(year) if val is None else val))
    kit = kit_files(year) if kit is None else kit
    (folder / f"ILSVRC{year}_{kit_name}.tar.gz").write_bytes(tar_of(kit, "w:gz"))
    return folder


def main_colour(pixels: np.ndarray) -> int:
    return int(pixels.reshape(-1, 3).mean(0).argmax())


@pytest.mark.parametrize("year", [2012, 2010])
@pytest.mark.parametrize(
    ("class_order", "classes"), [("wnid", WNIDS), ("devkit", ["n02105855", "n09999999", "n01440764"])]
)
def test_the_whole_way(tmp_path, year, class_order, classes):
    source = open_source(download(tmp_path / "in", year), class_order=class_order)
    assert (source.name, source.classes) == (f"ilsvrc{year}", classes)
    assert source.class_names == [f"word {NUMBERS[wnid]}, another" for wnid in classes]
    assert any({"wnid": "sorted by WordNet id", "devkit": "devkit's numbers"}[class_order] in n for n in source.notes)
    assert any("11 training pictures" in note and "published" in note for note in source.notes)
    pack(source, tmp_path / "pack", size_px=32, encoding="raw", workers=2)
    opened = open_pack(tmp_path / "pack")
    assert opened.meta["readable"] == source.class_names
    assert opened.meta["class_order"] == class_order
    assert opened.meta["devkit_ids"] == [NUMBERS[wnid] for wnid in classes]
    assert opened.meta["counts"] == {"train": 11, "val": 4}  # the PNG and the CMYK picture too
    red_green_blue = [COLOURS[wnid].index(250) for wnid in classes]
    for split, items in source.splits.items():
        labels = opened.splits[split].labels
        assert sorted(labels) == sorted(item.label for item in items)
        colours = [main_colour(opened.splits[split].pixels(i)) for i in range(len(labels))]
        assert colours == [red_green_blue[label] for label in labels]
    assert {item.key: classes[item.label] for item in source.splits["val"]} == {
        f"val/ILSVRC{year}_val_{i:08d}.JPEG": wnid for i, wnid in enumerate(TRUTH, 1)
    }


def test_keys_are_the_paths_of_the_unpacked_set(tmp_path):
    items = open_source(download(tmp_path)).splits["train"]
    assert [item.key for item in items] == sorted(item.key for item in items)
    assert items[0].key == "train/n01440764/n01440764_0.JPEG"
    assert items[0].read() == picture("n01440764")


def test_truth_of_wordnet_ids_needs_no_meta_mat(tmp_path):
    download(tmp_path, kit={"readme": b"x"})
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(TRUTH))
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\nn02105855 Shetland sheepdog\n")
    source = open_source(tmp_path)
    assert [WNIDS[item.label] for item in source.splits["val"]] == TRUTH
    assert source.class_ids is None
    assert source.class_names == ["tench, Tinca tinca", "Shetland sheepdog", "n09999999"]
    with pytest.raises(DataError, match=r"no meta.mat .* gives n01440764 a number"):
        open_source(tmp_path, class_order="devkit")


def test_without_validation_archive_pictures_are_held_out(tmp_path):
    (download(tmp_path) / "ILSVRC2012_img_val.tar").unlink()
    source = open_source(tmp_path)
    assert [len(items) for items in source.splits.values()] == [8, 3]
    assert any("held out" in note for note in source.notes)


def test_the_test_set_of_2010_stands_in_for_validation_but_not_that_of_2012(tmp_path):
    for year in (2010, 2012):
        folder = download(tmp_path / str(year), year)
        (folder / f"ILSVRC{year}_{'images' if year == 2010 else 'img'}_val.tar").unlink()
        pictures = {name.replace("val", "test"): data for name, data in val_files(year).items()}
        (folder / f"ILSVRC{year}_images_test.tar").write_bytes(tar_of(pictures))
    (tmp_path / "2010/ILSVRC2010_test_ground_truth.txt").write_text("3\n2\n1\n1\n")
    source = open_source(tmp_path / "2010")
    assert [(item.key[-13:], WNIDS[item.label]) for item in source.splits["val"][:2]] == [
        ("00000001.JPEG", "n01440764"), ("00000002.JPEG", "n09999999"),
    ]  # fmt: skip
    assert any("test set is taken" in note for note in source.notes)
    assert any("held out" in note for note in open_source(tmp_path / "2012").notes)


def without(files: dict, name: str) -> dict:
    return {key: data for key, data in files.items() if not key.endswith(name)}


CUT = {"n01440764.tar": train_files()["n01440764.tar"][:1500]}
FLIPPED = {"n01440764.tar": train_files()["n01440764.tar"].replace(b"n01440764_1.JPEG", b"n01440764_!.JPEG")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": train_files() | CUT}, r"img_train.tar: n01440764.tar is not a sound"),
        ({"train": train_files() | FLIPPED}, r"n01440764.tar is not a sound"),
        ({"train": train_files() | {"n01440764.tar": tar_of({})}}, r"n01440764.tar holds no pictures"),
        ({"train": train_files() | {"n01440764.tar": b"<html>" * 2000}}, r"n01440764.tar is not a sound"),
        ({"train": train_files() | {"../n03333333.tar": b"abc"}}, r"unsafe names"),
        ({"train": train_files() | {"n03333333.tar": link("n03333333.tar")}}, r"links"),
        ({"train": train_files() | {"n01440764.tar": tar_of({"x": link("x.JPEG")})}}, r"n01440764.tar holds 1 links"),
        ({"train": train_files() | {"readme.txt": b"abc"}}, r"'readme.txt'; expected one archive"),
        ({"train": train_files() | {"b/n01440764.tar": b"abc"}}, r"expected one archive"),
        ({"val": val_files() | {"../x.JPEG": b"abc"}}, r"unsafe names"),
        ({"val": val_files() | {"cat.JPEG": b"abc"}}, r"'cat.JPEG'; expected"),
        ({"val": without(val_files(), "2.JPEG")}, r"3 pictures, the ground truth has 4 lines"),
        ({"kit": kit_files(truth=[1, 2, 3])}, r"4 pictures, the ground truth has 3 lines"),
        ({"kit": kit_files(truth=[1, 2, 3, 4])}, r"line 4 has the label '4'"),
        ({"kit": kit_files(truth=[1, 2, 3, 1001])}, r"line 4 has the label '1001'"),
        ({"kit": kit_files(truth=[1, 2, -3, 0])}, r"line 3 has the label '-3'"),
        ({"kit": without(kit_files(), "meta.mat")}, r"no meta.mat that explains them; put the devkit"),
        ({"kit": without(kit_files(), "truth.txt")}, r"has no ILSVRC2012_validation_ground_truth.txt"),
        ({"kit": kit_files() | {"kit/data/meta.mat": meta_mat(NUMBERS, 2010)}}, r"not of ILSVRC-2012"),
        ({"kit": kit_files() | {"kit/data/meta.mat": meta_mat(dict.fromkeys(WNIDS, 1))}}, r"does not number"),
        ({"kit": kit_files() | {"kit/data/meta.mat": b"MATLAB"}}, r"meta.mat is damaged"),
    ],
)
def test_what_is_refused(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        open_source(download(tmp_path, **given))


def test_cut_download(tmp_path):
    path = download(tmp_path) / "ILSVRC2012_img_train.tar"
    path.write_bytes(path.read_bytes()[:25_000])
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train.tar is not a sound tar archive"):
        open_source(tmp_path)


def test_missing_train_archive_two_years_and_a_wrong_order(tmp_path):
    download(tmp_path)
    with pytest.raises(UsageError, match="wnid or devkit"):
        open_source(tmp_path, class_order="random")
    (tmp_path / "ILSVRC2012_img_train.tar").rename(tmp_path / "ILSVRC2010_img_train.tar")
    with pytest.raises(DataError, match="two folders"):
        open_source(tmp_path)
    (tmp_path / "ILSVRC2010_img_train.tar").unlink()
    with pytest.raises(DataError, match=r"but not ILSVRC2012_img_train.tar"):
        open_source(tmp_path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compress", [True, False])
def test_meta_mat(order, compress):
    entries = _mat_variables(meta_mat(NUMBERS, order=order, compress=compress))["synsets"]
    assert [(e["WNID"], int(e["ILSVRC2012_ID"][0]), e["words"]) for e in entries] == [
        (wnid, number, f"word {number}, another") for wnid, number in NUMBERS.items()
    ]


def test_damaged_meta_mat_ends_in_an_error_or_a_reading(tmp_path):
    download(tmp_path, kit=without(kit_files(), "meta.mat"))
    sound = meta_mat(NUMBERS, compress=False)
    rng = np.random.default_rng(0)
    n_refused = 0
    for _ in range(150):
        data = bytearray(sound)
        data[int(rng.integers(128, 900))] = int(rng.integers(256))
        (tmp_path / "meta.mat").write_bytes(data[: int(rng.integers(500, len(data) + 500))])
        try:
            open_source(tmp_path)
        except DataError:
            n_refused += 1
    assert n_refused > 50
