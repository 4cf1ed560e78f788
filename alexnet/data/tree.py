"""A folder or a tar archive seen as the same thing: a list of files and a way to read one.

    tree = open_tree(path)      tree.files: {"train/cat/1.jpg": nbytes};  tree.read("train/cat/1.jpg") -> bytes
    index_tar(Window(file, start, nbytes))      the same for an archive inside an archive, by seeking

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
RUN_RECORD = "run.json"  # in a folder that a training made
REPORTS = (".json", ".jsonl", ".html", ".md")  # beside several of them
MAX_HEADER_NBYTES = 1 << 20  # what tar keeps beside a member (a long name, say) is never longer


@dataclass
class Tree:
    """`files` maps relative path (forward slashes) to size in bytes; `folders` holds all folders, empty ones too."""

    files: dict[str, int]
    folders: set[str]
    read: Callable[[str], bytes]
    n_hidden: int = 0
    n_runs: int = 0
    n_odd: int = 0  # links to nowhere, devices, pipes, unsafe names in archives

    def below(self, prefix: str) -> "Tree":
        """The same tree seen from the folder `prefix`."""
        start = len(prefix) + 1
        inside = f"{prefix}/"
        files = {name[start:]: nbytes for name, nbytes in self.files.items() if name.startswith(inside)}
        folders = {name[start:] for name in self.folders if name.startswith(inside)}
        return Tree(files, folders, lambda name: self.read(inside + name), self.n_hidden, self.n_runs, self.n_odd)


def open_tree(path: Path) -> Tree:
    """The files below a folder, or inside a tar archive (plain, gzip, bzip2, xz). Raises DataError if it is neither."""
    try:
        return _open_folder(path) if path.is_dir() else _open_tar(path)
    except (PermissionError, FileNotFoundError) as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error


def listing_sha256(path: Path) -> str:
    """A hash that changes when files below `path` are added, removed, resized or rewritten (names, sizes, times), but
    for those that no packing looks at.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        found, _ = _without_runs(list(_walk(path)))
        files = [(name, s) for name, s in found if stat.S_ISREG(s.st_mode) and not is_hidden(name)]
        lines = [f"{name}\t{s.st_size}\t{s.st_mtime_ns}" for name, s in files]
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
    """(relative path, status) of everything below `root`, but of a run its record alone; links are followed, but never
    in a circle.
    """

    def visit(folder: str, prefix: str, above: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda e: e.name)
            record = [entry for entry in found if entry.name == RUN_RECORD and prefix]
            for entry in record or found:
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


Found = list[tuple[str, os.stat_result]]


def _without_runs(found: Found) -> tuple[Found, int]:
    """What is left without the runs, the reports beside them and folders that held nothing else; and how many runs."""
    runs = {name.rpartition("/")[0] for name, _ in found if name.endswith(f"/{RUN_RECORD}")}
    if not runs:
        return found, 0
    above = {folder for run in runs for folder in _parents(run)}
    beside = [
        (name, status)
        for name, status in found
        if runs.isdisjoint((name, *_parents(name)))
        and not (name.rpartition("/")[0] in above and name.endswith(REPORTS))
    ]
    full = {folder for name, status in beside if not stat.S_ISDIR(status.st_mode) for folder in _parents(name)}
    return [(name, status) for name, status in beside if name not in above - full], len(runs)


def _open_folder(root: Path) -> Tree:
    tree = Tree({}, set(), partial(_read_below, str(root)))
    found, tree.n_runs = _without_runs(list(_walk(root)))
    for name, status in found:
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
        members, tree = index_tar(Window(archive, 0, nbytes))
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


class Window:
    """`nbytes` of a file from `start` as a file of its own, for `tarfile` to find headers in; refuses giant headers."""

    def __init__(self, file, start: int, nbytes: int):
        self.file, self.start, self.nbytes, self.position = file, start, nbytes, 0

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> int:
        if position < 0:
            raise DataError("the archive is damaged: a header points to before its start; fetch it again")
        self.position = position
        return position

    def read(self, nbytes: int) -> bytes:
        if nbytes > MAX_HEADER_NBYTES:
            raise DataError(f"the archive has a header of {nbytes:,} bytes; refused")
        data = self.pread(nbytes, self.position)
        self.position += len(data)
        return data

    def pread(self, nbytes: int, position: int) -> bytes:
        """Up to `nbytes` from `position`, none from outside the window."""
        nbytes = min(nbytes, self.nbytes - position)
        return os.pread(self.file.fileno(), nbytes, self.start + position) if nbytes > 0 else b""


def index_tar(window: Window) -> tuple[dict[str, tuple[int, int]], Tree]:
    """(offset in the window, size) of each file of a plain tar, and the same as a tree that cannot read yet.

    Raises DataError or `tarfile.TarError` where the archive is not sound from its first to its last byte.
    """
    members: dict[str, tuple[int, int]] = {}
    tree = Tree({}, set(), lambda name: b"")
    n_members = 0
    with tarfile.open(fileobj=window, mode="r:") as tar:
        for member in tar:
            n_members += 1
            if member.size < 0:
                raise DataError(f"the archive is damaged: member {n_members} has a negative size; fetch it again")
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
    _check_end(window, end, n_members)
    return members, tree


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return (
        not name.startswith("/") and not any(part in ("", ".", "..") for part in parts) and readable(name).isprintable()
    )


def as_text(name: str) -> str:
    """A path as valid text: file names on disk may be bytes in no known encoding."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def readable(name: str) -> str:
    """A name of a file with a mark in place of what is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _check_end(window: Window, end: int, n_members: int) -> None:
    """A sound archive ends with zero blocks and nothing after them; tarfile does not report anything else."""
    if end + tarfile.BLOCKSIZE > window.nbytes:
        raise DataError(f"the archive ends early, at byte {window.nbytes} (after member {n_members}); fetch it again")
    for offset in range(end, window.nbytes, SPOOL_CHUNK_NBYTES):
        if window.pread(SPOOL_CHUNK_NBYTES, offset).strip(b"\0"):
            raise DataError(f"the archive is damaged at byte {end} (after member {n_members}); fetch it again")


def members_of(path: Path, within: tuple[int, int] | None = None, name: str = "") -> dict[str, tuple[int, int]]:
    """(offset in the file `path`, size) of each member of a plain tar; of the tar `name` at `within` where given.

    For archives made by a program, which hold nothing but plain files: all else raises DataError, as damage does.
    """
    what = f"{path}: {name}" if name else str(path)
    try:
        with open(path, "rb") as file:
            start, nbytes = within or (0, os.fstat(file.fileno()).st_size)
            members, tree = index_tar(Window(file, start, nbytes))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (tarfile.TarError, DataError) as error:
        raise DataError(f"{what} is not a sound tar archive: {error}") from error
    if tree.n_odd:
        raise DataError(f"{what} holds {tree.n_odd:,} links, devices or unsafe names, as no such archive does; refused")
    return {member: (start + offset, size) for member, (offset, size) in members.items()}


def read_span(path: str, where: tuple[int, int]) -> bytes:
    """The bytes of one member: `where` is (offset in the file `path`, size)."""
    start, nbytes = where
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), nbytes, start)
    if len(data) != nbytes:
        raise DataError(f"{path} has become shorter since it was listed")
    return data
