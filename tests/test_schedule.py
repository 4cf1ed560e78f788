"""The rate at every step, against the formulas of the layer files and numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from alexnet import presets, schedule, spec
from alexnet.errors import UsageError
from alexnet.schedule import Clock, Plateau, layer_rates, parse_step, rate_at
from alexnet.spec import Duration, ScheduleSpec, SgdSpec

LAYERS = ["conv1", "conv2", "fc8"]


def rate(base: float, kind: str, progress: float, total: int = 1000, **options) -> float:
    clock = Clock(round(progress * total), total // 10, total)
    return rate_at(base, ScheduleSpec(kind, **options), clock, "conv1")


@pytest.mark.parametrize(
    ("progress", "wanted"),
    [
        *((0, 0.01), (0.249, 0.01), (0.251, 0.0015874), (0.499, 0.0015874)),
        *((0.501, 0.00025198), (0.749, 0.00025198), (0.751, 0.00004), (0.999, 0.00004)),
    ],
)
def test_dexp_of_run_170(progress, wanted):
    """2012 source, layer-params-170: four equal plateaus from 0.01 to 0.01 / 250."""
    assert rate(0.01, "dexp", progress, factor=250, count=4) == pytest.approx(wanted, rel=2e-5)


@pytest.mark.parametrize(("progress", "wanted"), [(0, 0.02), (0.499, 0.02), (0.501, 0.002), (0.999, 0.002)])
def test_dexp_of_the_biases_of_run_170(progress, wanted):
    assert rate(0.02, "dexp", progress, factor=10, count=2) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "at_start", "at_half", "at_end"),
    [
        ("constant", 1, 1, 1),
        ("exp", 1, 1 / math.sqrt(100), 0.01),
        ("linear", 1, 0.505, 0.01),
        ("cosine", 1, 0.505, 0.01),
        ("dexp", 1, 100 ** (-2 / 3), 0.01),
    ],
)
def test_ends_and_middle(kind, at_start, at_half, at_end):
    rates = [rate(1, kind, p, factor=100, count=4) for p in (0, 0.5, 1)]
    assert rates == pytest.approx([at_start, at_half, at_end])
    falling = [rate(1, kind, p / 50, factor=100, count=4) for p in range(51)]
    assert falling == sorted(falling, reverse=True)


def test_cosine_is_steepest_in_the_middle():
    quarter = rate(1, "cosine", 0.25, factor=100)
    assert quarter == pytest.approx(0.01 + 0.99 * (1 + math.sqrt(0.5)) / 2)


def test_onecycle():
    peak = [rate(1, "onecycle", p) for p in (0, 0.15, 0.3, 0.65, 1)]
    assert peak == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine", "exp"])
def test_hold(kind):
    options = {"factor": 50, "hold": Duration(60, "%")}
    assert [rate(1, kind, p, **options) for p in (0, 0.3, 0.6)] == [1, 1, 1]
    assert rate(1, kind, 0.61, **options) < 1
    assert rate(1, kind, 0.8, **options) == pytest.approx(rate(1, kind, 0.5, factor=50))
    assert rate(1, kind, 1, **options) == pytest.approx(1 / 50)


def test_warmup_is_linear_and_never_zero():
    rates = [rate(1, "constant", p / 1000, warmup=Duration(10, "st")) for p in (0, 4, 9, 10, 500)]
    assert rates == pytest.approx([0.1, 0.5, 1, 1, 1])


@pytest.mark.parametrize(
    ("epoch", "others", "conv1"),
    [
        *((0, 0.01, 0.01), (24.9, 0.01, 0.01), (25, 0.001, 0.001), (51, 0.0001, 0.0001)),
        *((67, 0.0001, 0.00001), (72, 0.0001, 0), (78.9, 0.0001, 0), (79, 0.00001, 0), (90, 0.00001, 0)),
    ],
)
def test_run_145(epoch, others, conv1):
    """2012 source, layer-params-145 on ILSVRC-2012; biases stay at 0.02 until their layer is frozen."""
    sgd = SgdSpec(schedule=presets.RUN_145)
    rates = layer_rates(sgd, LAYERS, Clock(round(epoch * 10), 10, 910))
    assert rates["conv2"] == rates["fc8"] == (others, 0.02)
    assert rates["conv1"] == (conv1, 0.02 if conv1 else 0)


def test_a_layer_step_holds_until_the_next_for_all():
    steps = ScheduleSpec("steps", steps=("10st:0.5", "20st:fc8:0.25", "30st:0.125"))
    rates = [[rate_at(1, steps, Clock(step, 10, 100), layer) for layer in ("conv1", "fc8")] for step in (9, 10, 20, 30)]
    assert rates == [[1, 1], [0.5, 0.5], [0.5, 0.25], [0.125, 0.125]]


def test_caffe_drops_by_ten_at_each_step():
    """bvlc_alexnet: a tenth every 100,000 of 450,000 iterations."""
    sgd = spec.caffe().sgd
    steps = (50_000, 150_000, 250_000, 350_000)
    rates = [layer_rates(sgd, ["conv1"], Clock(step, 5000, 450_000))["conv1"] for step in steps]
    assert [weight for weight, _ in rates] == pytest.approx([0.01, 0.001, 0.0001, 0.00001])
    assert [bias for _, bias in rates] == pytest.approx([0.02, 0.002, 0.0002, 0.00002])


def test_plateau_drops_after_patience_and_at_most_three_times():
    """Paper, section 5: divided by ten when the validation error stops improving, three times."""
    rule = ScheduleSpec("plateau", factor=10, count=3, patience=2)
    state, drops = Plateau(), []
    for error in (0.9, 0.8, 0.8, 0.85, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7):
        state = state.after(error, rule)
        drops.append(state.drops)
    assert drops == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert state.best_error == 0.7
    assert rate_at(0.01, rule, Clock(0, 10, 100), "conv1", drops=3) == pytest.approx(0.00001)


def test_an_error_that_is_not_a_number_is_no_improvement():
    assert Plateau(0.5).after(math.nan, ScheduleSpec("plateau")) == Plateau(0.5, waited=1)


def test_frozen_layers_stand_still():
    rates = layer_rates(SgdSpec(frozen=("conv2",)), LAYERS, Clock(0, 10, 100))
    assert rates == {"conv1": (0.01, 0.02), "conv2": (0.0, 0.0), "fc8": (0.01, 0.02)}


def test_parse_step():
    assert parse_step("25ep:0.001") == (Duration(25, "ep"), None, 0.001)
    assert parse_step("5%:conv1:0") == (Duration(5, "%"), "conv1", 0.0)


@pytest.mark.parametrize(
    "text", ["25ep", "25:0.1", "25ep:fast", "25ep:a:b:0", "25ep:-1", "25ep:nan", "25ep:inf", ":", ""]
)
def test_unreadable_steps_are_refused(text):
    with pytest.raises(UsageError):
        schedule.check(SgdSpec(schedule=ScheduleSpec("steps", steps=(text,))), LAYERS)


@pytest.mark.parametrize(
    "change",
    [
        {"frozen": ("conv9",)},
        {"decays": ("conv9:0.1",)},
        {"schedule": ScheduleSpec("steps", steps=("1ep:conv9:0",))},
        {"bias_schedule": ScheduleSpec("steps", steps=("1ep:conv9:0",))},
    ],
)
def test_unknown_layers_are_refused(change):
    with pytest.raises(UsageError, match=r"no layer 'conv9'.*conv1, conv2, fc8"):
        schedule.check(replace(SgdSpec(), **change), LAYERS)
    schedule.check(SgdSpec(frozen=("conv1",), decays=("fc8:1",), schedule=presets.RUN_145), LAYERS)
