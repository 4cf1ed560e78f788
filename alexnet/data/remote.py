"""A pack in an object store: fetched once into the user's cache, then read like any other.

    pack = open_remote("s3://bucket/photos.pack", say)      the pack, lying in $XDG_CACHE_HOME/alexnet/<fingerprint>/

Everything pyarrow.fs.FileSystem.from_uri understands is taken: s3://, gs://, file:// ... Of a remote pack, pack.json is
read and checked each time; what is not in the cache yet is fetched, several files at once. A file gets its name only
when it is whole, on the disk and has the sha256 that pack.json tells, so a killed fetch goes on file by file. One
process fetches; others on the machine wait for it and find the files. docs/format.md says what that costs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa

from alexnet.data.packfile import MAX_JSON_NBYTES, Pack, fingerprint, open_pack, parse_meta
from alexnet.data.shardwriter import put_file
from alexnet.errors import AlexnetError, DataError, MachineError, UsageError
from alexnet.log import duration

URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
CHUNK_NBYTES = 8 << 20
AT_ONCE = 8  # files; one stream of an object store seldom fills a line
TELL_S = 10  # between two lines of progress
DENIED = re.compile(r"access.?denied|forbidden|credential|signature|access.?key|unauthorized|token|status 40[13]", re.I)
ABSENT = re.compile(r"no.?such.?(bucket|key)|not.?found|status 404", re.I)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Store:
    """Where a pack lies: `root` in a pyarrow `filesystem`. Messages call it `name`, without what follows a `?`."""

    name: str
    filesystem: object
    root: str

    def chunks(self, file: str, most: int) -> Iterator[bytes]:
        """The bytes of a file of the pack; of one that is longer than `most`, only so many that it is seen."""
        with _told(self.name, file):
            stream = self.filesystem.open_input_stream(f"{self.root.rstrip('/')}/{file}")
        with stream:
            while most >= 0:
                with _told(self.name, file):
                    chunk = stream.read(CHUNK_NBYTES)
                if not chunk:
                    return
                most -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Wanted:
    """A file of a pack, as pack.json describes it; `nbytes` None where it is not told."""

    file: str
    sha256: str
    nbytes: int | None
    most: int

    def is_in(self, folder: Path) -> bool:
        """Files have their names only once they were whole: of large ones the size is compared and no more."""
        path = folder / self.file
        if not path.is_file():
            return False
        if self.nbytes is not None:
            return path.stat().st_size == self.nbytes
        return hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256


class Differs(Exception):
    """What came is not what was packed."""


def is_uri(data: object) -> bool:
    """Whether data is named by an address such as s3://bucket/photos.pack."""
    return isinstance(data, str) and URI.match(data) is not None


