"""When the doors leave a computation to PyTorch's own operations, whatever loops there are for it."""

import torch


def reason() -> str:
    """Why they do so now; empty where they do not."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "a graph is being made, which others will read"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms PyTorch's own operations"
    return ""


def types(device_type: str) -> str:
    """The same of convolutions and products, which autocast is about, too."""
    of_autocast = device_type in ("cpu", "cuda") and torch.is_autocast_enabled(device_type)
    return reason() or ("autocast chooses the types" if of_autocast else "")
