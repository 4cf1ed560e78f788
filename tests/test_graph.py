"""Steps replayed as graphs: the bits of ordinary ones on a GPU; on a CPU, where nothing can be captured, that what
changes from step to step reaches a replay.
"""

from types import SimpleNamespace

import pytest
import torch
from test_step import DEVICE, pictures
from tiny import spec

from alexnet import graph, train
from alexnet.step import Window, advance, settle


def steps(state, dtype, sizes):
    state.open_window(Window())
    for number, size in enumerate(sizes):
        images, labels = (t.to(DEVICE) for t in pictures(size, number))
        advance(state, images.to(dtype), labels)
        if number % 4 == 3:
            settle(state)
            state.open_window(Window())
    settle(state)
    return state


on_a_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="a stand-in for what a GPU does itself")
SIZES = [8, 8, 8, 8, 8, 5, 8, 8, 5, 5, 5, 5, 8]


@pytest.fixture
def captured(monkeypatch):
    """A stand-in for capture: what is replayed is the step that was given when it was captured, with its rates."""
    found = []

    def capture(step, inputs):
        kept = tuple(t.clone() for t in inputs)
        found.append(graph.Captured(SimpleNamespace(replay=lambda: step(*kept)), kept))
        return found[-1]

    monkeypatch.setattr("alexnet.step.defers", lambda device, team: True)
    monkeypatch.setattr(graph, "of", lambda spec, sgd, device: graph.Graphs())
    monkeypatch.setattr(graph, "_capture", capture)
    return found


@on_a_cpu
def test_pictures_labels_and_rates_reach_a_replay(captured, tiny_pack):
    steep = ("sgd.schedule.kind=exp", "sgd.schedule.factor=1000", "run.length=13st")
    (state, place), (plain, _) = (train.prepare(spec(*steep), tiny_pack) for _ in range(2))
    steps(state, place.dtype, SIZES)
    plain.open_window(Window())
    plain.graphs = None
    steps(plain, place.dtype, SIZES)
    assert len(captured) == 2
    assert state.loss == pytest.approx(plain.loss, rel=1e-4)
    for name, weight in plain.sgd.weights.items():
        torch.testing.assert_close(state.sgd.weights[name], weight, rtol=1e-4, atol=1e-6)


@on_a_cpu
def test_what_cannot_be_captured_runs_as_it_is(captured, monkeypatch, tiny_pack, capsys):
    def refuse(step, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graph, "_capture", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    (state, place), (plain, _) = (train.prepare(spec(), tiny_pack) for _ in range(2))
    steps(state, place.dtype, SIZES)
    plain.open_window(Window())
    plain.graphs = None
    steps(plain, place.dtype, SIZES)
    assert "not replayed as CUDA graphs: operation not permitted" in capsys.readouterr().err
    torch.testing.assert_close(state.sgd.weights["fc8.weight"], plain.sgd.weights["fc8.weight"], rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device is there")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replayed_step_has_the_bits_of_an_ordinary_one(tiny_pack, precision):
    settings = ("run.device=cuda", f"run.precision={precision}", "run.deterministic=true", "net.dropout=0.5")
    states = [train.prepare(spec(*settings, f"run.graphs={graphs}"), tiny_pack) for graphs in ("true", "false")]
    replayed, plain = (steps(state, place.dtype, SIZES) for state, place in states)
    assert len(replayed.graphs.captured) == 2
    assert not replayed.graphs.refused
    assert plain.graphs is None
    assert replayed.loss == plain.loss
    for name, weight in plain.sgd.weights.items():
        assert torch.equal(replayed.sgd.weights[name], weight)
