"""The cost layers: each gives sums over the cases, the cost itself first, then what the old tool printed beside it.

Shapes: labels (N,), targets and outputs (N, K). `below` is what the softmax or logistic function under the cost was
computed from, where there is one: costs taken from it stay exact where the outputs round to 0 or 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet.errors import UsageError

LOG_OF_ZERO = -50.0  # crossent2's


def topk_errors(labels_n: Tensor, outputs_nk: Tensor, k: int) -> Tensor:
    """Cases whose label is not among the k largest outputs; of ties, a label gets the share that fits into k."""
    own = outputs_nk.gather(1, labels_n[:, None])
    larger, equal = (outputs_nk > own).sum(1), (outputs_nk == own).sum(1)
    credit = ((k - larger).clamp(min=0) / equal.clamp(min=1)).clamp(max=1)
    return (1 - credit).sum()


def cost(kind: str, inputs: list[Tensor], below: Tensor | None = None, topk: int = 1) -> tuple[Tensor, ...]:
    """The sums of one cost layer (`cost.logreg`: negative log probability, top-1 errors, top-k errors)."""
    if kind == "cost.sum2":
        return (inputs[0].square().sum(),)
    targets, outputs = inputs[0], inputs[1].flatten(1)
    if kind == "cost.logreg":
        labels = _labels(targets, outputs)
        log_p = outputs.log() if below is None else F.log_softmax(below.flatten(1), 1)
        errors = topk_errors(labels, outputs, 1), topk_errors(labels, outputs, topk)
        return -log_p.gather(1, labels[:, None]).sum(), *errors
    if targets.shape != outputs.shape:
        given = f"{tuple(targets.shape)} targets for {tuple(outputs.shape)} outputs"
        raise UsageError(f"{kind} needs one target per output, not {given}")
    targets = targets.to(outputs.dtype)
    if kind == "cost.crossent":
        log_p = outputs.log() if below is None else F.log_softmax(below.flatten(1), 1)
        return -(targets * log_p).sum(), topk_errors(targets.argmax(1), outputs, 1)
    if kind == "cost.crossent2":
        return (_binomial(targets, outputs, below),)
    return ((outputs - targets).square().log1p().sum(),)  # cost.rflickr


def _labels(labels: Tensor, outputs: Tensor) -> Tensor:
    labels = labels.flatten().long()
    cases, classes = outputs.shape
    here = labels.device.type == "cpu"  # elsewhere gather looks at them: asking would wait for the device
    if len(labels) != cases or (here and ((labels < 0) | (labels >= classes)).any()):
        raise UsageError(f"cost.logreg needs one label from 0 to {classes - 1} per case, {cases} in all")
    return labels


def _binomial(targets: Tensor, outputs: Tensor, below: Tensor | None) -> Tensor:
    def log(p: Tensor) -> Tensor:
        return torch.where(p > 0, p.clamp_min(torch.finfo(p.dtype).tiny).log(), LOG_OF_ZERO)

    value = -(targets * log(outputs) + (1 - targets) * log(1 - outputs)).sum()
    if below is None:
        return value
    exact = F.binary_cross_entropy_with_logits(below.flatten(1), targets, reduction="sum")
    return value.detach() + (exact - exact.detach())  # the printed value, with the gradient targets - outputs
