"""Inference: views per second of the evaluation against a training step's pictures, and one picture with ten views,
warm.
"""

from __future__ import annotations

import torch

from alexnet import machine, runs
from alexnet import spec as spec_module
from alexnet.bench.train import our_step
from alexnet.bench.turns import in_turns_s
from alexnet.data.pack import ensure_pack
from alexnet.evaluate import Machine
from alexnet.net import AlexNet, compute_in
from alexnet.predict import Predictor


def rows(toy: bool, data: str | None = None) -> list[dict]:
    """One row: milliseconds for one picture's ten views in float32, and how evaluation compares with training."""
    pack = ensure_pack(data)
    device = torch.device("cpu")
    place = Machine(device, machine.precision("auto", device)[0])
    batch = 4 if toy else 128
    settings = [f"run.batch={batch}", "run.device=cpu", "run.length=1000ep"]
    spec = spec_module.change(spec_module.preset("as_run", classes=len(pack.classes)), settings)
    net = compute_in(AlexNet(spec.net), place.dtype).to(memory_format=torch.channels_last).eval()
    whole = AlexNet(spec.net).to(memory_format=torch.channels_last).eval()  # float32, in which pictures are answered
    predictor = Predictor(pack.path, whole, runs.preprocessing(spec, pack), pack.classes, {}, Machine(device, "fp32"))
    images = torch.randn(batch, 3, 224, 224).to(place.dtype).to(memory_format=torch.channels_last)
    picture = pack.splits["val"].pixels(0)

    def evaluate() -> None:
        with torch.inference_mode():
            net(images)

    calls = {"picture": lambda: predictor.top5(picture), "evaluate": evaluate, "train": our_step(spec, pack)}
    times_s = in_turns_s(calls, 1 if toy else 5)
    return [
        {
            "name": "predict_ten_views",
            "value": round(1e3 * times_s["picture"], 1),
            "unit": "ms",
            "peer": {},
            "ratio": None,
            "evaluation_views_per_s": round(batch / times_s["evaluate"], 1),
            "evaluation_over_training": round(times_s["train"] / times_s["evaluate"], 2),
            "precision": place.precision,
        }
    ]
