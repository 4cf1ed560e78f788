"""Checkpoints: whole or absent, newest intact first, and a full disk costs nothing older."""

import json
import os
import subprocess
import sys

import pytest
import torch

from alexnet import checkpoint
from alexnet.errors import CheckpointError, MachineError

TENSORS = {"net.w": torch.arange(6.0).reshape(2, 3), "velocity.w": torch.ones(2, 3)}


def steps(folder) -> list[int]:
    return [json.loads(path.read_text())["step"] for path in sorted(folder.glob("step-*.json"))]


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    checkpoint.save(tmp_path / "c", 7, TENSORS, {"plateau": {"drops": 1}}, keep=2)
    tensors, record = checkpoint.latest(tmp_path / "c")
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert (record["step"], record["plateau"]) == (7, {"drops": 1})
    assert checkpoint.verify(tmp_path / "c") == [7]


def test_only_the_newest_are_kept(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2)
    assert steps(tmp_path) == [4, 5]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_file_without_its_record_does_not_count(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, {}, keep=3)
    checkpoint.save(tmp_path, 2, TENSORS, {}, keep=3)
    (tmp_path / "step-00000002.json").unlink()
    assert checkpoint.latest(tmp_path)[1]["step"] == 1


def test_no_checkpoints_is_none_and_leftovers_are_removed(tmp_path):
    (tmp_path / ".tmp-step-00000001.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["bit", "short", "record", "swapped"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, capsys, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"net.w": torch.full((50,), float(step))}, {}, keep=3)
    newest, record = tmp_path / "step-00000002.safetensors", tmp_path / "step-00000002.json"
    content = newest.read_bytes()
    if damage == "bit":
        newest.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "short":
        newest.write_bytes(content[:-1])
    elif damage == "record":
        record.write_text("{")
    else:
        record.write_text((tmp_path / "step-00000001.json").read_text())
        newest.write_bytes((tmp_path / "step-00000001.safetensors").read_bytes())
    assert checkpoint.latest(tmp_path)[1]["step"] == 1
    assert "step-00000002" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="step-00000002"):
        checkpoint.verify(tmp_path)


def test_none_intact_is_an_error(tmp_path):
    checkpoint.save(tmp_path, 1, TENSORS, {}, keep=3)
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact"):
        checkpoint.latest(tmp_path)


def test_a_disk_that_is_full_is_said_and_costs_nothing_older(tmp_path):
    """A file-size limit stands for the full disk: the same write fails half-way."""
    checkpoint.save(tmp_path, 1, TENSORS, {}, keep=3)
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from alexnet import checkpoint;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "checkpoint.save(Path(sys.argv[1]), 2, {'net.w': torch.ones(10_000)}, {}, keep=3)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "MachineError: cannot write" in done.stderr
    assert "MB are free" in done.stderr
    assert checkpoint.latest(tmp_path)[1]["step"] == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]


def test_errors_of_writing_are_machine_errors(tmp_path):
    with pytest.raises(MachineError, match="cannot write"):
        checkpoint.publish(tmp_path / "missing/folder/file", lambda path: path.write_text("x"))
