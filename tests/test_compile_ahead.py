"""The helper of a first training compiles what a step needs, for the very types that the step has."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from alexnet import spec
from alexnet.kernels import compile_ahead

STEP = """
import torch
from alexnet import recipe, spec
from alexnet.kernels import compile_ahead
from alexnet.net import compute_in
from alexnet.sgd import Sgd

narrow = spec.change(spec.preset("as_run", classes=10), ["net.fc6.outputs=32", "net.fc7.outputs=24"])
for dtype in (torch.float32, torch.bfloat16):
    net = recipe.build(narrow.net).to(memory_format=torch.channels_last)
    sgd = Sgd.of(net, recipe.rules(narrow, net), dtype)
    net(torch.randn(4, 3, 224, 224, dtype=dtype)).float().square().sum().backward()
    sgd.step(dict.fromkeys(sgd.parameters, (1e-3, 1e-3)))
met = {name: list(loop.signatures) for name, loop in compile_ahead.LOOPS.items()}
for dtype in (torch.float32, torch.bfloat16):
    for name in compile_ahead.needed(narrow.net, dtype):
        compile_ahead.compile_loop(name, dtype)
for name, loop in compile_ahead.LOOPS.items():
    print(name, len(met[name]), loop.signatures == met[name])
"""


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout


def test_a_step_meets_each_loop_as_the_helper_compiles_it():
    both = dict.fromkeys(compile_ahead.LOOPS, 2) | {"from_points": 1}  # float32 and bfloat16, Winograd float32 alone
    assert run("-c", STEP).split("\n")[:-1] == [f"{name} {types} True" for name, types in both.items()]


@pytest.mark.parametrize(
    ("preset", "dtype", "names"),
    [
        ("as_run", torch.float32, ["from_points", "map_forward", "map_backward", "channels_backward", "update"]),
        ("as_run", torch.bfloat16, ["map_forward", "map_backward", "channels_backward", "update"]),
        ("as_published", torch.bfloat16, ["channels_backward", "update"]),
        ("modern", torch.float32, ["from_points", "update"]),
        ("modern", torch.bfloat16, []),
        ("cifar_quick", torch.float32, []),
    ],
)
def test_what_a_net_needs(preset, dtype, names):
    assert compile_ahead.needed(spec.preset(preset, classes=10).net, dtype) == names


def test_what_the_helper_has_made_is_in_the_cache(tmp_path):
    asked = "from alexnet.kernels.compile_ahead import LOOPS, _is_cached; print(_is_cached(LOOPS['update']))"
    assert run("-c", asked, NUMBA_CACHE_DIR=str(tmp_path)) == "False\n"
    run("-m", "alexnet.kernels.compile_ahead", "bfloat16", "update", NUMBA_CACHE_DIR=str(tmp_path))
    assert run("-c", asked, NUMBA_CACHE_DIR=str(tmp_path)) == "True\n"


@pytest.mark.parametrize("cached", [False, True])
def test_a_helper_is_started_where_loops_are_missing(monkeypatch, cached):
    started, seen = threading.Event(), []
    monkeypatch.setattr(compile_ahead, "_is_cached", lambda loop: cached)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: (seen.append(command), started.set()))
    compile_ahead.start(spec.preset("as_published", classes=10).net, torch.bfloat16)
    assert started.wait(0 if cached else 60) != cached
    assert [command[3:] for command in seen] == ([] if cached else [["bfloat16", "channels_backward", "update"]])
