"""The ways to run a training step on a GPU, ours and stock PyTorch's: eager, compiled, as a CUDA graph.

All on one batch that is there. A CUDA graph is the whole step, update included, replayed with the rates it was captured
with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from alexnet import recipe
from alexnet.bench import stock
from alexnet.bench.train import PEERS
from alexnet.kernels.update import on_device
from alexnet.schedule import Clock
from alexnet.sgd import Sgd
from alexnet.spec import Spec

Step = Callable[[], object]


def ours(spec: Spec, images_nchw: Tensor, labels: Tensor, *, compiled: bool = False) -> Step:
    """A step of the preset's net as training does it, with the rates of a run's beginning."""
    net = recipe.build(spec.net, 0).to(images_nchw.device, memory_format=torch.channels_last).train()
    sgd = Sgd.of(net, recipe.rules(spec, net), images_nchw.dtype)
    rates = recipe.rates_at(spec, net, Clock(0, 1000, 90_000))
    numbers = on_device(sgd.numbers(rates), images_nchw.device) if images_nchw.is_cuda else None
    forward = torch.compile(net, dynamic=False) if compiled else net

    def step() -> None:
        for parameter in sgd.parameters.values():
            parameter.grad = None
        loss, _ = recipe.loss_and_logits(spec, forward, images_nchw, labels)
        loss.backward()
        sgd.step(rates, numbers=numbers)

    return step


def graphed(step: Step) -> Step:
    """The step captured once and replayed: no Python and one launch. CUDA only; it must not wait for the GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and lets the libraries choose their kernels
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def ways(preset: str, spec: Spec, images_nchw: Tensor, labels: Tensor) -> dict[str, Callable[[], Step]]:
    """{name: what makes the step}; names of peers begin with "stock". What only a GPU has is left out elsewhere."""
    device, bf16 = images_nchw.device.type, images_nchw.dtype == torch.bfloat16

    def peer(**options) -> Step:
        net = PEERS[preset](spec.net.classes, spec.net.fc6.outputs)
        net = torch.compile(net, dynamic=False, **options) if options else net
        return stock.training_step(net, len(labels), spec.net.classes, bf16, device)

    found = {"eager": lambda: ours(spec, images_nchw, labels), "stock eager": peer}
    if device == "cuda":
        found |= {
            "graph": lambda: graphed(ours(spec, images_nchw, labels)),
            "compiled, graph": lambda: graphed(ours(spec, images_nchw, labels, compiled=True)),
            "stock compiled": lambda: peer(mode="default"),
            "stock compiled, graphs": lambda: peer(mode="reduce-overhead"),
        }
    return found
