"""ILSVRC-2012 and ILSVRC-2010 straight from the archives as downloaded: a folder of them -> every picture, unread.

    ILSVRC2012_img_train.tar       a tar of 1000 tars n01440764.tar ..., indexed by seeking (1.3 million headers)
    ILSVRC2012_img_val.tar         ILSVRC2012_val_00000001.JPEG ..., labelled by line 1 ... of the ground truth
    ILSVRC2012_devkit_t12.tar.gz   data/meta.mat (number, WordNet id and words of each class), the ground truth

For 2010 the archives are called ILSVRC2010_images_train.tar and so on, and the kit ILSVRC2010_devkit-1.0.tar.gz;
either spelling is taken for either year, and the kit may lie there unpacked. Assumed of 2010, not seen: that its
kit is laid out as that of 2012. Its patch_images.tar is not used, and its test set is taken where the validation
archive is missing. meta.mat is read here (MATLAB 5, a structure of numbers and texts, nothing is run); a ground
truth of WordNet ids instead of numbers, put beside the archives, needs no meta.mat.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from alexnet.data.items import Item, Source
from alexnet.data.tree import Tree, members_of, open_tree, read_span
from alexnet.errors import DataError, UsageError

N_TRAIN = {2012: 1_281_167, 2010: 1_261_406}
N_HELD = {"val": 50_000, "test": 150_000}
HELD = {2012: ("val",), 2010: ("val", "test")}  # the labels of the test set of 2012 were never published
N_CLASSES = 1000
TRUTH_WORD = {"val": "validation", "test": "test"}
CLASS_ARCHIVE = re.compile(r"(?:.*/)?(n\d{8})\.tar")
HELD_PICTURE = re.compile(r"(?:.*/)?(ILSVRC\d{4}_(?:val|test)_(\d{8})\.JPEG)", re.IGNORECASE)
WORDS = ("LOC_synset_mapping.txt", "synset_words.txt")  # lines "n01440764 tench, Tinca tinca"
MAX_SMALL_NBYTES = 32 << 20  # of the kit's files, unpacked; the largest has some hundred kilobytes

Find = Callable[[str], bytes | None]


def read_ilsvrc(folder: Path, tree: Tree, class_order: str = "wnid") -> Source | None:
    """The set whose archives lie at the top of `folder` (seen as `tree`), or None. Damage raises DataError.

    Labels number the WordNet ids sorted ("wnid", as torchvision and nearly all published weights have them) or in the
    order of the kit's numbers ("devkit").
    """
    if class_order not in ("wnid", "devkit"):
        raise UsageError(f"class order {class_order!r} is unknown; use wnid or devkit")
    years = [year for year in N_TRAIN if any(_archive(tree, year, split) for split in ("train", "val", "test"))]
    if not years:
        return None
    if len(years) > 1:
        raise DataError(f"{folder} has archives of ILSVRC-2010 and ILSVRC-2012; keep them in two folders")
    year = years[0]
    train = _archive(tree, year, "train")
    if train is None:
        raise DataError(f"{folder} has archives of ILSVRC-{year} but not ILSVRC{year}_img_train.tar; put it there too")
    find = _finder(folder, tree, year)
    by_wnid = _index_train(folder / train)
    synsets = _synsets(find, year)
    wnids = _ordered(list(by_wnid), synsets, class_order, folder)
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    splits = {"train": _train_items(folder / train, by_wnid, labels)}
    held = next((split for split in HELD[year] if _archive(tree, year, split)), None)
    if held:
        path = folder / _archive(tree, year, held)
        splits["val"] = _held_items(path, held, _truth(find, folder, year, held, synsets, labels), labels)
    words = _words(find) | {wnid: words for wnid, (_, words) in synsets.items()}
    class_names = [words.get(wnid, wnid) for wnid in wnids] if words else None
    notes = _notes(year, held, splits, wnids, class_order)
    ids = [synsets[wnid][0] for wnid in wnids] if synsets.keys() >= set(wnids) else None
    naming = {"class_names": class_names, "class_order": class_order, "class_ids": ids}
    return Source(f"ilsvrc{year}", wnids, splits, notes=notes, **naming)


def _archive(tree: Tree, year: int, split: str) -> str | None:
    names = [f"ILSVRC{year}_{word}_{split}.tar" for word in ("img", "images")]
    return next((name for name in names if name in tree.files), None)


def _finder(folder: Path, tree: Tree, year: int) -> Find:
    """Looks for a small file by its last name: beside the archives, in an unpacked kit, in the kit's archive."""
    prefix = f"ilsvrc{year}_devkit"
    kits = [name for name in sorted(tree.files) if "/" not in name and name.lower().startswith(prefix)]
    places = [tree, *(open_tree(folder / name) for name in kits)]

    def find(wanted: str) -> bytes | None:
        for place in places:
            for name in sorted(place.files):
                if name.rpartition("/")[2] == wanted:
                    if place.files[name] > MAX_SMALL_NBYTES:
                        raise DataError(f"{name} has {place.files[name]:,} bytes, far more than it should; refused")
                    return place.read(name)
        return None

    return find


