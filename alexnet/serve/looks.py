"""What the net made of one picture, as JSON-ready values with pictures as data URIs: views, maps, evidence, kernels.

Squares are uint8 (S, S, 3) as decoded; what is shown is taken from the very tensors the net computes, never from
pixels prepared a second time.
"""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet import recipe
from alexnet.errors import UsageError
from alexnet.evaluate import logits
from alexnet.extract import layer_named, tower_half
from alexnet.layerfile import LayerNet
from alexnet.predict import Predictor
from alexnet.report import parts
from alexnet.report.answers import in_rows

PLACES = 9  # of the patch, along each side
ROWS = 3  # of places go through the net at once
PATCHES = 7  # so many patches side by side would cover the picture
MAPS = 512  # of a layer and tower at most are shown
PLACE_NAMES = ("top left", "top right", "centre", "bottom left", "bottom right")


@torch.inference_mode()
def views(predictor: Predictor, square: np.ndarray) -> dict:
    """{"views": [{"name", "src", "class", "probability"}]}: the ten crops and what each alone would have said."""
    crops = predictor.views(square, 10)
    best = torch.softmax(logits(predictor.net, crops).float(), dim=1).max(1)
    names = [*PLACE_NAMES, *(f"{name}, mirrored" for name in PLACE_NAMES)]
    told = zip(names, crops, (predictor.classes[i] for i in best.indices), best.values.tolist(), strict=True)
    return {"views": [{"name": n, "src": _seen(predictor, x), "class": c, "probability": p} for n, x, c, p in told]}


def layers(predictor: Predictor) -> list[str]:
    """The layers there is something to see of: neither pictures, reshaping nor the answer itself."""
    net = predictor.net
    if isinstance(net, LayerNet):
        unseen = {*net.tops, *(layer.name for layer in net.records if layer.type == "data")}
        return [name for name in recipe.layer_names(net) if name not in unseen]
    return [name for name in recipe.layer_names(net) if not name.startswith(("flat", "drop"))][:-1]


@torch.inference_mode()
def maps(predictor: Predictor, square: np.ndarray, layer: str) -> dict:
    """{"layer", "shape", "least", "largest", "active", "towers": [{"name", "count", "src", "width", "height"}]} of the
    centre view. Raises UsageError for an unknown layer.
    """
    name = layer_named(predictor.net, layer)
    out = predictor.net(predictor.views(square, 1), until=name)[0].float().cpu()
    least, largest = float(out.min()), float(out.max())
    record = {"layer": name, "shape": list(out.shape), "least": least, "largest": largest}
    towers = [{"name": tower, **_sheet(out[half], least, largest)} for tower, half in _halves(predictor, name, out)]
    return {**record, "active": float((out > 0).float().mean()), "towers": towers}


def _halves(predictor: Predictor, layer: str, out: Tensor) -> list[tuple[str, slice]]:
    try:
        return [(f"tower {t}", tower_half(predictor.net, layer, tuple(out.shape), t)) for t in "ab"]
    except UsageError:  # it belongs to both towers, or there is one
        return [("", slice(None))]


def _sheet(out: Tensor, least: float, largest: float) -> dict:
    """Maps (C, H, W) side by side, units (C,) as one picture of nearly a square; of one sign, zero is black."""
    low = min(least, 0.0) if least >= 0 else -max(-least, largest)
    grey = np.uint8(255 * np.clip((out.numpy() - low) / (max(largest, -low) - low or 1.0), 0, 1))
    if grey.ndim == 1:
        tiles = grey[:, None, None]
        columns, gap_px = int(np.ceil(np.sqrt(2 * len(grey)))), 0
    else:
        tiles = grey[:MAPS]
        columns, gap_px = 8 if len(tiles) <= 64 else 16, 1
    shown = np.repeat(tiles[..., None], 3, axis=3)
    pixels = in_rows(shown, columns, 0) if gap_px == 0 else parts.with_clear_gaps(shown, columns)
    return {"count": len(out), "src": _png(pixels), "width": pixels.shape[1], "height": pixels.shape[0]}


@torch.inference_mode()
def evidence(predictor: Predictor, square: np.ndarray) -> dict:
    """{"class", "probability", "drops": (n, n), "places": (n,), "patch", "src"}: how much less probable the class of
    the centre view becomes with a grey patch at each place (Zeiler and Fergus 2014); places and patch in
    shares of the side.
    """
    crop = predictor.views(square, 1)
    side = crop.shape[-1]
    patch = max(1, side // PATCHES)
    places = np.unique(np.linspace(0, side - patch, PLACES).round().astype(int))
    whole = torch.softmax(logits(predictor.net, crop).float(), dim=1)[0]
    best = int(whole.argmax())
    batches = (_covered(crop, places[i : i + ROWS], places, patch) for i in range(0, len(places), ROWS))
    left = torch.cat([torch.softmax(logits(predictor.net, batch).float(), dim=1)[:, best].cpu() for batch in batches])
    drops = (float(whole[best]) - left).reshape(len(places), len(places))
    record = {"class": predictor.classes[best], "probability": float(whole[best]), "drops": drops.tolist()}
    return {**record, "places": (places / side).tolist(), "patch": patch / side, "src": _seen(predictor, crop[0])}


def _covered(crop: Tensor, tops: np.ndarray, lefts: np.ndarray, patch: int) -> Tensor:
    """(n, 3, crop, crop): the view with a patch of the mean, zero after subtraction, at each of the places."""
    many = crop.repeat(len(tops) * len(lefts), 1, 1, 1)
    for one, (top, left) in zip(many, itertools.product(tops, lefts), strict=True):
        one[:, top : top + patch, left : left + patch] = 0
    return many.contiguous(memory_format=torch.channels_last)


def kernels(predictor: Predictor) -> list[dict]:
    """The kernels that look at the pictures themselves, a sheet for each tower."""
    return parts.kernels(predictor.net) or []


def _seen(predictor: Predictor, view: Tensor) -> str:
    """(3, crop, crop) as the net takes it, back to the pixels it is of."""
    prep = predictor.prep
    pixels = view.float().cpu().permute(1, 2, 0).numpy() * np.float32(prep.stds) + prep.central_mean()
    return _png(np.uint8(np.clip(pixels.round(), 0, 255)))


def _png(pixels_hwc: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels_hwc).save(out, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
