"""`alexnet info`: what was chosen on this machine."""

from __future__ import annotations

from alexnet.cli.app import VERBS, Json, emit


@VERBS.command
def info(json: Json = False) -> None:
    """What was chosen on this machine, and why."""
    import torch

    from alexnet import __version__, machine
    from alexnet.kernels import lrn

    device, why_device = machine.device("auto")
    precision, why_precision = machine.precision("auto", device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    backend, why_backend = lrn.chosen(device, dtype)
    record = {"alexnet": __version__, **machine.versions(), "device": str(device), "device_reason": why_device}
    record |= {"precision": precision, "precision_reason": why_precision, "lrn": backend, "lrn_reason": why_backend}
    emit(record, json, "\n".join(f"{name:17} {value}" for name, value in record.items()))
