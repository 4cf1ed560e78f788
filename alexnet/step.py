"""One training step, and what a run carries from one step to the next.

    batch -> net -> loss -> backward -> sgd.step(rates)

There are two ways through it, to the same weights bit for bit. `step` reads the loss and raises before it touches a
weight: on the CPU, and where several processes share a batch. On a GPU reading a number means waiting until all that
was asked of it is done, so there the losses of `advance` stay on the device (`Unread`) until somebody needs them
(`settle`). From the first loss on that is not finite, updates change nothing.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from alexnet import graph, recipe
from alexnet.data.augment import Preprocessing
from alexnet.errors import AlexnetError
from alexnet.kernels.update import on_device
from alexnet.parallel import Team
from alexnet.recipe import Net
from alexnet.schedule import Clock, Plateau
from alexnet.sgd import Sgd
from alexnet.spec import Spec


class NonFinite(AlexnetError):
    """The loss is nan or inf; the weights are still those of the step before."""


@dataclass
class Window:
    """Sums since the last logged step, kept in checkpoints so that a resumed run logs what an undisturbed one would."""

    loss_sum: float = 0.0
    wrong: int = 0
    images: int = 0


@dataclass
class Unread:
    """The sums of the window that is open, where reading them would wait for the device. All of shape ().

    go: False from the first loss on that is not finite; good: the steps before it; last: the latest loss, or that one.
    """

    loss_sum: Tensor  # float64, as are wrong, good and last: added up as Python would
    wrong: Tensor
    good: Tensor
    last: Tensor
    go: Tensor

    @staticmethod
    def of(window: Window, steps: int, device: torch.device) -> Unread:
        numbers = torch.tensor([window.loss_sum, window.wrong, steps, math.nan], dtype=torch.float64, device=device)
        return Unread(*numbers.clone().unbind(), torch.tensor(True, device=device))

    @torch.no_grad()
    def add(self, loss: Tensor, wrong: Tensor, images: int) -> None:
        loss = loss.detach().double()
        self.last.copy_(torch.where(self.go, loss, self.last))
        self.go.logical_and_(loss.isfinite())
        self.loss_sum.add_(loss * images)
        self.wrong.add_(wrong)
        self.good.add_(self.go)

    def take(self, other: Unread) -> None:
        """Its numbers into the tensors that are here, which a graph may know."""
        for name in ("loss_sum", "wrong", "good", "last", "go"):
            getattr(self, name).copy_(getattr(other, name))

    def read(self) -> tuple[float, int, int, float]:
        """(sum of losses, wrong answers, good steps, last loss), in one transfer."""
        loss_sum, wrong, good, last = torch.stack([self.loss_sum, self.wrong, self.good, self.last]).tolist()
        return loss_sum, int(wrong), int(good), last


@dataclass
class State:
    """A run in motion."""

    spec: Spec
    net: Net
    sgd: Sgd
    clock: Clock
    precision: str
    prep: Preprocessing
    team: Team = field(default_factory=Team)
    plateau: Plateau = field(default_factory=Plateau)
    window: Window = field(default_factory=Window)
    unread: Unread | None = None
    graphs: graph.Graphs | None = None
    loss: float = math.nan  # of the latest step that was read
    train_loss: float = math.nan
    result: dict | None = None  # of the latest evaluation, with its step

    def tensors(self) -> dict[str, Tensor]:
        """The whole net's state dict with its weights in float32; where there are several processes, all must ask."""
        return self.team.whole(self.net.state_dict() | self.sgd.weights)

    def open_window(self, window: Window) -> None:
        """Goes on adding to `window`, where the losses of this device are best kept."""
        device = next(self.net.parameters()).device
        self.window = window
        if not defers(device, self.team):
            return
        opened = Unread.of(window, self.clock.step, device)
        if self.unread is None:
            self.unread = opened
            self.graphs = graph.of(self.spec, self.sgd, device)
        else:
            self.unread.take(opened)


