"""`alexnet info`: what was chosen on this machine."""

from __future__ import annotations

from alexnet.cli.app import VERBS, Json, emit


@VERBS.command
def info(json: Json = False) -> None:
    """What was chosen on this machine, and why."""
    import torch

    from alexnet import __version__, machine
    from alexnet.kernels import conv, lrn

    device, why_device = machine.device("auto")
    precision, why_precision = machine.precision("auto", device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    backend, why_backend = lrn.chosen(device, dtype)
    maps, kernels = (  # conv2's, batch 128, without their memory
        torch.empty(1, dtype=dtype, device=device).expand(shape) for shape in ((128, 96, 27, 27), (256, 48, 5, 5))
    )
    way, why_way = conv.chosen(maps, kernels, padding=2, groups=2)
    record = {"alexnet": __version__, **machine.versions(), "device": str(device), "device_reason": why_device}
    record |= {"precision": precision, "precision_reason": why_precision, "lrn": backend, "lrn_reason": why_backend}
    record |= {"conv": way, "conv_reason": why_way}
    emit(record, json, "\n".join(f"{name:17} {value}" for name, value in record.items()))
