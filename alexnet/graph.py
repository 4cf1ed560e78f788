"""Training steps captured as CUDA graphs: replayed with one launch, where Python would launch some two hundred kernels.

A graph holds the addresses that it was captured with. So pictures, labels and the update's numbers are copied to where
it reads them; whatever else a step reads or writes stays where it is: weights, velocities, sums. Dropout's masks follow
the seed that is set before a replay, so a replayed step ends with the bits of an ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alexnet.log import say
from alexnet.sgd import Sgd
from alexnet.spec import Spec

ORDINARY = 3  # steps of a kind before it is captured: they compile, and let the libraries choose their kernels


@dataclass
class Captured:
    """A graph and where it reads; `inputs` are pictures, labels and the update's numbers."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]

    def replay(self, given: tuple[Tensor, ...]) -> None:
        for kept, new in zip(self.inputs, given, strict=True):
            kept.copy_(new)
        self.graph.replay()


@dataclass
class Graphs:
    """The graphs of a run: one for each size of batch and set of tensors that learn."""

    captured: dict[tuple, Captured] = field(default_factory=dict)
    seen: dict[tuple, int] = field(default_factory=dict)
    refused: bool = False

    def run(self, step: Callable[..., None], learning: tuple[str, ...], *inputs: Tensor) -> None:
        """`step(*inputs)`, as a graph from the fourth time on that it looks the same."""
        key = (learning, *(tuple(t.shape) for t in inputs))
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.refused or self.seen[key] <= ORDINARY:
            step(*inputs)
            return
        if key not in self.captured:
            try:
                self.captured[key] = _capture(step, inputs)
            except RuntimeError as error:  # an operation that waits for the GPU, memory for a second copy of a step
                torch.cuda.synchronize()
                self.refused = True
                say(f"steps are not replayed as CUDA graphs: {str(error).splitlines()[0]}")
                step(*inputs)
                return
        self.captured[key].replay(inputs)


def of(spec: Spec, sgd: Sgd, device: torch.device) -> Graphs | None:
    """For a run on a GPU whose updates are numbers alone; None where they are more (LARS, bounds on weights)."""
    more = any(rule.trust or rule.constrain for rule in sgd.rules.values())
    return Graphs() if device.type == "cuda" and spec.run.graphs and not more else None


def _capture(step: Callable[..., None], inputs: tuple[Tensor, ...]) -> Captured:
    """Nothing is computed while a graph is captured."""
    kept = tuple(t.clone() for t in inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*kept)
    return Captured(graph, kept)
