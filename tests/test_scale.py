"""docs/scale.md says what benchmarks/scale.py computes, and that computes what alexnet/parallel sends."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from alexnet import spec as spec_module
from alexnet.net import AlexNet
from alexnet.parallel import Team, split

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "scale.md").read_text()
sys.path.insert(0, str(ROOT / "benchmarks"))
import scale  # noqa: E402


def test_the_tables_are_those_of_the_script():
    assert scale.written(PAGE) == PAGE


def test_what_it_says_was_measured_is_a_row():
    rows = [json.loads(line) for line in (ROOT / "results" / "gpu.jsonl").read_text().splitlines()]
    fed = [row["value"] for row in rows if row["name"] == "gpu_fed_as_run_1024"]
    (told,) = re.findall(r"<!-- measured -->([\d,]+) images/s", PAGE)
    assert round(max(fed)) == int(told.replace(",", ""))
    assert f"in {90 * 1281167 / max(fed) / 60:.0f} minutes" in PAGE


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"--set ([\w.]+=[\w.%]+)", PAGE))))
def test_every_setting_shown_exists(setting):
    before = spec_module.preset("as_run")
    assert spec_module.change(before, [setting]) != before


@pytest.fixture
def alone_among():
    """A group of processes of which there is only this one: what is sent goes nowhere, and is counted."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    yield lambda world: dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    dist.destroy_process_group()


@pytest.mark.parametrize(("mode", "world", "images"), [("data", 8, 8), ("towers", 2, 2), ("hybrid", 8, 16)])
def test_it_sends_what_the_processes_count(alone_among, mode, world, images):
    """The whole net in fp32, a picture or two on each process."""
    alone_among(world)
    spec = spec_module.preset("as_run").net
    with torch.device("meta"):
        net = AlexNet(spec)
    net, each = net.to_empty(device="cpu"), images if mode == "towers" else images // world
    team = Team(mode, 0, world, rows=[each] * (1 if mode == "towers" else world))
    split(net, team)
    team.watch(net)
    net(torch.zeros(each, 3, 224, 224)).sum().backward()
    team.gradients()
    expected = sum(scale.sent(mode, world, images, 4, scale.table()).values())
    assert sum(team.sent.values()) == pytest.approx(expected, rel=1e-4)


def test_a_layer_takes_the_longer_of_arithmetic_and_memory():
    gpu = scale.Gpu(flops_per_s=1e12, memory_per_s=1e9, inside_per_s=1e9, outside_per_s=1e8, itemsize=2)
    (fc6,) = (row for row in scale.table() if row.name == "fc6")
    read_s = (5 * 4096 * 2 + fc6.parameters * 26) / 1e9 / scale.REACHED
    assert scale.layers_s([fc6], 1, gpu) == pytest.approx(read_s)
    assert scale.layers_s([fc6], 10**6, gpu) == pytest.approx(6 * fc6.macs * 10**6 / 1e12 / scale.REACHED)
    assert scale.link_s(1e9, 8, gpu) == 1
    assert scale.link_s(1e9, 16, gpu) == pytest.approx(1.25)  # one hop in eight, at a tenth of the speed
