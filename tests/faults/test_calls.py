"""Every single call that changes a file, while training and while packing: killed there, and failing there.

After a kill the same command ends as if nothing had been. After an error the program ends with 7 and at most two lines,
what was saved before is intact, and the same command ends as if nothing had been. The quick tier takes each call with
one of the three errors in turn, the full one all three, once and from then on.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from alexnet import checkpoint
from alexnet.data.packfile import is_pack, verify_pack
from faults import children
from faults.children import KILL, SHORT, Fault, changes, outcome, run
from faults.tier import FULL

ERRORS = ("ENOSPC", "EIO", "EROFS")


@pytest.fixture(scope="module")
def train_changes(tiny_pack, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("traced") / "run"
    return changes(folder, children.train, str(tiny_pack.path), str(folder), SHORT)


@pytest.fixture(scope="module")
def pack_changes(pictures, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("traced") / "pack"
    return changes(folder, children.pack, str(pictures), str(folder))


def faults(trace: list[str], kill: bool) -> list[tuple[int, str, bool]]:
    """(which call, how, lasting) for every call of a run."""
    if kill:
        return [(at, KILL, False) for at in range(1, len(trace) + 1)]
    every = [(at, how, lasting) for at in range(1, len(trace) + 1) for how in ERRORS for lasting in (False, True)]
    return [fault for i, fault in enumerate(every) if FULL or i % 6 == fault[0] % 6]


def all_of(cases: list, judge) -> list[str]:
    """What was wrong, by `judge(case)`, two at a time."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return [wrong for wrong in pool.map(judge, cases) if wrong]


def wrong_end(status: int, told: str, at: int, how: str) -> str:
    """An error's exit status and words; a kill's status."""
    if how == KILL:
        return "" if status == -9 else f"{status} instead of a kill"
    error = re.findall(r"^error: .*", told, re.MULTILINE | re.DOTALL)
    if "Traceback" in told or (status == 7 and not (error and len(error[0].strip().splitlines()) <= 2)):
        return f"told {told!r}"
    return "" if status in (0, 7) else f"status {status}, told {told!r}"


def test_of_training(straight, tiny_pack, tmp_path, train_changes, figures):
    expected = outcome(straight[SHORT])

    def judge(case: tuple[int, str, bool]) -> str:
        at, how, lasting = case
        name = f"{train_changes[at - 1]} {how} {'and on' if lasting else ''} ({at})"
        folder = tmp_path / f"{at}-{how}-{lasting}"
        arguments = (children.train, str(tiny_pack.path), str(folder), SHORT)
        ended = run(*arguments, Fault(str(folder), at, how, lasting))
        if wrong := wrong_end(ended.status, ended.told, at, how):
            return f"{name}: {wrong}"
        if how != KILL and ended.status == 7:
            checkpoint.verify(folder / "checkpoints")
        if ended.status != 0 and (again := run(*arguments)).status != 0:
            return f"{name}: then {again.status}: {again.told}"
        if how != KILL and ended.status == 0:  # it could not clear up after itself, and goes on all the same
            [path.rmdir() if path.is_dir() else path.unlink() for path in folder.rglob(".tmp-*")]
        differing = [key for key, value in outcome(folder).items() if value != expected[key]]
        return f"{name}: {', '.join(differing)} differ" if differing else ""

    report("call", faults, train_changes, judge, figures)


def test_of_packing(pictures, tmp_path, pack_changes, figures):
    whole = tmp_path / "whole"
    assert run(children.pack, str(pictures), str(whole)).status == 0
    expected = content(whole)

    def judge(case: tuple[int, str, bool]) -> str:
        at, how, lasting = case
        name = f"{pack_changes[at - 1]} {how} {'and on' if lasting else ''} ({at})"
        folder = tmp_path / f"{at}-{how}-{lasting}"
        ended = run(children.pack, str(pictures), str(folder), Fault(str(folder), at, how, lasting))
        if wrong := wrong_end(ended.status, ended.told, at, how):
            return f"{name}: {wrong}"
        if is_pack(folder):  # then it is one
            verify_pack(folder)
        elif (again := run(children.pack, str(pictures), str(folder))).status != 0:
            return f"{name}: then {again.status}: {again.told}"
        return "" if content(folder) == expected else f"{name}: another pack, {sorted(content(folder))}"

    report("pack call", faults, pack_changes, judge, figures)


def report(what: str, faults, trace: list[str], judge, figures) -> None:
    found = []
    for kind, kill in (("kills", True), ("errors", False)):
        cases = faults(trace, kill)
        wrong = all_of(cases, judge)
        figures.add(f"{what} {kind}", len(cases), len(cases) - len(wrong), calls=len(trace))
        found += wrong
    assert not found, "\n".join(found)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_each_file_is_on_the_disk_before_it_has_its_name(train_changes, pack_changes):
    """What a power cut needs: its bytes flushed before the rename, its folder after it; a record after its tensors; an
    old checkpoint removed only after a new one is there. The page of a run is not waited for: it can be made again.
    """
    for trace in (train_changes, pack_changes):
        calls = [line.split("\t") for line in trace if not line.endswith("report.html")]
        renames = [i for i, (call, _) in enumerate(calls) if call == "rename"]
        assert renames
        for i in renames:
            parent = os.path.dirname(calls[i][1]) or "."
            later = calls[i + 1 :]
            before_next = later[: next((j for j, (call, _) in enumerate(later) if call == "rename"), None)]
            assert ["fsync", parent] in before_next, f"{calls[i]}: its folder is not flushed"
            flushed = [path for call, path in calls[:i] if call == "fsync"]
            assert any(os.path.basename(calls[i][1]) in path for path in flushed[-1:]), f"{calls[i]} before its bytes"
    published = [path for call, path in (line.split("\t") for line in train_changes) if call == "rename"]
    published = [path for path in published if path != "report.html"]
    steps = [path for path in published if "step-" in path]
    assert steps == [f"checkpoints/step-{n:08}.{end}" for n in range(1, 5) for end in ("safetensors", "json")]
    removed = [line.split("\t")[1] for line in train_changes if line.startswith("unlink\tcheckpoints/step")]
    assert removed == [f"checkpoints/step-{n:08}.{end}" for n in (1, 2) for end in ("json", "safetensors")]
    assert published[-1] == "model.safetensors"
    packed = [path for call, path in (line.split("\t") for line in pack_changes) if call == "rename"]
    assert packed[-1] == "pack.json"


def test_a_disk_too_small_for_a_checkpoint(straight, tiny_pack, tmp_path):
    """A limit on the size of files, which also safetensors' own writer meets: nothing older is touched."""
    arguments = (str(tiny_pack.path), str(tmp_path / "run"), SHORT)
    assert run(children.train, *arguments, None, 2).status == 143
    size = (tmp_path / "run/checkpoints/step-00000002.safetensors").stat().st_size
    ended = run(children.train_on_a_small_disk, *arguments, size - 100)
    assert ended.status == 7, ended.told
    assert "step-00000003.safetensors: " in ended.told
    assert "MB are free" in ended.told
    assert checkpoint.verify(tmp_path / "run/checkpoints") == [1, 2]
    assert run(children.train, *arguments).status == 0
    assert outcome(tmp_path / "run") == outcome(straight[SHORT])
