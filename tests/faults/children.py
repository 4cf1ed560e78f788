"""Child processes to be killed, starved and lied to, and the wrappers that do it.

A fork server (Python's own) imports everything once and trains a single step, on one thread, so that a child starts in
a hundredth of a second: torch's and OpenMP's threads are started by the first loop over several, which the server never
runs. A child is the real program from `__main__` down (its words, its exit status) on the tests' tiny net.

`Fault` makes the n-th call that changes a file below a folder fail, or kills the process there. Calls are caught in
Python: `open`, `write`, `truncate`, `os.fsync`, `rename`, `unlink`, `mkdir`, `rmdir`, `chmod`. That suffices because
the program calls the system through these alone; the one writer that is not Python, safetensors', is wrapped as one
call that leaves what it leaves when killed (half a file under a name of its own). A write fails half-way.
"""

import builtins
import errno
import hashlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection, forkserver
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent
CONTEXT = multiprocessing.get_context("forkserver")
POLLING = threading.Lock()  # `start` polls all children, and a child's status can be read only once
MUST_END_S = 120
KILL = "kill"
LONG = ("run.checkpoint_every=1st",)  # 16 steps of the tests' tiny net, saved after each
SHORT = ("run.length=1ep", "run.checkpoint_every=1st", "run.log_every=2st", "run.keep=2")  # 4 steps


@dataclass(frozen=True)
class Fault:
    """The `at`-th change below `folder` fails with errno `how`, or is the process's last; also all after it if
    `lasting`. at=0 only writes the changes to `trace`, one line each: call, tab, path.
    """

    folder: str
    at: int = 0
    how: str = KILL
    lasting: bool = False
    trace: str = ""


@dataclass(frozen=True)
class Ended:
    """Exit status (negative: the signal), what was told, and how long it took."""

    status: int
    told: str
    time_s: float