def _index_train(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """{wnid: {file name: (offset in the outer archive, size)}}."""
    found = {}
    for name, span in members_of(path).items():
        match = CLASS_ARCHIVE.fullmatch(name)
        if match is None or match[1] in found:
            raise DataError(f"{path} holds {name!r}; expected one archive like n01440764.tar for each class")
        found[match[1]] = members_of(path, span, name)
        if not found[match[1]]:
            raise DataError(f"{path}: {name} holds no pictures; fetch the archive again")
    if len(found) < 2:
        raise DataError(f"{path} holds {len(found)} classes; at least two are needed")
    return found


def _train_items(path: Path, by_wnid: dict[str, dict[str, tuple[int, int]]], labels: dict[str, int]) -> list[Item]:
    fetch = partial(read_span, str(path))
    items = [
        Item(f"train/{wnid}/{name}", labels[wnid], fetch, span)
        for wnid, members in by_wnid.items()
        for name, span in members.items()
    ]
    return sorted(items, key=lambda item: item.key)


def _held_items(path: Path, split: str, truth: list[str], labels: dict[str, int]) -> list[Item]:
    fetch = partial(read_span, str(path))
    numbered = {}
    members = members_of(path)
    for name, span in members.items():
        match = HELD_PICTURE.fullmatch(name)
        if match is None:
            raise DataError(f"{path} holds {name!r}; expected pictures named like ILSVRC2012_val_00000001.JPEG")
        numbered[int(match[2])] = (match[1], span)
    if len(members) != len(truth) or set(numbered) != set(range(1, len(truth) + 1)):
        raise DataError(
            f"{path} holds {len(members):,} pictures, the ground truth has {len(truth):,} lines, and they must be "
            f"numbered from 1; fetch the archive and the devkit of the same year again"
        )
    return [
        Item(f"{split}/{numbered[number][0]}", labels[wnid], fetch, numbered[number][1])
        for number, wnid in enumerate(truth, start=1)
    ]


def _truth(find: Find, folder: Path, year: int, split: str, synsets: dict, labels: dict[str, int]) -> list[str]:
    """The WordNet id of each held-out picture, from lines of numbers as in meta.mat, or of WordNet ids."""
    name = f"ILSVRC{year}_{TRUTH_WORD[split]}_ground_truth.txt"
    data = find(name)
    if data is None:
        raise DataError(f"{folder} has no {name}; put it, or the devkit archive that holds it, beside the others")
    lines = data.decode("ascii", "replace").split()
    if not synsets and any(line.isdecimal() for line in lines):
        raise DataError(
            f"{name} has class numbers, and {folder} no meta.mat that explains them; put the devkit archive there, "
            f"or a {name} with a WordNet id on each line"
        )
    wnid_of = {str(number): wnid for wnid, (number, _) in synsets.items()} | {wnid: wnid for wnid in labels}
    for at, line in enumerate(lines, start=1):
        if wnid_of.get(line) not in labels:
            raise DataError(f"{name} line {at} has the label {line[:20]!r}, which is none of the training classes")
    return [wnid_of[line] for line in lines]


def _ordered(wnids: list[str], synsets: dict[str, tuple[int, str]], class_order: str, folder: Path) -> list[str]:
    if class_order == "wnid":
        return sorted(wnids)
    unknown = sorted(set(wnids) - set(synsets))
    if unknown:
        raise DataError(
            f"no meta.mat in {folder} gives {unknown[0]} a number; put the devkit archive there, or use the order wnid"
        )
    return sorted(wnids, key=lambda wnid: synsets[wnid][0])


def _notes(year: int, held: str | None, splits: dict, wnids: list[str], class_order: str) -> tuple[str, ...]:
    orders = {"wnid": "sorted by WordNet id", "devkit": "in the order of the devkit's numbers"}
    other = next(order for order in orders if order != class_order)
    notes = [f"ILSVRC-{year}, classes {orders[class_order]} (`alexnet pack --class-order {other}` for the other order)"]
    if held == "test":
        notes.append("there is no validation archive: the test set is taken for validation")
    expected = {"train": N_TRAIN[year], "val": N_HELD.get(held, 0)}
    counts = [("training pictures", len(splits["train"]), expected["train"]), ("classes", len(wnids), N_CLASSES)]
    if held:
        counts.append(("validation pictures", len(splits["val"]), expected["val"]))
    return (*notes, *(f"{n:,} {what}, the published set has {full:,}" for what, n, full in counts if n != full))


def _words(find: Find) -> dict[str, str]:
    data = next((data for name in WORDS if (data := find(name)) is not None), b"")
    rows = [line.split(maxsplit=1) for line in data.decode("utf-8", "replace").splitlines()]
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def _synsets(find: Find, year: int) -> dict[str, tuple[int, str]]:
    """{WordNet id: (number, words)} from meta.mat, empty without one."""
    data = find("meta.mat")
    if data is None:
        return {}
    try:
        entries = _mat_variables(data).get("synsets") or []
        number = f"ILSVRC{year}_ID"
        found = {str(entry["WNID"]): (int(entry[number][0]), str(entry["words"])) for entry in entries}
    except (StopIteration, struct.error, zlib.error, ValueError, LookupError, TypeError, OverflowError) as error:
        raise DataError(f"meta.mat is damaged, or not of ILSVRC-{year} ({error!r}); fetch the devkit again") from error
    if not found or len({number for number, _ in found.values()}) != len(entries):
        raise DataError(f"meta.mat does not number the classes of ILSVRC-{year}; fetch the devkit again")
    return found


# MATLAB 5 files: after 128 bytes, elements of (type, nbytes, data padded to 8); a matrix is made of such elements.
MAT_HEADER_NBYTES = 128
MAT_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MAT_TEXTS = {1: "latin1", 2: "latin1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
MAT_MATRIX, MAT_COMPRESSED = 14, 15
CLASS_STRUCT, CLASS_CHAR, CLASSES_NUMERIC = 2, 4, range(6, 16)


def _mat_variables(data: bytes) -> dict[str, object]:
    if len(data) < MAT_HEADER_NBYTES or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    variables = {}
    for kind, body in _mat_elements(memoryview(data)[MAT_HEADER_NBYTES:], order):
        if kind == MAT_COMPRESSED:
            inflate = zlib.decompressobj()
            unpacked = inflate.decompress(body, MAX_SMALL_NBYTES)
            if inflate.unconsumed_tail or not inflate.eof:
                raise ValueError("a part that is cut off, or unpacks to far more than it should")
            kind, body = next(_mat_elements(memoryview(unpacked), order))
        if kind == MAT_MATRIX:
            name, value = _mat_matrix(body, order, depth=0)
            variables[name] = value
    return variables


def _mat_elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(data):
        kind, nbytes = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # up to four bytes of data in the place of the size
            kind, nbytes, start, limit = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            at = limit
        else:
            start, limit = at + 8, len(data)
            at = start + nbytes + (0 if kind == MAT_COMPRESSED else -nbytes % 8)
        if start + nbytes > limit:
            raise ValueError("a part that is cut off")
        yield kind, data[start : start + nbytes]


def _mat_matrix(data: memoryview, order: str, depth: int) -> tuple[str, object]:
    """(name, value): a list of dicts for a structure, str, numbers, or None for kinds that the kit does not need."""
    if len(data) == 0:
        return "", None
    parts = _mat_elements(data, order)
    numbers = lambda part: np.frombuffer(part[1], order + MAT_NUMBERS[part[0]])  # noqa: E731
    kind = int(numbers(next(parts))[0]) & 0xFF
    shape = [int(n) for n in numbers(next(parts))]
    name = bytes(next(parts)[1]).decode("ascii")
    if kind == CLASS_STRUCT and depth == 0:
        width = int(numbers(next(parts))[0])
        text = bytes(next(parts)[1]).decode("ascii")
        fields = [text[at : at + width].split("\0")[0] for at in range(0, len(text), width)]
        entries = []
        for _ in range(math.prod(shape) if fields else 0):  # StopIteration where the shape promises more than is there
            entries.append({field: _mat_matrix(next(parts)[1], order, depth + 1)[1] for field in fields})
        return name, entries
    if kind == CLASS_CHAR:
        part_kind, body = next(parts, (1, b""))
        encoding = MAT_TEXTS[part_kind].replace("utf-16", "utf-16-le" if order == "<" else "utf-16-be")
        return name, bytes(body).decode(encoding, "replace")
    return name, numbers(next(parts)) if kind in CLASSES_NUMERIC else None
