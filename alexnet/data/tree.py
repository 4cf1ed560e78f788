"""A folder or a tar archive seen as the same thing: a list of files and a way to read one.

    tree = open_tree(path)      tree.files: {"train/cat/1.jpg": nbytes};  tree.read("train/cat/1.jpg") -> bytes

Archives are never extracted: a plain tar is indexed and read in place, a compressed one is unpacked once into an
unnamed temporary file. Python's `tarfile` ends silently at a damaged header, so the end-of-archive mark is checked
here.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alexnet.errors import DataError, MachineError

OPENERS = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}
MAX_EXPANSION = 200  # a compressed archive that grows more than this is an attack, not pictures
SPOOL_CHUNK_NBYTES = 4 << 20


@dataclass
class Tree:
    """`files` maps relative path (forward slashes) to size in bytes; `folders` holds all folders, empty ones too."""

    files: dict[str, int]
    folders: set[str]
    read: Callable[[str], bytes]
    n_hidden: int = 0
    n_odd: int = 0  # links to nowhere, devices, pipes, unsafe names in archives

    def below(self, prefix: str) -> "Tree":
        """The same tree seen from the folder `prefix`."""
        start = len(prefix) + 1
        inside = f"{prefix}/"
        files = {name[start:]: nbytes for name, nbytes in self.files.items() if name.startswith(inside)}
        folders = {name[start:] for name in self.folders if name.startswith(inside)}
        return Tree(files, folders, lambda name: self.read(inside + name), self.n_hidden, self.n_odd)


def open_tree(path: Path) -> Tree:
    """The files below a folder, or inside a tar archive (plain, gzip, bzip2, xz). Raises DataError if it is neither."""
    try:
        return _open_folder(path) if path.is_dir() else _open_tar(path)
    except (PermissionError, FileNotFoundError) as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error


def listing_sha256(path: Path) -> str:
    """A hash that changes when files below `path` are added, removed, resized or rewritten (names, sizes, times)."""
    digest = hashlib.sha256()
    if path.is_dir():
        lines = [f"{name}\t{s.st_size}\t{s.st_mtime_ns}" for name, s in _walk(path) if stat.S_ISREG(s.st_mode)]
    else:
        status = path.stat()
        lines = [f"{path.name}\t{status.st_size}\t{status.st_mtime_ns}"]
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def is_hidden(name: str) -> bool:
    """.DS_Store, ._resource forks, .ipynb_checkpoints, Thumbs.db and their kind, at any depth of a relative path."""
    return any(
        part.startswith((".", "__MACOSX")) or part.lower() in ("thumbs.db", "desktop.ini") for part in name.split("/")
    )


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """(relative path, status) of everything below `root`; links are followed, but never in a circle."""

    def visit(folder: str, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                name = prefix + entry.name
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a link to nowhere
                    yield name, entry.stat(follow_symlinks=False)
                    continue
                yield name, status
                if stat.S_ISDIR(status.st_mode) and not is_hidden(entry.name):
                    real = os.path.realpath(entry.path)
                    if real not in above:
                        yield from visit(entry.path, f"{name}/", above | {real})

    yield from visit(str(root), "", frozenset({os.path.realpath(root)}))


def _open_folder(root: Path) -> Tree:
    tree = Tree({}, set(), partial(_read_below, str(root)))
    for name, status in _walk(root):
        if is_hidden(name):
            tree.n_hidden += 1
        elif stat.S_ISDIR(status.st_mode):
            tree.folders.add(name)
        elif stat.S_ISREG(status.st_mode):
            tree.files[name] = status.st_size
        else:
            tree.n_odd += 1
    return tree


def _read_below(root: str, name: str) -> bytes:
    with open(f"{root}/{name}", "rb") as file:
        return file.read()


def _open_tar(path: Path) -> Tree:
    with open(path, "rb") as file:
        head = file.read(6)
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    archive = open(path, "rb") if opener is None else _spool(path, opener)  # noqa: SIM115 (the tree reads from it later)
    nbytes = os.fstat(archive.fileno()).st_size
    try:
        members, tree = _index_tar(archive, nbytes)
    except tarfile.TarError as error:
        archive.close()
        raise DataError(
            f"{path} is neither a folder nor a sound tar archive ({error}); if it was one, fetch it again"
        ) from error
    except DataError as error:
        archive.close()
        raise DataError(f"{path}: {error}") from error

    def read(name: str) -> bytes:
        start, size = members[name]
        return os.pread(archive.fileno(), size, start)  # no shared file position: safe in threads

    tree.read = read
    return tree


def _spool(path: Path, opener: Callable):
    """The decompressed archive as an unnamed temporary file, gone when closed."""
    spooled = tempfile.TemporaryFile()  # noqa: SIM115
    limit = path.stat().st_size * MAX_EXPANSION + SPOOL_CHUNK_NBYTES
    try:
        with opener(path, "rb") as packed:
            while chunk := packed.read(SPOOL_CHUNK_NBYTES):
                if spooled.tell() + len(chunk) > limit:
                    raise DataError(f"{path} unpacks to more than {MAX_EXPANSION} times its size; refused")
                spooled.write(chunk)
        spooled.seek(0)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or not complete ({error}); fetch it again") from error
    except OSError as error:
        raise MachineError(
            f"cannot unpack {path} into {tempfile.gettempdir()}: {error}; set TMPDIR to a larger disk"
        ) from error
    return spooled


def _index_tar(archive, nbytes: int) -> tuple[dict[str, tuple[int, int]], Tree]:
    members: dict[str, tuple[int, int]] = {}
    tree = Tree({}, set(), lambda name: b"")
    n_members = 0
    with tarfile.open(fileobj=archive, mode="r:") as tar:
        for member in tar:
            n_members += 1
            name = member.name.removeprefix("./").rstrip("/")
            if not name or name == ".":
                continue
            if not _is_safe(name) or not (member.isdir() or member.isreg()) or member.issparse():
                tree.n_odd += 1
            elif is_hidden(name):
                tree.n_hidden += 1
            elif member.isdir():
                tree.folders.add(name)
            elif name in members:
                raise DataError(f"the archive holds {name!r} twice")
            else:
                members[name] = (member.offset_data, member.size)
                tree.files[name] = member.size
                tree.folders.update(_parents(name))
        end = tar.offset
    _check_end(archive, end, nbytes, n_members)
    return members, tree


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return not name.startswith("/") and not any(part in ("", ".", "..") for part in parts) and name.isprintable()


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _check_end(archive, end: int, nbytes: int, n_members: int) -> None:
    """A sound archive ends with zero blocks and nothing after them; tarfile does not report anything else."""
    if end + tarfile.BLOCKSIZE > nbytes:
        raise DataError(f"the archive ends early, at byte {nbytes} (after member {n_members}); fetch it again")
    for offset in range(end, nbytes, SPOOL_CHUNK_NBYTES):
        if os.pread(archive.fileno(), SPOOL_CHUNK_NBYTES, offset).strip(b"\0"):
            raise DataError(f"the archive is damaged at byte {end} (after member {n_members}); fetch it again")
