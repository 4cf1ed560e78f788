"""Packs in stores: fetched whole or not at all, compared, once; every way in which a store fails is told in words."""

import fcntl
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from object_store import Store, objects_of, serving
from tiny import spec

from alexnet import train
from alexnet import verify as verifying
from alexnet.cli.pack import pack as write_pack
from alexnet.cli.verify import verify
from alexnet.data import remote
from alexnet.data.pack import ensure_pack, open_pack, pack
from alexnet.data.sources import open_source
from alexnet.errors import AlexnetError, DataError, MachineError, UsageError

SECRETS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
AT = "bucket/deep/shapes.pack"


def silent(word):
    return lambda done, total: None


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory) -> Path:
    """`pictures` in five shards."""
    out = tmp_path_factory.mktemp("remote") / "shapes.pack"
    pack(open_source(pictures), out, shard_rows=20)
    return out


@pytest.fixture
def cache(tmp_path, monkeypatch, packed) -> Path:
    """Where the pack will lie on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache/alexnet" / open_pack(packed).fingerprint


@pytest.fixture
def store(packed, cache) -> Store:
    with serving(objects_of(packed, AT)) as found:
        yield found


def hits(store: Store) -> dict[str, int]:
    """GETs of files, pack.json aside; empties the count."""
    found = {Path(path).name: n for path, n in store.hits.items()}
    store.hits.clear()
    found.pop("pack.json", None)
    return found


def test_a_pack_in_a_store_is_fetched_once_and_is_the_same_pack(store, cache, packed):
    said: list[str] = []
    found, given = ensure_pack(store.uri(AT), say=said.append), open_pack(packed)
    assert (found.path, found.fingerprint, found.uri) == (cache, given.fingerprint, store.uri(AT))
    assert all(
        np.array_equal(found.splits[s].pixels(i), given.splits[s].pixels(i))
        for s in given.splits
        for i in range(len(given.splits[s]))
    )
    assert set(hits(store)) == {f"{s}-{i:05}.arrow" for s, n in (("train", 4), ("val", 1)) for i in range(n)} | {
        "mean.npy"
    }
    assert "fetching 6 files" in said[0]
    assert ensure_pack(store.uri(AT), say=said.append).fingerprint == given.fingerprint
    assert hits(store) == {}
    assert len(said) == 1
    assert sorted(p.name for p in cache.iterdir() if p.name != ".lock") == sorted(
        [*(e["file"] for e in given.meta["shards"]), "mean.npy", "pack.json"]
    )


def test_what_a_killed_fetch_left_is_kept_and_what_is_missing_or_cut_short_is_fetched(store, cache):
    ensure_pack(store.uri(AT))
    hits(store)
    (cache / "pack.json").unlink()
    (cache / "train-00001.arrow").unlink()
    (cache / "train-00002.arrow").write_bytes(b"half")
    (cache / "val-00000.arrow.part").write_bytes(b"half")
    (cache / "mean.npy").write_bytes(bytes((cache / "mean.npy").stat().st_size))
    ensure_pack(store.uri(AT))
    assert hits(store).keys() == {"train-00001.arrow", "train-00002.arrow", "mean.npy"}
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize(("times", "fine"), [(1, True), (9, False)])
def test_what_comes_damaged_is_fetched_once_more_and_then_refused(store, cache, times, fine):
    said: list[str] = []
    store.damage[f"{AT}/train-00003.arrow"] = times
    if fine:
        ensure_pack(store.uri(AT), say=said.append)
    else:
        with pytest.raises(DataError, match=r"train-00003.arrow differs from what was packed \(sha256\), twice"):
            ensure_pack(store.uri(AT), say=said.append)
        assert not (cache / "pack.json").exists()
        assert not (cache / "train-00003.arrow").exists()
        assert not list(cache.glob("*.part"))
    assert sum("came damaged" in line for line in said) == 1
    assert hits(store)["train-00003.arrow"] == 2


def test_verify_looks_at_the_store_and_mends_the_cache(store, cache):
    ensure_pack(store.uri(AT))
    damaged = bytearray((cache / "train-00000.arrow").read_bytes())
    damaged[1000] ^= 1
    (cache / "train-00000.arrow").write_bytes(damaged)
    record = verifying.verify(store.uri(AT), None, silent)
    assert (record["kind"], record["shards"], record["images"]) == ("pack", 5, 81)
    store.objects[f"{AT}/train-00000.arrow"] = bytes(damaged)
    with pytest.raises(DataError, match="twice"):
        verifying.verify(store.uri(AT), None, silent)
    assert remote.open_remote(store.uri(AT), print).splits["train"].checked_bytes(0)  # the cache is still whole


def test_a_process_waits_for_the_one_that_fetches(store, cache):
    said: list[str] = []
    cache.mkdir(parents=True)
    with open(cache / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=ensure_pack, args=(store.uri(AT),), kwargs={"say": said.append})
        thread.start()
        until = time.monotonic() + 5
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        assert "another process is fetching" in said[0]
        assert hits(store) == {}
    thread.join(10)
    assert (cache / "pack.json").exists()


def edited(packed: Path, **changes) -> bytes:
    from alexnet.data.packfile import checksum

    meta = json.loads((packed / "pack.json").read_text()) | changes
    return json.dumps(meta | {"checksum": checksum(meta)}).encode()


def test_pack_json_is_not_trusted(store, packed, cache):
    store.objects[f"{AT}/pack.json"] = edited(packed, fingerprint="../../home")
    with pytest.raises(DataError, match="its fingerprint does not match its shards"):
        ensure_pack(store.uri(AT))
    assert not cache.parent.exists()


def test_another_pack_json_of_the_same_pictures_takes_its_place(store, packed, cache):
    ensure_pack(store.uri(AT))
    hits(store)
    store.objects[f"{AT}/pack.json"] = edited(packed, name="renamed")
    assert ensure_pack(store.uri(AT)).meta["name"] == "renamed"
    assert hits(store) == {}


@pytest.mark.parametrize(
    ("uri", "kind", "says"),
    [
        ("bucket/elsewhere", DataError, "there is no s3://bucket/elsewhere/pack.json, or no such bucket"),
        ("private/p.pack", MachineError, "refuses access"),
        ("zz://bucket/p", UsageError, "write s3://bucket/photos.pack"),
        ("s3://me:secret@bucket/p", UsageError, "no secrets in addresses"),
        ("file:///nowhere/at/all", DataError, "there is no file:///nowhere/at/all/pack.json"),
    ],
)
def test_failures_are_told_in_words(store, uri, kind, says):
    with pytest.raises(AlexnetError, match=says) as error:
        ensure_pack(uri if "://" in uri else store.uri(uri))
    assert type(error.value) is kind
    assert len(str(error.value).splitlines()) <= 2
    assert "secret@" not in str(error.value)


def test_a_full_disk_is_told_before_anything_is_fetched(store, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(MachineError, match="set XDG_CACHE_HOME"):
        ensure_pack(store.uri(AT))
    assert hits(store) == {}


def test_a_run_trains_from_a_store_and_finds_its_data_again(store, cache, tmp_path, packed):
    """First the cache is gone, then the server, then the data is named as a file's address."""
    run, uri = tmp_path / "run", store.uri(AT)
    trained = train.train(spec("run.length=2st"), ensure_pack(uri), run)
    record = json.loads((run / "run.json").read_text())["data"]
    assert (record["path"], record["uri"]) == (str(cache), uri)
    shutil.rmtree(cache)
    again = verifying.measure([run], None, 1, "val", (), device="cpu", progress=silent)
    assert again["top1_error"] == trained["top1_error"]
    store.objects.clear()
    assert verifying.measure([run], None, 1, "val", (), device="cpu", progress=silent) == again
    assert verifying.measure([run], f"file://{packed}", 1, "val", (), device="cpu", progress=silent) == again


def test_the_command_line_takes_addresses(store, capsys):
    verify(store.uri(AT), json=True)
    assert json.loads(capsys.readouterr().out)["images"] == 81


def test_packs_are_not_written_to_stores(pictures):
    with pytest.raises(UsageError, match="packs are made on a disk"):
        write_pack(str(pictures), "s3://bucket/p")
