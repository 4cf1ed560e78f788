"""Losses that stay on the device: the same weights, windows and files as when each is read; what goes wrong is told
late, and touches nothing. Deterministic runs.
"""

import numpy as np
import pytest
import torch
from test_train import model_bytes, without_times
from tiny import spec

from alexnet import machine, train
from alexnet.errors import MachineError
from alexnet.step import NonFinite, Window, advance, settle, step
from alexnet.train import Stopped

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def deferred(monkeypatch):
    monkeypatch.setattr("alexnet.step.defers", lambda device, team: True)


@pytest.fixture(scope="module")
def straight(tiny_pack, tmp_path_factory):
    """An undisturbed run whose losses are all read."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    train.train(spec("run.length=3ep"), tiny_pack, run)
    return run


@pytest.mark.parametrize("stop_at", [None, 8, 10])  # at an epoch's end, between two logged steps
def test_a_run_whose_losses_wait_ends_with_the_same_files(straight, deferred, tiny_pack, tmp_path, stop_at):
    if stop_at:
        with pytest.raises(Stopped):
            train.train(spec("run.length=3ep"), tiny_pack, tmp_path / "run", stop_at=stop_at)
    train.train(spec("run.length=3ep"), tiny_pack, tmp_path / "run")
    assert model_bytes(tmp_path / "run") == model_bytes(straight)
    assert without_times(tmp_path / "run") == without_times(straight)


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 50 * torch.randn(count, 3, 12, 12, generator=generator), torch.arange(count) % 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("more", [[], ["sgd.lars=0.01"]])
def test_a_bad_loss_is_told_late_and_its_step_and_those_after_it_change_nothing(deferred, tiny_pack, precision, more):
    states = [train.prepare(spec(f"run.precision={precision}", *more), tiny_pack) for _ in range(2)]
    (state, place), (read, _) = states
    rule = state.sgd.rules["fc6.weight"]
    state.sgd.rules["fc6.weight"] = read.sgd.rules["fc6.weight"] = type(rule)(
        **{**vars(rule), "constrain": lambda weight: weight.mul_(0.999)}
    )
    state.open_window(Window())
    losses = []
    for number in range(5):
        images, labels = pictures(4, number)
        images[0, 0, 0, 0] = torch.nan if number in (2, 4) else 0
        advance(state, images.to(place.dtype), labels)
        if number < 2:
            losses.append(step(read, images.to(place.dtype), labels))
    with pytest.raises(NonFinite, match=r"nan at step 3; the weights are still those of the step before.\n.*sgd.rate"):
        settle(state)
    for mine, wanted in ((state.sgd.weights, read.sgd.weights), (state.sgd.velocities, read.sgd.velocities)):
        assert all(torch.equal(mine[name], wanted[name]) for name in wanted)
    assert all(torch.equal(p, read.sgd.parameters[name]) for name, p in state.sgd.parameters.items())
    assert len(losses) == 2


def test_the_window_adds_up_as_python_would(deferred, tiny_pack):
    (state, _), (read, _) = (train.prepare(spec(), tiny_pack) for _ in range(2))
    window = Window(0.1, 2, 7)
    state.open_window(Window(0.1, 2, 7))
    for number in range(3):
        loss, wrong = step(read, *pictures(4 + number, number))
        advance(state, *pictures(4 + number, number))
        count = 4 + number
        window = Window(window.loss_sum + loss * count, window.wrong + wrong, window.images + count)
    settle(state)
    assert (state.window, state.loss) == (window, loss)
    state.open_window(Window())
    settle(state)
    assert state.window == Window()


def test_a_checkpoint_of_a_bad_step_is_not_written(deferred, tiny_pack, tmp_path):
    state, _ = train.prepare(spec(), tiny_pack)
    state.open_window(Window())
    advance(state, torch.full((4, 3, 12, 12), torch.nan), torch.zeros(4, dtype=torch.long))
    with pytest.raises(NonFinite, match="at step 1;"):
        train.save(state, tmp_path, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device is there")
def test_nothing_in_a_step_waits_for_the_gpu(tiny_pack):
    state, place = train.prepare(spec("run.device=cuda", "run.precision=bf16"), tiny_pack)
    state.open_window(Window())
    images, labels = (t.to(DEVICE) for t in pictures(20, 0))
    advance(state, images.to(place.dtype), labels)  # the first compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            advance(state, images.to(place.dtype), labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    settle(state)
    assert np.isfinite(state.loss)


@pytest.fixture
def as_before():
    yield
    torch.use_deterministic_algorithms(False)


def test_a_deterministic_run_goes_on_from_one_that_was_not_and_says_so(
    straight, tiny_pack, tmp_path, as_before, capsys
):
    with pytest.raises(Stopped):
        train.train(spec("run.length=3ep"), tiny_pack, tmp_path / "run", stop_at=5)
    assert "deterministic" not in capsys.readouterr().err
    train.train(spec("run.length=3ep", "run.deterministic=true"), tiny_pack, tmp_path / "run")
    assert torch.are_deterministic_algorithms_enabled()
    assert "deterministic operations only" in capsys.readouterr().err
    assert model_bytes(tmp_path / "run") == model_bytes(straight)  # on a CPU it changes no bit


def test_what_cannot_be_deterministic_is_named(as_before):
    def unpool() -> torch.Tensor:
        return torch.nn.functional.max_unpool2d(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.long), 2)

    machine.arithmetic(torch.device("cpu"), "fp32", deterministic=True)
    with (
        pytest.raises(MachineError, match=r"--deterministic: max_unpool\S+ does not") as error,
        machine.naming_operations(),
    ):
        unpool()
    assert error.value.exit_code == 7
    with pytest.raises(RuntimeError, match="of another kind"), machine.naming_operations():
        raise RuntimeError("of another kind")
    machine.arithmetic(torch.device("cpu"), "fp32", deterministic=False)
    assert unpool().shape == (1, 1, 2, 2)
