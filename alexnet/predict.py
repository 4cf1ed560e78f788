"""From a picture to its top five, and features by layer name: what is done with a trained net.

bytes -> image.decode -> image.square -> augment's views -> net -> softmax, mean over views -> top five. Training,
evaluation and serving use the same functions, so they cannot disagree about pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet import checkpoint, machine, recipe
from alexnet import spec as spec_module
from alexnet.data import augment, image
from alexnet.data.augment import Preprocessing
from alexnet.errors import CheckpointError, DataError
from alexnet.evaluate import Machine, Member, logits
from alexnet.extract import Extractor
from alexnet.net import compute_in
from alexnet.recipe import Net
from alexnet.spec import FileNetSpec, NetSpec

Image = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class Predictor:
    """A trained net with everything its model file carries: `classes` by label, `passport` as the file has it (spec,
    measured accuracy, fingerprint of the data), `place` where it computes.

    A picture is a path, a file's bytes, or uint8 (H, W, 3) RGB pixels, of any size. One that cannot be read raises
    DataError.
    """

    path: Path
    net: Net
    prep: Preprocessing
    classes: list[str]
    passport: dict
    place: Machine

    def views(self, picture: Image, views: int = 10) -> Tensor:
        """(views, 3, crop, crop), what the net sees of one picture: grey levels less the mean. 1 view is the centre, 9
        are three by three places, 10 those of the paper (section 4.1).
        """
        square_nhwc = image.square(pixels(picture), self.prep.size_px)[None]
        crop = self.prep.crop_px
        crops = np.empty((views, crop, crop, 3), np.float32)
        for i, view in enumerate(augment.views(views)):
            augment.cut(square_nhwc, augment.view_draws(self.prep, 1, view), self.prep, crops[i : i + 1])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).to(self.place.device, self.place.dtype)

    @torch.inference_mode()
    def probabilities(self, picture: Image, views: int = 10) -> Tensor:
        """(classes,) float32: softmax averaged over the views."""
        return torch.softmax(logits(self.net, self.views(picture, views)).float(), dim=1).mean(0).cpu()

    def top5(self, picture: Image, views: int = 10) -> list[dict]:
        """[{"class", "probability"}], probabilities in [0, 1], most probable first; fewer than five where there are
        fewer classes.
        """
        values, indices = self.probabilities(picture, views).topk(min(5, len(self.classes)))
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return [{"class": self.classes[i], "probability": p} for i, p in pairs]

    @torch.inference_mode()
    def features(self, picture: Image, layer: str = "fc7") -> Tensor:
        """float32, the output of the layer of that name for the centre view, without the batch: (4096,) for fc7 before
        its ReLU, (256, 13, 13) for conv5. Raises UsageError for a layer that the net does not have.
        """
        return self.net(self.views(picture, 1), until=layer)[0].float().cpu().clone()

    def extractor(self, layer: str | None = "fc7", **options) -> Extractor:
        """The net as a plain module: pixels in, this layer's outputs out; options and errors of `extract.Extractor`."""
        return Extractor(self.net, self.prep, layer, **options)

    @property
    def member(self) -> Member:
        return Member(self.net, self.prep)


def pixels(picture: Image) -> np.ndarray:
    """uint8 (H, W, 3) of a path, of a file's bytes, or of pixels as they are. Raises DataError naming the file."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(f"pixels are uint8 (height, width, 3) RGB, not {picture.dtype} {picture.shape}")
        return picture
    if isinstance(picture, bytes):
        return image.decode(picture)
    try:
        return image.decode(Path(picture).read_bytes())
    except (OSError, DataError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{picture}: {reason}") from None


def model_path(run: Path) -> Path:
    """The model file of a run folder, or the file itself."""
    path = run / "model.safetensors" if run.is_dir() else run
    if path.exists():
        return path
    if (run / "run.json").exists():
        raise CheckpointError(
            f"{run} has no model.safetensors yet: the run is not finished; give its train command again"
        )
    raise CheckpointError(f"{run} is no run folder and no model file")


def load(run: str | Path, device: str = "auto", precision: str = "fp32") -> Predictor:
    """The predictor of a run folder or model file. `device` auto, cpu, cuda or cuda:N; `precision` fp32 (the weights as
    they are), bf16, or auto, the faster one here.

    Raises CheckpointError for anything that is not a whole model, UsageError for a device that is not there.
    """
    machine.keep_freed_memory()
    path = model_path(Path(run))
    tensors, passport = checkpoint.load_model(path)
    try:
        net_spec = spec_module.from_dict(passport["spec"]["net"], NetSpec | FileNetSpec)
        numbers, mean = passport["preprocessing"], tensors.pop("preprocessing.mean").numpy()
        arrays = [np.array(numbers[name], np.float64) for name in ("stds", "colour_stds", "colour_axes")]
        prep = Preprocessing(numbers["size_px"], net_spec.crop_px, mean, *arrays)
        check(prep, passport["classes"], net_spec, tensors)
        net = recipe.build(net_spec)
        net.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} does not fit this version or itself: {why}") from None
    on, _ = machine.device(device)
    place = Machine(on, machine.precision(precision, on)[0])
    net = compute_in(net, place.dtype).to(on, memory_format=torch.channels_last).eval()
    return Predictor(path, net, prep, passport["classes"], passport, place)


def check(prep: Preprocessing, classes: object, net_spec: NetSpec | FileNetSpec, tensors: dict[str, Tensor]) -> None:
    """What a file says of itself must fit together before memory is taken for it. Raises ValueError."""
    sizes = [np.shape(numbers) for numbers in (prep.mean, prep.stds, prep.colour_stds, prep.colour_axes)]
    if sizes != [(prep.size_px, prep.size_px, 3), (3,), (3,), (3, 3)] or not 1 <= prep.crop_px <= prep.size_px:
        raise ValueError("the preprocessing it tells does not fit its mean image or its net")
    if not all(np.isfinite(numbers).all() for numbers in (prep.stds, prep.colour_stds, prep.colour_axes)):
        raise ValueError("the preprocessing it tells is not finite")
    if not (prep.stds > 0).all():
        raise ValueError("the standard deviations it tells are not positive")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are not a list of names")
    if len(classes) != net_spec.classes:
        raise ValueError(f"it names {len(classes)} classes and its net tells {net_spec.classes}")
    with torch.device("meta"):  # shapes alone
        wanted = {name: tensor.shape for name, tensor in recipe.build(net_spec).state_dict().items()}
    other = [name for name in wanted | tensors if wanted.get(name) != getattr(tensors.get(name), "shape", None)]
    if other:
        raise ValueError(
            f"{other[0]} and {len(other) - 1} more are not of the net it tells"
            if other[1:]
            else f"{other[0]} is not of the net it tells"
        )
