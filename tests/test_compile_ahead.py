"""The helper of a first training compiles what a step needs, for the very types that the step has."""

import os
import subprocess
import sys

import pytest
import torch

from alexnet import cores, machine, presets, spec
from alexnet.kernels import compile_ahead, gemm_numba, winograd_bf16_numba
from alexnet.kernels.compiled import wide_vectors

STEP = """
import numpy as np
import torch
from alexnet import recipe, spec
from alexnet.data import augment, cut_jpegs, image
from alexnet.kernels import compile_ahead
from alexnet.kernels.jpeg import Decoder
from alexnet.net import compute_in
from alexnet.sgd import Sgd

narrow = spec.change(spec.preset("as_run", classes=10), ["net.fc6.outputs=32", "net.fc7.outputs=24"])
for dtype in (torch.float32, torch.bfloat16):
    net = recipe.build(narrow.net).to(memory_format=torch.channels_last)
    sgd = Sgd.of(net, recipe.rules(narrow, net), dtype)
    net(torch.randn(4, 3, 224, 224, dtype=dtype)).float().square().sum().backward()
    sgd.step(dict.fromkeys(sgd.parameters, (1e-3, 1e-3)))
prep = augment.Preprocessing(256, 224, np.zeros((256, 256, 3), np.float32), np.ones(3), np.ones(3), np.eye(3))
draws = augment.training_draws(narrow.data, prep, 0, 0, np.arange(2), relit=True)
mean_scales, decoder = augment.mean_and_scales(draws, prep), Decoder(256)
for dtype in (np.float32, np.uint16):
    crops = np.empty((2, 224, 224, 3), dtype)
    augment.cut_part(np.zeros((1, 256, 256, 3), np.uint8), draws, mean_scales, crops, 0, 1)  # as the loader does
    cut_jpegs.cut_jpegs(decoder, [image.encode_jpeg(np.zeros((256, 256, 3), np.uint8))], draws, mean_scales, crops, 0)
met = {name: list(loop.signatures) for name, loop in compile_ahead.LOOPS.items()}
for number_type in ("float32", "bfloat16"):
    for name in compile_ahead.needed(narrow.net, number_type):
        compile_ahead.compile_loop(name, number_type)
for name, loop in compile_ahead.LOOPS.items():
    print(name, len(met[name]), loop.signatures == met[name])
"""


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout


def test_a_step_meets_each_loop_as_the_helper_compiles_it():
    both = dict.fromkeys(compile_ahead.LOOPS, 2)  # float32 and bfloat16
    both |= {"to_points": 1, "from_points": 1}  # float32 alone
    both["products"] = int(gemm_numba.pay())
    both |= dict.fromkeys(compile_ahead.OF_WINOGRAD_BF16, int(winograd_bf16_numba.pay()))
    both |= dict.fromkeys(("fives_forward", "fives_backward"), 1 + wide_vectors())
    both |= dict.fromkeys(("channels_forward", "channels_backward"), 1 - wide_vectors())  # bfloat16 alone
    both["max_pool"] = 1
    assert run("-c", STEP).split("\n")[:-1] == [f"{name} {types} True" for name, types in both.items()]


WINOGRAD, POOL = ["to_points", "products", "from_points"], "gradient_at_places"
CUTS = ["cut", "cut_jpegs"]  # the first steps can do without the last
CONVOLVE, GRADIENT = ["to_panels", "convolve"], ["to_pairs", "kernel_sums", "from_sums"]  # in bfloat16


@pytest.mark.parametrize(
    ("preset", "number_type", "wide", "names"),
    [
        (
            "as_run",
            "float32",
            False,
            [*WINOGRAD, "fives_forward", "map_forward", POOL, "draw", "map_backward", "fives_backward"],
        ),
        (
            "as_run",
            "bfloat16",
            True,
            [
                *CONVOLVE,
                "fives_forward",
                "max_pool",
                "map_forward",
                POOL,
                "draw",
                "map_backward",
                "fives_backward",
                *GRADIENT,
            ],
        ),
        (
            "as_published",
            "bfloat16",
            True,
            [*CONVOLVE, "fives_forward", "max_pool", POOL, "draw", "fives_backward", *GRADIENT],
        ),
        ("as_published", "bfloat16", False, ["channels_forward", "max_pool", POOL, "draw", "channels_backward"]),
        ("modern", "float32", True, [*WINOGRAD, POOL, "draw"]),
        ("modern", "bfloat16", False, ["max_pool", POOL, "draw"]),
        ("cifar_quick", "float32", False, [POOL]),
    ],
)
def test_what_a_net_needs(monkeypatch, preset, number_type, wide, names):
    monkeypatch.setattr(gemm_numba, "pay", lambda: True)
    monkeypatch.setattr(compile_ahead, "wide_vectors", lambda: wide)
    monkeypatch.setattr(winograd_bf16_numba, "pay", lambda: wide)
    assert compile_ahead.needed(spec.preset(preset, classes=10).net, number_type) == [
        *(["cut_jpegs"] if "cifar" not in preset else []),
        "cut",
        *(["in_blocks"] if "cifar" not in preset else []),
        *names,
        "update",
    ]


