"""A trained net as a plain module: pixels in, the outputs of one layer out; and which layer a name means.

    module = Extractor(predictor.net, predictor.prep, "fc7")
    features = module(pixels_nchw)       float, grey levels 0-255, (N, 3, S, S) squares or (N, 3, crop, crop) crops

The preprocessing is inside, gradients flow back to the pixels, and torch.export takes it with any batch. Names are the
paper's: "conv1" is the convolution's own output, "relu1" what its ReLU makes of it. Nothing overwrites what is given.
"""

from __future__ import annotations

import re
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from alexnet import recipe
from alexnet.data.augment import Preprocessing
from alexnet.errors import UsageError
from alexnet.kernels import lrn
from alexnet.net import AlexNet
from alexnet.recipe import Net


class Extractor(nn.Module):
    """The outputs (N, *shape), float32, of a layer named as in `layer_named`; tower "a" or "b" keeps that half of it.

    Pixels are RGB grey levels 0-255, (N, 3, S, S) squares of which the centre is cut, or (N, 3, crop, crop) crops. The
    weights are the net's own. Raises UsageError for an unknown layer or tower, and for pixels of another size.
    """

    def __init__(
        self, net: Net, prep: Preprocessing, layer: str | None, *, before: str | None = None, tower: str | None = None
    ):
        super().__init__()
        self.net, self.layer = net.eval(), layer_named(net, layer, before)
        self.size_px, self.crop_px = prep.size_px, prep.crop_px
        weight = next(net.parameters())
        mean = torch.from_numpy(prep.central_mean()).permute(2, 0, 1).contiguous()
        self.register_buffer("mean", mean.to(weight.device), persistent=False)
        scale = torch.from_numpy(1 / prep.stds).float()[:, None, None]
        self.register_buffer("scale", scale.to(weight.device), persistent=False)
        with torch.no_grad():
            black = torch.zeros(1, 3, prep.crop_px, prep.crop_px, dtype=weight.dtype, device=weight.device)
            self.shape = tuple(net(black, self.layer).shape[1:])
        self.half = tower_half(net, self.layer, self.shape, tower)

    def forward(self, pixels_nchw: Tensor) -> Tensor:
        """(N, *shape) float32; gradients flow back to the pixels."""
        size = tuple(pixels_nchw.shape[1:])
        if size not in ((3, self.size_px, self.size_px), (3, self.crop_px, self.crop_px)):
            wanted = f"(N, 3, {self.size_px}, {self.size_px}) squares or (N, 3, {self.crop_px}, {self.crop_px}) crops"
            raise UsageError(f"pixels of the shape (N, {', '.join(map(str, size))}); this net takes {wanted}")
        first = (size[1] - self.crop_px) // 2
        crops = pixels_nchw[:, :, first : first + self.crop_px, first : first + self.crop_px]
        x = ((crops.float() - self.mean) * self.scale).to(next(self.net.parameters()).dtype)
        # torch.export records torch's own operators: the compiled norm is none of them
        with lrn.use("reference") if torch.compiler.is_exporting() else nullcontext():
            return self.net(x, self.layer)[:, self.half].float()

    def train(self, mode: bool = True) -> Extractor:
        """Always in inference: features do not depend on dropout or on the rest of the batch."""
        return super().train(False)


def layer_named(net: Net, layer: str | None, before: str | None = None) -> str:
    """The layer whose output is meant. `layer` alone: its own. `before` alone: of the layer in front of that one. Both:
    `before` is a kind, and the layer in front of that kind in the same group is meant, as ("fc7", "relu") is fc7 and
    ("pool1", "relu") what goes into relu1. Raises UsageError.
    """
    names = recipe.layer_names(net)
    if layer is None and before is None:
        raise UsageError("name a layer to take the output of, or one to take the input of: layer=fc7 or before=fc8")
    if layer is not None and layer not in names:
        raise UsageError(f"this net has no layer {layer!r}; its layers: {', '.join(names)}")
    if before is None:
        return layer
    asked = before if layer is None else before + _number(layer)
    if asked not in names:
        there = f"the group of {layer} has no {before!r}" if layer is not None else f"this net has no layer {asked!r}"
        raise UsageError(f"{there}; its layers: {', '.join(names)}")
    if asked == names[0]:
        raise UsageError(f"before {asked} there are only the pictures; name a later layer: {', '.join(names[1:])}")
    return names[names.index(asked) - 1]


def _number(layer: str) -> str:
    """What the names of a group have in common: 1 of conv1, rnorm1, pool1; _conv6 of the sixth convolution's."""
    return "_conv6" if layer.endswith("conv6") else re.search(r"\d*$", layer)[0]


def tower_half(net: Net, layer: str, shape: tuple[int, ...], tower: str | None) -> slice:
    """Which maps or units to keep: tower a's come first, in convolutions, in `flat` and in fc6 and fc7 alike."""
    if tower is None:
        return slice(None)
    if tower not in ("a", "b"):
        raise UsageError(f"tower {tower!r}: a or b")
    if not isinstance(net, AlexNet):
        raise UsageError(f"tower {tower}: layers of layer files are one tower's each; name the layer of that tower")
    if net.spec.towers != 2:
        raise UsageError(f"tower {tower}: this net is not split into two towers; leave it out")
    shared = layer == "fc8" or "conv6" in layer or (layer == "flat" and net.spec.sixth_conv)
    if shared or shape[0] % 2:
        raise UsageError(f"tower {tower}: {layer} belongs to both towers; leave it out or name another layer")
    return slice(0, shape[0] // 2) if tower == "a" else slice(shape[0] // 2, None)
