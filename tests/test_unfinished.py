"""A packing that was killed goes on with its finished shards, and ends with the bytes of one that was not."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.data import duplicates, prepare, unfinished
from alexnet.data.items import Item, Source
from alexnet.data.pack import is_pack, open_pack, pack
from alexnet.errors import DataError

N_TRAIN, N_VAL, SHARD_ROWS = 150, 40, 20


def picture(i: int) -> bytes:
    coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((50, 40), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def source_of(read=picture, bad: tuple[int, ...] = (5, 90)) -> Source:
    def fetch(i: int) -> bytes:
        return b"no picture" if i in bad else read(i)

    spans = {"train": range(N_TRAIN), "val": range(1000, 1000 + N_VAL)}
    items = {split: [Item(f"{split}/{i}.png", i % 2, fetch, i) for i in span] for split, span in spans.items()}
    return Source("made", ["ant", "bee"], items)


def packed(out: Path, source: Source | None = None, listing: str = "as it was", **options) -> dict[str, bytes]:
    given = {"size_px": 32, "encoding": "jpeg", "shard_rows": SHARD_ROWS, "allow_rejects": 0.1, "workers": 2} | options
    pack(source or source_of(), out, listing=listing, **given)
    return content(out)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    return packed(tmp_path_factory.mktemp("whole") / "p")


def stop_after(pictures: int):
    def progress(done: int, total: int) -> None:
        if done >= pictures:
            raise KeyboardInterrupt

    return progress


def left_behind(out: Path, pictures: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        packed(out, progress=stop_after(pictures))
    assert not is_pack(out)


@pytest.mark.parametrize("pictures", [1, 33, 64, 100, 150, 151, 190])
def test_it_goes_on_where_it_stood(tmp_path, whole, pictures):
    left_behind(tmp_path / "p", pictures)
    kept = {name: (tmp_path / "p" / name).stat().st_ino for name in content(tmp_path / "p") if "arrow" in name}
    read, said = [], []

    def counted(i: int) -> bytes:
        read.append(i)
        return picture(i)

    assert packed(tmp_path / "p", source_of(counted), say=said.append) == whole
    if pictures >= 64:
        assert "going on after" in said[0]
        n_finished = int(said[0].split()[3])
        assert len(set(read)) <= N_TRAIN + N_VAL - SHARD_ROWS * n_finished + prepare.CHUNK_ITEMS
        same = [name for name, inode in kept.items() if (tmp_path / "p" / name).stat().st_ino == inode]
        assert len(same) == n_finished


def test_stopped_again_and_again(tmp_path, whole):
    for pictures in (40, 80, 120, 160, 180):
        left_behind(tmp_path / "p", pictures)
    assert packed(tmp_path / "p") == whole


def damage(out: Path, name: str) -> None:
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).write_bytes(data)


@pytest.mark.parametrize("name", ["train-00001.arrow", "unfinished.npz"])
def test_damage_to_what_was_left_begins_anew(tmp_path, whole, name):
    left_behind(tmp_path / "p", 100)
    damage(tmp_path / "p", name)
    said = []
    assert packed(tmp_path / "p", say=said.append) == whole
    assert not any("going on" in line for line in said)


@pytest.mark.parametrize(
    "other", [{"listing": "changed"}, {"seed": 1}, {"size_px": 40}, {"shard_rows": 30}, {"source": source_of(bad=(7,))}]
)
def test_another_job_begins_anew(tmp_path, other):
    left_behind(tmp_path / "p", 100)
    said = []
    if "source" in other:  # other pictures in files of the same names: only the listing tells
        other = other | {"listing": "changed"}
    assert packed(tmp_path / "p", say=said.append, **other) == packed(tmp_path / "q", **other)
    assert not any("going on" in line for line in said)


def test_after_too_many_refusals_the_shards_serve_again(tmp_path, whole):
    with pytest.raises(DataError, match="--allow-rejects"):
        packed(tmp_path / "p", allow_rejects=0.001)
    said = []
    assert packed(tmp_path / "p", say=said.append) == whole
    assert "going on" in said[0]


def test_killed_for_real(tmp_path):
    for i in range(120):
        path = tmp_path / "set" / ["train", "val"][i % 4 == 0] / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    code = (
        "import sys, time; from pathlib import Path; from alexnet.data import pack as p\n"
        "from alexnet.data.sources import open_source\n"
        "s, o, slow = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])\n"
        "p.pack(open_source(s), o, size_px=40, encoding='jpeg', shard_rows=8, workers=1, listing=p.listing_of(s),"
        " progress=lambda done, total: time.sleep(slow))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    killed = subprocess.Popen([*command, str(tmp_path / "p"), "1"], env=dict(os.environ))
    until = time.monotonic() + 60
    while not (tmp_path / "p" / unfinished.NAME).exists() and time.monotonic() < until:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not is_pack(tmp_path / "p")
    for out in ("p", "q"):
        assert subprocess.run([*command, str(tmp_path / out), "0"], env=dict(os.environ)).returncode == 0
    assert content(tmp_path / "p") == content(tmp_path / "q")


def test_an_exception_in_a_thread_ends_packing(tmp_path, monkeypatch):
    def broken(items, recipe, with_sums):
        raise RuntimeError("a bug")

    monkeypatch.setattr(prepare, "_prepare", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        packed(tmp_path / "p")
    assert not is_pack(tmp_path / "p")


# Which pictures of the source stand for which: twin of 3 in training under the other class, of 4 under its own, of 6
# in validation under its own, of 7 in validation under the other one, of 1010 in validation.
TWINS = {20: 3, 22: 4, 1002: 6, 1004: 7, 1011: 1010}


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_duplicates_are_counted_and_listed(tmp_path, encoding):
    said = []
    source = source_of(lambda i: picture(TWINS.get(i, i)), bad=())
    packed(tmp_path / "p", source, encoding=encoding, say=said.append)
    opened = open_pack(tmp_path / "p")
    assert opened.meta["duplicates"] == {"groups": 5, "val_in_train": 2, "labels_differ": 2}
    assert [line.split(" ", 1)[1].split(";")[0] for line in said] == [
        "2 validation pictures are in training too",
        "2 training pictures stand under several classes",
    ]
    lines = [line.split(",") for line in (tmp_path / "p/duplicates.csv").read_text().split()]
    assert lines[0] == ["group", "split", "class", "key"]
    found: dict[str, set] = {}
    for group, split, name, key in lines[1:]:
        number = int(key.split("/")[1].removesuffix(".png"))
        assert (split, name) == (key.split("/")[0], ["ant", "bee"][number % 2])
        found.setdefault(group, set()).add(number)
    assert sorted(map(sorted, found.values())) == sorted(sorted(pair) for pair in TWINS.items())


def test_equal_checksums_alone_make_no_duplicates():
    class Shard:
        crc32, offsets = np.zeros(4, np.uint32), np.array([0, 2, 4, 6, 9])

    class Split:
        shards = (Shard,)
        image_bytes = (b"ab", b"cd", b"ab", b"abc").__getitem__

        def __len__(self):
            return 4

    assert duplicates.groups_of({"train": Split()}) == [[("train", 0), ("train", 2)]]