@pytest.mark.parametrize("preset", presets.NAMES)
def test_norms_that_are_switched_off_are_not_needed(preset):
    without = spec.change(spec.preset(preset, classes=10), ["net.lrn=none", "net.rnorm=none"])
    for number_type in ("float32", "bfloat16"):
        names = compile_ahead.needed(without.net, number_type)
        assert not [name for name in names if name.startswith(("fives", "channels", "map"))]


def test_the_precision_is_foreseen_as_it_will_be_chosen():
    for asked in ("auto", "fp32", "bf16"):
        assert compile_ahead._bf16(asked) == (machine.precision(asked, torch.device("cpu"))[0] == "bf16")


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "best"), [(False, False, "fp32"), (True, True, "bf16"), (False, True, "bf16")]
)
def test_bf16_is_chosen_where_a_cpu_multiplies_it(monkeypatch, amx, avx512_bf16, best):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(compile_ahead, "has", {"amx-tile": amx, "avx512bf16": avx512_bf16}.get)
    assert machine.precision("auto", torch.device("cpu"))[0] == best
    assert compile_ahead._bf16("auto") == (best == "bf16")
    assert machine.precision("fp32", torch.device("cpu"))[0] == "fp32"


def test_loops_that_store_bfloat16_have_vectors(tmp_path):
    """They once had none, without a sign but their time (compiled.narrow)."""
    asked = """
import re
from alexnet.kernels import compile_ahead
for name in ("update", "max_pool", "gradient_at_places", "fives_forward", "cut"):
    compile_ahead.compile_loop(name, "bfloat16")
    (code,) = compile_ahead.LOOPS[name].inspect_llvm().values()
    print(name, bool(re.search(r"store <\\d+ x i16>", code)))
"""
    said = run("-c", asked, NUMBA_CACHE_DIR=str(tmp_path)).split("\n")[:-1]
    assert said == [f"{name} True" for name in ("update", "max_pool", "gradient_at_places", "fives_forward", "cut")]


def test_helpers_do_not_load_pytorch():
    asked = "import sys; from alexnet.kernels import compile_ahead; print('torch' in sys.modules)"
    assert run("-c", asked) == "False\n"


def test_the_command_starts_helpers_before_it_loads_pytorch():
    asked = """
import sys
from alexnet.cli.train import train
from alexnet.kernels import compile_ahead

compile_ahead.start = lambda net, precision: sys.exit(print("torch" in sys.modules))
train(steps=1)
"""
    assert run("-c", asked) == "False\n"


def test_what_the_helper_has_made_is_in_the_cache(tmp_path):
    asked = "from alexnet.kernels.compile_ahead import LOOPS, _is_cached; print(_is_cached(LOOPS['update']))"
    assert run("-c", asked, NUMBA_CACHE_DIR=str(tmp_path)) == "False\n"
    run("-m", "alexnet.kernels.compile_ahead", "bfloat16", "update", NUMBA_CACHE_DIR=str(tmp_path))
    assert run("-c", asked, NUMBA_CACHE_DIR=str(tmp_path)) == "True\n"


@pytest.mark.parametrize(
    ("usable", "cached", "started"),
    [
        (
            2,
            False,
            [["update", "channels_backward", "draw", POOL, "max_pool", "channels_forward", "in_blocks", *CUTS]],
        ),
        (
            8,
            False,
            [
                ["draw", "channels_forward", "cut_jpegs"],
                ["channels_backward", "max_pool", "cut"],
                ["update", POOL, "in_blocks"],
            ],
        ),
        (1, False, []),
        (8, True, []),
    ],
)
def test_helpers_are_started_where_loops_are_missing(monkeypatch, usable, cached, started):
    seen = []
    monkeypatch.setattr(compile_ahead, "wide_vectors", lambda: False)
    monkeypatch.setattr(winograd_bf16_numba, "pay", lambda: False)
    monkeypatch.setattr(compile_ahead, "_is_cached", lambda loop: cached)
    monkeypatch.setattr(cores, "usable", lambda: usable)
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: seen.append(command[3:]))
    monkeypatch.setattr(compile_ahead, "_of_helpers", set())
    compile_ahead.start(spec.preset("as_published", classes=10).net, "bf16")
    assert compile_ahead.ready("cut_jpegs") == (not started)
    assert seen == [["bfloat16", *names] for names in started]


def test_what_can_be_done_without_is_used_once_the_helper_has_made_it(monkeypatch):
    cached = set()
    monkeypatch.setattr(compile_ahead, "_of_helpers", {"cut_jpegs", "update"})
    monkeypatch.setattr(compile_ahead, "_is_cached", lambda loop: loop in cached)
    assert not compile_ahead.ready("cut_jpegs")
    cached.add(compile_ahead.LOOPS["cut_jpegs"])
    assert compile_ahead.ready("cut_jpegs")
    assert compile_ahead.ready("draw")
