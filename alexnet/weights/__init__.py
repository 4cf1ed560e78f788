"""Weights of other tools, one file per foreign format, named after it; what their files hold is read as data and never
runs.

    torchfile.tensors_of(path)        the tensors of a .pth, .pt or .safetensors
    torchvision.read(path)            torchvision's AlexNet, as a `Foreign`
    caffe.read(path, mean_path)       a .caffemodel of bvlc_alexnet or CaffeNet, as a `Foreign`; wire.py reads its bytes
    onnx.model(net, prep, ...)        a net as an ONNX graph

An optional dependency may be imported only in the file named after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from alexnet.data.augment import Preprocessing
from alexnet.spec import Spec


@dataclass
class Foreign:
    """A net of another tool in our terms: weights under our names, the name each had, what the net is, how it sees."""

    weights: dict[str, Tensor]
    origin: dict[str, str]
    spec: Spec
    prep: Preprocessing
    notes: list[str]