def defers(device: torch.device, team: Team) -> bool:
    """Whether losses are left on the device until somebody needs them."""
    return device.type == "cuda" and team.world == 1


def advance(state: State, images_nchw: Tensor, labels: Tensor) -> None:
    """One update, counted in the window. Raises NonFinite as `step` does, or leaves it to `settle`."""
    if state.unread is None:
        state.loss, wrong = step(state, images_nchw, labels)
        state.window.loss_sum += state.loss * state.team.images
        state.window.wrong += wrong
    else:
        _advance_unread(state, images_nchw, state.team.begin(labels))
    state.window.images += state.team.images


def _advance_unread(state: State, images_nchw: Tensor, labels: Tensor) -> None:
    """The same without reading the loss, as a graph where there are any."""
    rates = recipe.rates_at(state.spec, state.net, state.clock, state.plateau.drops)
    torch.manual_seed(mix(state.spec.run.seed, state.clock.step))  # dropout's masks
    numbers = on_device(state.sgd.numbers(rates), labels.device) if state.graphs else None

    def on_the_device(images_nchw: Tensor, labels: Tensor, numbers: Tensor | None) -> None:
        loss, wrong = _forward(state, images_nchw, labels)
        state.unread.add(loss, wrong, state.team.images)
        _backward(state, loss)
        state.sgd.step(rates, state.unread.go, numbers)

    if state.graphs:
        state.graphs.run(on_the_device, state.sgd.learning(rates), images_nchw, labels, numbers)
    else:
        on_the_device(images_nchw, labels, numbers)
    state.clock = replace(state.clock, step=state.clock.step + 1)


def settle(state: State) -> None:
    """Brings the window and the latest loss up to date. Raises NonFinite, naming the first step whose loss is not
    finite; the weights are those of the step before it.
    """
    if state.unread is None:
        return
    state.window.loss_sum, state.window.wrong, good, state.loss = state.unread.read()
    if good < state.clock.step:
        raise NonFinite(_non_finite(state, good + 1, state.loss))


def step(state: State, images_nchw: Tensor, labels: Tensor) -> tuple[float, int]:
    """One update; (mean loss, wrong answers) of the batch. Raises NonFinite before the weights are touched.

    Of several processes each is given its own pictures; the answer is that of the whole batch.
    """
    torch.manual_seed(mix(state.spec.run.seed, state.clock.step))  # dropout's masks
    loss, wrong = _forward(state, images_nchw, state.team.begin(labels))
    value, wrong = state.team.total(loss, wrong)
    if not math.isfinite(value):
        raise NonFinite(_non_finite(state, state.clock.step + 1, value))
    rates = recipe.rates_at(state.spec, state.net, state.clock, state.plateau.drops)
    with state.sgd.on_arrival(rates) if state.team.world == 1 else nullcontext():
        _backward(state, loss)
    state.sgd.step(rates)  # what is left: gradients that were added up over processes
    state.clock = replace(state.clock, step=state.clock.step + 1)
    return value, wrong


def _forward(state: State, images_nchw: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(mean loss, wrong answers) of the pictures that this process has."""
    for parameter in state.sgd.parameters.values():
        parameter.grad = None
    loss, logits = recipe.loss_and_logits(state.spec, state.net, images_nchw, labels)
    return loss, (logits.argmax(1) != labels).sum()


def _backward(state: State, loss: Tensor) -> None:
    share = recipe.gradient_share(state.spec, state.team.images) * state.team.share
    (loss * share).backward()  # a gradient given from outside has PyTorch load sympy, most of a second
    state.team.gradients()


def mix(seed: int, number: int) -> int:
    """One 63-bit seed from two numbers."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 1) % 2**63


def _non_finite(state: State, number: int, value: float) -> str:
    return (
        f"the loss is {value} at step {number:,}; the weights are still those of the step before.\n"
        f"Lower the rate ({recipe.slower(state.spec)}) and start a new run, or go on from a checkpoint"
    )
