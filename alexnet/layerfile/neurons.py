"""The element-wise functions of the layer files, `neuron=relu` and its like."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alexnet.layerfile.records import Neuron


class Activation(nn.Module):
    """The function of a `neuron=`."""

    def __init__(self, neuron: Neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        return activation(x, self.neuron, self.training)

    def extra_repr(self) -> str:
        return f"{self.neuron.kind}{list(self.neuron.numbers) or ''}"


def activation(x: Tensor, neuron: Neuron, training: bool = False) -> Tensor:
    """The element-wise functions of the layer files; nrelu adds noise of variance y, in training alone."""
    a, b = (*neuron.numbers, 0.0, 0.0)[:2]
    match neuron.kind:
        case "relu":
            return F.relu(x)
        case "nrelu":
            y = F.relu(x)
            return F.relu(y + torch.randn_like(y) * y.detach().sqrt()) if training else y
        case "brelu":
            return x.clamp(0, a)
        case "logistic":
            return torch.sigmoid(x)
        case "tanh":
            return a * torch.tanh(b * x)
        case "abs":
            return x * torch.where(x > 0, 1.0, -1.0).to(x.dtype)  # its gradient at 0 is -1
        case "square":
            return x.square()
        case "sqrt":
            return x.sqrt()
        case "linear":
            return a * x + b
        case "softrelu":
            return F.softplus(x, threshold=4)
        case "drelu":
            return x - a * torch.tanh(x / a)
        case "log":
            return torch.log(a + x)
    return x