@lru_cache
def _server() -> None:
    """Starts the fork server with an environment in which nothing makes threads."""
    kept = dict(os.environ)
    paths = [str(HERE.parent), str(HERE.parents[1])]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    try:
        CONTEXT.set_forkserver_preload(["faults.warm"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


class Child:
    """`function(*args)` in a process of its own, as the command line would run it."""

    def __init__(self, function: Callable, *args) -> None:
        _server()
        descriptor, self.log = tempfile.mkstemp(prefix="told-")
        os.close(descriptor)
        self.started = time.perf_counter()
        self.process = CONTEXT.Process(target=_as_the_command_line, args=(self.log, function, args))
        with POLLING:
            self.process.start()

    def told(self) -> str:
        return Path(self.log).read_text(errors="replace")

    def wait(self, timeout_s: float) -> bool:
        connection.wait([self.process.sentinel], timeout_s)
        with POLLING:
            return self.process.exitcode is not None

    def end(self) -> Ended:
        """Waits; one that does not end is killed and reported as a hang."""
        hung = not self.wait(MUST_END_S)
        if hung:
            self.process.kill()
            self.wait(MUST_END_S)
        ended = Ended(self.process.exitcode, self.told(), time.perf_counter() - self.started)
        os.unlink(self.log)
        assert not hung, f"it hangs; it told: {ended.told}"
        return ended


def run(function: Callable, *args) -> Ended:
    return Child(function, *args).end()


def run_for(time_s: float, function: Callable, *args) -> Ended:
    """Killed with SIGKILL after so long, unless it has ended."""
    child = Child(function, *args)
    if not child.wait(time_s):
        child.process.kill()
    return child.end()


def _as_the_command_line(log: str, function: Callable, args: tuple) -> None:
    from alexnet import __main__, cli

    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    cli.VERBS = SimpleNamespace(cli=lambda **_: function(*args))
    __main__.main()


# What children do.


def train(pack: str, run: str, settings: tuple[str, ...] = (), fault: Fault | None = None, stop_at: int | None = None):
    from tiny import spec

    from alexnet import train as training
    from alexnet.data.packfile import open_pack

    if fault:
        inject(fault)
    try:
        training.train(spec("run.workers=0", *settings), open_pack(pack), Path(run), stop_at)
    except training.Stopped as stopped:
        sys.exit(stopped.code)


def pack(source: str, out: str, fault: Fault | None = None) -> None:
    from alexnet.data.pack import listing_of
    from alexnet.data.pack import pack as write_pack
    from alexnet.data.sources import open_source

    if fault:
        inject(fault)
    write_pack(open_source(source), out, shard_rows=30, workers=1, listing=listing_of(source))


def train_on_a_small_disk(pack_path: str, run: str, settings: tuple[str, ...], nbytes: int) -> None:
    """No file may become larger: what a full disk does to every writer, safetensors' own too."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
    train(pack_path, run, settings)


def train_with_threads(pack_path: str, run: str, settings: tuple[str, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    train(pack_path, run, settings)


def train_with_a_defect(defect: str, pack_path: str, run: str, settings: tuple[str, ...], fault: Fault | None = None):
    """The program as it must not be, to see that the harness would notice."""
    from alexnet import checkpoint, sgd, train

    def publish_in_place(path: Path, write) -> str:
        write(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def without_velocities(self, weights: dict, velocities: dict) -> None:
        load(self, weights, {name: 0 * velocity for name, velocity in velocities.items()})

    def size_of(path: Path) -> int:
        return path.stat().st_size if path.exists() else 0

    load, Metrics = sgd.Sgd.load, train.Metrics
    {
        "velocities not restored": lambda: setattr(sgd.Sgd, "load", without_velocities),
        "lines doubled": lambda: setattr(train, "Metrics", lambda path, _: Metrics(path, size_of(path))),
        "written in place": lambda: setattr(checkpoint, "publish", publish_in_place),
    }[defect]()
    globals()["train"](pack_path, run, settings, fault)


# How calls are made to fail.


class Calls:
    """Counts changes below a folder; the chosen one fails."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.count = fault, 0
        self.writes: Counter[str] = Counter()
        self.trace = os.open(fault.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if fault.trace else None

    def change(self, call: str, path: str, half_way: Callable[[], object] = lambda: None) -> None:
        """To be called before each change. `half_way` does the part of it that a fault leaves done."""
        if not path.startswith(self.fault.folder) or (call == "write" and self.is_one_of_many(path)):
            return
        self.count += 1
        if self.trace is not None:
            os.write(self.trace, f"{call}\t{os.path.relpath(path, self.fault.folder)}\n".encode())
        due = self.count >= self.fault.at if self.fault.lasting else self.count == self.fault.at
        if not self.fault.at or not due or not possible(call, self.fault.how):
            return
        half_way()
        if self.fault.how == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.fault.how)
        raise OSError(number, os.strerror(number), *([path] if call not in ("write", "truncate", "fsync") else []))

    def is_one_of_many(self, path: str) -> bool:
        """Of the writes to one file the first two count, and then every hundredth: a zip is written in dozens."""
        self.writes[path] += 1
        return self.writes[path] > 2 and self.writes[path] % 100 > 0


def possible(call: str, how: str) -> bool:
    """A full disk still lets files be removed."""
    return not (how == "ENOSPC" and call in ("unlink", "rmdir", "chmod"))


class Watched:
    """A file open for writing."""

    def __init__(self, file, path: str, calls: Calls) -> None:
        self.file, self.path, self.calls = file, path, calls

    def write(self, data) -> int:
        def half() -> None:
            whole = data if isinstance(data, str) else bytes(data)
            self.file.write(whole[: len(whole) // 2])
            self.file.flush()

        self.calls.change("write", self.path, half)
        return self.file.write(data)

    def truncate(self, *args) -> int:
        self.calls.change("truncate", self.path)
        return self.file.truncate(*args)

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_) -> None:
        self.file.close()


def inject(fault: Fault) -> None:
    """From here on this process counts its changes below `fault.folder`, and `fault` happens."""
    calls = Calls(fault)
    real = SimpleNamespace(open=io.open, fsync=os.fsync)

    def opened(file, mode: str = "r", *args, **kwargs):
        if not set(mode) & set("wax+"):
            return real.open(file, mode, *args, **kwargs)
        path = os.path.abspath(file) if not isinstance(file, int) else ""
        calls.change("open", path)
        return Watched(real.open(file, mode, *args, **kwargs), path, calls)

    def fsync(descriptor: int) -> None:
        calls.change("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        real.fsync(descriptor)

    _wrap_safetensors(calls)
    builtins.open = io.open = opened
    os.fsync = fsync
    for name, shown in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir"), ("mkdir", "mkdir"),
                        ("chmod", "chmod"), ("rename", "rename"), ("replace", "rename")):  # fmt: skip
        setattr(os, name, _counted(calls, shown, getattr(os, name)))


def _counted(calls: Calls, shown: str, real: Callable) -> Callable:
    def call(path, *args, dir_fd: int | None = None, **kwargs):
        target = args[0] if shown == "rename" else path
        folder = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
        calls.change(shown, os.path.join(folder, os.fspath(target)))
        return real(path, *args, **kwargs, **({} if dir_fd is None else {"dir_fd": dir_fd}))

    return call


def _wrap_safetensors(calls: Calls) -> None:
    """It writes `.tmpXXXXXX` beside the name it is given, then renames: seen with strace, version 0.8."""
    from safetensors import SafetensorError

    from alexnet import checkpoint

    save, rename, unlink = checkpoint.save_file, os.rename, os.unlink

    def save_file(tensors: dict, path, *args) -> None:
        def half() -> None:
            save(tensors, path, *args)
            os.truncate(path, os.path.getsize(path) // 2)
            if calls.fault.how == KILL:
                rename(path, os.path.join(os.path.dirname(path), ".tmpQx7aB2"))
            else:
                unlink(path)

        try:
            calls.change("safetensors", os.path.abspath(path), half)
        except OSError as error:
            raise SafetensorError(f"Error while serializing: I/O error: {error.strerror}") from None
        save(tensors, path, *args)

    checkpoint.save_file = save_file


def changes(folder: Path, function: Callable, *args) -> list[str]:
    """`call, tab, path` of all changes below `folder` of an undisturbed `function(*args, fault)`, in their order."""
    trace = folder.with_name(f"{folder.name}.trace")
    ended = run(function, *args, Fault(str(folder), trace=str(trace)))
    assert ended.status == 0, ended.told
    return trace.read_text().splitlines()


def outcome(run: Path) -> dict:
    """What must not depend on how often a run was stopped: the model's bytes, the lines of the metrics without their
    times, the names of all files but those of an older checkpoint that a kill let stay.
    """
    timed, lines = ("images_per_s", "data_wait"), (run / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]
    records = {path.stem for path in run.glob("checkpoints/step-*.json")}
    names = {str(path.relative_to(run)) for path in run.rglob("*")}
    older = {f"checkpoints/{stem}.{end}" for stem in sorted(records)[:-1] for end in ("json", "safetensors")}
    return {
        "model": (run / "model.safetensors").read_bytes(),
        "metrics": [row for row in rows if "summary" not in row],
        "summaries": sum("summary" in row for row in rows),
        "names": sorted(names - older),
        "at most one checkpoint too many": len(records) <= 3 and older <= names,
    }