def user_cache() -> Path:
    """The folder that holds what can be made or fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"


def open_remote(uri: str, say: Say, anew: bool = False) -> Pack:
    """The pack at `uri`, opened where it was fetched to; `anew` fetches also what is in the cache already.

    Raises UsageError for an address that is none, DataError where there is no pack, or one that is damaged there, and
    MachineError for a store that cannot be reached or refuses, and a full disk.
    """
    store = _connect(uri)
    text = b"".join(store.chunks("pack.json", MAX_JSON_NBYTES))
    meta = parse_meta(text, f"{store.name}/pack.json")
    mark = fingerprint(meta["shards"], meta["classes"])
    if mark != meta["fingerprint"]:
        raise DataError(f"{store.name}/pack.json was changed: its fingerprint does not match its shards; pack again")
    folder = user_cache() / mark
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, say):
            _fetch_missing(store, folder, meta, anew, say)
            if not (folder / "pack.json").exists() or (folder / "pack.json").read_bytes() != text:
                put_file(folder / "pack.json", lambda file: file.write(text))
            return replace(open_pack(folder), uri=uri)
    except OSError as error:
        why = error.strerror or error
        raise MachineError(f"cannot write {folder}: {why}; free space or set XDG_CACHE_HOME") from error


def _connect(uri: str) -> Store:
    from pyarrow import fs

    name = uri.partition("?")[0].rstrip("/")
    try:
        secret = urlsplit(uri).password
    except ValueError as error:
        raise UsageError(f"{name} is not an address ({error}); write s3://bucket/photos.pack") from None
    if secret:
        raise UsageError(
            f"{urlsplit(uri).scheme}://...: no secrets in addresses, they end up in run folders;\n"
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    try:
        with _told(name, "pack.json"):
            return Store(name, *fs.FileSystem.from_uri(uri))
    except pa.ArrowException as error:  # a scheme or a letter it does not know
        raise UsageError(f"{name}: {_first_line(error)};\nwrite s3://bucket/photos.pack, gs:// or file://") from None


@contextmanager
def _told(name: str, file: str) -> Iterator[None]:
    """Says in words what a store answers."""
    try:
        yield
    except OSError as error:
        raise _in_words(name, file, error) from None


def _in_words(name: str, file: str, error: OSError) -> AlexnetError:
    text = _first_line(error)
    if isinstance(error, FileNotFoundError) or ABSENT.search(text):
        return DataError(
            f"there is no {name}/{file}, or no such bucket; `alexnet pack SRC OUT` makes a pack, to be copied there"
        )
    if isinstance(error, PermissionError) or DENIED.search(text):
        return MachineError(
            f"{name} refuses access: {text}\n"
            "give credentials as the store wants them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    return MachineError(f"cannot read {name}/{file}: {text}\nthe same command goes on with what has been fetched")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Holds the folder against other processes that would fetch into it; waits for one that does."""
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is fetching into {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_missing(store: Store, folder: Path, meta: dict, anew: bool, say: Say) -> None:
    """All files that the cache does not have yet. Raises DataError, MachineError, or OSError of the cache's disk."""
    wanted = [Wanted(entry["file"], entry["sha256"], entry["nbytes"], entry["nbytes"]) for entry in meta["shards"]]
    wanted.append(Wanted("mean.npy", meta["mean_sha256"], None, 12 * meta["size_px"] ** 2 + 4096))
    absent = [file for file in wanted if not file.is_in(folder)]
    total, free = sum(file.most for file in absent), shutil.disk_usage(folder).free
    if total > free:
        raise MachineError(
            f"{store.name} needs {_mb(total)} in {folder}, where {_mb(free)} are free;\n"
            "free space or set XDG_CACHE_HOME to a folder on another disk"
        )
    missing = wanted if anew else absent
    if not missing:
        return
    total = sum(file.most for file in missing)
    say(f"fetching {len(missing)} files, {_mb(total)}, of {store.name} into {folder} (once; later runs use it)")
    got, stop = _counter(total, say), Event()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for future in as_completed([pool.submit(_fetch, store, folder, file, got, stop, say) for file in missing]):
            future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        for part in folder.glob("*.part"):
            part.unlink()


def _fetch(store: Store, folder: Path, wanted: Wanted, got: Callable[[int], None], stop: Event, say: Say) -> None:
    """One file, whole or not at all; once more where what came is not what was packed."""

    def write(file: BinaryIO) -> None:
        digest = hashlib.sha256()
        for chunk in store.chunks(wanted.file, wanted.most):
            if stop.is_set():
                raise CancelledError
            digest.update(chunk)
            file.write(chunk)
            got(len(chunk))
        if digest.hexdigest() != wanted.sha256:
            got(-file.tell())
            raise Differs

    try:
        put_file(folder / wanted.file, write)
    except Differs:
        say(f"{store.name}/{wanted.file} came damaged (its sha256 differs); fetching it once more")
        try:
            put_file(folder / wanted.file, write)
        except Differs:
            raise DataError(
                f"{store.name}/{wanted.file} differs from what was packed (sha256), twice; copy the pack there again"
            ) from None


def _counter(total: int, say: Say) -> Callable[[int], None]:
    """got(nbytes), called from any thread: now and then a line of progress with the time left."""
    lock, start_s = Lock(), time.monotonic()
    done, told_s = 0, start_s

    def got(nbytes: int) -> None:
        nonlocal done, told_s
        with lock:
            done += nbytes
            now_s = time.monotonic()
            if now_s - told_s < TELL_S or done <= 0:
                return
            told_s = now_s
            left_s = (now_s - start_s) / done * max(total - done, 0)
            say(f"fetched {_mb(done)} of {_mb(total)}, {duration(left_s)} left")

    return got


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.0f} MB"
