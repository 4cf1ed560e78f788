"""Memory that processes share: all or none have it, and nothing stays behind."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn

from alexnet.parallel import onemachine


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A team of one process, and a folder in place of /dev/shm."""
    monkeypatch.setattr(onemachine, "MEMORY", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield tmp_path
    dist.destroy_process_group()


def parameters(dtype=torch.float32) -> list[nn.Parameter]:
    shapes = ((3, 5), (2, 3, 4, 4), (1,))
    found = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    found[1].data = found[1].data.contiguous(memory_format=torch.channels_last)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_are_added_up(alone, monkeypatch, dtype):
    """With another process's row, written by hand; in chunks that do not fit."""
    monkeypatch.setattr(onemachine, "CHUNK", 7)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    ours = parameters(dtype)
    rows = onemachine.open_rows(ours)
    wanted = []
    for p in ours:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())).to(p)
        p.grad = p.grad.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p.grad
        other = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p)
        rows.put(p)
        rows.rows[p][1].copy_(other.permute(0, 2, 3, 1).flatten() if p.dim() == 4 else other.flatten())
        wanted.append(p.grad + other)
    rows.add_up()
    for p, total in zip(ours, wanted, strict=True):
        assert torch.equal(p.grad, total)
    assert not list(alone.iterdir())


def test_too_little_memory_is_none(alone, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert onemachine.open_rows(parameters()) is None
    assert not list(alone.iterdir())


def test_no_memory_to_share_is_none(alone, monkeypatch):
    monkeypatch.setattr(onemachine, "MEMORY", alone / "nowhere")
    assert onemachine.open_rows(parameters()) is None
    assert onemachine.open_rows([]) is None
    assert onemachine.open_rows([nn.Parameter(torch.empty(3, device="meta"))]) is None
